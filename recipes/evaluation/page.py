"""One evaluation for people: `python -m recipes.evaluation.page RUN/evaluation/NAME.json` writes NAME.html and NAME.md.

The page is one file that needs nothing else; the Markdown is the table of a model card. What further commands say of
the same answers (`recipes.evaluation.scores`) stands in both, and under `scores` in NAME.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

from conversion import command, lock
from conversion.digests import file_digest
from conversion.errors import ConversionError
from conversion.evaluation import EvaluationError, shown
from conversion.evaluation_scores import ScoreTable, score_tables
from conversion.evaluation_tables import markdown_table, plain_markdown, set_columns, set_rows
from recipes.data.example import Example
from recipes.data.variants import PLAIN
from recipes.evaluation.budget_parts import TITLE, budget_markdown, budget_section
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
from recipes.evaluation.questions import INVALID, Row, is_scored, variant_of
from recipes.evaluation.reading import Evaluated, asked_questions, read_evaluated
from recipes.evaluation.scores import read_scores, scores_path
from recipes.evaluation.summary import summarize, uncovered
from recipes.monitor.report_data import task_name
from recipes.monitor.run_folder import replace_file

_PERCENT = ("0", "50", "100%")
_FIGURES = ("tasks", "sets", "distributions", "all", "order", "transfer", "budgets", "scores", "scores_left_out")
_OUTCOMES = {"correct": ("✓", "Correct"), "incorrect": ("✗", "Incorrect"), "malformed": ("?", "No readable answer")}


def write_page(path: Path, at_hand: Evaluated | None = None) -> list[Path]:
    """Writes NAME.html and NAME.md beside NAME.json, and returns their paths; NAME.json gets its `scores`.

    Args:
        path: of NAME.json.
        at_hand: what lies there, where this release has just written it.

    Raises:
        EvaluationError: NAME.json or NAME.jsonl is missing or damaged.
    """
    evaluated = at_hand or read_evaluated(path)
    scores, left_out = read_scores(evaluated.path, file_digest(evaluated.path.with_suffix(".jsonl")))
    if scores != evaluated.result.get("scores", {}):
        kept = {key: value for key, value in evaluated.result.items() if key != "scores"}
        evaluated = replace(evaluated, result=kept | ({"scores": scores} if scores else {}))
        replace_file(evaluated.path, (json.dumps(evaluated.result, indent=1) + "\n").encode())
    # A function of the answers: results of older releases are shown in full.
    shown_too = {**({} if at_hand else summarize(evaluated.rows)), "scores_left_out": left_out}
    evaluated = replace(evaluated, result={**evaluated.result, **shown_too})
    contents = {".html": evaluation_page(evaluated), ".md": evaluation_markdown(evaluated)}
    for suffix, content in contents.items():
        replace_file(evaluated.path.with_suffix(suffix), content.encode("utf-8", "replace"))
    return [evaluated.path.with_suffix(suffix) for suffix in contents]


def add_scores(answers: Path, kind: str, questions: Sequence[Path], scores: Mapping[str, Any]) -> Path:
    """Writes scores of an evaluation's answers to their own file, and its pages again.

    Args:
        answers: NAME.jsonl; where no NAME.json lies beside it, there are no pages.
        kind: see `recipes.evaluation.scores`.
        questions: the files of those that were scored.
        scores: what they came to.

    Returns:
        the scores' own file.
    """
    about = {"answers": identified(answers), "questions": [identified(path) for path in questions]}
    target = scores_path(answers, kind)
    replace_file(target, (json.dumps({**about, **scores}, indent=1) + "\n").encode())
    if answers.with_suffix(".json").is_file():
        try:
            with _held(answers):
                write_page(answers)
        except (EvaluationError, lock.LockedError) as error:
            print(f"{target} is written; it is shown on no page: {error}", file=sys.stderr)
    return target


def _held(path: Path) -> AbstractContextManager[None]:
    """The evaluation's own lock: whoever evaluates again under that name writes the same files."""
    return lock.held(path.with_suffix(".lock"))


def identified(path: Path) -> dict[str, str]:
    """A file by its path and content."""
    return {"path": str(path.resolve()), "sha256": file_digest(path)}


def evaluation_markdown(evaluated: Evaluated) -> str:
    """Accuracy by set in Markdown, with what was measured and what it does not cover."""
    result = evaluated.result
    about = [*_notices(result), *(f"{key}: {value}" for key, value in _repeat(evaluated).items())]
    lines = "\n".join(f"- {plain_markdown(each)}" for each in about)
    more = budget_markdown(result["budgets"]) + "".join(
        f"\n### {each.heading}\n\n{markdown_table(each.head, each.rows)}\n\n{plain_markdown(each.about)}\n"
        for each in score_tables(result.get("scores", {}))
    )
    return f"## {evaluated.name}\n\n{markdown_table(set_columns(result), set_rows(result))}\n\n{lines}\n{more}"


def _notices(result: Mapping[str, Any]) -> list[str]:
    return [*uncovered(result), *result.get("scores_left_out", ())]


def evaluation_page(evaluated: Evaluated) -> str:
    """The page's HTML."""
    result = evaluated.result
    whole = result["all"]
    per_question = whole["answers"] / whole["questions"]
    temperature = result["measured"]["decoding"].get("temperature", 0.0)
    how = "greedy answers" if not temperature else f"{per_question:.4g} answers a question at temperature {temperature}"
    parts = [f"<b>{escape(evaluated.model)}</b>", f"{whole['questions']:,} questions", escape(how)]
    return document(
        kind="Medatron evaluation",
        title=evaluated.name,
        subtitle=" <span aria-hidden='true'>·</span> ".join(parts),
        notices=[f"{line[0].upper()}{line[1:]}." for line in _notices(result)],
        tiles=_tiles(result),
        sections={
            "Accuracy": _accuracy(result),
            "Several answers a question": _several(whole),
            TITLE: budget_section(result["budgets"]),
            "Options in another order": _order(result["order"]),
            "Without options": _transfer(result["transfer"]),
            **{each.heading: _scores(each) for each in score_tables(result.get("scores", {}))},
            "Answers": _cards(evaluated),
            "How to repeat it": facts(_repeat(evaluated)) + _all_settings(result),
        },
    )


def _tiles(result: Mapping[str, Any]) -> str:
    whole = result["all"]
    low, high = result["interval"]
    tiles = [
        tile("Mean of tasks", share(result["mean"]), f"95% interval {share(low)} to {share(high)}", "wide"),
        tile("All questions", share(whole["accuracy"]), f"n = {whole['questions']:,}"),
        tile(
            "No readable answer",
            share(whole["format_error_share"]),
            f"{whole['no_answer']:,} without, {whole['malformed']:,} malformed",
        ),
    ]
    if whole["cut_share"] is not None:
        tiles.append(tile("Cut off", share(whole["cut_share"]), "ran into the limit of tokens"))
    tiles.append(tile("Tokens an answer", f"{whole['mean_tokens']:,.0f}", "mean"))
    if whole["agreement"] is not None:
        tiles.append(tile("Agreement", share(whole["agreement"]), "pairs of answers that are the same"))
    return "".join(tiles)


def _accuracy(result: Mapping[str, Any]) -> str:
    most = result["all"]["curve"][-1]["k"] if result["all"]["curve"] else None
    head = ["By kind of task", "n", "Accuracy", bar_head(_PERCENT), "Unreadable", "Cut off", "Tokens"]
    head += [f"pass@{most}", f"maj@{most}"] if most else []
    rows = [_figures_line(task_name(name), own, most) for name, own in result["tasks"].items()]
    if result["sets"]:
        rows.append(group_line("By set", len(head)))
        rows += [_figures_line(name, own, most) for name, own in result["sets"].items()]
    if result["distributions"]:
        rows.append(group_line("By distribution", len(head)))
        rows += [_figures_line(name, own, most) for name, own in result["distributions"].items()]
    rows.append(_figures_line("All questions", result["all"], most, "total"))
    return f"""<div class="card whole">{table("Accuracy by task and set with 95% intervals", head, rows)}
<p class="healthy"><b>How to read it.</b> The bar around a point is a 95% bootstrap interval over questions. An answer
that could not be read is wrong, and no answer is guessed for it; one that the server could not score counts neither
way.</p></div>{_subjects(result, head[1:], most)}"""


def _figures_line(name: str, own: Mapping[str, Any], most: int | None, kind: str = "") -> str:
    cells = [
        f"{own['questions']:,}",
        share(own["accuracy"]),
        interval_bar([("after", own["accuracy"], own["interval"])]),
        share(own["format_error_share"]),
        share(own["cut_share"]),
        f"{own['mean_tokens']:,.0f}",
    ]
    if most:
        last = next((point for point in own["curve"] if point["k"] == most), {"pass": None, "majority": None})
        cells += [share(last["pass"]), share(last["majority"])]
    return line(name, cells, kind)


def _subjects(result: Mapping[str, Any], head: Sequence[str], most: int | None) -> str:
    cards = []
    for name, own in result["sets"].items():
        for kind, key in (("subject", "subjects"), ("calculator", "calculators")):
            if len(own[key]) > 1:
                rows = [_figures_line(part, found, most) for part, found in own[key].items()]
                cards.append(
                    f'<details class="card whole"><summary><b>{escape(name)}</b> by {kind} '
                    f'<span class="muted">{len(rows)}</span></summary>'
                    f"{table(f'{name} by {kind}', [kind.capitalize(), *head], rows)}</details>"
                )
    return "".join(cards)


def _several(whole: Mapping[str, Any]) -> str:
    if len(whole["curve"]) < 2:
        return ""
    curves = [
        Curve(label, tone, [(point["k"], point[key], point[f"{key}_interval"]) for point in whole["curve"]])
        for label, tone, key in (("pass@k", "blue", "pass"), ("maj@k", "green", "majority"))
    ]
    about = (
        "pass@k is the chance that one of k answers is right, maj@k that the most frequent of k is; both are unbiased "
        "estimates over all ways to choose k of the answers. Where pass@k goes on rising, the model finds answers that "
        "it does not prefer, which is what reinforcement learning can teach it to. Bands are 95% intervals."
    )
    return f'<div class="grid">{curve_card("curve", "pass@k and maj@k of all questions", curves, about)}</div>'


def _order(order: Mapping[str, Any] | None) -> str:
    if order is None:
        return ""
    rows = [
        line(name, [share(value), interval_bar([("after", value, None)])]) for name, value in order["accuracy"].items()
    ]
    places = [
        line(
            letter,
            [
                share(own["chosen"]),
                share(own["right"]),
                interval_bar([("before", own["right"], None), ("after", own["chosen"], None)]),
            ],
        )
        for letter, own in order["positions"].items()
    ]
    return f"""<div class="grid">
<div class="card"><h3>Accuracy by order</h3>
{table("Accuracy by order of the options", ["Order", "Accuracy", bar_head(_PERCENT)], rows)}
<p class="healthy">{order["questions"]:,} questions in every order. Two answers in different orders name the same
option in {share(order["same_choice"])} of pairs; {share(order["right_in_all"])} of questions have all answers in every
order right.</p></div>
<div class="card"><h3>Where the chosen option stands</h3>
{table("Chosen and right options by place", ["Place", "Chosen", "Right", bar_head(_PERCENT)], places)}
<p class="healthy"><b>How to read it.</b> Filled: the share of answers that chose this place. Hollow: the share of right
options there. A model that reads the options chooses each place about as often as it is right.</p></div>
</div>"""


def _transfer(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    low, high = found["interval"]
    rows = [
        line(name, [share(found[key]), interval_bar([("after", found[key], None)])])
        for name, key in (("With options", "choice"), ("Without", "short"))
    ]
    kept = "" if found["kept"] is None else f" Of the right answers with options {share(found['kept'])} stay right."
    return f"""<div class="card whole">
{table("Accuracy with and without options", ["Form", "Accuracy", bar_head(_PERCENT)], rows)}
<p class="healthy">{found["questions"]:,} questions in both forms. A change of {signed(found["change"])} points, 95%
interval {signed(low)} to {signed(high)}.{kept} Guessing among options is part of the first figure and not of the
second.</p></div>"""


def _scores(found: ScoreTable) -> str:
    head = [escape(name) for name in found.head]
    rows = [(name, [escape(cell) for cell in cells]) for name, *cells in found.rows]
    if found.bars:
        head.insert(-1, bar_head(_PERCENT))
        for (_, cells), (value, ends) in zip(rows, found.bars, strict=True):
            cells.insert(-1, interval_bar([("after", value, ends)]))
    shown = table(found.heading, head, [line(name, cells) for name, cells in rows])
    return f'<div class="card whole">{shown}<p class="healthy"><b>How to read it.</b> {escape(found.about)}</p></div>'


def _cards(evaluated: Evaluated) -> str:
    """Some answers, taking turns between sets and outcomes by a fixed rule."""
    pools: dict[tuple[str, str], list[Row]] = {}
    for row in evaluated.rows:
        if is_scored(row) and variant_of(row) == PLAIN and row.get("sample", 0) == 0:
            pools.setdefault((_set(row), _outcome(row)), []).append(row)
    each = max(1, CARDS // max(1, len(pools)))
    chosen = [row for key in sorted(pools) for row in pools[key][:: max(1, len(pools[key]) // each)][:each]]
    questions = asked_questions(evaluated.result)
    names = sorted({_set(row) for row in chosen})
    outcomes = {key: name for key, (_, name) in _OUTCOMES.items() if any(_outcome(row) == key for row in chosen)}
    cards = "".join(_card(row, questions.get(row["id"])) for row in chosen)
    lead = (
        f"{len(chosen)} answers spread over sets and outcomes by a fixed rule. The mix is for reading; it says nothing "
        "about how often the model is right."
    )
    return answer_cards(
        lead, cards, {"task": ("Set", {name: name for name in names}), "outcome": ("Outcome", outcomes)}
    )


def _set(row: Row) -> str:
    return str(row.get("source") or task_name(row["group"]))


def _outcome(row: Row) -> str:
    return "malformed" if row["status"] in INVALID else str(row["status"])


def _card(row: Row, question: Example | None) -> str:
    outcome = _outcome(row)
    badge = (outcome, *_OUTCOMES[outcome])
    return answer_card(row, question, badge=badge, group=_set(row), body=response_part("Answer", row))


def _repeat(evaluated: Evaluated) -> dict[str, Any]:
    """What the result was measured with, in short."""
    result = evaluated.result
    measured = result["measured"]
    reward = measured["reward"]
    return {
        "model": evaluated.model,
        **({"answered by": result["answered_by"]} if "answered_by" in result else {}),
        "weights": shown(result["weights"]),
        "data": ", ".join(f"{Path(file['path']).name} ({shown(file['sha256'])})" for file in measured["data"]),
        "reward": f"{reward['name']}, version {reward['version']} ({shown(reward['hash'])})",
        **{key: _plain(measured[key]) for key in measured if key not in ("data", "reward")},
        **({"versions": _plain(result["versions"])} if "versions" in result else {}),
    }


def _plain(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items() if value is not None)


def _all_settings(result: Mapping[str, Any]) -> str:
    kept = {key: result[key] for key in result if key not in _FIGURES}
    return (
        '<details class="card yaml"><summary>Everything that NAME.json says of how it was measured</summary>'
        f"<pre>{escape(json.dumps(kept, indent=1, ensure_ascii=False), quote=False)}</pre></details>"
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.evaluation.page",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("result", metavar="NAME.json", type=command.path_argument, help="of RUN/evaluation")
    result = parser.parse_args().result
    # What is no evaluation gets no lock beside it.
    read_evaluated(result)
    with _held(result):
        print(*write_page(result), sep="\n")


if __name__ == "__main__":
    sys.exit(command.run(main, name="page", errors=(ConversionError,)))
