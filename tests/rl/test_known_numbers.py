"""What other implementations compute on the same numbers: the same as ours, or a defect that ours does not have."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from recipes.rl.advantages import group_advantages, leave_one_out_advantages


def _row(values: list[float], valid: list[bool] | None = None) -> tuple[Tensor, Tensor]:
    return torch.tensor([values], dtype=torch.float64), torch.tensor([valid or [True] * len(values)])


def _others_one_pass(values: list[float]) -> tuple[list[float], list[float]]:
    """Baseline and deviation of the other samples by E[r^2] - E[r]^2 times n / (n - 1), as NeMo-RL has them."""
    baselines, deviations = [], []
    for i in range(len(values)):
        others = values[:i] + values[i + 1 :]
        n = len(others)
        mean = sum(others) / n
        variance = sum(r * r for r in others) / n - mean * mean
        baselines.append(mean)
        deviations.append(math.sqrt(max(variance * n / (n - 1), 0)) if n > 1 else 0.0)
    return baselines, deviations


@pytest.mark.parametrize(
    ("values", "valid", "baselines"),
    [
        ([1, 2, 3], None, [2.5, 2, 1.5]),  # (2 + 3) / 2, (1 + 3) / 2, (1 + 2) / 2
        ([1, 2], None, [2, 1]),  # the other one
        # The other valid one; NeMo-RL also gives the missing sample a baseline, (1 + 3) / 1 = 4, which nothing uses.
        ([1, 999, 3], [True, False, True], [3, None, 1]),
    ],
)
def test_leave_one_out_baselines(values: list[float], valid: list[bool] | None, baselines: list[float | None]) -> None:
    rewards, mask = _row(values, valid)
    advantages = leave_one_out_advantages(rewards, mask)
    for reward, advantage, baseline in zip(values, advantages[0].tolist(), baselines, strict=True):
        assert advantage == pytest.approx(0 if baseline is None else reward - baseline)


def test_one_deviation_for_the_whole_group() -> None:
    """A deviation of the others alone is another one for every sample, and lets the middle one look calm."""
    # Of 2 and 3: sqrt(.5) = .7071; of 1 and 3: sqrt(2) = 1.4142; of 1 and 2: .7071. Ours: 1 for all three.
    assert _others_one_pass([1, 2, 3])[1] == pytest.approx([0.7071, 1.4142, 0.7071], abs=1e-4)
    rewards, mask = _row([1, 2, 3])
    centred = group_advantages(rewards, mask, normalize=False)
    torch.testing.assert_close(group_advantages(rewards, mask, normalize=True), centred, rtol=2e-6, atol=0)


@pytest.mark.parametrize(("values", "valid"), [([1, 2], None), ([1, 999, 3], [True, False, True])])
def test_a_pair_has_a_deviation(values: list[float], valid: list[bool] | None) -> None:
    """One other sample has a deviation of 0, after which NeMo-RL leaves the advantage as it is, whatever its scale."""
    present = [v for v, held in zip(values, valid or [True] * len(values), strict=True) if held]
    assert _others_one_pass(present)[1] == [0, 0]
    rewards, mask = _row(values, valid)
    found = group_advantages(rewards, mask, normalize=True)[mask].tolist()
    assert found == pytest.approx([-math.sqrt(0.5), math.sqrt(0.5)], rel=2e-6)
    assert group_advantages(rewards * 100, mask, normalize=True)[mask].tolist() == pytest.approx(found, rel=2e-6)


@pytest.mark.parametrize(
    ("values", "theirs", "ours"),
    [
        # The lone right one: the others are all 0, deviation 0, left at 1 - 0. A wrong one: the others are 1, 0 and 0,
        # mean 1/3, variance (1/3 - 1/9) 3/2 = 1/3: -.3333 / .57735. Ours: deviations .75 and -.25 over .5.
        ([1, 0, 0, 0], [1.0, -0.57735, -0.57735, -0.57735], [1.5, -0.5, -0.5, -0.5]),
        ([1, 1, 1, 0], [0.57735, 0.57735, 0.57735, -1.0], [0.5, 0.5, 0.5, -1.5]),
    ],
)
def test_a_lone_right_or_wrong_answer_balances_the_others(
    values: list[float], theirs: list[float], ours: list[float]
) -> None:
    """With the others' deviation a group pushes down more than up: 1 - 3 * .577 is not 0."""
    baselines, deviations = _others_one_pass(values)
    scaled = [(r - b) / (s + 1e-6) if s > 0 else r - b for r, b, s in zip(values, baselines, deviations, strict=True)]
    assert scaled == pytest.approx(theirs, abs=1e-4)
    assert abs(sum(scaled)) > 0.7
    rewards, mask = _row(values)
    found = group_advantages(rewards, mask, normalize=True)[0].tolist()
    assert found == pytest.approx(ours, rel=1e-5)
    assert sum(found) == pytest.approx(0, abs=1e-12)


def test_one_pass_variance_would_cancel_in_float64() -> None:
    """At 1e9 the squares need 60 bits of 53: E[r^2] - E[r]^2 of four rewards 1 apart is not 1.25 any more."""
    values = [1e9 + i for i in range(4)]
    mean = sum(values) / 4
    assert abs(sum(v * v for v in values) / 4 - mean * mean - 1.25) > 0.5
    shifted, mask = _row(values)
    small, _ = _row([0, 1, 2, 3])
    torch.testing.assert_close(
        group_advantages(shifted, mask, normalize=True), group_advantages(small, mask, normalize=True)
    )
    torch.testing.assert_close(leave_one_out_advantages(shifted, mask), leave_one_out_advantages(small, mask))


def test_the_deviation_is_unbiased() -> None:
    """NeMo-Aligner's is the population's, 1.2247 times the advantages in a group of three; verl's is ours."""
    rewards, mask = _row([1, 2, 3])
    # ((1 + 0 + 1) / 3)^.5 = .81650 against ((1 + 0 + 1) / 2)^.5 = 1.
    assert float(rewards.std(unbiased=False)) == pytest.approx(0.81650, abs=1e-5)
    expected = (rewards - rewards.mean()) / (rewards.std(unbiased=True) + 1e-6)
    torch.testing.assert_close(group_advantages(rewards, mask, normalize=True), expected)


def test_epsilon_does_not_shrink_small_groups_of_rewards() -> None:
    """1e-4, as Megatron-RL and TRL have it, would take 9 % off advantages of rewards 1.4e-3 apart; 1e-6 takes .1 %."""
    # Deviation of 0 and .0014142: .001. .00070711 / (.001 + 1e-4) = .64283 and / (.001 + 1e-6) = .70640.
    rewards, mask = _row([0, math.sqrt(2) * 1e-3])
    assert group_advantages(rewards, mask, normalize=True, eps=1e-4)[0, 1] == pytest.approx(0.64283, abs=1e-5)
    assert group_advantages(rewards, mask, normalize=True)[0, 1] == pytest.approx(0.70640, abs=1e-5)


def test_a_lone_sample_is_its_own_baseline() -> None:
    """verl takes a mean of 0 and a deviation of 1 for a group of one: its reward would be its advantage."""
    rewards, mask = _row([5.0])
    assert group_advantages(rewards, mask, normalize=True).tolist() == [[0]]
    assert leave_one_out_advantages(rewards, mask).tolist() == [[0]]
