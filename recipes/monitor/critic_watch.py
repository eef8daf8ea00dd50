"""The alarm of a critic that is worse than none: advantages taken from it add noise where a constant would add nothing.

It goes by a running mean of `critic/r_squared`, to which a step gives at least -1, so that a single one changes little:
where returns hardly vary, as when all answers are wrong, it is as low as one likes. Nothing is saved for a resume:
looking at the recorded steps again, in order, brings back the same state.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

_FIT = "critic/r_squared"
# What the running mean keeps of itself at each step, and steps that any critic is given to learn first.
_KEEP, _FIRST = 0.9, 10
# The worst that a step counts for.
_WORST = -1.0


class CriticWatch:
    """Follows how well the critic foretells returns, once its warm-up is over.

    Attributes:
        alarm: whether the mean return would foretell better.
    """

    def __init__(self, alone_steps: int) -> None:
        """Looks at no step before the critic's own `alone_steps` are over, nor at the first ten."""
        self.alarm = False
        self._left = max(alone_steps, _FIRST)
        self._mean: float | None = None

    def look(self, step: int, metrics: Mapping[str, float | None]) -> str | None:
        """What to tell of a finished step, in one line; None for nothing. A step without a fit changes nothing."""
        fit = metrics.get(_FIT)
        # Recorded steps have no number where this one's is none.
        if fit is None or not math.isfinite(fit):
            return None
        if self._left > 0:
            self._left -= 1
            return None
        fit = max(fit, _WORST)
        self._mean = fit if self._mean is None else _KEEP * self._mean + (1 - _KEEP) * fit
        before, self.alarm = self.alarm, self._mean < 0
        if self.alarm and not before:
            return (
                f"step {step}: the critic foretells returns worse than their mean would (critic/r_squared "
                f"{self._mean:.2f} lately): raise critic.alone_steps, critic.epochs or critic.optimizer.learning_rate, "
                "and look at critic/grad_norm and mismatch/*"
            )
        return f"step {step}: the critic is better than a constant again" if before and not self.alarm else None
