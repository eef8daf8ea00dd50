"""Live progress in the terminal, or plain lines in a job's log.

Left out: any decision about ranks. Only rank 0 constructs a :class:`TrainingProgress`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from recipes.monitor.console import OutputConsole
from recipes.monitor.phase_watch import DOMINANT
from recipes.monitor.phases import Phase

# Steps whose mean gives the time left: long enough to be calm, short enough to follow growing responses.
_WINDOW = 20
_ACCURACY = "accuracy/"


class TrainingProgress:
    """Shows where a run stands: bar, step, reward, accuracy by task, length, phase, KL, entropy, pace and time left;
    for SFT the loss, pace and time left.

    On a terminal it is a live panel at the foot of the screen, and whatever else is printed scrolls above it. Elsewhere
    (Slurm logs, pipes) it prints one line every ``every`` steps, and always the first and the last step.

    Args:
        total_steps: number of the last step.
        description: short name of the run.
        initial_step: steps done before this process started (a resumed run).
        every: steps between plain lines.
        console: where to print; standard output by default.
    """

    def __init__(
        self,
        total_steps: int,
        description: str,
        *,
        initial_step: int = 0,
        every: int = 10,
        console: Console | None = None,
    ) -> None:
        if total_steps < 1 or every < 1:
            raise ValueError(f"total_steps and every must be at least 1, got {total_steps} and {every}")
        self._total = total_steps
        self._description = description
        self._every = every
        self._console = console or OutputConsole()
        self._first = initial_step + 1
        self._seconds: deque[float] = deque(maxlen=_WINDOW)
        self._metrics: Mapping[str, float] = {}
        self._bar = Progress(
            TextColumn("[bold]{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn(), expand=True
        )
        self._task = self._bar.add_task(description, total=total_steps, completed=initial_step)
        self._live: Live | None = None

    def __enter__(self) -> TrainingProgress:
        """Start the live panel when the output is a terminal."""
        if self._console.is_terminal:
            self._live = Live(self._panel(), console=self._console, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the panel and leave its last state on the screen, whatever happened inside."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def update(self, step: int, metrics: Mapping[str, float], seconds: float) -> None:
        """Show a finished step.

        Args:
            step: its number, counted from 1.
            metrics: what :meth:`MetricsLogger.log` takes; absent and non-finite values show as a dash.
            seconds: wall-clock time of the step.
        """
        self._seconds.append(seconds)
        self._metrics = metrics
        self._bar.update(self._task, completed=step)
        if self._live is not None:
            self._live.update(self._panel())
        elif step % self._every == 0 or step in (self._first, self._total):
            # soft_wrap: a log line stays one line, however narrow the console believes it is.
            self._console.print(self._line(step), soft_wrap=True, markup=False, highlight=False)

    def seconds_left(self) -> float | None:
        """Return the estimated seconds to the last step, or None before the first step is done."""
        if not self._seconds:
            return None
        return (self._total - self._bar.tasks[0].completed) * sum(self._seconds) / len(self._seconds)

    def _values(self) -> list[tuple[str, str]]:
        metrics = self._metrics
        tasks = sorted(key for key in metrics if key.startswith(_ACCURACY) and key != f"{_ACCURACY}mean")
        pace = sum(self._seconds) / len(self._seconds) if self._seconds else math.nan
        clock = [("s/step", _number(pace, "{:.1f}")), ("left", duration(self.seconds_left()))]
        if "reward/mean" not in metrics and "policy/loss" in metrics:
            return [("loss", _number(metrics["policy/loss"], "{:.4f}")), *clock]
        return [
            ("reward", _number(metrics.get("reward/mean"), "{:.3f}")),
            *((key.removeprefix(_ACCURACY), _number(metrics[key], "{:.1%}")) for key in tasks),
            ("length", _number(metrics.get("length/mean"), "{:.0f}")),
            *([("phase", Phase(int(metrics[DOMINANT])).words)] if DOMINANT in metrics else []),
            ("KL", _number(metrics.get("policy/kl"), "{:.4f}")),
            ("entropy", _number(metrics.get("policy/entropy"), "{:.3f}")),
            *clock,
        ]

    def _line(self, step: int) -> str:
        shown = "  ".join(f"{name} {value}" for name, value in self._values())
        return f"{self._description}  step {step}/{self._total}  {shown}"

    def _panel(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        values = self._values()
        table.add_row(*(Text(name, style="dim") for name, _ in values))
        table.add_row(*(Text(value, style="bold") for _, value in values))
        return Group(self._bar, table)


def duration(seconds: float | None) -> str:
    """Return seconds as ``h:mm:ss``, or a dash for None."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _number(value: float | None, form: str) -> str:
    return form.format(float(value)) if value is not None and math.isfinite(value) else "-"
