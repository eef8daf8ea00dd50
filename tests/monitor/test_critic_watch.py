"""The alarm of a critic that is worse than a constant: when it comes and goes, and that a resume changes nothing."""

from __future__ import annotations

import math

import pytest

from recipes.monitor.critic_watch import CriticWatch


def _told(fits: list[float | None], alone_steps: int = 0, watch: CriticWatch | None = None) -> dict[int, str]:
    watch = watch or CriticWatch(alone_steps)
    said = {step: watch.look(step, {"critic/r_squared": fit}) for step, fit in enumerate(fits, 1)}
    return {step: words for step, words in said.items() if words}


def test_a_critic_has_its_first_steps_to_itself() -> None:
    assert _told([-5.0] * 10) == {}
    assert list(_told([-5.0] * 12)) == [11]
    assert list(_told([-5.0] * 40, alone_steps=30)) == [31]


def test_one_bad_step_is_no_alarm_and_a_run_of_them_is() -> None:
    """From 0.1 one step of -0.5 leaves 0.9 * 0.1 - 0.1 * 0.5 = 0.04, and the next takes 0.036 - 0.05 below zero."""
    assert _told([0.1] * 11 + [-0.5] + [0.1] * 20) == {}
    told = _told([0.1] * 11 + [-0.5] * 2 + [0.5] * 10)
    assert list(told) == [13, 14]
    assert told[13].startswith(
        "step 13: the critic foretells returns worse than their mean would (critic/r_squared -0.01"
    )
    assert "critic.alone_steps" in told[13]
    assert told[14] == "step 14: the critic is better than a constant again"


@pytest.mark.parametrize(("strange", "first"), [(-2000.0, 14), (math.nan, 16), (-math.inf, 16)])
def test_a_step_whose_returns_hardly_vary_is_no_alarm_and_hides_none(strange: float, first: int) -> None:
    """Counted as -1 it leaves 0.9 * 0.2 - 0.1 = 0.08, no number leaves 0.2; from there each -0.5 takes 0.05."""
    assert _told([0.2] * 11 + [strange] + [0.2] * 20) == {}
    assert list(_told([0.2] * 11 + [strange] + [-0.5] * 20)) == [first]


def test_steps_of_other_algorithms_and_without_a_fit_change_nothing() -> None:
    watch = CriticWatch(0)
    assert [watch.look(step, {"policy/loss": 0.0}) for step in range(1, 30)] == [None] * 29
    assert _told([-1.0] * 10 + [None] * 5 + [-1.0], watch=watch)
    assert watch.alarm


def test_looking_at_the_recorded_steps_again_brings_the_alarm_back() -> None:
    fits: list[float | None] = [-1.0] * 15
    whole, resumed = CriticWatch(0), CriticWatch(0)
    _told(fits, watch=whole)
    _told(fits, watch=resumed)
    assert whole.alarm
    assert resumed.alarm
    assert resumed.look(16, {"critic/r_squared": -1.0}) is None
