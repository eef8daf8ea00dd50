"""Two evaluations for people: figures side by side, pass@k of both in one picture, and the questions that changed."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from recipes.data.example import Example
from recipes.evaluation.comparison import notes, shown_p, titles
from recipes.evaluation.page_parts import (
    CARDS,
    Curve,
    answer_card,
    answer_cards,
    bar_head,
    curve_card,
    document,
    facts,
    group_line,
    interval_bar,
    line,
    response_part,
    share,
    signed,
    table,
    tile,
)
from recipes.evaluation.questions import Question, by_question
from recipes.evaluation.reading import Evaluated, asked_questions
from recipes.monitor.report_charts import nice_axis
from recipes.monitor.report_data import task_name

_CHANGES = {"gained": ("▲", "Gained"), "lost": ("▼", "Lost")}


def comparison_page(comparison: Mapping[str, Any], a: Evaluated, b: Evaluated) -> str:
    """The page's HTML, of what `comparison.compare` found of both."""
    first, second = titles(comparison)
    return document(
        kind="Medatron comparison",
        title=f"{second} against {first}",
        subtitle=f"<b>{comparison['questions']:,}</b> questions with a scored answer of both",
        notices=[f"{note[0].upper()}{note[1:]}." for note in notes(comparison)[1:]],
        tiles=_tiles(comparison),
        sections={
            "Change": _change(comparison, first, second),
            "Several answers a question": _several(comparison, first, second),
            "Questions that changed": _changed(comparison, a, b),
            "How to repeat it": _repeat(comparison),
        },
    )


def _tiles(comparison: Mapping[str, Any]) -> str:
    mean, whole = comparison["mean"], comparison["all"]
    low, high = mean["interval"]
    return "".join(
        (
            tile("Mean of tasks", signed(mean["change"]), f"points, {_range(low, high)}", "wide"),
            tile("All questions", signed(whole["change"]), f"points, {_range(*whole['interval'])}"),
            tile("Gained", f"{whole['gained']:,}", "questions"),
            tile("Lost", f"{whole['lost']:,}", "questions"),
            tile("p", shown_p(whole["p"]), comparison["test"]),
        )
    )


def _range(low: float, high: float) -> str:
    return f"{signed(low)} to {signed(high)}"


def _change(comparison: Mapping[str, Any], first: str, second: str) -> str:
    mean, sets = comparison["mean"], comparison["sets"]
    shown = [*comparison["tasks"].values(), *sets.values(), mean]
    reach, axis = change_axis(shown)
    head = ["By kind of task", "n", escape(first), escape(second), "Change", axis, "Gained", "Lost", "p"]
    rows = [_line(task_name(name), own, reach) for name, own in comparison["tasks"].items()]
    cells = ["", share(mean["a"]), share(mean["b"]), *change_cells(mean, reach), "", "", ""]
    rows.append(line("Mean of tasks", cells, "total"))
    if sets:
        rows.append(group_line("By set", len(head)))
        rows += [_line(name, own, reach) for name, own in sets.items()]
    rows.append(_line("All questions", comparison["all"], reach, "total"))
    return f"""<div class="card whole">{table("Accuracy of both and its change", head, rows)}
<p class="healthy"><b>How to read it.</b> Changes are percentage points; the bar is a 95% paired bootstrap interval over
questions, narrower than one of two independent evaluations. Gained and lost count questions, and p is the chance of at
least so uneven a split if neither were better ({escape(comparison["test"])}). Of twenty sets one has p below 0.05 by
chance.</p></div>{_subjects(comparison, head[1:], reach)}"""


def _line(name: str, own: Mapping[str, Any], reach: float, kind: str = "") -> str:
    cells = [
        *(f"{own['questions']:,}", share(own["a"]["accuracy"]), share(own["b"]["accuracy"])),
        *change_cells(own, reach),
        *(f"{own['gained']:,}", f"{own['lost']:,}", escape(shown_p(own["p"]))),
    ]
    return line(name, cells, kind)


def change_axis(shown: Iterable[Mapping[str, Any]]) -> tuple[float, str]:
    """One axis for all changes of a table, symmetric, so that zero is in its middle: its end, and its head's cell."""
    reach = nice_axis(0, max(0.05, *(abs(end) for own in shown for end in own["interval"])), 3)[-1]
    return reach, bar_head([f"−{100 * reach:.3g}", "0", f"+{100 * reach:.3g}"])


def change_cells(own: Mapping[str, Any], reach: float) -> tuple[str, str]:
    """A change in points and as a bar on that axis; what may be chance has no colour."""
    low, high = own["interval"]
    sign = "gain" if low > 0 else "loss" if high < 0 else "same"
    bar = interval_bar([(f"{sign}-mark", own["change"], own["interval"])], -reach, reach)
    return f'<span class="{sign}">{signed(own["change"])}</span>', bar


def _subjects(comparison: Mapping[str, Any], head: Sequence[str], reach: float) -> str:
    cards = []
    for name, own in comparison["sets"].items():
        if len(own["subjects"]) > 1:
            rows = [_line(subject, part, reach) for subject, part in own["subjects"].items()]
            figures = table(f"{name} by subject", ["Subject", *head], rows)
            cards.append(
                f'<details class="card whole"><summary><b>{escape(name)}</b> by subject '
                f'<span class="muted">{len(rows)}</span></summary>{figures}</details>'
            )
    return "".join(cards)


def _several(comparison: Mapping[str, Any], first: str, second: str) -> str:
    if len(comparison["all"]["a"]["curve"]) < 2:
        return ""
    about = {
        "pass": "The chance that one of k answers is right. Training that only prefers what the model could say "
        "already lifts the left end alone; behind a crossing the first model finds more with many tries.",
        "majority": "The chance that the most frequent of k answers is right, which is what one would use.",
    }
    cards = []
    for key, label in (("pass", "pass@k"), ("majority", "maj@k")):
        curves = [
            Curve(
                title,
                tone,
                [(point["k"], point[key], point[f"{key}_interval"]) for point in comparison["all"][side]["curve"]],
            )
            for title, tone, side in ((second, "blue", "b"), (first, "orange", "a"))
        ]
        cards.append(curve_card(key, f"{label} of all questions", curves, about[key]))
    return f'<div class="grid">{"".join(cards)}</div>'


def _changed(comparison: Mapping[str, Any], a: Evaluated, b: Evaluated) -> str:
    gained, lost = comparison["changed"]["gained"], comparison["changed"]["lost"]
    if not gained and not lost:
        return '<p class="card empty">No question changed.</p>'
    one, other = ({q.first["id"]: q for q in by_question(each.rows)} for each in (a, b))
    texts = asked_questions(b.result)
    pools = {
        kind: _in_turns(sorted(ids, key=lambda key: -abs(other[key].share - one[key].share)), one)
        for kind, ids in (("gained", gained), ("lost", lost))
    }
    chosen = [(kind, key) for kind, ids in pools.items() for key in ids[: CARDS // 2]]
    sets = sorted({_set(one[key]) for _, key in chosen})
    kinds = {kind: name for kind, (_, name) in _CHANGES.items() if any(kind == each for each, _ in chosen)}
    cards = "".join(_card(kind, one[key], other[key], texts.get(key), titles(comparison)) for kind, key in chosen)
    more = "" if len(chosen) == len(gained) + len(lost) else f" {CARDS // 2} of each are shown; the JSON names all."
    lead = f"{len(gained):,} gained, {len(lost):,} lost.{more}"
    return answer_cards(lead, cards, {"outcome": ("Change", kinds), "task": ("Set", {name: name for name in sets})})


def _in_turns(ids: Sequence[str], questions: Mapping[str, Question]) -> list[str]:
    """The same ids, with the sets taking turns."""
    pools: dict[str, list[str]] = {}
    for key in ids:
        pools.setdefault(_set(questions[key]), []).append(key)
    turns = itertools.zip_longest(*pools.values())
    return [key for turn in turns for key in turn if key is not None]


def _set(question: Question) -> str:
    return str(question.first.get("source") or task_name(question.first["group"]))


def _card(kind: str, one: Question, other: Question, text: Example | None, names: tuple[str, str]) -> str:
    row = one.first
    sides = "".join(
        response_part(f"{title}{_of(question)}", _telling(question, right))
        for title, question, right in zip(names, (one, other), (kind == "lost", kind == "gained"), strict=True)
    )
    body = f'<div class="sides">{sides}</div>'
    return answer_card(row, text, badge=(kind, *_CHANGES[kind]), group=_set(one), body=body)


def _of(question: Question) -> str:
    return f", {question.right} of {len(question.rows)} right" if len(question.rows) > 1 else ""


def _telling(question: Question, right: bool) -> Mapping[str, Any]:
    """An answer that shows the side's share: a right one of the side that has more of them."""
    return next((row for row in question.rows if (row["status"] == "correct") == right), question.first)


def _repeat(comparison: Mapping[str, Any]) -> str:
    return facts(
        {
            **{
                title: f"{comparison[side]['path']} (weights SHA-256 {comparison[side]['weights']})"
                for title, side in zip(titles(comparison), ("a", "b"), strict=True)
            },
            "data": ", ".join(file["sha256"] for file in comparison["measured"]["data"]),
            "intervals": f"{comparison['statistics']['resamples']} resamples, seed {comparison['statistics']['seed']}",
        }
    )
