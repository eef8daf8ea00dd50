"""Traces of single training steps by torch's profiler.

Every asked step gets a trace for chrome://tracing or Perfetto and a table of its dearest operators. The first trace of
a process also shows the profiler's own start, so ask for two steps or more.

Left out: shapes, stacks and memory (each slows the step it measures several times over), and TensorBoard's plugin,
which is no longer maintained.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from recipes.monitor.run_folder import profile_dir, replace_file

if TYPE_CHECKING:
    from torch.profiler import profile

_ROWS = 30


class StepProfiler:
    """Writes ``RUN/profile/step_NNNNNN.rank_R.json.gz`` and ``.txt`` for the asked training steps of this rank.

    Records the CPU, and CUDA where there is a GPU. Without steps it does nothing and imports no torch. A step that an
    exception ended leaves no files.

    Args:
        run_dir: the run's folder.
        steps: numbers of the training steps, counted from 1: a range, or the first and how many.
        rank: this process's rank, for the files' names.
        initial_step: steps done before this process started (a resumed run); earlier ones are not made up for.

    Raises:
        ValueError: a step below 1 or a negative count.
    """

    def __init__(
        self, run_dir: Path | str, steps: range | tuple[int, int], rank: int = 0, *, initial_step: int = 0
    ) -> None:
        if not isinstance(steps, range):
            first, count = steps
            if count < 0:
                raise ValueError(f"profiled steps {steps}: expected the first step and how many, at least 0")
            steps = range(first, first + count)
        if steps and min(steps) < 1:
            raise ValueError(f"profiled steps {steps}: training steps are counted from 1")
        self._dir = profile_dir(run_dir)
        self._steps = steps
        self._rank = rank
        self._next = initial_step + 1
        self._profile: profile | None = None

    def __enter__(self) -> StepProfiler:
        """Begin the first step."""
        self._begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Forget a step that was begun and not finished."""
        if self._profile is not None:
            self._profile.stop()
            self._profile = None

    def step(self) -> None:
        """Call at the end of every training step; writes the step's files if it was asked for.

        Raises:
            OSError, RuntimeError: the folder cannot be written or the disk is full, by whoever found it so.
        """
        try:
            if self._profile is not None:
                recorded, self._profile = self._profile, None
                recorded.stop()
                self._write(recorded)
        finally:
            self._next += 1
            self._begin()

    def _begin(self) -> None:
        if self._next not in self._steps:
            return
        import torch
        from torch.profiler import ProfilerActivity, profile

        activities = [ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(ProfilerActivity.CUDA)
        self._profile = profile(activities=activities)
        self._profile.start()

    def _write(self, recorded: profile) -> None:
        stem = f"step_{self._next:06d}.rank_{self._rank}"
        self._dir.mkdir(parents=True, exist_ok=True)
        # torch compresses by the name's ending, and a trace can be too large to hold in memory for replace_file.
        temporary = self._dir / f".{stem}.{os.getpid()}.tmp.json.gz"
        try:
            recorded.export_chrome_trace(str(temporary))
            temporary.replace(self._dir / f"{stem}.json.gz")
        finally:
            temporary.unlink(missing_ok=True)
        on_gpu = recorded.use_device == "cuda"
        order = "self_cuda_time_total" if on_gpu else "self_cpu_time_total"
        table = recorded.key_averages().table(sort_by=order, row_limit=_ROWS)
        replace_file(self._dir / f"{stem}.txt", table.encode())
