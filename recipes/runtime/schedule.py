"""How far a run is, by steps and by the clock, and the learning rate over it."""

from __future__ import annotations

from recipes.runtime.config import OptimizerConfig, TrainerConfig


def is_finished(trainer: TrainerConfig, step: int, seconds: float) -> bool:
    """Whether `step` steps in `seconds` are a whole run."""
    return step >= trainer.steps or 0 < trainer.max_seconds <= seconds


def progress(trainer: TrainerConfig, step: int, seconds: float) -> float:
    """How much of the run is done before `step`, 0 to 1, by steps or by the clock, whichever is further."""
    by_clock = seconds / trainer.max_seconds if trainer.max_seconds else 0.0
    return min(1.0, max((step - 1) / trainer.steps, by_clock))


def learning_rate(config: OptimizerConfig, progress: float, step: int) -> float:
    """Linear warm-up over `warmup_steps`, then linear decay to `final_share` of the peak at the end of the run.

    Args:
        config: the optimizer's settings.
        progress: share of the run that is done, 0 to 1; by it the decay goes.
        step: the step to take, counted from 1; by it the warm-up goes.
    """
    warm = min(1.0, step / config.warmup_steps) if config.warmup_steps else 1.0
    return config.learning_rate * warm * (1 - (1 - config.final_share) * progress)
