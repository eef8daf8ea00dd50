"""What a budget of tokens does: accuracy and obedience of the same questions asked at several (`evaluation.budgets`).

Left out: tests between budgets; the intervals are those of each budget alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from recipes.data.variants import BUDGET
from recipes.evaluation import statistics
from recipes.evaluation.questions import Row, by_question, is_scored, variant_of

_HEAD = ("Budget", "Questions", "Accuracy", "95% interval", "Mean error", "Within", "Cut off", "Tokens")


def budget_figures(rows: Sequence[Row]) -> dict[str, Any] | None:
    """The figures of every budget, in order; None without budgets.

    With y tokens of n asked for, in the mode that was asked (`mode`), means over questions of the means over their
    scored answers: `error` of |y - n| / n, `within_share` of y <= n, `mean_tokens` of y, `cut_share` of those that ran
    into the limit. `spread` holds the 10th and 90th percentile of y over answers; `accuracy` has its `interval`.
    """
    asked = [row for row in rows if "budget" in row and is_scored(row)]
    modes = {row["budget"]: row["budget_mode"] for row in asked if variant_of(row) == f"{BUDGET} {row['budget']}"}
    if not modes:
        return None
    return {"mode": next(iter(modes.values())), "points": [_point(rows, budget) for budget in sorted(modes)]}


def _point(rows: Sequence[Row], budget: int) -> dict[str, Any]:
    questions = by_question(rows, f"{BUDGET} {budget}")

    def mean(value: Callable[[Row], float]) -> float:
        return float(np.mean([np.mean([value(row) for row in question.rows]) for question in questions]))

    shares = [question.share for question in questions]
    low, high = np.percentile([row["tokens"] for question in questions for row in question.rows], (10, 90))
    return {
        "budget": budget,
        "questions": len(questions),
        "answers": sum(len(question.rows) for question in questions),
        "accuracy": float(np.mean(shares)),
        "interval": statistics.interval(shares),
        "error": mean(lambda row: abs(row["tokens"] - budget) / budget),
        "within_share": mean(lambda row: row["tokens"] <= budget),
        "mean_tokens": mean(lambda row: row["tokens"]),
        "spread": (float(low), float(high)),
        "cut_share": mean(lambda row: bool(row["cut"])),
    }


def asked_in(mode: str) -> str:
    """What the questions said, in words."""
    return "think for N tokens" if mode == "exact" else "think for maximum N tokens"


def budget_table(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A head and a row for every budget, plain text."""
    return [
        _HEAD,
        *(
            (
                *(f"{p['budget']:,}", f"{p['questions']:,}", f"{p['accuracy']:.1%}"),
                f"{p['interval'][0]:.1%} to {p['interval'][1]:.1%}",
                *(f"{p['error']:.1%}", f"{p['within_share']:.1%}", f"{p['cut_share']:.1%}"),
                f"{p['mean_tokens']:,.0f}",
            )
            for p in found["points"]
        ),
    ]
