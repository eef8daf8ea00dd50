"""The report's charts as inline SVG.

An outer SVG without a viewBox fills its card: texts and points stand at percentages and keep their size on a phone.
Lines lie in an inner SVG that stretches with the card, with strokes that do not. Colours come from the style sheet by
class (Okabe-Ito), dashes repeat the distinction, and every chart carries a title, a description and a table of values.

Left out: logarithmic axes and zooming; TensorBoard has both.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from recipes.monitor.report_data import in_task_order, task_name
from recipes.monitor.report_evaluations import Evaluation

# Inner coordinates of the stretching SVG.
_GRID = 1000
_TABLE_ROWS = 12
_NORMAL_95 = 1.96

Row = Mapping[str, float | None]
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """One metric in a chart: its key in ``metrics.jsonl``, its name for people, and its tone (a CSS class)."""

    key: str
    label: str
    tone: str


@dataclass(frozen=True)
class Chart:
    """What one chart shows.

    Attributes:
        kind: ``percent`` (values are shares), ``number``, ``tokens`` or ``seconds``.
        healthy: what a healthy run looks like, in plain words.
        from_zero: start the axis at zero even when the values are far from it.
        stacked: draw filled layers that add up instead of lines.
        special: of some runs alone, so that nobody misses it where there is nothing to draw.
    """

    name: str
    title: str
    kind: str
    lines: tuple[Line, ...]
    healthy: str
    from_zero: bool = False
    stacked: bool = False
    special: bool = False


def smooth(values: Sequence[float]) -> list[float]:
    """Return a Gaussian moving average, centred (it does not lag), a fortieth of the run wide (standard deviation)."""
    width = max(1.0, len(values) / 40)
    reach = math.ceil(3 * width)
    weights = [math.exp(-0.5 * (offset / width) ** 2) for offset in range(reach + 1)]
    result = []
    for centre in range(len(values)):
        window = range(max(0, centre - reach), min(len(values), centre + reach + 1))
        total = sum(weights[abs(index - centre)] for index in window)
        result.append(sum(weights[abs(index - centre)] * values[index] for index in window) / total)
    return result


def nice_axis(low: float, high: float, count: int = 6) -> list[float]:
    """Return about ``count`` round tick values that enclose ``low`` and ``high``."""
    if high - low <= 1e-12 * max(abs(low), abs(high), 1e-9):
        margin = abs(high) * 0.1
        low, high = (low - margin, high + margin) if margin else (0.0, 1.0)
    rough = (high - low) / (count - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def axis_domain(low: float, high: float, kind: str) -> tuple[list[float], float, float]:
    """Return the ticks and both ends of the axis.

    The axis ends on a tick when the values come near it, else just outside the values: a whole empty interval below a
    value of -0.03 would flatten the curve. Shares have no values outside [0, 1] and no axis there.
    """
    ticks = nice_axis(low, high)
    spacing, margin = ticks[1] - ticks[0], 0.05 * (ticks[-1] - ticks[0])
    bottom = ticks[0] if low - ticks[0] <= 0.4 * spacing else low - margin
    top = ticks[-1] if ticks[-1] - high <= 0.4 * spacing else high + margin
    if kind == "percent":
        bottom, top = max(bottom, 0.0), min(top, 1.0)
    return [tick for tick in ticks if bottom - 1e-9 * spacing <= tick <= top + 1e-9 * spacing], bottom, top


def format_value(value: float | None, kind: str, spacing: float | None = None) -> str:
    """Return a value for people; ``spacing`` is the axis step, which sets the decimals of a tick."""
    if value is None or not math.isfinite(value):
        return "–"
    shown = value * 100 if kind == "percent" else value
    if spacing is not None:
        gap = spacing * 100 if kind == "percent" else spacing
        decimals = next((digits for digits in range(7) if abs(gap * 10**digits - round(gap * 10**digits)) < 1e-6), 6)
    elif kind in ("percent", "seconds"):
        decimals = 1
    elif kind == "tokens":
        decimals = 0
    else:
        decimals = 3 if abs(shown) >= 0.01 or shown == 0 else 5
    text = f"{shown:,.{decimals}f}".replace("-", "−")
    if not text.strip("−0.,"):
        text = text.lstrip("−")
    return text + {"percent": "%", "seconds": " s"}.get(kind, "")


def line_chart(chart: Chart, rows: Sequence[Row], not_finite: Mapping[str, int]) -> str:
    """Return a card with the chart, or an empty string when no row has any of its metrics."""
    present = [(line, points) for line in chart.lines if (points := _points(rows, line.key))]
    if not present:
        return ""
    lines = [line for line, _ in present]
    smoothed = [
        list(zip((step for step, _ in points), smooth([value for _, value in points]), strict=True))
        for _, points in present
    ]
    if chart.stacked:
        smoothed = _stack(smoothed)
    drawn = [value for points in ([p for _, p in present] if not chart.stacked else smoothed) for _, value in points]
    low, high = min(drawn), max(drawn)
    if chart.from_zero or chart.stacked or 0 <= low < 0.5 * high:
        low = min(low, 0.0)
    ticks, low, high = axis_domain(low, high, chart.kind)
    steps = [int(row["step"] or 0) for row in rows]
    frame = Frame(steps[0], steps[-1], low, high)
    if chart.stacked:
        shapes = _layers(lines, smoothed, frame)
    else:
        shapes = _curves([(line, points, soft) for (line, points), soft in zip(present, smoothed, strict=True)], frame)
    latest = {
        line.key: smooth([value for _, value in points])[-1] for line, points in present
    }  # the layers' tops add up, the legend shows each by itself
    description = "; ".join(
        f"{line.label} from {format_value(points[0][1], chart.kind)} to {format_value(points[-1][1], chart.kind)}"
        for line, points in present
    )
    data = {
        "kind": chart.kind,
        "frame": [frame.x0, frame.x1, frame.y0, frame.y1],
        "steps": steps,
        "series": [
            {"label": line.label, "tone": line.tone, "values": [_rounded(row.get(line.key)) for row in rows]}
            for line in lines
        ],
        "dots": not chart.stacked,
    }
    return f"""
<figure class="card chart" id="chart-{chart.name}">
<figcaption><h3>{escape(chart.title)}</h3></figcaption>
{_legend(lines, latest, chart)}
<div class="plot" tabindex="0" role="group" aria-label="{escape(chart.title)}: arrow keys read the values step by step">
<svg class="canvas" role="img" aria-labelledby="{chart.name}-title {chart.name}-desc" width="100%" height="100%">
<title id="{chart.name}-title">{escape(chart.title)}, by training step</title>
<desc id="{chart.name}-desc">{escape(description)}.</desc>
{axes(frame, ticks, chart.kind, [(step, f"{step:,}") for step in _step_ticks(steps[0], steps[-1])])}
{shapes}
</svg>
<div class="hit"></div><div class="cursor" hidden></div><div class="tip" role="status" hidden></div>
<script type="application/json" class="data">{inline_json(data)}</script>
</div>
<p class="healthy"><b>What a healthy run looks like.</b> {escape(chart.healthy)}</p>
{_warning(lines, not_finite)}{_table(chart, lines, rows)}
</figure>"""


def evaluation_chart(evaluations: Mapping[str, Evaluation]) -> str:
    """Return a dot plot of every evaluation by task, with 95 % intervals; empty when there is none."""
    names = {"before": "Before", "sft_control": "SFT control", "after": "After"}
    shown = [(name, evaluations[name]) for name in names if name in evaluations]
    if not shown:
        return ""
    tasks = in_task_order([task for _, evaluation in shown for task in evaluation.tasks])
    groups = [*tasks, None] if any(evaluation.mean is not None for _, evaluation in shown) else list(tasks)
    band, gap = 26, 30
    height = len(groups) * (band * len(shown) + gap)
    parts = [
        f'<line class="gridline" x1="{x}%" x2="{x}%" y1="0" y2="{height}"/>'
        f'<text class="tick" x="{x}%" y="{height + 20}" text-anchor="middle">{x}%</text>'
        for x in (0, 25, 50, 75, 100)
    ]
    words = []
    for row, task in enumerate(groups):
        top = row * (band * len(shown) + gap)
        label = "Mean" if task is None else task_name(task)
        weight = " strong" if task is None else ""
        parts.append(f'<text class="rowname{weight}" x="4" y="{top + 20}">{escape(label)}</text>')
        for place, (name, evaluation) in enumerate(shown):
            result = evaluation.tasks.get(task) if task is not None else None
            if task is None:
                value, stderr = evaluation.mean, evaluation.stderr
            else:
                value, stderr = (result.accuracy, result.stderr) if result else (None, None)
            if value is None:
                continue
            y = top + gap + place * band + band / 2
            parts.append(_dot(name, value, stderr, y))
            words.append(f"{label}, {names[name].lower()}: {format_value(value, 'percent')}")
    legend = "".join(
        '<li><svg class="swatch" width="28" height="12" aria-hidden="true">'
        f"{_mark(name, '14', '6')}</svg>{names[name]}</li>"
        for name, _ in shown
    )
    return f"""
<figure class="card chart" id="chart-evaluation">
<figcaption><h3>Accuracy with 95% intervals</h3></figcaption>
<ul class="legend">{legend}</ul>
<div class="dots">
<svg class="canvas" role="img" aria-labelledby="evaluation-title evaluation-desc" width="100%" height="{height}">
<title id="evaluation-title">Accuracy by task in each evaluation</title>
<desc id="evaluation-desc">{escape("; ".join(words))}.</desc>
{"".join(parts)}
</svg>
</div>
<p class="healthy"><b>How to read it.</b> The bar around a point is 1.96 standard errors to each side. When the bars of
two evaluations hardly overlap, the difference is unlikely to be chance; more questions make them shorter.</p>
</figure>"""


@dataclass(frozen=True)
class Frame:
    """The data rectangle; positions come out in percent of the plot (x rightwards, y downwards)."""

    x0: float
    x1: float
    y0: float
    y1: float

    def x(self, step: float) -> float:
        """From the left."""
        return 50.0 if self.x1 == self.x0 else 100 * (step - self.x0) / (self.x1 - self.x0)

    def y(self, value: float) -> float:
        """From the top."""
        return 100 - 100 * (value - self.y0) / (self.y1 - self.y0)

    def path(self, points: Points) -> str:
        """Of a `stretched` SVG, less its first letter."""
        scale = _GRID / 100
        return "L".join(f"{self.x(step) * scale:.1f} {self.y(value) * scale:.1f}" for step, value in points)


def _points(rows: Sequence[Row], key: str) -> list[tuple[float, float]]:
    """Return the steps that have the metric; the line runs straight over those that do not."""
    return [(int(row["step"] or 0), value) for row in rows if (value := row.get(key)) is not None]


def _stack(series: Sequence[Points]) -> list[list[tuple[float, float]]]:
    """Return the tops of the layers; a step that lacks one of the metrics counts it as zero."""
    steps = sorted({step for points in series for step, _ in points})
    tops = dict.fromkeys(steps, 0.0)
    result = []
    for points in series:
        for step, value in points:
            tops[step] += value
        result.append(sorted(tops.items()))
    return result


def axes(frame: Frame, ticks: Sequence[float], kind: str, names: Sequence[tuple[float, str]]) -> str:
    """Return the lines and labels of both axes; `names` are those under the plot, with their places."""
    spacing = ticks[1] - ticks[0] if len(ticks) > 1 else None
    parts = []
    for tick in ticks:
        y = frame.y(tick)
        parts.append(f'<line class="gridline" x1="0" x2="100%" y1="{y:.2f}%" y2="{y:.2f}%"/>')
        text = format_value(tick, kind, spacing)
        parts.append(f'<text class="tick" x="-8" y="{y:.2f}%" dy=".34em" text-anchor="end">{text}</text>')
    for place, text in names:
        parts.append(
            f'<text class="tick" x="{frame.x(place):.2f}%" y="100%" dy="20" text-anchor="middle">{text}</text>'
        )
    return "".join(parts)


def _step_ticks(first: int, last: int) -> list[int]:
    if first == last:
        return [first]
    inside = [round(tick) for tick in nice_axis(first, last, 6) if first <= tick <= last and tick == round(tick)]
    # Both ends are named; a round step too close to one of them would touch its label.
    room = (last - first) * 0.09
    return [first, *(tick for tick in inside if first + room < tick < last - room), last]


def stretched(content: str) -> str:
    """Return an SVG that fills its parent in both directions."""
    return (
        f'<svg class="stretch" width="100%" height="100%" viewBox="0 0 {_GRID} {_GRID}" preserveAspectRatio="none" '
        f'aria-hidden="true">{content}</svg>'
    )


def _curves(series: Sequence[tuple[Line, Points, Points]], frame: Frame) -> str:
    raw, soft, ends = [], [], []
    for line, points, smoothed in reversed(series):
        if len(points) > 1:
            raw.append(f'<path class="raw {line.tone}" d="M{frame.path(points)}"/>')
            soft.append(f'<path class="soft {line.tone}" d="M{frame.path(smoothed)}"/>')
        step, value = smoothed[-1]
        ends.append(f'<circle class="end {line.tone}" cx="{frame.x(step):.2f}%" cy="{frame.y(value):.2f}%" r="3.5"/>')
    return stretched("".join(raw + soft)) + "".join(ends)


def _layers(lines: Sequence[Line], tops: Sequence[Points], frame: Frame) -> str:
    if len(tops[0]) == 1:
        # One step has no area; a bar of the whole width says the same.
        tops = [[(frame.x0, points[0][1]), (frame.x0 + 1, points[0][1])] for points in tops]
        frame = Frame(frame.x0, frame.x0 + 1, frame.y0, frame.y1)
    parts = []
    floor: Points = [(step, 0.0) for step, _ in tops[0]]
    for line, top in zip(lines, tops, strict=True):
        parts.append(f'<path class="layer {line.tone}" d="M{frame.path(top)}L{frame.path(list(reversed(floor)))}Z"/>')
        floor = top
    return stretched("".join(parts))


def _legend(lines: Sequence[Line], latest: Mapping[str, float], chart: Chart) -> str:
    shape = "layer" if chart.stacked else "soft"
    mark = (
        '<rect class="layer {0}" x="4" width="20" height="12" rx="2"/>'
        if chart.stacked
        else ('<line class="soft {0}" x1="1" x2="27" y1="6" y2="6"/>')
    )
    items = "".join(
        f'<li><svg class="swatch" data-shape="{shape}" width="28" height="12" aria-hidden="true">'
        f"{mark.format(line.tone)}</svg>{escape(line.label)} <b>{format_value(latest[line.key], chart.kind)}</b></li>"
        for line in lines
    )
    return f'<ul class="legend">{items}</ul>'


def _mark(name: str, x: str, y: str) -> str:
    """Return the point of an evaluation: hollow circle before, square for the control, filled circle after."""
    if name == "sft_control":
        return (
            f'<svg class="mark" x="{x}" y="{y}"><rect class="point {name}" x="-5" y="-5" width="10" height="10"/></svg>'
        )
    return f'<circle class="point {name}" cx="{x}" cy="{y}" r="5.5"/>'


def _dot(name: str, value: float, stderr: float | None, y: float) -> str:
    parts = []
    end = value
    if stderr is not None:
        low, end = max(0.0, value - _NORMAL_95 * stderr), min(1.0, value + _NORMAL_95 * stderr)
        parts.append(f'<line class="whisker {name}" x1="{100 * low:.2f}%" x2="{100 * end:.2f}%" y1="{y}" y2="{y}"/>')
    parts.append(_mark(name, f"{100 * value:.2f}%", f"{y}"))
    # Near the right edge the number stands on the other side of its bar.
    side = ("end", -12, 2 * value - end) if end > 0.86 else ("start", 12, end)
    parts.append(
        f'<text class="value" x="{100 * side[2]:.2f}%" dx="{side[1]}" y="{y}" dy=".34em" text-anchor="{side[0]}">'
        f"{format_value(value, 'percent')}</text>"
    )
    return "".join(parts)


def _warning(lines: Sequence[Line], not_finite: Mapping[str, int]) -> str:
    bad = [f"{line.label}, {count} of the steps" for line in lines if (count := not_finite.get(line.key))]
    if not bad:
        return ""
    return f'<p class="warning">Not finite (NaN or infinite) and left out of the line: {escape("; ".join(bad))}.</p>'


def _table(chart: Chart, lines: Sequence[Line], rows: Sequence[Row]) -> str:
    count = min(_TABLE_ROWS, len(rows))
    picked = [rows[round(index * (len(rows) - 1) / max(1, count - 1))] for index in range(count)]
    head = "".join(f'<th scope="col">{escape(line.label)}</th>' for line in lines)
    body = "".join(
        f'<tr><th scope="row">{row["step"]}</th>'
        + "".join(f"<td>{format_value(row.get(line.key), chart.kind)}</td>" for line in lines)
        + "</tr>"
        for row in picked
    )
    return (
        '<details class="values"><summary>Values as a table</summary><div class="scroll"><table>'
        f'<caption class="unseen">{escape(chart.title)} at {count} steps</caption>'
        f'<thead><tr><th scope="col">Step</th>{head}</tr></thead><tbody>{body}</tbody></table></div></details>'
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")


def inline_json(data: object) -> str:
    """Return JSON for a script element."""
    # "</script>" inside a label would end the block; the escape means the same to a JSON parser.
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
