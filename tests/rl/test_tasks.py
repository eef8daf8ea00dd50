"""Several tasks, several components and a penalty on one scale: numbers by hand and what each is for."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from recipes.rl.advantages import (
    component_advantages,
    group_advantages,
    kl_in_reward,
    leave_one_out_advantages,
    logistic_rewards,
    per_task_advantages,
    task_medians,
    whiten_over_tokens,
    whiten_tokens,
)
from recipes.rl.losses import kl_estimate

HALF = math.sqrt(0.5)


def _table(*rows: list[float]) -> tuple[Tensor, Tensor]:
    table = torch.tensor(rows, dtype=torch.float64)
    return table, torch.ones_like(table, dtype=torch.bool)


@pytest.mark.parametrize("filler", [99.0, math.nan, math.inf])
def test_whitening_by_hand(filler: float) -> None:
    # Of 1, 2, 3 and 6: mean 3, deviations -2, -1, 0, 3; (4 + 1 + 0 + 9) / 4 = 3.5. The filler does not count.
    advantages = torch.tensor([[1.0, 2.0, filler], [3.0, 6.0, filler]], dtype=torch.float64)
    mask = torch.tensor([[1, 1, 0], [1, 1, 0]])
    root = math.sqrt(3.5)
    assert whiten_tokens(advantages, mask).tolist() == [
        pytest.approx([-2 / root, -1 / root, 0]),
        pytest.approx([0, 3 / root, 0]),
    ]


def test_variance_is_clamped() -> None:
    """Advantages that differ by rounding alone must not be blown up to 1: the divisor is at least 1e-4."""
    # Deviations 1e-6, variance 1e-12 below 1e-8: 1e-6 / 1e-4.
    advantages = torch.tensor([[1e-6, -1e-6]], dtype=torch.float64)
    assert whiten_tokens(advantages, torch.ones(1, 2))[0].tolist() == pytest.approx([0.01, -0.01])
    assert whiten_tokens(torch.full((2, 2), 7.0), torch.ones(2, 2)).tolist() == [[0, 0], [0, 0]]
    assert whiten_tokens(advantages, torch.zeros(1, 2)).tolist() == [[0, 0]]


def test_whitening_responses_is_whitening_their_tokens() -> None:
    """Both whiten the same tokens, once as weights and once spread out."""
    generator = torch.Generator().manual_seed(0)
    advantages = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    lengths = torch.randint(0, 9, (3, 4), generator=generator)
    valid = torch.rand(3, 4, generator=generator) > 0.2
    spread = advantages.view(12, 1).expand(12, 9)
    mask = (torch.arange(9) < lengths.view(12, 1)) & valid.view(12, 1)
    tokens = whiten_tokens(spread, mask)
    responses = whiten_over_tokens(advantages, valid, lengths).view(12, 1)
    torch.testing.assert_close(responses * mask, tokens)


def test_charged_divergence_by_hand() -> None:
    # k1 = log policy - log reference: .5, -1 and 0; times .1 off an advantage of 2. The last one does not count.
    logprobs, reference = torch.tensor([[-1.0, -2.0, -3.0, 0.0]]), torch.tensor([[-1.5, -1.0, -3.0, math.nan]])
    found = kl_in_reward(torch.full((1, 4), 2.0), logprobs, reference, torch.tensor([[1, 1, 1, 0]]), 0.1)
    assert found[0].tolist() == pytest.approx([1.95, 2.1, 2.0, 0.0])


def test_charged_divergence_has_the_gradient_of_k2_in_the_loss() -> None:
    """On policy, where the loss of a token has the gradient -A of its log-probability."""
    logprobs = torch.tensor([[-1.0, -2.0, -0.3]], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([[-1.5, -1.0, -0.3]], dtype=torch.float64)
    charged = kl_in_reward(torch.zeros(1, 3), logprobs, reference, torch.ones(1, 3), 0.2)
    assert not charged.requires_grad
    (in_reward,) = torch.autograd.grad(-(charged * logprobs).sum(), logprobs)
    (in_loss,) = torch.autograd.grad(0.2 * kl_estimate("k2", logprobs, reference).sum(), logprobs)
    torch.testing.assert_close(in_reward, in_loss)


def test_charged_and_whitened_by_hand() -> None:
    """The order matters: a coefficient would mean another thing after whitening."""
    # 1 - .5 * 2 = 0 and -1 - .5 * -4 = 1, 1 - .5 * 0 = 1, -1 - .5 * -6 = 2: mean 1, variance (1 + 0 + 0 + 1) / 4 = .5.
    advantages = torch.tensor([[1.0, -1.0], [1.0, -1.0]])
    logprobs, mask = torch.tensor([[2.0, -4.0], [0.0, -6.0]]), torch.ones(2, 2)
    white = whiten_tokens(kl_in_reward(advantages, logprobs, torch.zeros(2, 2), mask, 0.5), mask)
    assert white.tolist() == [pytest.approx([-1 / HALF, 0]), pytest.approx([0, 1 / HALF])]


def test_per_task_by_hand() -> None:
    """Two groups of one task share a deviation, so the one that differs more counts more; another task has its own."""
    # Task a: (1 + 1 + 9 + 9) / (4 samples - 2 groups) = 10, root 3.1623. Task b: (.01 + .01) / (2 - 1), root .14142.
    centred, valid = _table([1, -1], [0.1, -0.1], [3, -3])
    found = per_task_advantages(centred, valid, ["a", "b", "a"])
    expected = [1 / math.sqrt(10), 0.1 / math.sqrt(0.02), 3 / math.sqrt(10)]
    for row, value in zip(found.tolist(), expected, strict=True):
        assert row == pytest.approx([value, -value], rel=2e-5)
    numbered = per_task_advantages(centred, valid, torch.tensor([7, 0, 7]))
    assert torch.equal(numbered, found)


def test_a_task_of_one_group_is_grpo() -> None:
    rewards, valid = _table([1, 0, 0, 4], [0.5, 0.1, 0.2, 0.9])
    valid[1, 2] = False
    found = per_task_advantages(group_advantages(rewards, valid, normalize=False), valid, ["a", "b"])
    assert torch.equal(found, group_advantages(rewards, valid, normalize=True))


def test_every_task_contributes_alike() -> None:
    """Whatever its rewards' scale and however often its groups are constant: the mean square is (G - 1) / G."""
    generator = torch.Generator().manual_seed(0)
    rewards = torch.rand(12, 4, generator=generator, dtype=torch.float64)
    rewards[:6] *= 100
    rewards[8:11] = 1.0
    valid = torch.ones_like(rewards, dtype=torch.bool)
    centred = group_advantages(rewards, valid, normalize=False)
    found = per_task_advantages(centred, valid, ["large"] * 6 + ["often constant"] * 6)
    shares = [float(found[:6].square().mean()), float(found[6:].square().mean())]
    # sum A^2 / (24 samples - 6 groups) = 1, so the mean over 24 is 18 / 24; undivided the first task has all of it.
    assert shares == pytest.approx([0.75, 0.75], rel=1e-4)
    assert float(centred[6:].square().sum() / centred.square().sum()) < 1e-3


def test_a_task_that_does_not_vary_teaches_nothing() -> None:
    rewards, valid = _table([0.1, 0.1, 0.1], [5, 1, 1], [1, 2, 3], [1, 2, 3])
    valid[1] = torch.tensor([True, False, False])
    valid[2] = False
    centred = group_advantages(rewards, valid, normalize=False)
    found = per_task_advantages(centred, valid, ["constant", "one", "none", "varied"])
    assert found[:3].tolist() == [[0, 0, 0]] * 3
    assert found[3].tolist() == pytest.approx([-1, 0, 1], rel=1e-5)


def test_components_by_hand() -> None:
    """Two binary components, two responses: summed, a group of 0 and 1 is like one of 0 and 2; apart it is not."""
    answer, valid = _table([0, 1], [0, 1])
    format_, _ = _table([1, 1], [0, 1])
    summed = group_advantages(answer + format_, valid, normalize=True)
    torch.testing.assert_close(summed[0], summed[1], rtol=1e-5, atol=0)
    # Each varying component gives -.70711 and .70711, so the sums are 1 and 2 times that; their mean is 0 and their
    # variance (.5 + .5 + 2 + 2) / 4 = 1.25: .70711 / 1.11803 = .63246 and twice it.
    found = component_advantages({"answer": answer, "format": format_}, {"answer": 1, "format": 1}, valid)
    assert found.tolist() == [
        pytest.approx([-0.632456, 0.632456], rel=1e-5),
        pytest.approx([-1.264911, 1.264911], rel=1e-5),
    ]


def test_weights_of_components_are_proportions() -> None:
    """However large a component's numbers are, its weight decides; scaling all weights changes nothing."""
    # Against each other: 3 * .70711 - 1 * .70711 in favour of the answer, whitened to 1.
    answer, valid = _table([0, 1])
    brevity, _ = _table([1000, 0])
    for scale in (1, 50):
        weights = {"answer": 3.0 * scale, "brevity": 1.0 * scale}
        found = component_advantages({"brevity": brevity, "answer": answer}, weights, valid)
        assert found[0].tolist() == pytest.approx([-1, 1])


def test_components_and_weights_have_the_same_names() -> None:
    """A weight without its component would be dropped in silence."""
    rewards, valid = _table([0, 1])
    with pytest.raises(ValueError, match=r"\['answer'\] with weights for \['anwser'\]"):
        component_advantages({"answer": rewards}, {"anwser": 1.0}, valid)
    with pytest.raises(ValueError, match="at least one"):
        component_advantages({}, {}, valid)


def test_medians_by_hand() -> None:
    rewards, valid = _table([0.1, 0.2, 0.9], [0.3, 0.4, 9], [1, 2, 3], [0, 0, 5])
    valid[1, 2] = valid[3, 2] = False
    valid[2] = False
    # easy: .1, .2, .3, .4, .9; none: nothing valid; hard: 0 and 0.
    assert task_medians(rewards, valid, ["easy", "easy", "none", "hard"]) == pytest.approx({"easy": 0.3, "hard": 0})
    # Of 0 and 1 the mean: either of them alone would call half of a balanced task bad or good.
    halves, both = _table([0, 1])
    assert task_medians(halves, both, torch.tensor([4])) == {4: 0.5}


def test_logistic_by_hand() -> None:
    # (1 - .5) / .25 = 2: 1 / (1 + e^-2) = .880797; at 0 .119203. (.5 - .1) / .25 = 1.6: 1 / (1 + e^-1.6) = .832018.
    rewards, valid = _table([0, 0.5, 1], [0.1, 0.5, math.nan])
    valid[1, 2] = False
    found = logistic_rewards(rewards, valid, ["easy", "hard"], {"easy": 0.5, "hard": 0.1})
    assert found.tolist() == [pytest.approx([0.119203, 0.5, 0.880797], abs=1e-6), pytest.approx([0.5, 0.832018, 0])]
    # One scale away from the centre: 1 / (1 + e^-1) = .731059.
    wide = logistic_rewards(rewards, valid, ["easy", "hard"], {"easy": 0.5, "hard": 0.1}, scale=0.5)
    assert wide[0].tolist() == pytest.approx([1 - 0.731059, 0.5, 0.731059], abs=1e-6)


def test_every_tasks_median_becomes_one_half() -> None:
    """The fairness that MedGRPO is after: no task's rewards are higher than another's as a whole."""
    generator = torch.Generator().manual_seed(0)
    rewards = torch.rand(9, 5, generator=generator, dtype=torch.float64)
    tasks = ["easy", "hard", "odd"] * 3
    rewards += torch.tensor([{"easy": 0.8, "hard": -0.5, "odd": 0.0}[task] for task in tasks]).unsqueeze(1)
    valid = torch.ones_like(rewards, dtype=torch.bool)
    mapped = logistic_rewards(rewards, valid, tasks, task_medians(rewards, valid, tasks))
    assert task_medians(mapped, valid, tasks) == pytest.approx({"easy": 0.5, "hard": 0.5, "odd": 0.5})
    order = rewards[0].argsort()
    assert (mapped[0][order].diff() > 0).all()


def test_two_valued_rewards_stay_as_they_are_for_grpo() -> None:
    """Said in the documentation, as it decides where the logistic is worth its centres."""
    rewards, valid = _table([1, 0, 0, 0])
    mapped = logistic_rewards(rewards, valid, ["a"], {"a": 0.0})
    before, after = (group_advantages(table, valid, normalize=True) for table in (rewards, mapped))
    torch.testing.assert_close(after, before, rtol=1e-5, atol=0)
    assert not torch.allclose(leave_one_out_advantages(mapped, valid), leave_one_out_advantages(rewards, valid))


def test_errors_name_what_is_missing() -> None:
    rewards, valid = _table([0, 1], [1, 0])
    with pytest.raises(ValueError, match=r"task 'b' has no centre, only \['a'\]"):
        logistic_rewards(rewards, valid, ["a", "b"], {"a": 0.5})
    with pytest.raises(ValueError, match="3 tasks for 2 groups"):
        task_medians(rewards, valid, ["a", "b", "b"])
    with pytest.raises(ValueError, match="1 tasks for 2 groups"):
        per_task_advantages(rewards, valid, torch.tensor([1]))
