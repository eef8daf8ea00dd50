"""Write the HTML report of a run: ``python -m recipes.monitor.report RUN``.

One file that needs nothing else: no network, no external script. Its own Content-Security-Policy allows exactly the
style and the script written here (by hash), so text of the model could not run even if an escape were forgotten.

Left out: comparing runs, and PDF (print it).
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template

from conversion import command
from recipes.monitor.page import NOT_MEDICAL, asset, framed
from recipes.monitor.report_charts import evaluation_chart, format_value, line_chart, smooth
from recipes.monitor.report_curves import CHARTS
from recipes.monitor.report_data import RunData, in_task_order, read_run, task_name
from recipes.monitor.report_evaluations import Evaluation, TaskResult
from recipes.monitor.report_samples import highlight, sample_cards
from recipes.monitor.run_folder import RunFolderError, replace_file, report_path

_SYNTHETIC = "Synthetic-data demonstration / not for medical use"
_LINKS = {"results": "Results", "curves": "Training curves", "samples": "Sample answers", "config": "Configuration"}
_CONFIG_KEY = re.compile(r"^(\s*(?:- )?)([^\s:#][^:#]*)(:)(?=\s|$)", re.MULTILINE)


def write_report(run_dir: Path | str) -> Path:
    """Write ``RUN/report.html`` from the files of the run's folder and return its path.

    ``config.yaml`` and ``metrics.jsonl`` (one step at least) are needed; evaluations, rollouts and ``summary.json`` are
    shown when present. An older report is replaced in one atomic rename.

    Raises:
        RunFolderError: a needed file is missing or a file is damaged; the message names it.
    """
    path = report_path(run_dir)
    replace_file(path, _page(read_run(run_dir)).encode("utf-8", "replace"))
    return path


def _page(run: RunData) -> str:
    charts = [line_chart(chart, run.rows, run.not_finite) for chart in CHARTS]
    absent = [chart.title for chart, html in zip(CHARTS, charts, strict=True) if not html and not chart.special]
    main = Template(asset("report_main.html")).substitute(
        notice=_notice(run),
        tiles=_tiles(run),
        results=_left_out(run.left_out) + _results(run.evaluations) + _pages(run.pages),
        curves_note=_curves_note(run, absent),
        charts="".join(charts),
        samples=sample_cards(run.samples)
        if run.samples
        else '<p class="card empty">This run kept no rollout samples (<code>rollouts/step_*.parquet</code>).</p>',
        sample_count=len(run.samples),
        summary=_summary(run.summary),
        config=_CONFIG_KEY.sub(r'\1<span class="key">\2</span>\3', escape(run.config_text, quote=False)),
    )
    return framed(
        main,
        kind="Medatron training report",
        title=run.name,
        subtitle=_subtitle(run),
        links=_LINKS,
        banner=_SYNTHETIC if run.synthetic else NOT_MEDICAL,
    )


def _subtitle(run: RunData) -> str:
    span = f"{run.first_step:,} to {run.last_step:,}" if run.first_step > 1 else f"{run.last_step:,}"
    # An SFT run has the same folder and no rewards.
    method = "GRPO on" if any("reward/mean" in row for row in run.rows) else "Training of"
    parts = [
        f"{method} <b>{escape(run.model)}</b>",
        f"{span} step{'s' if run.last_step > 1 else ''}",
        f"{_spell(run.seconds)} of training",
        f"{run.seconds / max(1, run.last_step):.1f} s a step",
    ]
    return " <span aria-hidden='true'>·</span> ".join(parts)


def _notice(run: RunData) -> str:
    """What a reader must know before all else: that the run cheats, or learns nothing."""
    parts = []
    if run.drift is not None:
        head = (
            "The policy is paid for cheating." if run.drift.holds else "The policy was paid for cheating for a while."
        )
        shown = "".join(f'<pre class="text response">{highlight(each.response)}</pre>' for each in run.drift.shown)
        parts.append(
            f'<div class="card notice" role="note"><b>{head}</b> Step {run.drift.step:,}: '
            f"{escape(run.drift.sentence)}.{shown}</div>"
        )
    if run.without_lesson is not None:
        count, why = run.without_lesson
        steps = "The last step" if count == 1 else f"The last {count:,} steps"
        parts.append(
            f'<p class="card notice" role="note"><b>{steps} taught nothing.</b> Likely reason: {escape(why)}.</p>'
        )
    return "".join(parts)


def _spell(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"


def _tiles(run: RunData) -> str:
    tiles = []
    before, after = run.evaluations.get("before"), run.evaluations.get("after")
    if before and after and before.mean is not None and after.mean is not None:
        change = _difference((before.mean, before.stderr), (after.mean, after.stderr))
        tiles.append(
            _tile("Mean test accuracy", format_value(after.mean, "percent"), f"{change} points from before", "wide")
        )
    for key, label, kind in (
        ("reward/mean", "Reward", "number"),
        ("accuracy/mean", "Rollout accuracy", "percent"),
        ("length/mean", "Response tokens", "tokens"),
        ("format/error_share", "Format errors", "percent"),
        ("policy/kl", "KL to reference", "number"),
    ):
        values = [value for row in run.rows if (value := row.get(key)) is not None]
        if values:
            soft = smooth(values)
            tiles.append(_tile(label, format_value(soft[-1], kind), f"start {format_value(soft[0], kind)}"))
    return "".join(tiles)


def _tile(label: str, value: str, note: str, extra: str = "") -> str:
    text = f'<dd class="big">{value}</dd><dd class="note">{note}</dd>'
    return f'<div class="tile {extra}"><dt>{escape(label)}</dt>{text}</div>'


def _left_out(sentences: Sequence[str]) -> str:
    """Why a file of evaluation/ is not in the table."""
    return "".join(f'<p class="card notice" role="note">{escape(sentence)}.</p>' for sentence in sentences)


def _gaps(evaluations: Mapping[str, Evaluation]) -> str:
    """What the table's numbers do not cover."""
    lines = [f"{escape(name)}: {escape('; '.join(each.gaps))}" for name, each in evaluations.items() if each.gaps]
    return f'<p class="healthy"><b>Not covered.</b> {". ".join(lines)}.</p>' if lines else ""


def _results(evaluations: Mapping[str, Evaluation]) -> str:
    if not evaluations:
        return (
            '<p class="card empty">No evaluation before and after training in this run folder yet '
            "(<code>evaluation/before.json</code>, <code>evaluation/after.json</code>).</p>"
        )
    return f"""<div class="grid">
<section class="card">{_accuracy_table(evaluations)}</section>
{evaluation_chart(evaluations)}
</div>"""


def _pages(names: Sequence[str]) -> str:
    """Where the evaluations' own pages lie; no links, as a report is also sent alone."""
    files = ", ".join(f"<code>evaluation/{escape(name)}.html</code>" for name in names)
    return f'<p class="healthy"><b>Each evaluation with its answers:</b> {files}.</p>' if names else ""


def _accuracy_table(evaluations: Mapping[str, Evaluation]) -> str:
    names = {"before": "Before", "after": "After", "sft_control": "SFT"}
    shown = {name: evaluations[name] for name in names if name in evaluations}
    compare = "before" in shown and "after" in shown
    tasks = in_task_order([task for evaluation in shown.values() for task in evaluation.tasks])
    by_task = {name: evaluation.tasks for name, evaluation in shown.items()}
    rows = [_part_row(task_name(task), task, by_task, compare) for task in tasks]
    by_distribution = {name: evaluation.distributions for name, evaluation in shown.items()}
    parts = sorted({part for own in by_distribution.values() for part in own})
    distributions = [_part_row(part.capitalize(), part, by_distribution, compare) for part in parts]
    cells = {name: (evaluation.mean, evaluation.stderr) for name, evaluation in shown.items()}
    mean = _accuracy_row("Mean", "", cells, compare, "total")
    splits = sorted({evaluation.split for evaluation in shown.values() if evaluation.split})
    head = "".join(
        f'<th scope="col">{names[name]}</th>' + ('<th scope="col">Change</th>' if compare and name == "after" else "")
        for name in shown
    )
    split = f" ({escape(', '.join(splits))} split)" if splits else ""
    return f"""<h3>Accuracy before and after{split}</h3>
<div class="scroll"><table class="results">
<caption class="unseen">Accuracy by task with standard errors</caption>
<thead><tr><th scope="col">Task</th>{head}</tr></thead>
<tbody>{"".join(rows)}</tbody><tfoot>{mean}{"".join(distributions)}</tfoot>
</table></div>
<p class="healthy"><b>How to read it.</b> Small figures are standard errors. That of a change takes the two
evaluations as independent, which errs on the safe side when both answered the same questions.
A change is in percentage points;
one of less than twice its standard error may well be chance and has no colour.</p>
{_gaps(shown)}
{_behaviour_table(shown, tasks)}"""


def _part_row(label: str, part: str, results: Mapping[str, Mapping[str, TaskResult]], compare: bool) -> str:
    """A part of the questions, such as a task, by the evaluations' names."""
    own = {name: each.get(part) for name, each in results.items()}
    questions = max((result.questions for result in own.values() if result), default=0)
    cells = {name: (result.accuracy, result.stderr) if result else (None, None) for name, result in own.items()}
    return _accuracy_row(label, f"n = {questions:,}", cells, compare)


def _accuracy_row(
    label: str,
    note: str,
    cells: Mapping[str, tuple[float | None, float | None]],
    compare: bool,
    kind: str = "",
) -> str:
    parts = []
    for name, (value, stderr) in cells.items():
        error = f"<small>± {100 * stderr:.1f}</small>" if value is not None and stderr is not None else ""
        parts.append(f"<td>{format_value(value, 'percent')}{error}</td>")
        if compare and name == "after":
            parts.append(f"<td>{_difference(cells['before'], cells['after'])}</td>")
    small = f"<small>{note}</small>" if note else ""
    return f'<tr class="{kind}"><th scope="row">{escape(label)}{small}</th>{"".join(parts)}</tr>'


def _difference(before: tuple[float | None, float | None], after: tuple[float | None, float | None]) -> str:
    """Return the change in percentage points with its standard error, both evaluations taken as independent."""
    if before[0] is None or after[0] is None:
        return "–"
    change = 100 * (after[0] - before[0])
    text = f"{change:+.1f}".replace("-", "−")
    error = ""
    noise = 0.0
    if before[1] is not None and after[1] is not None:
        stderr = 100 * (before[1] ** 2 + after[1] ** 2) ** 0.5
        noise = 2 * stderr
        error = f"<small>± {stderr:.1f}</small>"
    # No colour for what may be chance: a green +1 ± 5 would read as a result.
    kind = "same" if abs(change) <= max(noise, 0.05) else "gain" if change > 0 else "loss"
    return f'<span class="{kind}">{text}</span>{error}'


def _behaviour_table(shown: Mapping[str, Evaluation], tasks: Sequence[str]) -> str:
    """Return how the model answered (format errors, contradictions, length) by task and evaluation."""
    columns: tuple[tuple[str, str, Callable[[TaskResult], float | None]], ...] = (
        ("Format errors", "percent", lambda result: result.format_error_share),
        ("Contradictions", "percent", lambda result: result.contradiction_share),
        ("Tokens", "tokens", lambda result: result.mean_tokens),
    )
    columns = tuple(
        column
        for column in columns
        if any(column[2](result) is not None for evaluation in shown.values() for result in evaluation.tasks.values())
    )
    if not columns:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{escape(task_name(task))}</th>'
        + "".join(f"<td>{_course(shown, task, kind, value)}</td>" for _, kind, value in columns)
        + "</tr>"
        for task in tasks
    )
    head = "".join(f'<th scope="col">{title}</th>' for title, _, _ in columns)
    return f"""<details class="values" open><summary>Format errors, contradictions and length</summary>
<div class="scroll"><table><caption class="unseen">How the model answered</caption>
<thead><tr><th scope="col">Task</th>{head}</tr></thead><tbody>{rows}</tbody></table></div>
<p class="healthy">A contradiction is a response whose reasoning ends on another answer than the one it gives.</p>
</details>"""


def _course(shown: Mapping[str, Evaluation], task: str, kind: str, value: Callable[[TaskResult], float | None]) -> str:
    """Return one behaviour as "before → after", with the control on a line of its own."""
    texts = {
        name: format_value(value(result) if (result := evaluation.tasks.get(task)) else None, kind)
        for name, evaluation in shown.items()
    }
    control = texts.pop("sft_control", None)
    return " ".join(f"<span>{arrow}{text}</span>" for arrow, text in zip(("", "→ "), texts.values(), strict=False)) + (
        f"<small>SFT {control}</small>" if control else ""
    )


def _curves_note(run: RunData, absent: Sequence[str]) -> str:
    parts = [
        "The thin line is every step, the bold line its centred moving average, the number beside a name the average's "
        "last value. Point at a chart, or focus it and use the arrow keys, to read single steps."
    ]
    if run.bucket > 1:
        parts.append(f"Each point is the mean of {run.bucket} steps; metrics.jsonl has all {run.steps:,}.")
    if absent:
        parts.append(f"Not recorded in this run: {escape(', '.join(absent).lower())}.")
    return " ".join(parts)


def _summary(summary: Mapping[str, object]) -> str:
    facts = {key: value for key, value in summary.items() if isinstance(value, str | int | float | bool)}
    if not facts:
        return ""
    items = "".join(f"<div><dt>{escape(key)}</dt><dd>{escape(str(value))}</dd></div>" for key, value in facts.items())
    return f'<dl class="card facts">{items}</dl>'


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 0 written, 2 the folder is not fit for a report."""
    return command.run(lambda: _command(arguments), name="report", errors=(RunFolderError,), status=2)


def _command(arguments: Sequence[str] | None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.monitor.report",
        description="Write RUN/report.html, one self-contained page: results before and after, training curves with "
        "what a healthy run looks like, sampled rollouts and the configuration.",
        epilog="RUN must hold config.yaml and metrics.jsonl. evaluation/*.json, rollouts/*.parquet and summary.json "
        "are shown when present. It is safe to run while training goes on; run it again for newer steps. "
        "Example: python -m recipes.monitor.report runs/quickstart",
    )
    parser.add_argument(
        "run", metavar="RUN", type=command.path_argument, help="the run's folder, for example runs/quickstart"
    )
    run_dir: Path = parser.parse_args(arguments).run
    print(write_report(run_dir))


if __name__ == "__main__":
    sys.exit(main())
