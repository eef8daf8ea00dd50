"""Budgets of tokens on the evaluation's page and in its Markdown: a table, and from two budgets on two pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from conversion.evaluation_tables import markdown_table
from recipes.evaluation.budgets import asked_in, budget_table
from recipes.evaluation.page_parts import Curve, bar_head, curve_card, interval_bar, line, share, table

TITLE = "At several budgets"
_ABOUT = (
    "Every question was asked once more at each budget N, in the words “{words}”. Mean error is |y − N| / N over "
    "answers of y tokens, Within the share of answers of at most N tokens; Tokens is their mean length."
)


def budget_section(found: Mapping[str, Any] | None) -> str:
    """The section's HTML; none without budgets."""
    if found is None:
        return ""
    head = ["Budget", "n", "Accuracy", bar_head(("0", "50", "100%")), "Mean error", "Within", "Cut off", "Tokens"]
    rows = [
        line(
            f"{point['budget']:,}",
            [
                f"{point['questions']:,}",
                share(point["accuracy"]),
                interval_bar([("after", point["accuracy"], point["interval"])]),
                *(share(point[key]) for key in ("error", "within_share", "cut_share")),
                f"{point['mean_tokens']:,.0f}",
            ],
        )
        for point in found["points"]
    ]
    about = _ABOUT.format(words=asked_in(found["mode"]))
    return (
        f'<div class="card whole">{table("Accuracy and length at every budget", head, rows)}'
        f'<p class="healthy"><b>How to read it.</b> {about}</p></div>{_pictures(found)}'
    )


def _pictures(found: Mapping[str, Any]) -> str:
    points = found["points"]
    if len(points) < 2:
        return ""
    right = [Curve("accuracy", "blue", [(p["budget"], p["accuracy"], p["interval"]) for p in points])]
    written = [
        Curve("mean tokens", "blue", [(p["budget"], p["mean_tokens"], p["spread"]) for p in points]),
        Curve("asked for", "orange", [(p["budget"], p["budget"], (p["budget"], p["budget"])) for p in points]),
    ]
    accuracy = curve_card(
        "budget-accuracy",
        "Accuracy at every budget",
        right,
        "What thinking longer is worth. Where the curve is flat, the smallest budget is the cheapest; where it falls "
        "to the right, the policy fills its budget with what does not help. The band is a 95% interval.",
        of="budget",
    )
    tokens = curve_card(
        "budget-tokens",
        "Tokens at every budget",
        written,
        "A policy that does as it is told keeps to the second line, or below it where the budget is a maximum. The "
        "band holds the middle 80% of answers.",
        of="budget",
        kind="tokens",
    )
    return f'<div class="grid">{accuracy}{tokens}</div>'


def budget_markdown(found: Mapping[str, Any] | None) -> str:
    """The table under a heading; nothing without budgets."""
    if found is None:
        return ""
    head, *rows = budget_table(found)
    about = _ABOUT.format(words=asked_in(found["mode"]))
    return f"\n### {TITLE}\n\n{markdown_table(head, rows)}\n\n{about}\n"
