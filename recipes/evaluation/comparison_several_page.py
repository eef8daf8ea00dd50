"""Three evaluations or more for people: accuracy of each by part with its interval, and every pair's change."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from recipes.evaluation.comparison import shown_p
from recipes.evaluation.comparison_page import change_axis, change_cells
from recipes.evaluation.comparison_several import notes_of_several, shown_parts
from recipes.evaluation.page_parts import (
    bar_head,
    document,
    facts,
    group_line,
    interval_bar,
    line,
    share,
    table,
    tile,
)
from recipes.monitor.report_data import task_name


def comparison_several_page(comparison: Mapping[str, Any]) -> str:
    """The page's HTML, of what `compare_several` found."""
    titles = list(comparison["evaluations"])
    return document(
        kind="Medatron comparison",
        title=", ".join(titles),
        subtitle=f"<b>{comparison['questions']:,}</b> questions with a scored answer of all",
        notices=[f"{note[0].upper()}{note[1:]}." for note in notes_of_several(comparison)[1:]],
        tiles=_tiles(comparison),
        sections={
            "Accuracy": _accuracy(comparison),
            "Pairs": _pairs(comparison),
            "How to repeat it": _repeat(comparison),
        },
    )


def _tiles(comparison: Mapping[str, Any]) -> str:
    tiles = []
    for title, own in comparison["mean"]["figures"].items():
        low, high = own["interval"]
        tiles.append(tile(title, share(own["accuracy"]), f"mean of tasks, {share(low)} to {share(high)}"))
    return "".join(tiles)


def _accuracy(comparison: Mapping[str, Any]) -> str:
    head = ["Evaluation", "n", "Accuracy", bar_head(("0", "50", "100%")), "Unreadable", "Tokens"]
    rows = []
    for name, part in shown_parts(comparison).items():
        rows.append(group_line(task_name(name), len(head)))
        for title, own in part["figures"].items():
            cells = [f"{part['questions']:,}" if "questions" in part else "", share(own["accuracy"])]
            cells.append(interval_bar([("after", own["accuracy"], own["interval"])]))
            whole = "mean_tokens" in own
            cells += [share(own["format_error_share"]), f"{own['mean_tokens']:,.0f}"] if whole else ["", ""]
            rows.append(line(title, cells))
    return f"""<div class="card whole">{table("Accuracy of each with 95% intervals", head, rows)}
<p class="healthy"><b>How to read it.</b> The bar is a 95% bootstrap interval over questions. Whether two differ is
below: intervals that overlap do not tell, since all answered the same questions.</p></div>"""


def _pairs(comparison: Mapping[str, Any]) -> str:
    shown = shown_parts(comparison)
    reach, axis = change_axis(pair for part in shown.values() for pair in part["pairs"])
    head = ["Pair", "Change", axis, "Gained", "Lost", "p", "Holm's p"]
    rows = []
    for name, part in shown.items():
        rows.append(group_line(task_name(name), len(head)))
        for pair in part["pairs"]:
            cells = [*change_cells(pair, reach), "", "", "", ""]
            if "p" in pair:
                cells[2:] = [f"{pair['gained']:,}", f"{pair['lost']:,}"]
                cells += [escape(shown_p(pair["p"])), escape(shown_p(pair["p_holm"]))]
            rows.append(line(f"{pair['b']} against {pair['a']}", cells))
    return f"""<div class="card whole">{table("The change of every pair", head, rows)}
<p class="healthy"><b>How to read it.</b> Changes are percentage points; the bar is a 95% paired bootstrap interval over
questions. Gained and lost count questions, and p is the chance of at least so uneven a split if neither were better
({escape(comparison["test"])}). Holm's p is corrected for all pairs of its part: below 0.05 in one of them is as rare by
chance as for a single pair. Parts are not corrected for one another. Two of them compared alone show pass@k and the
questions that changed.</p></div>"""


def _repeat(comparison: Mapping[str, Any]) -> str:
    return facts(
        {
            **{
                title: f"{each['path']} (weights SHA-256 {each['weights']})"
                for title, each in comparison["evaluations"].items()
            },
            "data": ", ".join(file["sha256"] for file in comparison["measured"]["data"]),
            "intervals": f"{comparison['statistics']['resamples']} resamples, seed {comparison['statistics']['seed']}",
        }
    )
