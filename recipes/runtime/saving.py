"""When a training run saves, and how it ends: every so many steps, at its end, and when it is asked to stop."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from recipes.engines.base import NonFiniteError, PolicyEngine
from recipes.runtime import interruption
from recipes.runtime.agreement import any_rank
from recipes.runtime.config import Config
from recipes.runtime.health import diverged
from recipes.runtime.launch import is_leader
from recipes.runtime.run_folder import RunFolder
from recipes.runtime.schedule import is_finished


class Saving:
    """Checkpoints of one run in `RunFolder`; each is written while training goes on and published when it is whole."""

    def __init__(self, config: Config, engine: PolicyEngine) -> None:
        self._trainer = config.trainer
        self._engine = engine
        self._folder = RunFolder(config.output)
        # Step and score of the save under way.
        self._saved: tuple[int, float | None] = 0, None

    def goes_on(self, step: int, seconds: float) -> bool:
        """Whether a run that has come so far has steps left; of one that was resumed for nothing rank 0 says so."""
        finished = is_finished(self._trainer, step, seconds)
        if finished and is_leader():
            print(
                f"{self._folder.path}: finished after step {step}, nothing is left to do; raise trainer.steps"
                f"{' or trainer.max_seconds' if self._trainer.max_seconds else ''} to go on"
            )
        return not finished

    def after_step(
        self,
        step: int,
        seconds: float,
        state: dict[str, Any],
        order: Callable[[], dict[str, Any]],
        score: Callable[[], float | None],
    ) -> bool:
        """Saves where it is due; collective.

        Args:
            step, seconds: how far the run is; they are saved with the state.
            state: the loop's own JSON values.
            order: called for a save, on all ranks: JSON values of what comes next; saved as `order`.
            score: called for a save, how good the steps since the one before were.

        Returns:
            Whether the run goes on. When it does not, the checkpoint of this step is published.

        Raises:
            CheckpointError: a save failed, on every rank.
            TrainingError: weights or optimizer are not finite.
            Stopped: the run was asked to stop before its end, and has saved.
        """
        stopped, finished = any_rank(interruption.stop_asked())[0], is_finished(self._trainer, step, seconds)
        every = self._trainer.save_every
        if stopped or finished or (every and step % every == 0):
            self._publish(wait=True)
            self._saved = step, score()
            saved = {"step": step, "seconds": seconds, "score": self._saved[1], **state, "order": order()}
            try:
                self._engine.save(self._folder.step_path(step), saved)
            except NonFiniteError as error:
                raise diverged(step, error) from error
        self._publish(wait=stopped or finished)
        if stopped and not finished:
            if is_leader():
                print(
                    f"asked to stop: saved after step {step} of {self._trainer.steps}; "
                    "the same command goes on from there"
                )
            raise interruption.Stopped
        return not finished

    def finish(self) -> None:
        """Publishes the save under way, as soon as it is written; collective, for a run that cannot go on.

        Raises:
            CheckpointError: the save failed, on every rank.
        """
        self._publish(wait=True)

    def _publish(self, wait: bool) -> None:
        """Publishes the save under way, if it is written; never are there more checkpoints than one beside the kept."""
        keep = self._trainer.keep
        made_room = partial(self._folder.make_room, keep, *self._saved)
        if self._engine.finish_saves(wait, before=made_room) and is_leader():
            self._folder.prune(keep)
