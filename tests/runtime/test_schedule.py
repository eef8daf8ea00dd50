"""The learning rate by hand."""

from __future__ import annotations

import pytest

from recipes.runtime.config import OptimizerConfig
from recipes.runtime.schedule import learning_rate


@pytest.mark.parametrize(
    ("progress", "step", "expected"),
    [
        (0.0, 1, 0.2),  # 1 / 5 of the warm-up
        (0.0, 5, 1.0),
        (0.0, 50, 1.0),
        (0.5, 50, 0.55),  # halfway from 1 to .1
        (1.0, 100, 0.1),
        (0.5, 4, 0.8 * 0.55),  # a short run is still warming up while it decays
    ],
)
def test_warm_up_and_linear_decay(progress: float, step: int, expected: float) -> None:
    config = OptimizerConfig(learning_rate=1.0, warmup_steps=5, final_share=0.1)
    assert learning_rate(config, progress, step) == pytest.approx(expected)


def test_the_defaults_are_constant() -> None:
    assert {learning_rate(OptimizerConfig(), p / 10, p + 1) for p in range(11)} == {1e-6}
