"""Evaluations as tables of Markdown, for a model card and to stand alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

SET_COLUMNS = ("set", "questions", "accuracy", "95% interval", "unreadable", "cut off", "tokens an answer")


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table with a head; a bar and HTML within a cell are escaped, and a line end is a space."""
    lines = [columns, ["---"] * len(columns), *rows]
    cells = [[plain_markdown(cell).replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)


def plain_markdown(text: Any) -> str:
    """A text in one line, without HTML: sets and subjects are named by whoever made a file."""
    return escape(" ".join(str(text).splitlines()), quote=False)


def set_columns(result: Mapping[str, Any]) -> tuple[str, ...]:
    """The head of `set_rows`: where questions have several answers, with pass@k and maj@k of the largest k."""
    curve = (result.get("all") or {}).get("curve")
    return (*SET_COLUMNS, *((f"pass@{curve[-1]['k']}", f"maj@{curve[-1]['k']}") if curve else ()))


def set_rows(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row for each set of a result, in and out of distribution, and all questions; none where it names no sets."""
    sets = result.get("sets") or {}
    more = {**result.get("distributions", {}), "all questions": result["all"]}
    whole = {**sets, **more} if len(sets) > 1 else sets
    return [(name, *_cells(own, result["all"]["curve"])) for name, own in whole.items()]


def _cells(own: Mapping[str, Any], whole: Sequence[Mapping[str, Any]]) -> list[str]:
    low, high = own["interval"]
    cut = "" if own["cut_share"] is None else f"{own['cut_share']:.1%}"
    cells = [f"{own['questions']:,}", f"{own['accuracy']:.1%}", f"{low:.1%} to {high:.1%}"]
    cells += [f"{own['format_error_share']:.1%}", cut, f"{own['mean_tokens']:,.0f}"]
    if whole:
        last = next((point for point in own["curve"] if point["k"] == whole[-1]["k"]), None)
        cells += [f"{last['pass']:.1%}", f"{last['majority']:.1%}"] if last else ["", ""]
    return cells
