"""What the answers of an evaluation come to: the numbers of NAME.json, from the rows of NAME.jsonl.

A question's value is the mean over its scored answers, and a share is the mean over questions; only `mean`, the figure
that reports compare, is one over kinds of task, each counted once. Answers that could not be scored are counted apart;
invalid ones (malformed, no_answer) are wrong, and counted.

    questions, answers, unscored, filtered   asked; answers to all variants; those of them without a score, and those
             that an endpoint's filter withheld
    tasks    figures of each kind of task
    sets     figures of each set (`source`), with its subjects and calculators
    distributions   figures of the sets in and out of the distribution that was trained on, where questions say which
    all      figures of all questions
    order, transfer   what other variants of the questions show (`recipes.evaluation.robustness`); null without them
    budgets  figures at every budget of tokens (`recipes.evaluation.budgets`); null without them
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from recipes.data.example import REPORT_GROUPS
from recipes.data.variants import PLAIN
from recipes.evaluation import statistics
from recipes.evaluation.budgets import asked_in, budget_figures, budget_table
from recipes.evaluation.questions import INVALID, Question, Row, by_question, is_scored, variant_of
from recipes.evaluation.robustness import order_bias, transfer


def summarize(rows: Sequence[Row]) -> dict[str, Any]:
    """The numbers of NAME.json; a function of the answers alone."""
    questions = by_question(rows)
    grid = k_grid(questions)
    tasks = {name: own for name in REPORT_GROUPS if (own := [q for q in questions if q.first["group"] == name])}
    counted = {name: figures(own, grid) for name, own in tasks.items()}
    count = max(1, len(tasks))
    return {
        "questions": len({row["id"] for row in rows if variant_of(row) == PLAIN}),
        "answers": len(rows),
        "unscored": sum(not is_scored(row) for row in rows),
        "filtered": sum(bool(row.get("filtered")) for row in rows),
        "tasks": counted,
        "mean": sum(task["accuracy"] for task in counted.values()) / count,
        "stderr": math.sqrt(sum(task["stderr"] ** 2 for task in counted.values())) / count,
        "interval": statistics.interval_of_mean([[q.share for q in own] for own in tasks.values()]) if tasks else None,
        "all": figures(questions, grid) if questions else None,
        "sets": {
            name: {
                **figures(own, grid),
                "subjects": {key: figures(part, grid) for key, part in parts_by(own, "subject")},
                "calculators": {key: figures(part, grid) for key, part in parts_by(own, "calculator")},
            }
            for name, own in parts_by(questions, "source")
        },
        "distributions": {name: figures(own, grid) for name, own in parts_by(questions, "distribution")},
        "order": order_bias(rows),
        "transfer": transfer(rows),
        "budgets": budget_figures(rows),
        "statistics": {
            "resamples": statistics.RESAMPLES,
            "confidence": statistics.CONFIDENCE,
            "seed": statistics.SEED,
        },
    }


def k_grid(questions: Iterable[Question]) -> list[int]:
    """The k of pass@k and maj@k: powers of two up to the most answers to a question, and that; none for one answer."""
    most = max((len(question.rows) for question in questions), default=1)
    return [] if most == 1 else sorted({most, *(2**power for power in range(most.bit_length()) if 2**power <= most)})


def figures(questions: Sequence[Question], grid: Sequence[int]) -> dict[str, Any]:
    """The numbers of some questions, one at least.

    Args:
        questions: with their answers.
        grid: of `k_grid`; a question with less than k answers does not count at k.
    """
    rows = [row for question in questions for row in question.rows]
    values = [[q.share, *map(q.pass_at, grid), *map(q.majority_at, grid)] for q in questions]
    intervals = statistics.intervals(values)
    compared = [said for row in rows if (said := row.get("contradicts")) is not None]
    agreements = [agreed for question in questions if (agreed := question.agreement) is not None]
    return {
        "questions": len(questions),
        "answers": len(rows),
        "accuracy": _mean([question.share for question in questions]),
        "stderr": statistics.standard_error([question.share for question in questions]),
        "interval": intervals[0],
        "format_error_share": _answers(questions, lambda row: row["status"] in INVALID),
        **{status: sum(row["status"] == status for row in rows) for status in INVALID},
        "cut_share": _answers(questions, lambda row: bool(row["cut"])) if all("cut" in row for row in rows) else None,
        "contradiction_share": sum(compared) / len(compared) if compared else None,
        "mean_tokens": _answers(questions, lambda row: row["tokens"]),
        "agreement": _mean(agreements) if agreements else None,
        "curve": _curve(np.array(values), intervals, grid),
    }


def _curve(values: np.ndarray, intervals: Sequence[statistics.Interval], grid: Sequence[int]) -> list[dict[str, Any]]:
    """pass@k and maj@k with their intervals, for every k that some question has answers for."""
    found = []
    for index, k in enumerate(grid, start=1):
        passed, majority = values[:, index], values[:, index + len(grid)]
        known = ~np.isnan(passed)
        if known.any():
            found.append(
                {
                    "k": k,
                    "questions": int(known.sum()),
                    "pass": _mean(passed[known]),
                    "pass_interval": intervals[index],
                    "majority": _mean(majority[known]),
                    "majority_interval": intervals[index + len(grid)],
                }
            )
    return found


def parts_by(questions: Sequence[Question], key: str) -> list[tuple[str, list[Question]]]:
    """Questions by a key of their rows, in its order; those without it are in none."""
    found: dict[str, list[Question]] = {}
    for question in questions:
        if question.first.get(key) is not None:
            # A subject is whatever JSON a file of questions has; a calculator is a number.
            found.setdefault(str(question.first[key]), []).append(question)
    return sorted(found.items(), key=lambda part: (int(part[0]), "") if part[0].isdecimal() else (math.inf, part[0]))


def _answers(questions: Sequence[Question], value: Callable[[Row], float]) -> float:
    """The mean of an answer's value over a question's answers, and of that over questions."""
    return _mean([_mean([value(row) for row in question.rows]) for question in questions])


def _mean(values: Sequence[float] | np.ndarray) -> float:
    return float(sum(values) / len(values))


def described(result: Mapping[str, Any]) -> str:
    """The result in one line, a table of its sets, and in a line each what it does not cover."""
    shown = "  ".join(f"{name} {task['accuracy']:.1%}" for name, task in result["tasks"].items())
    lines = [f"{result['name']}: {shown}  mean {result['mean']:.1%} (standard error {result['stderr']:.1%})"]
    lines += [*table(result), *_about_variants(result)]
    return "\n".join([*lines, *uncovered(result)])


def uncovered(result: Mapping[str, Any]) -> list[str]:
    """A sentence on each thing that the numbers do not cover."""
    lines = []
    asked = result["questions"] + result["dropped"]
    seen = result["seen"]
    if result["dropped"]:
        lines.append(f"{result['dropped']} of {asked} questions are longer than the context allows and were left out")
    if result["unscored"]:
        lines.append(f"{result['unscored']} of {result['answers']} answers could not be scored and count neither way")
    if result.get("filtered"):
        lines.append(
            f"{result['filtered']} of {result['answers']} answers were withheld by the endpoint's filter, whole or "
            "from some word on, and count as they came"
        )
    if seen["questions"]:
        lines.append(f"{seen['questions']} of {asked} questions are in the training data too: no held-out result")
    if seen.get("contexts"):
        lines.append(f"{seen['contexts']} of {asked} questions ask about notes that the training data ask about too")
    if seen["unread"]:
        lines.append(f"not compared with training data that is gone or was changed: {', '.join(seen['unread'])}")
    return lines


def table(result: Mapping[str, Any]) -> list[str]:
    """The sets in a terminal's lines, each with its subjects, then all questions; none without sets."""
    parts = [pair for name, own in result["sets"].items() for pair in ((name, own), *_inner(own))]
    if not parts:
        return []
    parts += [*result["distributions"].items(), ("all", result["all"])]
    most = result["all"]["curve"][-1]["k"] if result["all"]["curve"] else None
    head = ["", "questions", "accuracy", "95% interval", "invalid", "cut off", "tokens"]
    head += [f"pass@{most}", f"maj@{most}", "agreement"] if most else []
    cells = [head, *([name, *_cells(own, most)] for name, own in parts)]
    return aligned(cells)


def aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    """Rows of text as lines with their columns under one another; a line end within a cell is a space."""
    cells = [[" ".join(cell.splitlines()) for cell in row] for row in cells]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]).rstrip()
        for row in cells
    ]


def _inner(own: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return [(f"  {name}", part) for name, part in own["subjects"].items()]


def _cells(own: Mapping[str, Any], most: int | None) -> list[str]:
    low, high = own["interval"]
    cut = "-" if own["cut_share"] is None else f"{own['cut_share']:.1%}"
    cells = [
        *(f"{own['questions']:,}", f"{own['accuracy']:.1%}", f"{low:.1%} to {high:.1%}"),
        *(f"{own['format_error_share']:.1%}", cut, f"{own['mean_tokens']:,.0f}"),
    ]
    if most:
        last = own["curve"][-1] if own["curve"] else {"k": None}
        whole = last["k"] == most
        cells += [f"{last['pass']:.1%}", f"{last['majority']:.1%}"] if whole else ["-", "-"]
        cells.append("-" if own["agreement"] is None else f"{own['agreement']:.1%}")
    return cells


def _about_variants(result: Mapping[str, Any]) -> list[str]:
    lines = []
    if order := result["order"]:
        shares = ", ".join(f"{share:.1%} {variant}" for variant, share in order["accuracy"].items())
        lines.append(
            f"options in another order, {order['questions']} questions: {shares}; the same option chosen in "
            f"{order['same_choice']:.1%} of pairs, every answer right in {order['right_in_all']:.1%}"
        )
    if asked := result["transfer"]:
        kept = "" if asked["kept"] is None else f"; of the right ones {asked['kept']:.1%} stay right"
        lines.append(
            f"without options, {asked['questions']} questions: {asked['choice']:.1%} to {asked['short']:.1%}{kept}"
        )
    if budgets := result["budgets"]:
        lines += [f"asked to {asked_in(budgets['mode'])}:", *aligned(budget_table(budgets))]
    return lines
