"""A critic learns: its loss by hand, that any division of a batch adds up, and true values of small worlds."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from recipes.rl.losses import TokenValues, value_loss
from recipes.rl.returns import Gae, advantages_and_targets


def _values(value: Tensor, target: Tensor, old: Tensor, mask: Tensor) -> TokenValues:
    """As a critic's passes give them; a loss that read weights, entropies or a reference would show no number."""
    none = torch.full_like(mask, math.nan)
    return TokenValues(value, none, mask, target, old, none, none)


@pytest.mark.parametrize(
    ("clip", "losses", "slopes", "clipped"),
    [
        # Half the squares of .5 - 1, -.5 - 1, .125 - 1 and 3 - 1.
        (None, [0.125, 1.125, 0.3828125, 2], [-0.5, -1.5, -0.875, 2], 0),
        # Within 1/4 of 0. For .5: .25 - 1 is the larger error, it went far enough. For -.5: -.25 - 1 is the smaller,
        # it went the wrong way and is fetched back. .125 is within. For 3: .25 - 1 is the smaller, it overshot.
        (0.25, [0.28125, 1.125, 0.3828125, 2], [0, -1.5, -0.875, 2], 1),
    ],
)
def test_value_loss_by_hand(clip: float | None, losses: list[float], slopes: list[float], clipped: int) -> None:
    """Targets 1, values 0 before the update; eight tokens in the whole batch, of which four are here."""
    value = torch.tensor([[0.5, -0.5, 0.125, 3.0]], requires_grad=True)
    ones = torch.ones(1, 4)
    total, sums = value_loss(tokens=8, clip=clip)(_values(value, ones, ones * 0, ones))
    total.backward()
    assert total.item() == sum(losses) / 8
    assert value.grad is not None
    assert value.grad.tolist() == [[slope / 8 for slope in slopes]]
    assert {name: each.item() for name, each in sums.items()} == {
        "loss": sum(losses),
        "value": 3.125,
        "target": 4,
        "clipped": clipped,
        "tokens": 4,
    }


@pytest.mark.parametrize("clip", [None, 0.2])
def test_what_is_masked_reaches_neither_loss_nor_gradient(clip: float | None) -> None:
    """Nan times 0 is nan: a mask that multiplies lets what padding holds destroy a critic."""
    value = torch.tensor([[1.0, math.nan, math.inf]], requires_grad=True)
    filled = torch.tensor([[0.5, math.nan, math.inf]])
    total, sums = value_loss(tokens=1, clip=clip)(_values(value, filled, filled, torch.tensor([[1.0, 0, 0]])))
    total.backward()
    assert value.grad is not None
    assert value.grad[0, 1:].tolist() == [0, 0]
    assert all(torch.isfinite(each) for each in (total, value.grad[0, 0], *sums.values()))


@pytest.mark.parametrize("sizes", [[1] * 8, [3, 5], [2, 2, 2, 2], [7, 1]])
@pytest.mark.parametrize("clip", [None, 0.5])
def test_any_division_into_micro_batches_and_ranks_adds_up(sizes: list[int], clip: float | None) -> None:
    """A mean within each micro-batch makes the critic's learning rate grow with their number, as verl's once did."""
    generator = torch.Generator().manual_seed(0)
    value, target, old = torch.randn(3, 8, 6, generator=generator, dtype=torch.float64)
    mask = (torch.rand(8, 6, generator=generator) > 0.4).double()
    mask[2] = 0
    whole = _values(value, target, old, mask)
    loss = value_loss(tokens=float(mask.sum()), clip=clip)

    def run(sizes: list[int]) -> tuple[Tensor, Tensor, dict[str, float]]:
        value = whole.logprobs.clone().requires_grad_()
        tables = [table.split(sizes) for table in (value, whole.advantages, whole.old_logprobs, whole.mask)]
        shares, sums = zip(*(loss(_values(*parts)) for parts in zip(*tables, strict=True)), strict=True)
        torch.stack(shares).sum().backward()
        assert value.grad is not None
        return torch.stack(shares).sum().detach(), value.grad, {n: sum(float(s[n]) for s in sums) for n in sums[0]}

    (total, gradient, sums), (expected, expected_gradient, expected_sums) = run(sizes), run([8])
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(gradient, expected_gradient)
    assert sums == pytest.approx(expected_sums)
    assert sums["loss"] / sums["tokens"] == pytest.approx(float(expected))
    by_hand = (value - target) * mask / mask.sum()
    if clip is None:
        torch.testing.assert_close(gradient, by_hand)


@dataclass(frozen=True)
class World:
    """All responses of a policy, each as often as its probability says: their mean is the expectation.

    Attributes:
        states: [sequences, positions], numbers of the states before each token; -1 behind the end.
        outcomes: [sequences].
        kl: [sequences, positions].
        truncated: [sequences] bool.
        behind: [sequences], the state behind the last token.
        true: the value of each state.
    """

    states: Tensor
    outcomes: Tensor
    kl: Tensor
    truncated: Tensor
    behind: Tensor
    true: Tensor


KL_COEF = 0.25


def token_bandit(gamma: float, kl_coef: float) -> World:
    """At most three tokens, a and b at a quarter each and the end at a half; a state is what has been written.

    An outcome is the response's number in the order of its letters, less 3; a token's divergence grows with its place.
    """
    chances = {"a": 1, "b": 1, ".": 2}  # of four
    prefixes = ["".join(p) for n in range(3) for p in itertools.product("ab", repeat=n)]
    done = [p + t for p in prefixes for t in chances if t == "." or len(p) == 2]
    outcome = {text: i - 3.0 for i, text in enumerate(sorted(done))}

    def divergence(text: str) -> float:
        return len(text) * {"a": 0.5, "b": -0.25, ".": 1.0}[text[-1]]

    def worth(prefix: str) -> float:
        if prefix in outcome:
            return 0.0
        return sum(
            n / 4 * (outcome.get(prefix + t, 0.0) - kl_coef * divergence(prefix + t) + gamma * worth(prefix + t))
            for t, n in chances.items()
        )

    rows = [text for text in done for _ in range(4 ** (3 - len(text)) * math.prod(chances[t] for t in text))]
    assert len(rows) == 64
    states = torch.tensor([[prefixes.index(r[:t]) if t < len(r) else -1 for t in range(3)] for r in rows])
    kl = torch.tensor([[divergence(r[: t + 1]) if t < len(r) else math.nan for t in range(3)] for r in rows])
    return World(
        states,
        torch.tensor([outcome[row] for row in rows]).double(),
        kl.double(),
        torch.zeros(64, dtype=torch.bool),
        torch.zeros(64, dtype=torch.long),
        torch.tensor([worth(prefix) for prefix in prefixes]).double(),
    )


def chain(clock: bool) -> World:
    """States A, B, A, B and so on; either ends with probability 1/2, which pays 1 in A and 0 in B; cut at four tokens.

    Without a limit V(A) = 1/2 + V(B) / 2 and V(B) = V(A) / 2: 2/3 and 1/3. With one that scores -1, and a state that
    knows its place: -1/2 at the fourth, then 1/2 - 1/4 = 1/4, 1/8, and 1/2 + 1/16 = 9/16 at the first.

    Args:
        clock: whether the state knows its place, of four.
    """
    lengths = torch.tensor([1] * 8 + [2] * 4 + [3] * 2 + [4] + [4])
    truncated = torch.arange(16) == 15
    place = torch.arange(4).expand(16, 4)
    outcomes = torch.where(truncated, -1, lengths % 2).double()
    true = [9 / 16, 1 / 8, 1 / 4, -1 / 2] if clock else [2 / 3, 1 / 3]
    return World(
        torch.where(place < lengths[:, None], place if clock else place % 2, -1),
        outcomes,
        torch.zeros(16, 4, dtype=torch.float64),
        truncated,
        torch.zeros(16, dtype=torch.long),  # after A B A B comes A
        torch.tensor(true, dtype=torch.float64),
    )


def learn(world: World, gae: Gae, *, sweeps: int, clip: float | None = None, steps: int = 1) -> Tensor:
    """A table of values, trained by the loss's own gradient in `steps` steps on the same targets, over and over.

    A step's rate is 1 / steps over the state's share of the tokens: a single one goes to the mean target.
    """
    table = torch.full_like(world.true, 5.0)
    mask = (world.states >= 0).double()
    places = world.states.clamp_min(0)
    visits = torch.zeros_like(table).index_put((places,), mask, accumulate=True)
    for _ in range(sweeps):
        old = table[places]
        _, targets = advantages_and_targets(
            gae, world.outcomes, old, mask, kl=world.kl, truncated=world.truncated, after=table[world.behind]
        )
        loss = value_loss(tokens=float(mask.sum()), clip=clip)
        for _ in range(steps):
            table.requires_grad_()
            total, _ = loss(_values(table[places], targets, old, mask))
            (gradient,) = torch.autograd.grad(total, table)
            table = table.detach() - gradient * mask.sum() / visits / steps
    return table


WORLDS: dict[str, tuple[Callable[[float], World], Gae]] = {
    "bandit": (lambda gamma: token_bandit(gamma, 0.0), Gae()),
    "bandit, charged": (lambda gamma: token_bandit(gamma, KL_COEF), Gae(kl_coef=KL_COEF)),
    "chain, its limit a rule": (lambda _: chain(clock=True), Gae(cut="terminal")),
    "chain, its limit none": (lambda _: chain(clock=False), Gae(cut="bootstrap")),
}


@pytest.mark.parametrize("lam", [0.0, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("name", WORLDS)
def test_values_become_the_true_ones(name: str, lam: float) -> None:
    """Targets of any lambda have the true values as their one fixed point."""
    make, gae = WORLDS[name]
    for gamma in (1.0, 0.5) if "bandit" in name else (1.0,):
        world = make(gamma)
        asked = dataclasses.replace(gae, gamma=gamma, critic_lambda=lam)
        torch.testing.assert_close(learn(world, asked, sweeps=60), world.true, rtol=0, atol=1e-12)


def test_clipped_values_get_there_in_strides() -> None:
    """From one rollout a value learns no more than the clip range and one step; in the end it is the true one."""
    world, gae = token_bandit(1.0, 0.0), Gae(critic_lambda=0.5)
    start = torch.full_like(world.true, 5.0)
    strides = {clip: start - learn(world, gae, sweeps=1, clip=clip, steps=16) for clip in (None, 0.5)}
    assert strides[None].max() > 3
    assert strides[0.5].max() < 0.5 + 8 / 16  # no target is further than 8 from 5
    torch.testing.assert_close(learn(world, gae, sweeps=60, clip=0.5, steps=16), world.true, rtol=0, atol=1e-9)


def test_at_true_values_nothing_is_left_to_learn_on_average() -> None:
    """The mean advantage in each state is 0 with any lambda: what the policy is told is action against action alone."""
    world = token_bandit(0.5, KL_COEF)
    mask = (world.states >= 0).double()
    for lam in (0.0, 0.7, 1.0):
        gae = Gae(gamma=0.5, kl_coef=KL_COEF, policy_lambda=lam, whiten=False)
        values = world.true[world.states.clamp_min(0)]
        advantages, _ = advantages_and_targets(gae, world.outcomes, values, mask, kl=world.kl)
        for state in range(len(world.true)):
            assert advantages[world.states == state].mean().item() == pytest.approx(0, abs=1e-12)
        assert advantages.abs().max() > 0.5


def test_who_never_ends_is_punished_only_if_the_limit_is_a_rule() -> None:
    """Why `cut` is terminal by default: bootstrapped, a response without end is worth what the critic believes."""
    mask, values = torch.ones(2, 6), torch.full((2, 6), 0.5)
    told = {"truncated": torch.tensor([True, True]), "after": torch.full((2,), 0.5)}
    scores = torch.tensor([-1.0, -1.0])
    advantages, targets = advantages_and_targets(Gae(cut="bootstrap", whiten=False), scores, values, mask, **told)
    assert not advantages.any()
    assert torch.equal(targets, values)
    advantages, targets = advantages_and_targets(Gae(whiten=False), scores, values, mask, **told)
    assert (advantages < 0).all()
    assert (targets == -1).all()
