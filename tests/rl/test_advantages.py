"""Advantages: the numbers of the formula, and the cases in which a naive one goes wrong."""

from __future__ import annotations

import math

import pytest
import torch

from recipes.rl.advantages import group_advantages, informative, leave_one_out_advantages, whiten_over_tokens

ALL = [True, True, True, True]


def _advantages(rewards: list[float], valid: list[bool] | None = None, *, normalize: bool = True) -> list[float]:
    table = torch.tensor([rewards], dtype=torch.float64)
    mask = torch.tensor([valid or [True] * len(rewards)])
    return group_advantages(table, mask, normalize=normalize)[0].tolist()


def test_grpo_numbers_by_hand() -> None:
    """Fails if the mean, the unbiased standard deviation or its epsilon is another one."""
    # Mean 0.25; deviations .75 and three times -.25; sum of squares .5625 + 3 * .0625 = .75; / (4 - 1) = .25; root .5.
    expected = [0.75 / (0.5 + 1e-6), *[-0.25 / (0.5 + 1e-6)] * 3]
    assert _advantages([1, 0, 0, 0]) == pytest.approx(expected, rel=1e-12)
    # Mean 2; deviations -1, 0, 1; (1 + 0 + 1) / (3 - 1) = 1; root 1.
    assert _advantages([1, 2, 3]) == pytest.approx([-1 / (1 + 1e-6), 0, 1 / (1 + 1e-6)], rel=1e-12)


def test_a_pair_is_not_silenced() -> None:
    """A leave-one-out deviation of two samples is 0, which would teach nothing from pairs."""
    # Mean 1.5; deviations -.5 and .5; (.25 + .25) / (2 - 1) = .5; root .70711; .5 / .70711 = .70711.
    assert _advantages([1, 2]) == pytest.approx([-math.sqrt(0.5), math.sqrt(0.5)], rel=1e-5)


def test_right_and_wrong_answers_are_symmetric() -> None:
    """One right among three wrong must push as hard as one wrong among three right."""
    assert _advantages([1, 0, 0, 0]) == pytest.approx([-a for a in _advantages([0, 1, 1, 1])], rel=1e-12)


def test_dr_grpo_only_centres() -> None:
    """Dr. GRPO's difference to GRPO is that nothing is divided."""
    # Mean (3 + 1 + 1 + 1) / 4 = 1.5.
    assert _advantages([3, 1, 1, 1], normalize=False) == [1.5, -0.5, -0.5, -0.5]


@pytest.mark.parametrize("normalize", [True, False])
def test_a_missing_reward_is_in_no_statistic(normalize: bool) -> None:
    """A sample that the server could not score would otherwise drag the mean of its group."""
    full = _advantages([1, 3], normalize=normalize)
    with_gap = _advantages([1, 999, 3], [True, False, True], normalize=normalize)
    assert [with_gap[0], with_gap[2]] == full
    assert with_gap[1] == 0


@pytest.mark.parametrize("filler", [math.nan, math.inf, -math.inf, 1e300])
def test_what_stands_for_a_missing_reward_is_never_read(filler: float) -> None:
    assert _advantages([1, filler, 3], [True, False, True]) == _advantages([1, 0, 3], [True, False, True])


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, -3.0, 1e6])
def test_a_constant_group_teaches_nothing(value: float) -> None:
    """0.1 is no binary fraction: a mean off by one unit in the last place must not be blown up by a tiny deviation."""
    for size in (2, 3, 7, 8):
        found = _advantages([value] * size)
        assert found == [0.0] * size


def test_one_or_no_valid_sample_teaches_nothing() -> None:
    assert _advantages([5, 1, 1, 1], [True, False, False, False]) == [0, 0, 0, 0]
    assert _advantages([5, 1, 1, 1], [False] * 4) == [0, 0, 0, 0]


def test_large_rewards_do_not_cancel() -> None:
    """E[r^2] - E[r]^2 of rewards near 1e6 loses all digits in float32; deviations from the mean do not."""
    table, mask = torch.tensor([[1e6, 1e6 + 1, 1e6 + 2, 1e6 + 3]]), torch.tensor([ALL])
    shifted = group_advantages(table, mask, normalize=True)
    small = group_advantages(table - 1e6, mask, normalize=True)
    torch.testing.assert_close(shifted, small, rtol=1e-6, atol=0)


def test_groups_do_not_mix_and_scale_does_not_matter() -> None:
    """Invariances: each group alone, any affine change of its rewards, any order within it."""
    generator = torch.Generator().manual_seed(0)
    table = torch.rand(5, 8, generator=generator, dtype=torch.float64)
    mask = torch.rand(5, 8, generator=generator) > 0.2
    together = group_advantages(table, mask, normalize=True)
    for row in range(5):
        alone = group_advantages(table[row : row + 1], mask[row : row + 1], normalize=True)[0]
        torch.testing.assert_close(together[row], alone)
    torch.testing.assert_close(group_advantages(table * 40 - 7, mask, normalize=True), together, rtol=1e-4, atol=1e-8)
    order = torch.randperm(8, generator=generator)
    torch.testing.assert_close(group_advantages(table[:, order], mask[:, order], normalize=True), together[:, order])
    torch.testing.assert_close(together.sum(-1), torch.zeros(5, dtype=torch.float64), rtol=0, atol=1e-12)


def test_informative_groups() -> None:
    """A group is worth training on exactly when its valid rewards differ."""
    table = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 1.0], [1.0, 1.0, 9.0], [1.0, 9.0, 9.0], [0.0, 0.0, 0.0]])
    mask = torch.tensor([[True] * 3, [True] * 3, [True, True, False], [True, False, False], [False] * 3])
    assert informative(table, mask).tolist() == [True, False, False, False, False]


def test_leave_one_out_by_hand() -> None:
    table, valid = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[True, True, True]])
    # Baselines 2.5, 2 and 1.5.
    assert leave_one_out_advantages(table, valid).tolist() == [[-1.5, 0.0, 1.5]]
    gap = leave_one_out_advantages(torch.tensor([[1.0, 999.0, 3.0]]), torch.tensor([[True, False, True]]))
    assert gap.tolist() == [[-2.0, 0.0, 2.0]]  # baselines 3 and 1
    alone = leave_one_out_advantages(torch.tensor([[5.0, 1.0]]), torch.tensor([[True, False]]))
    assert alone.tolist() == [[0.0, 0.0]]


def test_whitened_advantages_have_mean_0_and_variance_1_over_tokens() -> None:
    generator = torch.Generator().manual_seed(1)
    advantages = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    lengths = torch.randint(1, 50, (5, 4), generator=generator)
    valid = torch.rand(5, 4, generator=generator) > 0.2
    white = whiten_over_tokens(advantages, valid, lengths)
    weight = (lengths * valid).double()
    assert float((white * weight).sum()) == pytest.approx(0, abs=1e-9)
    assert float((white.square() * weight).sum() / weight.sum()) == pytest.approx(1)
    assert (white[~valid] == 0).all()
    assert (whiten_over_tokens(torch.ones(2, 2), torch.ones(2, 2, dtype=torch.bool), torch.ones(2, 2)) == 0).all()
