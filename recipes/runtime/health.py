"""When a run has stopped learning for good: steps in a row that could not be taken, weights that are no numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence


class TrainingError(RuntimeError):
    """A run that cannot go on; the message says why and what to change."""


def diverged(step: int, error: Exception) -> TrainingError:
    """What ends a run whose weights or logits are not finite in `step`; `error` names the tensor."""
    return TrainingError(
        f"step {step}: {error}. Start again from the last checkpoint with a lower optimizer.learning_rate "
        "(critic.optimizer.learning_rate for a critic), or look at the data"
    )


def hacked(step: int) -> TrainingError:
    """What ends a run that has begun to cheat, where `monitor.stop_on_hacking` asks for it."""
    return TrainingError(
        f"step {step}: the policy is paid for cheating, as the log says (monitor.stop_on_hacking). Start again with "
        "reward.format=strict or another reward.preset, or go on from the last checkpoint without this setting"
    )


def count_skipped(before: int, updates: Iterable[Sequence[Mapping[str, float]]], most: int) -> int:
    """Steps in a row without a finite loss and gradient, the present one included; 0 after a step that was taken.

    Args:
        before: how many there were.
        updates: results of the present step's optimizer steps for each model that is trained; a model with none plays
            no part, and without any the count stays as it is.
        most: how many are too many.

    Raises:
        TrainingError: when there are `most` of them.
    """
    trained = [each for each in updates if each]
    if not trained:
        return before
    if all(any(update["stepped"] for update in each) for each in trained):
        return 0
    if before + 1 >= most:
        raise TrainingError(
            f"loss or gradient was not finite for {before + 1} steps in a row (trainer.max_skipped); no such step was "
            "taken. Start again from the last checkpoint with a lower optimizer.learning_rate "
            "(critic.optimizer.learning_rate for a critic), or look at the data"
        )
    return before + 1
