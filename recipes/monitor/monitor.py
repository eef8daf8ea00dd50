"""What a training loop tells: metrics, trackers, progress, rollout samples and profiles, on rank 0 and nowhere else."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType

from conversion.command import explain
from recipes.engines.base import NonFiniteError
from recipes.monitor.critic_watch import CriticWatch
from recipes.monitor.lessons import LessonWatch
from recipes.monitor.loggers import MetricsLogger, read_metrics
from recipes.monitor.phase_watch import DOMINANT, PhaseWatch
from recipes.monitor.profiler import StepProfiler
from recipes.monitor.progress import TrainingProgress
from recipes.monitor.rollouts import RolloutRecord, write_rollouts
from recipes.monitor.trackers import make_trackers
from recipes.runtime.config import Config
from recipes.runtime.health import diverged
from recipes.runtime.launch import is_leader


class TrainingMonitor:
    """Context manager of a run's outward signs; on ranks other than 0 it shows nothing.

    It knows the step, so an engine's NonFiniteError leaves it as a TrainingError that says in which step it came.

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
        self._phases = PhaseWatch()
        self._critic = CriticWatch(config.critic.alone_steps)
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
                last = self._logger.last_step or 0
                if last < step:
                    self._say(f"metrics.jsonl ends at step {last}, and the run goes on after {step}: it lost some")
                if last:
                    for row in read_metrics(config.output):
                        self._phases.look(row)
                        self._critic.look(int(row["step"] or 0), row)
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
        if isinstance(error, NonFiniteError):
            raise diverged(self._step + 1, error) from error
        if self._leads and kind is None and (said := self._lessons.last_words()):
            self._say(said)

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
            samples: called every `rollout.samples_every` steps, its rollouts to write, and where the run begins to
                cheat.
        """
        self._step = step
        if not self._leads:
            return
        with self._spared("profile"):
            self._profiler.step()
        cheats = self._phases.look(metrics)
        if (dominant := self._phases.dominant) is not None:
            metrics = {**metrics, DOMINANT: float(dominant)}
        self._logger.log(step, metrics, seconds)
        self._progress.update(step, metrics, step_seconds)
        for watch in (self._lessons, self._critic):
            if said := watch.look(step, metrics):
                self._say(said)
        every = self._config.rollout.samples_every
        due = bool(every) and (step == 1 or step % every == 0 or cheats)
        records = samples() if samples and (due or cheats) else []
        if records and due:
            with self._spared("rollouts"):
                write_rollouts(self._config.output, step, records)
        if cheats:
            self._say(f"step {step}: {self._phases.sentence(records)}")
        value = metrics.get(self._config.trainer.best)
        if value is not None and math.isfinite(value):
            self._scores.append(value)

    @contextlib.contextmanager
    def _spared(self, what: str) -> Iterator[None]:
        """Inside, what cannot be written is told, and training goes on: its hours are worth more."""
        try:
            yield
        except (OSError, RuntimeError) as error:
            said = explain(error) if isinstance(error, OSError) else str(error)
            self._say(f"step {self._step}: {what} not written: {said}")

    def _say(self, what: str) -> None:
        print(f"{self._config.name}  {what}", file=sys.stderr, flush=True)

    @property
    def hacking(self) -> bool:
        """Whether the run has drifted into a phase that cheats; False on other ranks than 0."""
        return self._phases.alarm is not None

    def score(self) -> float | None:
        """Mean of `trainer.best` since it was last asked for; None where it has no value, and on other ranks."""
        scores, self._scores = self._scores, []
        return sum(scores) / len(scores) if scores else None
