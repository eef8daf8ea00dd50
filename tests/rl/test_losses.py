"""The losses: hand-calculated values, gradients, and that any division of a batch adds up to the same."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from recipes.rl.losses import (
    Loss,
    Objective,
    TokenValues,
    clipped_objective,
    kl_estimate,
    kl_k3,
    policy_loss,
    supervised_loss,
)


def grpo_loss(*, tokens: float, **objective: Any) -> Loss:
    return policy_loss(Objective(**objective), tokens=tokens, sequences=1)


def _values(
    logprobs: Tensor,
    advantages: Tensor | None = None,
    old: Tensor | None = None,
    mask: Tensor | None = None,
    **more: Tensor,
) -> TokenValues:
    zeros = torch.zeros_like(logprobs.detach())
    return TokenValues(
        logprobs=logprobs,
        entropy=more.get("entropy", zeros),
        mask=torch.ones_like(zeros) if mask is None else mask,
        advantages=zeros if advantages is None else advantages,
        old_logprobs=logprobs.detach() if old is None else old,
        weights=more.get("weights", torch.ones_like(zeros)),
        reference_logprobs=more.get("reference", zeros),
    )


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected", "slope"),
    [
        (1.0, 2.0, -2.0, -2.0),  # -2 * 1
        (1.25, 2.0, -2.5, -2.0),  # -2 * 1.25, just at the upper edge of 1 + .25
        (1.5, 2.0, -2.5, 0.0),  # max(-3, -2 * 1.25): beyond it there is nothing more to gain
        (0.5, 2.0, -1.0, -2.0),  # max(-1, -2 * .875 = -1.75): a good token that fell is always pushed up
        (0.875, -2.0, 1.75, 2.0),  # 2 * .875, just at the lower edge of 1 - .125
        (0.5, -2.0, 1.75, 0.0),  # max(1, 2 * .875): below it a bad token is left alone
        (1.5, -2.0, 3.0, 2.0),  # max(3, 2 * 1.25): a bad token that rose is always pushed down
        (3.0, 0.0, 0.0, 0.0),
    ],
)
def test_clipped_objective_by_hand(ratio: float, advantage: float, expected: float, slope: float) -> None:
    """low .125 and high .25 differ, so exchanged edges show; all numbers are exact binary fractions."""
    r = torch.tensor([ratio], requires_grad=True)
    value = clipped_objective(r, torch.tensor([advantage]), 0.125, 0.25)
    value.sum().backward()
    assert value.item() == expected
    assert r.grad is not None
    at_edge = ratio in (1.25, 0.875)
    # At an edge both branches are equal and any mixture of their slopes (slope and 0 or slope) is a subgradient.
    assert min(slope, 0) <= r.grad.item() <= max(slope, 0) if at_edge else r.grad.item() == slope


def test_k3_by_hand() -> None:
    """exp(x) - 1 - x with x = log ref - log policy, not the other way round."""
    # x = ln 2: 2 - 1 - .693147 = .306853; x = -ln 2: .5 - 1 + .693147 = .193147.
    policy, reference = torch.tensor([-2.0, -1.0, -3.0]), torch.tensor([-2.0 + math.log(2), -1.0 - math.log(2), -3.0])
    assert kl_k3(policy, reference).tolist() == pytest.approx([0.306853, 0.193147, 0.0], abs=1e-6)


def test_k3_is_never_negative_and_never_overflows() -> None:
    generator = torch.Generator().manual_seed(0)
    policy, reference = (-torch.rand(10_000, generator=generator) * 30 for _ in range(2))
    assert kl_k3(policy, reference).min() >= -1e-6
    extreme = kl_k3(torch.tensor([-1000.0, 0.0]), torch.tensor([0.0, -1000.0]))
    # x is clamped to 20 and -20: e^20 - 21 and e^-20 + 19.
    assert extreme.tolist() == pytest.approx([math.exp(20) - 21, 19 + math.exp(-20)], rel=1e-6)


def test_k3_estimates_the_divergence() -> None:
    """Its mean under the policy is KL(policy || reference), which the reverse direction is not."""
    p, q = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64), torch.tensor([0.3, 0.3, 0.4], dtype=torch.float64)
    exact = (p * (p / q).log()).sum()
    torch.testing.assert_close((p * kl_k3(p.log(), q.log())).sum(), exact)
    assert abs((q * (q / p).log()).sum() - exact) > 0.01


def test_gradient_on_policy_is_minus_advantage_over_tokens() -> None:
    """At ratio 1 the loss is the plain policy gradient, -A / T for every token that counts; T is the given one."""
    logprobs = torch.tensor([[-1.0, -2.0, -0.5], [-0.1, -3.0, -4.0]], requires_grad=True)
    advantages = torch.tensor([[1.5] * 3, [-0.5] * 3])
    mask = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
    total, sums = grpo_loss(tokens=8, clip_low=0.2, clip_high=0.2, kl_coef=0.0)(
        _values(logprobs, advantages, mask=mask)
    )
    total.backward()
    # Ratio 1: the loss is -(1.5 + 1.5 - .5 - .5) / 8 = -.25, although nothing was clipped and old equals new.
    assert total.item() == pytest.approx(-0.25)
    torch.testing.assert_close(logprobs.grad, -advantages * mask / 8)
    assert sums["tokens"].item() == 4
    assert sums["clipped"].item() == 0
    assert sums["prob_error"].item() == pytest.approx(4)


def _loss(objective: Objective, logprobs: Tensor, *, sequences: float = 1, **values: Tensor) -> Tensor:
    tokens = float(values.get("mask", torch.ones_like(logprobs)).sum())
    return policy_loss(objective, tokens=tokens, sequences=sequences)(_values(logprobs, **values))[0]


def test_sequence_ratio_is_the_geometric_mean() -> None:
    """GSPO: ratios 2 and 1/4 have the geometric mean sqrt(1/2); A = 1 and -1 by row."""
    old = torch.zeros(2, 2)
    logprobs = torch.tensor([[2.0, 0.25], [2.0, 0.25]]).log().requires_grad_()
    advantages = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    objective = Objective(ratio="sequence", clip_low=0.5, clip_high=0.5, reduction="sequence")
    total = _loss(objective, logprobs, advantages=advantages, old=old, sequences=2)
    # (-.70711 + .70711) / 2 = 0; each row's gradient is -A r / (2 rows * 2 tokens) a token.
    assert total.item() == pytest.approx(0, abs=1e-6)
    total.backward()
    share = math.sqrt(0.5) / 4
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [pytest.approx([-share, -share]), pytest.approx([share, share])]
    # Clipped at 1 - .2 the bad response is left alone as a whole, the good one still pushed.
    narrow = Objective(ratio="sequence", clip_low=0.2, clip_high=0.2, reduction="sequence")
    logprobs.grad = None
    _loss(narrow, logprobs, advantages=advantages, old=old, sequences=2).backward()
    assert logprobs.grad.tolist() == [pytest.approx([-share, -share]), [0.0, 0.0]]


def test_cispo_keeps_every_tokens_gradient() -> None:
    """Ratios 4 and 1/4 clipped to 1.25 and .75 weigh the log-probabilities: gradient -A w / 2 a token."""
    logprobs = torch.tensor([[4.0, 0.25]]).log().requires_grad_()
    advantages = torch.tensor([[2.0, 2.0]])
    objective = Objective(surrogate="cispo", clip_low=0.25, clip_high=0.25)
    total = _loss(objective, logprobs, advantages=advantages, old=torch.zeros(1, 2))
    assert total.item() == pytest.approx(-(2 * 1.25 * math.log(4) + 2 * 0.75 * math.log(0.25)) / 2, rel=1e-6)
    total.backward()
    assert logprobs.grad is not None
    assert logprobs.grad[0].tolist() == pytest.approx([-1.25, -0.75])


def test_dual_clip_bounds_what_a_bad_token_can_cost() -> None:
    """Ratio 10 with A = -1 costs 10 without a bound and 3 with one, and then pushes no more; A = 1 is not touched."""
    logprobs = torch.tensor([[10.0, 10.0]]).log().requires_grad_()
    advantages = torch.tensor([[-1.0, 1.0]])
    free = _loss(Objective(), logprobs, advantages=advantages, old=torch.zeros(1, 2))
    assert free.item() == pytest.approx((10 - 1.2) / 2)
    bounded = _loss(Objective(dual_clip=3.0), logprobs, advantages=advantages, old=torch.zeros(1, 2))
    assert bounded.item() == pytest.approx((3 - 1.2) / 2)
    bounded.backward()
    assert logprobs.grad is not None
    assert logprobs.grad[0].tolist() == [0.0, 0.0]


def test_kl_estimates_by_hand() -> None:
    # x = ln 2: k1 = -.693147, k2 = .240227, k3 = 2 - 1 - .693147 = .306853
    logprobs, reference = torch.tensor([-1.0]), torch.tensor([-1.0 + math.log(2)])
    found = {name: float(kl_estimate(name, logprobs, reference)) for name in ("k1", "k2", "k3")}
    assert found == pytest.approx({"k1": -0.693147, "k2": 0.240227, "k3": 0.306853}, abs=1e-6)


def test_reductions_weigh_long_and_short_responses() -> None:
    """Two responses of 3 and 1 tokens, A = 1 and -1 on policy: by token (-3 + 1) / 4, by response (-1 + 1) / 2."""
    logprobs = torch.full((2, 3), -1.0)
    mask = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    advantages = torch.tensor([[1.0] * 3, [-1.0] * 3])
    by_token = _loss(Objective(), logprobs, mask=mask, advantages=advantages)
    assert by_token.item() == pytest.approx(-0.5)
    by_response = _loss(Objective(reduction="sequence"), logprobs, mask=mask, advantages=advantages, sequences=2)
    assert by_response.item() == pytest.approx(0.0)


def test_entropy_bonus_pays_for_entropy() -> None:
    entropy = torch.tensor([[1.0, 3.0]], requires_grad=True)
    total = _loss(Objective(entropy_coef=0.1), torch.full((1, 2), -1.0), entropy=entropy)
    assert total.item() == pytest.approx(-0.1 * 2.0)
    total.backward()
    assert entropy.grad is not None
    assert entropy.grad[0].tolist() == pytest.approx([-0.05, -0.05])


def test_grpo_loss_by_hand_with_clipping_and_kl() -> None:
    # Ratios e^(lp - old): e^(-1 + 1) = 1, 2 and .5; A = 1, 1, -1; clip .2: -1, -min(2, 1.2) = -1.2, max(.5, .8) = .8.
    logprobs = torch.tensor([[-1.0, -1.0, -1.0]], requires_grad=True)
    old = torch.tensor([[-1.0, -1.0 - math.log(2), -1.0 + math.log(2)]])
    reference = torch.tensor([[-1.0 + math.log(2), -1.0, -1.0]])
    advantages, entropy = torch.tensor([[1.0, 1.0, -1.0]]), torch.tensor([[0.5, 1.0, 2.0]])
    total, sums = grpo_loss(tokens=3, clip_low=0.2, clip_high=0.2, kl_coef=0.1)(
        _values(logprobs, advantages, old, reference=reference, entropy=entropy)
    )
    # (-1 - 1.2 + .8 + .1 * (.306853 + 0 + 0)) / 3 = (-1.4 + .0306853) / 3
    assert total.item() == pytest.approx((-1.4 + 0.0306853) / 3, abs=1e-6)
    assert sums["loss"].item() == pytest.approx(-1.4 + 0.0306853, abs=1e-6)
    assert sums["kl"].item() == pytest.approx(0.306853, abs=1e-6)
    assert sums["clipped"].item() == 2
    assert sums["entropy"].item() == pytest.approx(3.5)
    assert sums["prob_error"].item() == pytest.approx(1 + 2 + 2)
    total.backward()
    # First token: (-A r + .1 * (1 - e^x)) / 3 with x = ln 2: (-1 + .1 * (1 - 2)) / 3. The others are clipped, KL 0.
    assert logprobs.grad is not None
    assert logprobs.grad[0].tolist() == pytest.approx([-1.1 / 3, 0, 0], abs=1e-6)


def _random_values(rows: int, width: int) -> TokenValues:
    generator = torch.Generator().manual_seed(3)

    def draw() -> Tensor:
        return torch.randn(rows, width, generator=generator, dtype=torch.float64)

    mask = (torch.rand(rows, width, generator=generator) > 0.4).double()
    mask[2] = 0  # a row without a token that counts, as a filler row of a micro-batch
    tables = (-draw().abs(), draw().abs(), mask, draw(), -draw().abs(), draw().abs(), -draw().abs())
    positive = mask * (torch.arange(rows) % 3 == 0)[:, None]
    return TokenValues(*tables, positive=positive)


@pytest.mark.parametrize("sizes", [[8], [1] * 8, [3, 5], [2, 2, 2, 2], [7, 1]])
@pytest.mark.parametrize(
    "objective",
    [
        None,
        Objective(),
        Objective(clip_high=0.28, kl_coef=0.3, dual_clip=3.0, entropy_coef=0.1),
        Objective(ratio="sequence", reduction="sequence", kl_coef=0.2, kl_estimator="k2"),
        Objective(surrogate="cispo", reduction="sequence"),
        Objective(clip_high=0.28, positive_coef=0.1),
    ],
    ids=["supervised", "grpo", "dapo", "gspo", "cispo", "vapo"],
)
def test_any_division_into_micro_batches_adds_up(sizes: list[int], objective: Objective | None) -> None:
    """A mean within each micro-batch would weigh tokens by how the batch happened to be divided."""
    whole = _random_values(8, 6)
    tokens = float(whole.mask.sum())
    loss = (
        supervised_loss(tokens=tokens)
        if objective is None
        else policy_loss(
            objective,
            tokens=tokens,
            sequences=float((whole.mask.sum(-1) > 0).sum()),
            positives=float((whole.mask * (torch.arange(8) % 3 == 0)[:, None]).sum()),
        )
    )

    def run(parts: list[slice]) -> tuple[Tensor, Tensor, dict[str, float]]:
        logprobs = whole.logprobs.clone().requires_grad_()
        totals: dict[str, float] = {}
        value = torch.zeros((), dtype=torch.float64)
        for part in parts:
            piece = TokenValues(
                **{f.name: getattr(whole, f.name)[part] for f in dataclasses.fields(whole) if f.name != "logprobs"},
                logprobs=logprobs[part],
            )
            share, sums = loss(piece)
            value = value + share
            for name, each in sums.items():
                totals[name] = totals.get(name, 0.0) + float(each)
        value.backward()
        assert logprobs.grad is not None
        return value.detach(), logprobs.grad, totals

    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    value, gradient, totals = run([slice(a, a + n) for a, n in zip(starts, sizes, strict=True)])
    expected_value, expected_gradient, expected_totals = run([slice(0, 8)])
    torch.testing.assert_close(value, expected_value)
    torch.testing.assert_close(gradient, expected_gradient)
    assert totals == pytest.approx(expected_totals)
    assert totals["loss"] / tokens == pytest.approx(float(value))


def test_supervised_loss_by_hand() -> None:
    logprobs = torch.tensor([[-1.0, -2.0, -100.0]], requires_grad=True)
    mask = torch.tensor([[1.0, 1.0, 0.0]])
    total, sums = supervised_loss(tokens=4)(_values(logprobs, mask=mask))
    total.backward()
    assert total.item() == pytest.approx(3 / 4)  # (1 + 2) / 4, the prompt's token left out
    torch.testing.assert_close(logprobs.grad, -mask / 4)
    assert sums["loss"].item() == pytest.approx(3)
    assert sums["tokens"].item() == 2


def test_an_extreme_ratio_stays_finite() -> None:
    """A token whose probability exploded since sampling must not turn the loss into inf or nan."""
    logprobs = torch.tensor([[-0.0, -200.0]], requires_grad=True)
    old = torch.tensor([[-200.0, -0.0]])
    total, sums = grpo_loss(tokens=2, clip_low=0.2, clip_high=0.2, kl_coef=0.1)(
        _values(logprobs, torch.tensor([[-1.0, 1.0]]), old, reference=old)
    )
    total.backward()
    assert torch.isfinite(total)
    assert logprobs.grad is not None
    assert torch.isfinite(logprobs.grad).all()
    assert all(torch.isfinite(value) for value in sums.values())
