"""What the pages of evaluations share: the document, bars of intervals, curves over k, cards of answers.

The pages are the report's kin (`recipes.monitor.report`): one file, its style and script, a policy that lets nothing
else run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import Any

from recipes.data.example import Example
from recipes.evaluation.comparison import points
from recipes.evaluation.questions import Row
from recipes.monitor.page import framed
from recipes.monitor.report_charts import Frame, axes, axis_domain, format_value, inline_json, stretched
from recipes.monitor.report_data import task_name
from recipes.monitor.report_samples import filter_buttons, highlight

# Cards of answers on a page; the files have all.
CARDS = 60
_BAR_HEIGHT = 20


@dataclass(frozen=True)
class Curve:
    """One line over k.

    Attributes:
        tone: blue, orange or green; a class of the style sheet.
        points: k, share and its interval.
    """

    label: str
    tone: str
    points: Sequence[tuple[int, float, Sequence[float]]]


def document(
    *, kind: str, title: str, subtitle: str, notices: Sequence[str], tiles: str, sections: Mapping[str, str]
) -> str:
    """The page.

    Args:
        kind: what it is a page of.
        title: plain text.
        subtitle: HTML.
        notices: plain sentences that a reader must know before all else.
        tiles: HTML of `tile`s.
        sections: HTML by heading, with the headings that have none left out.
    """
    shown = {heading: html for heading, html in sections.items() if html}
    notes = "".join(f'<p class="card notice" role="note">{escape(notice)}</p>' for notice in notices)
    parts = "".join(
        f'<section id="{_anchor(heading)}" aria-labelledby="{_anchor(heading)}-title">'
        f'<h2 id="{_anchor(heading)}-title">{escape(heading)}</h2>{html}</section>'
        for heading, html in shown.items()
    )
    return framed(
        f'{notes}<dl class="tiles">{tiles}</dl>{parts}',
        kind=kind,
        title=title,
        subtitle=subtitle,
        links={_anchor(heading): heading for heading in shown},
        style=files("recipes.evaluation").joinpath("page.css").read_text(encoding="utf-8"),
    )


def _anchor(heading: str) -> str:
    return "-".join(heading.lower().split())


def share(value: float | None) -> str:
    """A share in per cent."""
    return format_value(value, "percent")


def signed(change: float) -> str:
    """A change in percentage points."""
    return points(change).replace("-", "−")


def table(caption: str, head: Sequence[str], rows: Sequence[str]) -> str:
    """A table of figures.

    Args:
        caption: for those who do not see it.
        head: HTML of the head's cells; the first is that of the rows' names.
        rows: HTML of `line`s.
    """
    cells = "".join(cell if cell.startswith("<th") else f'<th scope="col">{cell}</th>' for cell in head)
    return (
        f'<div class="scroll"><table class="figures"><caption class="unseen">{escape(caption)}</caption>'
        f"<thead><tr>{cells}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def line(name: str, cells: Sequence[str], kind: str = "") -> str:
    """A row of a table; `cells` are HTML, a bar's with its own td."""
    shown = "".join(cell if cell.startswith("<td") else f"<td>{cell}</td>" for cell in cells)
    return f'<tr class="{kind}"><th scope="row">{escape(name)}</th>{shown}</tr>'


def bar_head(labels: Sequence[str]) -> str:
    """The head of a column of bars: the axis."""
    marks = "".join(f"<span>{label}</span>" for label in labels)
    return (
        f'<th scope="col" class="plot-cell"><span class="unseen">Interval</span><span class="axis">{marks}</span></th>'
    )


def group_line(name: str, width: int) -> str:
    """A row that names those below it, over so many columns."""
    return f'<tr class="group"><th scope="rowgroup" colspan="{width}">{escape(name)}</th></tr>'


def interval_bar(
    marks: Sequence[tuple[str, float, Sequence[float] | None]], low: float = 0.0, high: float = 1.0, lines: int = 5
) -> str:
    """A cell with points and their intervals on an axis.

    Args:
        marks: class, value and interval of each.
        low, high: ends of the axis.
        lines: of the grid, evenly spaced.
    """

    def place(value: float) -> float:
        return 100 * min(1.0, max(0.0, (value - low) / (high - low)))

    middle = _BAR_HEIGHT / 2
    parts = []
    for index in range(lines):
        at = 100 * index / (lines - 1)
        zero = low < 0 < high and math.isclose(low + (high - low) * index / (lines - 1), 0, abs_tol=1e-12)
        parts.append(
            f'<line class="{"middle" if zero else "gridline"}" x1="{at:g}%" x2="{at:g}%" y1="0" y2="{_BAR_HEIGHT}"/>'
        )
    for kind, value, interval in marks:
        if interval is not None:
            parts.append(
                f'<line class="whisker {kind}" x1="{place(interval[0]):.2f}%" x2="{place(interval[1]):.2f}%" '
                f'y1="{middle}" y2="{middle}"/>'
            )
        parts.append(f'<circle class="point {kind}" cx="{place(value):.2f}%" cy="{middle}" r="4.5"/>')
    return (
        f'<td class="plot-cell"><svg class="interval" width="100%" height="{_BAR_HEIGHT}" aria-hidden="true">'
        f"{''.join(parts)}</svg></td>"
    )


def curve_card(
    name: str, title: str, curves: Sequence[Curve], about: str, *, of: str = "k", kind: str = "percent"
) -> str:
    """Lines over a number, on a logarithmic axis, with the bands of their intervals.

    Args:
        name: of the picture in the page.
        title, about: plain text.
        curves: one at least, with two numbers or more.
        of: what the number is called.
        kind: of the values, as `recipes.monitor.report_charts.Chart` has them.
    """
    ks = sorted({k for curve in curves for k, _, _ in curve.points})
    values = [value for curve in curves for _, mean, interval in curve.points for value in (mean, *interval)]
    ticks, low, high = axis_domain(min(values), max(values), kind)
    frame = Frame(math.log2(ks[0]), math.log2(ks[-1]), low, high)
    bands, lines, ends = [], [], []
    for curve in reversed(curves):
        points = [(math.log2(k), mean, interval) for k, mean, interval in curve.points]
        upper, lower = ([(x, interval[side]) for x, _, interval in points] for side in (1, 0))
        bands.append(f'<path class="band {curve.tone}" d="M{frame.path(upper)}L{frame.path(lower[::-1])}Z"/>')
        middle = [(x, mean) for x, mean, _ in points]
        lines.append(f'<path class="soft {curve.tone}" d="M{frame.path(middle)}"/>')
        ends += [
            f'<circle class="end {curve.tone}" cx="{frame.x(x):.2f}%" cy="{frame.y(mean):.2f}%" r="3.5"/>'
            for x, mean in middle
        ]
    data = {
        "kind": kind,
        "frame": [frame.x0, frame.x1, frame.y0, frame.y1],
        "steps": [math.log2(k) for k in ks],
        "names": [f"{of} = {k:,}" for k in ks],
        "series": [
            {
                "label": curve.label,
                "tone": curve.tone,
                "values": [{point[0]: point[1] for point in curve.points}.get(k) for k in ks],
            }
            for curve in curves
        ],
        "dots": True,
    }
    said = "; ".join(
        f"{curve.label} from {format_value(curve.points[0][1], kind)} at {of} = {curve.points[0][0]} to "
        f"{format_value(curve.points[-1][1], kind)} at {of} = {curve.points[-1][0]}"
        for curve in curves
    )
    legend = "".join(
        f'<li><svg class="swatch" width="28" height="12" aria-hidden="true"><line class="soft {curve.tone}" x1="1" '
        f'x2="27" y1="6" y2="6"/></svg>{escape(curve.label)} <b>{format_value(curve.points[-1][1], kind)}</b></li>'
        for curve in curves
    )
    names = [(math.log2(k), f"{k:,}") for k in ks]
    return f"""
<figure class="card chart" id="chart-{name}">
<figcaption><h3>{escape(title)}</h3></figcaption>
<ul class="legend">{legend}</ul>
<div class="plot" tabindex="0" role="group" aria-label="{escape(title)}: arrow keys read the values one by one">
<svg class="canvas" role="img" aria-labelledby="{name}-title {name}-desc" width="100%" height="100%">
<title id="{name}-title">{escape(title)}</title>
<desc id="{name}-desc">{escape(said)}.</desc>
{axes(frame, ticks, kind, names)}
{stretched("".join(bands + lines))}{"".join(ends)}
</svg>
<div class="hit"></div><div class="cursor" hidden></div><div class="tip" role="status" hidden></div>
<script type="application/json" class="data">{inline_json(data)}</script>
</div>
<p class="healthy"><b>How to read it.</b> {escape(about)}</p>
{_curve_values(title, curves, ks, of, kind)}
</figure>"""


def _curve_values(title: str, curves: Sequence[Curve], ks: Sequence[int], of: str, kind: str) -> str:
    def said(value: float) -> str:
        return format_value(value, kind)

    head = "".join(f'<th scope="col">{escape(curve.label)}</th>' for curve in curves)
    found = [{k: (mean, interval) for k, mean, interval in curve.points} for curve in curves]
    body = "".join(
        f'<tr><th scope="row">{k:,}</th>'
        + "".join(
            f"<td>{said(own[k][0])}<small>{said(own[k][1][0])} to {said(own[k][1][1])}</small></td>"
            if k in own
            else "<td>–</td>"
            for own in found
        )
        + "</tr>"
        for k in ks
    )
    return (
        '<details class="values"><summary>Values as a table</summary><div class="scroll"><table>'
        f'<caption class="unseen">{escape(title)}</caption><thead><tr><th scope="col">{of}</th>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div></details>"
    )


def tile(label: str, value: str, note: str, extra: str = "") -> str:
    """One of the figures at the page's head; `note` is plain text."""
    return (
        f'<div class="tile {extra}"><dt>{escape(label)}</dt><dd class="big">{value}</dd>'
        f'<dd class="note">{escape(note)}</dd></div>'
    )


def answer_cards(lead: str, cards: str, filters: Mapping[str, tuple[str, Mapping[str, str]]]) -> str:
    """Cards behind buttons that choose among them.

    Args:
        lead: plain text before them.
        cards: HTML of `answer_card`s.
        filters: by the attribute of a card (task, outcome): label, and names of its values.
    """
    buttons = "".join(filter_buttons(key, label, names) for key, (label, names) in filters.items())
    return f"""<p class="lead">{escape(lead)}</p>
<div class="filters" hidden>{buttons}
<button type="button" class="chip" id="toggle-all" aria-expanded="false">Open all</button>
</div>
<div class="samples">{cards}</div>
<p class="none muted" hidden>There is none of both here.</p>"""


def answer_card(row: Row, question: Example | None, *, badge: tuple[str, str, str], group: str, body: str) -> str:
    """One question with what was answered.

    Args:
        row: an answer to it.
        question: where its text is still known.
        badge: class, sign and name of the outcome.
        group: what the first filter goes by.
        body: HTML of `response_part`s.
    """
    kind, sign, name = badge
    about = " · ".join(str(part) for part in (row.get("source"), row.get("subject")) if part) or task_name(row["group"])
    excerpt = " ".join((question.question if question else row["response"]).split())[:160]
    return f"""
<details class="card sample" data-task="{escape(group)}" data-outcome="{kind}">
<summary>
<span class="badge {kind}"><span aria-hidden="true">{sign}</span> {name}</span>
<span class="about">{escape(about)}</span>
<span class="excerpt">{escape(excerpt)}</span>
<span class="points"></span>
</summary>
<div class="body">{_question(question)}{body}
<dl class="facts"><div><dt>Gold answer</dt><dd><code>{escape(row["answer"])}</code></dd></div>
<div><dt>Question</dt><dd>{escape(row["id"])}</dd></div></dl></div>
</details>"""


def _question(question: Example | None) -> str:
    if question is None:
        return '<p class="muted">The file of questions is gone or was changed, so that their text is not shown.</p>'
    options = "".join(f"\n{letter}. {text}" for letter, text in (question.options or {}).items())
    context = f"{question.context}\n\n" if question.context else ""
    return f'<h4>Question</h4><pre class="text">{escape(context + question.question + options)}</pre>'


def response_part(title: str, row: Row) -> str:
    """One answer."""
    said = row.get("extracted")
    read = "<em>none</em>" if said is None else f"<code>{escape(str(said))}</code>"
    cut = ", cut off" if row.get("cut") else ""
    return (
        f'<div><h4>{escape(title)} <span class="muted">{row["tokens"]:,} tokens{cut}, read as {read}: '
        f"{escape(str(row['status']).replace('_', ' '))}</span></h4>"
        f'<pre class="text response">{highlight(row["response"])}</pre></div>'
    )


def facts(pairs: Mapping[str, Any]) -> str:
    """A list of names and values, plain text."""
    items = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(str(v))}</dd></div>" for k, v in pairs.items())
    return f'<dl class="card facts">{items}</dl>'
