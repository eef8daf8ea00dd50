"""Step metrics: ``metrics.jsonl`` for programs, TensorBoard event files for eyes, trackers where asked for.

``metrics.jsonl`` is the record; TensorBoard and the trackers hold the same numbers again. A kill at any instant costs
at most the line being written: each line goes out in one ``write``, and readers skip a torn last line.

Left out: gathering over ranks (the trainer reduces its metrics first and only rank 0 makes a logger), histograms and
texts (rollout samples have their own parquet files).
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

from conversion.command import naming
from recipes.monitor.run_folder import RunFolderError, metrics_path, replace_file, tensorboard_dir
from recipes.monitor.trackers import Status, Tracker, TrackerFeed

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_log = logging.getLogger(__name__)
_RESERVED = ("step", "seconds")


class MetricsLogger:
    """Appends one line a step to ``RUN/metrics.jsonl`` and the same values to ``RUN/tensorboard/``.

    A torn last line left by a killed process is removed on opening, because appending to it would spoil two steps.

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
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._writer: SummaryWriter | None = None
        self._purge_step: int | None = None
        self._file: BinaryIO | None = None
        self._last_step: int | None = None
        self._open()
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
        if self._file is None:
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
        with naming(self._path):
            self._append(line.encode())
        self._last_step = step
        writer = self._tensorboard()
        finite = {name: value for name, value in values.items() if value is not None}
        for name, value in finite.items():
            writer.add_scalar(name, value, global_step=step)
        writer.flush()
        for feed in self._feeds:
            feed.log(step, finite)

    def _append(self, line: bytes) -> None:
        """Writes the whole line or, on a full disk, none of it: the next one would be glued to a part."""
        assert self._file is not None
        before = self._file.seek(0, os.SEEK_END)
        try:
            # Unbuffered, so that what is left to write fails by itself where there is room for a part alone.
            while line := line[self._file.write(line) :]:
                pass
        except OSError:
            self._file.truncate(before)
            raise

    def truncate_after(self, step: int) -> None:
        """Forget every step above ``step``: a resumed run is about to do them again.

        The lines leave ``metrics.jsonl`` at once (by atomic rename). TensorBoard never rewrites event files; the next
        one opens with a purge mark at ``step + 1``, which makes its readers drop the older points. Trackers cannot
        forget: they keep the older points beside those of the steps done again.
        """
        self._close_files()
        kept = [line for line, row in _lines(self._path) if row["step"] <= step]
        replace_file(self._path, b"".join(kept))
        self._purge_step = step + 1
        self._open()

    def close(self, status: Status = "finished") -> None:
        """Close the files, then the trackers, which learn how the run ended; calling it twice is harmless."""
        self._close_files()
        for feed in self._feeds:
            feed.close(status)

    def _close_files(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _open(self) -> None:
        if self._path.exists():
            lines = list(_lines(self._path))
            self._last_step = lines[-1][1]["step"] if lines else None
            whole = b"".join(line for line, _ in lines)
            if whole != self._path.read_bytes():
                replace_file(self._path, whole)
        self._file = self._path.open("ab", buffering=0)

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
