"""Importance weights and the sums that say how far sampler and trainer are apart."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from recipes.rl.importance import ImportanceKind, importance_weights, mismatch_sums, out_of_range

KINDS: tuple[ImportanceKind, ...] = get_args(ImportanceKind)


def _weights(kind: ImportanceKind, ratios: list[list[float]], low: float, high: float) -> list[list[float]]:
    trainer = torch.tensor(ratios, dtype=torch.float64).log()
    zeros = torch.zeros_like(trainer)
    return importance_weights(kind, trainer, zeros, torch.ones_like(zeros), low=low, high=high).tolist()


def test_none_corrects_nothing() -> None:
    assert _weights("none", [[0.1, 1.0, 9.0]], 0, 2) == [[1, 1, 1]]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 2.0, [0.25, 0.75, 1.0, 1.5, 2.0, 2.0]),  # the usual cap, nothing raised from below
        (0.0, 3.0, [0.25, 0.75, 1.0, 1.5, 2.5, 3.0]),
        (0.5, 2.0, [0.5, 0.75, 1.0, 1.5, 2.0, 2.0]),
    ],
)
def test_truncation_by_hand(low: float, high: float, expected: list[float]) -> None:
    """A token that the trainer finds 8 times as likely must not weigh 8 times as much."""
    assert _weights("truncated", [[0.25, 0.75, 1.0, 1.5, 2.5, 8.0]], low, high)[0] == pytest.approx(expected)


def test_masking_by_hand() -> None:
    """Within 0.5 and 5 the ratio itself, not 1; beyond them nothing, and nothing clamped."""
    ratios = [[0.49, 0.51, 1.0, 4.9, 5.1, 100.0]]
    assert _weights("masked", ratios, 0.5, 5)[0] == pytest.approx([0, 0.51, 1, 4.9, 0, 0])


def test_sequence_masking_by_hand() -> None:
    """The mean is geometric and the kept weights are the raw ratios."""
    # sqrt(4 * 1/4) = 1 is kept, though the arithmetic mean is 2.125; sqrt(1.002 * 1.004) = 1.003 is beyond 1.002, and
    # sqrt(.998 * .9985) = .99825 below .999; sqrt(1.003 * 1.0005) = 1.00175 is within, though 1.003 is not.
    ratios = [[4.0, 0.25], [1.002, 1.004], [0.998, 0.9985], [1.003, 1.0005]]
    found = _weights("sequence_masked", ratios, 0.999, 1.002)
    assert found == [pytest.approx(row) for row in ([4.0, 0.25], [0.0, 0.0], [0.0, 0.0], [1.003, 1.0005])]


def test_only_tokens_that_count_are_in_a_sequences_mean() -> None:
    """A prompt or padding in the mean would make every long prompt's response pass."""
    trainer = torch.tensor([[0.0, 0.0, 0.0, 0.1], [9.0, 0.0, 0.001, -0.001], [0.1, 0.1, 0.1, 0.1]])
    mask = torch.tensor([[0.0, 0.0, 0.0, 1.0], [0.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    weights = importance_weights("sequence_masked", trainer, torch.zeros(3, 4), mask, low=0.999, high=1.002)
    # Means e^.1 = 1.105 and e^0 = 1; the last row has no token that counts.
    assert weights.tolist() == [
        [0, 0, 0, 0],
        pytest.approx([0, 1, math.exp(0.001), math.exp(-0.001)]),
        [0, 0, 0, 0],
    ]


@pytest.mark.parametrize(("trainer", "sampler"), [(math.nan, -1.0), (-1.0, -math.inf), (-math.inf, -math.inf)])
def test_a_broken_ratio_weighs_nothing(trainer: float, sampler: float) -> None:
    """nan would poison the loss, inf would be the largest allowed weight of them all."""
    new, old = torch.tensor([[trainer, -1.0], [-1.0, -1.0]]), torch.tensor([[sampler, -1.0], [-1.0, -1.0]])
    mask = torch.ones(2, 2)
    assert importance_weights("truncated", new, old, mask, low=0.5, high=2).tolist() == [[0, 1], [1, 1]]
    assert importance_weights("masked", new, old, mask, low=0, high=math.inf).tolist() == [[0, 1], [1, 1]]
    # A response with a broken token has no mean.
    assert importance_weights("sequence_masked", new, old, mask, low=0, high=1e30).tolist() == [[0, 0], [1, 1]]
    sums = mismatch_sums(new, old, mask)
    assert {name: float(value) for name, value in sums.items()} == pytest.approx(
        {"token_mult_prob_error": 3, "gen_kl": 0, "policy_kl": 0, "js": 0, "ratio": 3, "tokens": 3, "not_finite": 1},
        abs=1e-6,
    )
    assert float(out_of_range(new, old, mask, 0.5, 2)) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("filler", [math.nan, math.inf, -math.inf, 5.0])
def test_what_does_not_count_is_never_read(kind: ImportanceKind, filler: float) -> None:
    trainer, sampler = torch.tensor([[-1.0, -2.0, filler]]), torch.tensor([[-1.5, -1.0, 0.0]])
    mask = torch.tensor([[1, 1, 0]])
    found = importance_weights(kind, trainer, sampler, mask, low=0.1, high=5)
    clean = importance_weights(kind, torch.tensor([[-1.0, -2.0, 0.0]]), sampler, mask, low=0.1, high=5)
    assert torch.equal(found, clean)
    assert found[0, 2] == 0
    assert (found[0, :2] > 0).all()
    assert out_of_range(trainer, sampler, mask, 0.1, 5) == 0
    for name, value in mismatch_sums(trainer, sampler, mask).items():
        assert torch.equal(value, mismatch_sums(trainer[:, :2], sampler[:, :2], mask[:, :2])[name])


def test_extreme_ratios_stay_finite() -> None:
    """Log-ratios are clamped to 20 and -20, e^20 = 4.85e8."""
    trainer, sampler = torch.tensor([[0.0, -500.0]]), torch.tensor([[-500.0, 0.0]])
    weights = importance_weights("masked", trainer, sampler, torch.ones(1, 2), low=0, high=math.inf)
    assert weights[0].tolist() == pytest.approx([math.exp(20), math.exp(-20)])
    assert all(torch.isfinite(value) for value in mismatch_sums(trainer, sampler, torch.ones(1, 2)).values())


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_constants(kind: ImportanceKind) -> None:
    """A gradient through the weight would add a term that pushes probabilities wherever the loss is."""
    trainer = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    sampler = torch.tensor([[-1.1, -1.9]])
    weights = importance_weights(kind, trainer, sampler, torch.ones(1, 2), low=0, high=3)
    assert not weights.requires_grad
    assert not any(value.requires_grad for value in mismatch_sums(trainer, sampler, torch.ones(1, 2)).values())


def test_ratios_make_the_samplers_mean_the_trainers() -> None:
    """Why there are weights: sum over q of (p / q) f is the mean of f under p, up to what the truncation cuts off."""
    p, q = torch.tensor([[0.7, 0.2, 0.1]]).double(), torch.tensor([[0.3, 0.3, 0.4]]).double()
    f, ones = torch.tensor([[1.0, -2.0, 5.0]]).double(), torch.ones(1, 3)
    weights = importance_weights("truncated", p.log(), q.log(), ones, low=0, high=3)
    torch.testing.assert_close((q * weights * f).sum(), (p * f).sum())
    # At a cap of 2, 7/3 becomes 2: the mean loses .3 * (7/3 - 2) * 1 = .1.
    capped = importance_weights("truncated", p.log(), q.log(), ones, low=0, high=2)
    torch.testing.assert_close((q * capped * f).sum(), (p * f).sum() - 0.1)


def test_mismatch_by_hand() -> None:
    """Two tokens with rho = 2 and rho = 1/2, whose d is log 2 = .693147 up and down."""
    trainer, sampler = torch.tensor([[0.5, 0.25, 0.9]]).log(), torch.tensor([[0.25, 0.5, 0.1]]).log()
    sums = mismatch_sums(trainer, sampler, torch.tensor([[1.0, 1.0, 0.0]]))
    expected = {
        "token_mult_prob_error": 4.0,  # e^|d| = 2 each
        "gen_kl": 0.5,  # (2 - 1 - .693147) + (.5 - 1 + .693147) = .306853 + .193147
        "policy_kl": 0.5,  # the same two the other way round
        # rho 2, m = 1.5 p_s: (2 log(2 / 1.5) + log(1 / 1.5)) / 2 = (.575364 - .405465) / 2 = .084950
        # rho 1/2, m = .75 p_s: (.5 log(.5 / .75) + log(1 / .75)) / 2 = (-.202733 + .287682) / 2 = .042475
        "js": 0.127425,
        "ratio": 2.5,
        "tokens": 2.0,
        "not_finite": 0.0,
    }
    assert {name: float(value) for name, value in sums.items()} == pytest.approx(expected, abs=1e-6)
    first = mismatch_sums(trainer[:, :1], sampler[:, :1], torch.ones(1, 1))
    assert float(first["gen_kl"]) == pytest.approx(0.306853, abs=1e-6)
    assert float(first["policy_kl"]) == pytest.approx(0.193147, abs=1e-6)


def test_means_are_the_divergences_they_are_named_for() -> None:
    """Over the sampler's distribution: KL(sampler || trainer), not the reverse, and the exact Jensen-Shannon one."""
    p, q = torch.tensor([0.7, 0.2, 0.1]).double(), torch.tensor([0.3, 0.3, 0.4]).double()
    means: dict[str, Tensor] = {}
    for probability, trainer, sampler in zip(q, p.log(), q.log(), strict=True):
        for name, value in mismatch_sums(trainer.view(1, 1), sampler.view(1, 1), torch.ones(1, 1)).items():
            means[name] = means.get(name, torch.zeros(()).double()) + probability * value
    m = (p + q) / 2
    torch.testing.assert_close(means["gen_kl"], (q * (q / p).log()).sum())
    torch.testing.assert_close(means["js"], ((p * (p / m).log()).sum() + (q * (q / m).log()).sum()) / 2)
    torch.testing.assert_close(means["ratio"], torch.ones(()).double())


def test_targets_tell_agreement_from_its_lack() -> None:
    """The documented targets at differences of .01 and .1, the edge of error being log 1.05 = .0488."""
    noise = torch.tensor([[1.0, -1.0] * 50])
    for size, agrees in ((0.01, True), (0.1, False)):
        sums = mismatch_sums(size * noise, torch.zeros(1, 100), torch.ones(1, 100))
        means = {name: float(value / sums["tokens"]) for name, value in sums.items()}
        # e^.01 = 1.01005 and e^.1 = 1.10517; KLs near d^2 / 2 = 5e-5 and 5e-3; JS near d^2 / 8 = 1.25e-5 and 1.25e-3.
        assert (means["token_mult_prob_error"] < 1.05) is agrees
        for name, share in (("gen_kl", 2), ("policy_kl", 2), ("js", 8)):
            assert (means[name] < 1e-3) is agrees
            assert means[name] == pytest.approx(size**2 / share, rel=0.01)


def test_small_divergences_keep_their_digits_in_float32() -> None:
    """e^d - 1 - d at d = 1e-3 is 5.0017e-7, of which the rounding of e^d would leave about one digit."""
    sums = mismatch_sums(torch.full((1, 8), 1e-3), torch.zeros(1, 8), torch.ones(1, 8))
    assert float(sums["gen_kl"]) == pytest.approx(8 * 5.0017e-7, rel=1e-3)


def test_out_of_range_counts_what_masking_leaves_out() -> None:
    generator = torch.Generator().manual_seed(0)
    trainer, sampler = (-torch.rand(6, 20, generator=generator) * 3 for _ in range(2))
    mask = torch.rand(6, 20, generator=generator) > 0.3
    weights = importance_weights("masked", trainer, sampler, mask, low=0.5, high=2)
    left_out = int((mask & (weights == 0)).sum())
    assert int(out_of_range(trainer, sampler, mask, 0.5, 2)) == left_out
    assert 0 < left_out < int(mask.sum())


@pytest.mark.parametrize("sizes", [[8], [1] * 8, [3, 5]])
@pytest.mark.parametrize("kind", KINDS)
def test_any_division_into_micro_batches_is_the_same(kind: ImportanceKind, sizes: list[int]) -> None:
    generator = torch.Generator().manual_seed(1)
    trainer = -torch.rand(8, 6, generator=generator, dtype=torch.float64)
    sampler = trainer + torch.randn(8, 6, generator=generator, dtype=torch.float64) * 0.3
    mask = (torch.rand(8, 6, generator=generator) > 0.4).double()
    whole = importance_weights(kind, trainer, sampler, mask, low=0.9, high=1.2)
    parts = [t.split(sizes) for t in (trainer, sampler, mask)]
    pieces = [importance_weights(kind, *part, low=0.9, high=1.2) for part in zip(*parts, strict=True)]
    torch.testing.assert_close(torch.cat(pieces), whole)
    expected = mismatch_sums(trainer, sampler, mask)
    for name in expected:
        added = torch.stack([mismatch_sums(*part)[name] for part in zip(*parts, strict=True)]).sum()
        torch.testing.assert_close(added, expected[name])
