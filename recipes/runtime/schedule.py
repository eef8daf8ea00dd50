"""The learning rate over a run."""

from __future__ import annotations

from recipes.runtime.config import OptimizerConfig


def learning_rate(config: OptimizerConfig, progress: float, step: int) -> float:
    """Linear warm-up over `warmup_steps`, then linear decay to `final_share` of the peak at the end of the run.

    Args:
        config: the optimizer's settings.
        progress: share of the run that is done, 0 to 1; by it the decay goes.
        step: the step to take, counted from 1; by it the warm-up goes.
    """
    warm = min(1.0, step / config.warmup_steps) if config.warmup_steps else 1.0
    return config.learning_rate * warm * (1 - (1 - config.final_share) * progress)
