"""Step metrics: ``metrics.jsonl`` for programs, TensorBoard event files for eyes, trackers where asked for.

``metrics.jsonl`` is the record; TensorBoard and the trackers hold the same numbers again. A kill at any instant costs
at most the line being written: each line goes out in one ``write``, and readers skip a torn last line.

Left out: gathering over ranks (the trainer reduces its metrics first and only rank 0 makes a logger), histograms and
texts (rollout samples have their own parquet files).
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

from conversion.command import explain, naming
from recipes.monitor.run_folder import RunFolderError, metrics_path, replace_file, tensorboard_dir
from recipes.monitor.trackers import Status, Tracker, TrackerFeed

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_log = logging.getLogger(__name__)
_RESERVED = ("step", "seconds")


class MetricsLogger:
    """Appends one line a step to ``RUN/metrics.jsonl`` and the same values to ``RUN/tensorboard/``.

    A torn last line left by a killed process is removed on opening, because appending to it would spoil two steps.
    What cannot be written stops nothing: it is told on stderr when it begins, a step that metrics.jsonl does not take
    is missing there, and TensorBoard is dropped.

    Args:
        run_dir: the run's folder; made when absent.
        trackers: started by :func:`~recipes.monitor.trackers.make_trackers`; they get every finite value, from threads
            of their own, and are closed with the logger. One that fails is reported on stderr and dropped.

    Raises:
        RunFolderError: a line other than the last of an existing ``metrics.jsonl`` is damaged.
    """

    def __init__(self, run_dir: Path | str, trackers: Sequence[Tracker] = ()) -> None:
        self._path = metrics_path(run_dir)
        self._events_dir = tensorboard_dir(run_dir)
        self._writer: SummaryWriter | None = None
        self._board = True
        self._purge_step: int | None = None
        self._file: BinaryIO | None = None
        self._closed = self._failing = False
        # Steps above it are forgotten when the file is next opened.
        self._until: int | None = None
        self._last_step: int | None = None
        self._record(b"")
        self._feeds = [TrackerFeed(tracker) for tracker in trackers]

    def __enter__(self) -> MetricsLogger:
        """Return the logger itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all outputs, whatever happened inside; trackers learn how it ended."""
        if kind is None:
            self.close("finished")
        else:
            self.close("failed" if issubclass(kind, Exception) else "killed")

    def log(self, step: int, metrics: Mapping[str, float], seconds: float) -> None:
        """Record one training step.

        Args:
            step: the number of the step just finished, counted from 1; must be above the last one recorded.
            metrics: finite or not; values that are not finite become null in the file and are absent in TensorBoard.
            seconds: training time since the run began, all its restarts together (not the time of this step alone).

        Raises:
            ValueError: a step recorded already, a reserved key, a value that is no number, or a closed logger.
        """
        if self._closed:
            raise ValueError(f"{self._path}: the metrics logger is closed; log inside its `with` block")
        if self._last_step is not None and step <= self._last_step:
            raise ValueError(
                f"{self._path}: step {step} comes after step {self._last_step} was recorded; "
                f"when steps are redone after a resume, call truncate_after({step - 1}) first"
            )
        if reserved := [key for key in _RESERVED if key in metrics]:
            raise ValueError(f"metric names {reserved} are reserved by metrics.jsonl; give them another name")
        values = {name: _number(name, value) for name, value in {"seconds": seconds, **metrics}.items()}
        line = json.dumps({"step": int(step), **values}, allow_nan=False) + "\n"
        self._record(line.encode())
        self._last_step = step
        finite = {name: value for name, value in values.items() if value is not None}
        self._show(step, finite)
        for feed in self._feeds:
            feed.log(step, finite)

    @property
    def last_step(self) -> int | None:
        """The last step recorded."""
        return self._last_step

    def _record(self, line: bytes) -> None:
        """Appends a line to the file, which is opened where it is not; on a full disk the next line may go again."""
        try:
            with naming(self._path):
                file = self._file or self._open()
                self._append(file, line)
        except OSError as error:
            if not self._failing:
                print(f"{explain(error)}; training goes on, its figures are not recorded until then", file=sys.stderr)
            self._failing = True
        else:
            self._failing = False

    def _append(self, file: BinaryIO, line: bytes) -> None:
        """Writes the whole line or, on a full disk, none of it: the next one would be glued to a part."""
        before = file.seek(0, os.SEEK_END)
        try:
            # Unbuffered, so that what is left to write fails by itself where there is room for a part alone.
            while line := line[file.write(line) :]:
                pass
        except OSError:
            file.truncate(before)
            raise

    def _show(self, step: int, finite: Mapping[str, float]) -> None:
        if not self._board:
            return
        try:
            writer = self._tensorboard()
            for name, value in finite.items():
                writer.add_scalar(name, value, global_step=step)
            writer.flush()
        except Exception as error:  # whatever a library makes of its full disk
            self._board = False
            print(
                f"{self._events_dir}: takes no more ({type(error).__name__}: {error}); training goes on without "
                "TensorBoard, metrics.jsonl has the same figures",
                file=sys.stderr,
            )

    def truncate_after(self, step: int) -> None:
        """Forget every step above ``step``: a resumed run is about to do them again.

        The lines leave ``metrics.jsonl`` at once (by atomic rename). TensorBoard never rewrites event files; the next
        one opens with a purge mark at ``step + 1``, which makes its readers drop the older points. Trackers cannot
        forget: they keep the older points beside those of the steps done again.
        """
        self._close_files()
        self._purge_step, self._until, self._last_step = step + 1, step, None
        self._record(b"")

    def close(self, status: Status = "finished") -> None:
        """Close the files, then the trackers, which learn how the run ended; calling it twice is harmless."""
        self._closed = True
        self._close_files()
        for feed in self._feeds:
            feed.close(status)

    def _close_files(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._writer is not None:
            # One that has failed fails again.
            with contextlib.suppress(Exception):
                self._writer.close()
            self._writer = None

    def _open(self) -> BinaryIO:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._path.exists():
            lines = [
                (line, row) for line, row in _lines(self._path) if self._until is None or row["step"] <= self._until
            ]
            whole = b"".join(line for line, _ in lines)
            if whole != self._path.read_bytes():
                replace_file(self._path, whole)
            if lines:
                self._last_step = lines[-1][1]["step"]
        self._file = self._path.open("ab", buffering=0)
        self._until = None
        return self._file

    def _tensorboard(self) -> SummaryWriter:
        if self._writer is None:
            # Imported here because readers of metrics (the report) run on machines without torch.
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(log_dir=str(self._events_dir), purge_step=self._purge_step)
            self._purge_step = None
        return self._writer


def read_metrics(run_dir: Path | str) -> list[dict[str, Any]]:
    """Read every whole line of ``RUN/metrics.jsonl``, in file order.

    Returns:
        One dict a step: ``step`` (int) and the metrics (float, or None where the value was not finite). A metric that
        the step did not have is absent. A torn last line is skipped with a warning.

    Raises:
        RunFolderError: no such file, or a damaged line that is not the last.
    """
    path = metrics_path(run_dir)
    if not path.is_file():
        raise RunFolderError(f"{path} is missing: expected the metrics a training run writes; is this a run folder?")
    return [row for _, row in _lines(path)]


def _lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Yield each whole line, its newline included, with what it holds."""
    if not path.exists():
        return
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        try:
            row = json.loads(line)
            step = row["step"]
            if isinstance(step, bool) or not isinstance(step, int):
                raise TypeError("step is no integer")
        except (ValueError, KeyError, TypeError) as error:
            if not line.endswith(b"\n"):
                _log.warning("%s: skipped the torn last line %d (the writer was killed in the middle)", path, number)
                return
            raise RunFolderError(
                f'{path}, line {number}: expected a JSON object with an integer "step" ({error}); '
                "restore the file or delete that line"
            ) from error
        # A line cut exactly before its newline is whole: no proper prefix of a JSON object parses.
        yield line if line.endswith(b"\n") else line + b"\n", row


def _number(name: str, value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"metric {name!r}: expected a number, got {value!r}; reduce it to one value first") from error
    return number if math.isfinite(number) else None
