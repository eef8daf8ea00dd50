"""What a training loop tells: metrics, trackers, progress, rollout samples and profiles, on rank 0 and nowhere else."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

from recipes.monitor.lessons import LessonWatch
from recipes.monitor.loggers import MetricsLogger
from recipes.monitor.profiler import StepProfiler
from recipes.monitor.progress import TrainingProgress
from recipes.monitor.rollouts import RolloutRecord, write_rollouts
from recipes.monitor.trackers import make_trackers
from recipes.runtime.config import Config
from recipes.runtime.launch import is_leader


class TrainingMonitor:
    """Context manager of a run's outward signs; on ranks other than 0 it does nothing.

    Args:
        config: of the run.
        step: the last step done; what was recorded after it is forgotten, since it will be done again.
    """

    def __init__(self, config: Config, step: int) -> None:
        self._config = config
        self._step = step
        self._leads = is_leader()
        self._scores: list[float] = []
        self._lessons = LessonWatch()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> TrainingMonitor:
        if self._leads:
            config, step = self._config, self._step
            trackers = make_trackers(
                config.trainer.trackers,
                run_name=config.name,
                run_dir=config.output,
                config=dataclasses.asdict(config),
            )
            with contextlib.ExitStack() as stack:
                self._logger = stack.enter_context(MetricsLogger(config.output, trackers))
                self._logger.truncate_after(step)
                self._progress = stack.enter_context(
                    TrainingProgress(config.trainer.steps, config.name, initial_step=step)
                )
                asked = (config.trainer.profile_first, config.trainer.profile_steps)
                self._profiler = stack.enter_context(StepProfiler(config.output, asked, initial_step=step))
                self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def record(
        self,
        step: int,
        metrics: Mapping[str, float],
        seconds: float,
        step_seconds: float,
        samples: Callable[[], Sequence[RolloutRecord]] | None = None,
    ) -> None:
        """Makes a finished step known.

        Args:
            step: its number, from 1.
            metrics: its figures.
            seconds: of the run so far, all launches together.
            step_seconds: of this step.
            samples: called every `rollout.samples_every` steps, its rollouts to write.
        """
        if not self._leads:
            return
        self._profiler.step()
        self._logger.log(step, metrics, seconds)
        self._progress.update(step, metrics, step_seconds)
        if said := self._lessons.look(step, metrics):
            print(f"{self._config.name}  {said}", file=sys.stderr, flush=True)
        every = self._config.rollout.samples_every
        if samples and every and (step == 1 or step % every == 0):
            write_rollouts(self._config.output, step, samples())
        value = metrics.get(self._config.trainer.best)
        if value is not None and math.isfinite(value):
            self._scores.append(value)

    def score(self) -> float | None:
        """Mean of `trainer.best` since it was last asked for; None where it has no value, and on other ranks."""
        scores, self._scores = self._scores, []
        return sum(scores) / len(scores) if scores else None
