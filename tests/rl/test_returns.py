"""Advantages and targets of PPO: numbers by hand, invariances, and the faults that other critics have had."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from recipes.rl.advantages import group_advantages, kl_in_reward
from recipes.rl.losses import kl_estimate
from recipes.rl.returns import Gae, advantages_and_targets, critic_fit, lambda_returns, length_lambda, token_rewards

PLAIN = Gae(whiten=False)


def _row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def _random(rows: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Outcomes, values, a mask of responses of different lengths, and a divergence; the last response has no score."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, width + 1, (rows,), generator=generator)
    lengths[0], lengths[-1] = width, 0
    mask = (torch.arange(width) < lengths[:, None]).double()
    outcomes, values, kl = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((rows,), (rows, width), (rows, width))
    )
    return outcomes, values, mask, kl


def test_gae_by_hand() -> None:
    """Three tokens, values .5, .25 and 1, outcome 2, gamma 1/2, lambda 1/2, all binary fractions."""
    # delta_2 = 2 - 1 = 1; delta_1 = 1/2 * 1 - 1/4 = 1/4; delta_0 = 1/2 * 1/4 - 1/2 = -3/8; gamma lambda = 1/4.
    # A_2 = 1; A_1 = 1/4 + 1/4 * 1 = 1/2; A_0 = -3/8 + 1/4 * 1/2 = -1/4.
    gae = Gae(gamma=0.5, policy_lambda=0.5, critic_lambda=0.0, whiten=False)
    advantages, targets = advantages_and_targets(gae, torch.tensor([2.0]), _row(0.5, 0.25, 1), torch.ones(1, 3))
    assert advantages.tolist() == [[-0.25, 0.5, 1.0]]
    # The critic's own lambda 0: r + gamma V_t+1, that is 1/2 * 1/4, 1/2 * 1 and 2.
    assert targets.tolist() == [[0.125, 0.5, 2.0]]


def test_divergence_by_hand() -> None:
    """Each token pays its own, and the return of every earlier one holds it."""
    # kl -1, 2 and 4 at 1/4: rewards 1/4, -1/2 and 3 - 1 = 2; summed from the end 2, 3/2 and 7/4; values are all 1.
    gae = Gae(kl_coef=0.25, policy_lambda=1.0, whiten=False)
    kl, mask = torch.tensor([[-1.0, 2.0, 4.0]]), torch.ones(1, 3)
    assert token_rewards(torch.tensor([3.0]), mask, kl, 0.25).tolist() == [[0.25, -0.5, 2.0]]
    advantages, targets = advantages_and_targets(gae, torch.tensor([3.0]), torch.ones(1, 3), mask, kl=kl)
    assert targets.tolist() == [[1.75, 1.5, 2.0]]
    assert advantages.tolist() == [[0.75, 0.5, 1.0]]


@pytest.mark.parametrize(
    ("cut", "truncated", "advantages", "targets"),
    [
        ("terminal", True, [-1.5, -1.25], [-1, -1]),  # the score of -1 at the end, whatever the critic says of more
        ("bootstrap", True, [0.25, 0.5], [0.75, 0.75]),  # 3/4 in its place: the score is not paid beside it
        ("bootstrap", False, [-1.5, -1.25], [-1, -1]),  # what ended by itself ended
    ],
)
def test_a_cut_response_by_hand(cut: str, truncated: bool, advantages: list[float], targets: list[float]) -> None:
    """Two tokens of values 1/2 and 1/4, both lambdas 1, score -1, and 3/4 for the state behind them."""
    gae = Gae(policy_lambda=1.0, cut=cut, whiten=False)  # type: ignore[arg-type]
    found = advantages_and_targets(
        gae,
        torch.tensor([-1.0]),
        _row(0.5, 0.25),
        torch.ones(1, 2),
        truncated=torch.tensor([truncated]),
        after=torch.tensor([0.75 if truncated else math.nan]),
    )
    assert [table[0].tolist() for table in found] == [advantages, targets]


def test_what_a_setting_needs_is_asked_for() -> None:
    outcomes, mask = torch.tensor([1.0]), torch.ones(1, 2)
    with pytest.raises(ValueError, match=r"kl_coef=0\.1"):
        advantages_and_targets(Gae(kl_coef=0.1), outcomes, mask, mask)
    with pytest.raises(ValueError, match="cut=bootstrap"):
        advantages_and_targets(Gae(cut="bootstrap"), outcomes, mask, mask, truncated=torch.tensor([True]))


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_lambda_1_is_monte_carlo_whatever_the_critic_says(gamma: float) -> None:
    """Returns are sums of later rewards, to the bit where they are not discounted; values of 1e8 leave no trace."""
    outcomes, values, mask, kl = (table.float() for table in _random(6, 9))
    rewards = token_rewards(outcomes, mask, kl, 0.5)
    found = lambda_returns(rewards, values * 1e8, mask, 1.0, gamma=gamma)
    for row in range(6):
        total = torch.tensor(0.0)
        for t in reversed(range(int(mask[row].sum()))):
            total = rewards[row, t] + gamma * total
            assert found[row, t] == total


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.95, 1.0])
def test_generalised_advantages_are_the_sum_of_temporal_differences(lam: float) -> None:
    """The recursion on returns equals eq. 16 of the paper, written out."""
    gamma, width = 0.9, 7
    outcomes, values, mask, kl = _random(5, width)
    gae = Gae(gamma=gamma, policy_lambda=lam, kl_coef=0.1, whiten=False)
    advantages, _ = advantages_and_targets(gae, outcomes, values, mask, kl=kl)
    rewards = token_rewards(outcomes, mask, kl, 0.1)
    later = torch.cat([(values * mask)[:, 1:], torch.zeros(5, 1, dtype=torch.float64)], 1)
    delta = (rewards + gamma * later - values) * mask
    for t in range(width):
        powers = (gamma * lam) ** torch.arange(width - t, dtype=torch.float64)
        torch.testing.assert_close(advantages[:, t], (delta[:, t:] * powers).sum(-1))


def test_the_critics_lambda_and_the_policys_are_two() -> None:
    """verl has one for both: a policy lambda of .95 then leaves targets that hold .95^k of a score k tokens later."""
    outcomes, values, mask, _ = _random(4, 8)
    steep, flat = Gae(policy_lambda=0.5, whiten=False), Gae(policy_lambda=0.95, whiten=False)
    (a, targets), (b, same) = (advantages_and_targets(gae, outcomes, values, mask) for gae in (steep, flat))
    assert not torch.allclose(a, b)
    assert torch.equal(targets, same)
    torch.testing.assert_close(targets, outcomes[:, None] * mask)
    # Under a critic of 0, 100 tokens before a score of 1 one lambda would leave .95^100 of it.
    _, targets = advantages_and_targets(flat, torch.ones(1), torch.zeros(1, 101), torch.ones(1, 101))
    assert targets[0, 0] == 1
    assert 0.95**100 < 0.006


def test_a_lambda_by_length_by_hand() -> None:
    """VAPO's alpha of .05 gives no lambda to answers of 20 tokens and a negative one below, but for the floor."""
    # 1 - 1 / (.05 l): at 10 it is -1, at 20 it is 0, at 40 it is 1/2, at 100 it is .8, at 2000 it is .99.
    lengths = torch.tensor([0, 1, 10, 20, 40, 100, 2000])
    assert length_lambda(lengths, 0.05, 0.0).tolist() == pytest.approx([0, 0, 0, 0, 0.5, 0.8, 0.99], abs=1e-6)
    assert length_lambda(lengths, 0.05, 0.75).tolist() == pytest.approx([0.75] * 5 + [0.8, 0.99])


def test_each_response_has_the_lambda_of_its_own_length() -> None:
    """Counted tokens decide, not the width of the table; a brief answer still feels a score two tokens later."""
    # alpha 1/2: 4 tokens have lambda 1/2, 8 have 3/4; 2 would have 0 and have the floor of 1/4.
    mask = (torch.arange(8) < torch.tensor([[4], [8], [2]])).double()
    outcomes, values = torch.ones(3, dtype=torch.float64), torch.zeros(3, 8, dtype=torch.float64)
    gae = Gae(length_alpha=0.5, policy_lambda=0.25, whiten=False)
    advantages, targets = advantages_and_targets(gae, outcomes, values, mask)
    assert advantages[:, 0].tolist() == [0.5**3, 0.75**7, 0.25]
    assert torch.equal(targets, mask)  # the critic's lambda knows nothing of lengths


def test_the_critics_targets_hold_the_divergence_that_the_policy_pays() -> None:
    """miles allows no divergence in the reward, since its critic's targets would leave it out.

    A critic that fits its targets has then no advantage left to report; one taught without the divergence reports the
    divergence of all later tokens, on and on. In the loss (`kl_coef` 0) neither holds it.
    """
    outcomes, values, mask, kl = _random(4, 6)
    charged = Gae(kl_coef=0.5, policy_lambda=1.0, whiten=False)
    _, targets = advantages_and_targets(charged, outcomes, values, mask, kl=kl)
    fitted, again = advantages_and_targets(charged, outcomes, targets, mask, kl=kl)
    assert torch.equal(targets, again)
    assert fitted.abs().max() == 0
    later = (kl * mask).flip(-1).cumsum(-1).flip(-1) * mask
    _, without = advantages_and_targets(PLAIN, outcomes, values, mask, kl=kl)
    torch.testing.assert_close(targets, without - 0.5 * later)
    # What REINFORCE++ charges its advantages is not this: a token's own divergence, which no critic's target holds.
    assert not torch.allclose(kl_in_reward(without - targets, kl, kl * 0, mask, 0.5), fitted)


def test_the_charged_divergence_is_the_one_of_the_loss() -> None:
    """k1 of both modules is log policy - log reference: the sign decides whether drifting is paid or charged."""
    policy, reference = _row(-1.0, -2.0), _row(-1.5, -2.0)
    rewards = token_rewards(torch.tensor([0.0]), torch.ones(1, 2), kl_estimate("k1", policy, reference), 0.5)
    assert rewards.tolist() == [[-0.25, 0.0]]  # the policy likes the first token more than the reference does


@pytest.mark.parametrize("filler", [math.nan, math.inf, 1e30])
@pytest.mark.parametrize("cut", ["terminal", "bootstrap"])
def test_what_does_not_count_is_never_read(filler: float, cut: str) -> None:
    """A response without a score, and filler behind shorter ones: not in advantages, targets, whitening or the fit."""
    outcomes, values, mask, kl = _random(6, 9)
    gae = Gae(kl_coef=0.1, length_alpha=0.5, cut=cut)  # type: ignore[arg-type]
    truncated, after = torch.arange(6) % 2 == 1, outcomes * 0.5

    def run(rows: slice, fill: float) -> tuple[Tensor, Tensor, dict[str, float]]:
        counted, scored = mask[rows] > 0, mask[rows].any(-1)
        advantages, targets = advantages_and_targets(
            gae,
            outcomes[rows].where(scored, torch.tensor(fill).double()),
            values[rows].where(counted, torch.tensor(fill).double()),
            mask[rows],
            kl=kl[rows].where(counted, torch.tensor(fill).double()),
            truncated=truncated[rows],
            after=after[rows].where(scored & truncated[rows], torch.tensor(fill).double()),
        )
        assert not advantages[~counted].any()
        assert not targets[~counted].any()
        return advantages, targets, critic_fit(values[rows], targets.where(counted, fill), mask[rows])

    advantages, targets, fit = run(slice(0, 6), filler)
    expected_advantages, expected_targets, expected_fit = run(slice(0, 5), 0.0)
    torch.testing.assert_close(advantages[:5], expected_advantages)
    torch.testing.assert_close(targets[:5], expected_targets)
    assert fit == pytest.approx(expected_fit)


def test_gaps_are_passed_over() -> None:
    """Tokens that do not count, in front or between, carry the return on: what is left behaves as if they were gone."""
    outcomes, values, _, kl = _random(3, 4)
    gae = Gae(gamma=0.9, kl_coef=0.1)
    close = advantages_and_targets(gae, outcomes, values, torch.ones(3, 4), kl=kl)
    places = torch.tensor([1, 2, 5, 7])

    def spread(table: Tensor, filler: float) -> Tensor:
        return torch.full((3, 9), filler, dtype=torch.float64).index_copy(1, places, table)

    ones = torch.ones(3, 4, dtype=torch.float64)
    wide = advantages_and_targets(gae, outcomes, spread(values, 99.0), spread(ones, 0.0), kl=spread(kl, 99.0))
    for found, expected in zip(wide, close, strict=True):
        torch.testing.assert_close(found, spread(expected, 0.0))


def test_whitening_is_of_the_whole_batch_and_of_tokens_that_count() -> None:
    """Numbers of a micro-batch or a rank by itself would give the same advantage another weight in each of them."""
    # Three tokens of advantage 1 and one of 5 (values 0, lambda 1): mean 2, variance (1 + 1 + 1 + 9) / 4 = 3.
    mask = torch.tensor([[1.0, 1, 1, 0], [1.0, 0, 0, 0]], dtype=torch.float64)
    outcomes, values = torch.tensor([1.0, 5.0], dtype=torch.float64), torch.zeros(2, 4, dtype=torch.float64)
    advantages, targets = advantages_and_targets(Gae(policy_lambda=1.0), outcomes, values, mask)
    root = math.sqrt(3)
    torch.testing.assert_close(advantages, torch.tensor([[-1, -1, -1, 0], [3, 0, 0, 0]]).double() / root)
    assert targets[mask > 0].tolist() == [1, 1, 1, 5]  # a target is a return, on the reward's own scale
    alone, _ = advantages_and_targets(Gae(policy_lambda=1.0), outcomes[:1], values[:1], mask[:1])
    assert not alone.any()


def test_one_response_a_prompt_teaches() -> None:
    """A group of one has no other response for a baseline; the critic is one, and no neighbour changes the estimate."""
    outcomes, values, mask, _ = _random(5, 6)
    together = advantages_and_targets(PLAIN, outcomes, values, mask)
    for row in range(5):
        alone = advantages_and_targets(PLAIN, outcomes[[row]], values[[row]], mask[[row]])
        for found, expected in zip(alone, together, strict=True):
            assert torch.equal(found[0], expected[row])
    assert together[0][0].abs().min() > 0
    assert not group_advantages(outcomes[:1, None], torch.ones(1, 1, dtype=torch.bool), normalize=True).any()


def test_fit_by_hand() -> None:
    """A critic that broke reads far below 0 and unclamped, as in a run whose policy metrics showed nothing."""
    returns, mask = _row(0, 1, 2, 3, 99), torch.tensor([[1.0, 1, 1, 1, 0]])
    # Variance of 0..3: (2.25 + .25) * 2 / 4 = 1.25.
    assert critic_fit(returns, returns, mask) == {"explained_variance": 1, "r_squared": 1}
    # A constant of the mean: errors vary as the returns do. One off by 2 everywhere: 1 - 4 / 1.25.
    assert critic_fit(torch.full_like(returns, 1.5), returns, mask) == {"explained_variance": 0, "r_squared": 0}
    assert critic_fit(returns - 2, returns, mask) == pytest.approx({"explained_variance": 1, "r_squared": -2.2})
    # Upside down, errors are 2 (G - 1.5): 1 - 4.
    assert critic_fit(3 - returns, returns, mask) == {"explained_variance": -3, "r_squared": -3}
    # Nothing to foretell but rounding, or nothing at all.
    for constant, counted in ((0.1 + 1e-8 * returns, mask), (returns, mask * 0)):
        assert critic_fit(returns, constant, counted) == {"explained_variance": 0, "r_squared": 0}


def test_targets_of_a_lower_lambda_praise_a_critic_that_knows_nothing() -> None:
    """Why a gate takes Monte Carlo returns: one-step targets are the critic's own next values."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(64, 40)
    outcomes = torch.randint(0, 2, (64,), generator=generator).float()
    values = torch.randn(64, 1, generator=generator).expand(64, 40)  # of no relation to the outcomes
    rewards = token_rewards(outcomes, mask)
    own, true = (lambda_returns(rewards, values, mask, lam) for lam in (0.0, 1.0))
    assert critic_fit(values, own, mask)["r_squared"] > 0.9
    assert critic_fit(values, true, mask)["r_squared"] < -1
