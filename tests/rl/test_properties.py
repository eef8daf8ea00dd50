"""What holds for every estimator of advantages and any batch: no order, no filler and no irrelevant scale matters."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recipes.rl.advantages import (
    component_advantages,
    group_advantages,
    informative,
    leave_one_out_advantages,
    logistic_rewards,
    per_task_advantages,
    task_medians,
    whiten_over_tokens,
)

# Many tests, so few examples each, always the same ones; a loaded machine may take long over one.
BRIEFLY = settings(max_examples=40, deadline=None, derandomize=True)


@dataclass(frozen=True)
class Batch:
    """Rewards and valid are [groups, group size], lengths too; a task a group."""

    rewards: Tensor
    valid: Tensor
    lengths: Tensor
    tasks: list[str]

    def with_rewards(self, rewards: Tensor) -> Batch:
        return Batch(rewards, self.valid, self.lengths, self.tasks)


def _per_task(batch: Batch) -> Tensor:
    return per_task_advantages(group_advantages(batch.rewards, batch.valid, normalize=False), batch.valid, batch.tasks)


def _components(batch: Batch) -> Tensor:
    parts = {"answer": batch.rewards, "format": -batch.rewards.square()}
    return component_advantages(parts, {"answer": 2.0, "format": 0.5}, batch.valid)


def _whitened(batch: Batch) -> Tensor:
    return whiten_over_tokens(group_advantages(batch.rewards, batch.valid, normalize=False), batch.valid, batch.lengths)


def _logistic(batch: Batch) -> Tensor:
    medians = task_medians(batch.rewards, batch.valid, batch.tasks)
    return logistic_rewards(batch.rewards, batch.valid, batch.tasks, dict.fromkeys("abc", 0.0) | medians)


Estimator = Callable[[Batch], Tensor]
GROUPED: dict[str, Estimator] = {
    "grpo": lambda b: group_advantages(b.rewards, b.valid, normalize=True),
    "dr_grpo": lambda b: group_advantages(b.rewards, b.valid, normalize=False),
    "rloo": lambda b: leave_one_out_advantages(b.rewards, b.valid),
}
SHIFTABLE = GROUPED | {"whitened": _whitened, "per_task": _per_task, "logistic": _logistic}
ALL = SHIFTABLE | {"components": _components}  # one of the components is a square


def _each(estimators: dict[str, Estimator]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("estimator", estimators.values(), ids=estimators.keys())


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """Rewards are multiples of 1/4, so that no two differ by rounding alone."""
    groups, size = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    count = groups * size

    def table(values: st.SearchStrategy[float]) -> Tensor:
        drawn = draw(st.lists(values, min_size=count, max_size=count))
        return torch.tensor(drawn, dtype=torch.float64).view(groups, size)

    rewards = table(st.integers(-8, 8).map(lambda n: n / 4))
    valid = table(st.sampled_from([1.0, 1.0, 1.0, 0.0])) > 0
    lengths = table(st.integers(1, 30).map(float))
    return Batch(rewards, valid, lengths, draw(st.lists(st.sampled_from("abc"), min_size=groups, max_size=groups)))


@_each(ALL)
@BRIEFLY
@given(batch=batches(), seed=st.integers(0, 99))
def test_no_order_matters(estimator: Estimator, batch: Batch, seed: int) -> None:
    """Neither of the groups nor of the samples within them."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = (torch.randperm(n, generator=generator) for n in batch.rewards.shape)
    tables = (t[rows][:, columns] for t in (batch.rewards, batch.valid, batch.lengths))
    shuffled = Batch(*tables, [batch.tasks[i] for i in rows.tolist()])
    torch.testing.assert_close(estimator(shuffled), estimator(batch)[rows][:, columns])


@_each(ALL)
@BRIEFLY
@given(batch=batches(), filler=st.sampled_from([math.nan, math.inf, -math.inf, 1e300, -7.0]))
def test_what_is_not_valid_never_leaks(estimator: Estimator, batch: Batch, filler: float) -> None:
    """It reads 0 itself and changes nothing else, to the last bit."""
    clean = estimator(batch)
    found = estimator(batch.with_rewards(torch.where(batch.valid, batch.rewards, filler)))
    assert torch.equal(found, clean)
    assert (found[~batch.valid] == 0).all()
    assert torch.isfinite(found).all()


@_each(SHIFTABLE)
@BRIEFLY
@given(batch=batches(), shift=st.sampled_from([-3.0, 0.5, 1e6]))
def test_a_constant_on_all_rewards_changes_nothing(estimator: Estimator, batch: Batch, shift: float) -> None:
    """Each group is its own baseline, each task its own centre; in float64 also far from 0."""
    torch.testing.assert_close(
        estimator(batch.with_rewards(batch.rewards + shift)), estimator(batch), rtol=1e-7, atol=1e-7
    )


@_each({name: ALL[name] for name in ("grpo", "whitened", "per_task", "components")})
@BRIEFLY
@given(batch=batches(), scale=st.sampled_from([0.25, 8.0, 1024.0]))
def test_the_unit_of_rewards_does_not_matter(estimator: Estimator, batch: Batch, scale: float) -> None:
    """For those that divide by a deviation; what is left is their epsilon of 1e-6, at most 1e-4 of deviations here."""
    torch.testing.assert_close(
        estimator(batch.with_rewards(batch.rewards * scale)), estimator(batch), rtol=1e-4, atol=1e-4
    )


@_each({name: ALL[name] for name in ("dr_grpo", "rloo")})
@BRIEFLY
@given(batch=batches(), scale=st.sampled_from([0.25, 8.0, 1024.0]))
def test_undivided_advantages_scale_with_rewards(estimator: Estimator, batch: Batch, scale: float) -> None:
    torch.testing.assert_close(
        estimator(batch.with_rewards(batch.rewards * scale)), estimator(batch) * scale, rtol=1e-9, atol=1e-9
    )


@BRIEFLY
@given(batch=batches(), scale=st.sampled_from([0.25, 8.0, 1024.0]))
def test_a_tasks_own_unit_does_not_matter(batch: Batch, scale: float) -> None:
    """A task scored out of 1024 beside one scored out of 1 pushes no harder."""
    factor = torch.tensor([[scale if task == "a" else 1.0] for task in batch.tasks], dtype=torch.float64)
    torch.testing.assert_close(
        _per_task(batch.with_rewards(batch.rewards * factor)), _per_task(batch), rtol=1e-4, atol=1e-8
    )


@_each({name: ALL[name] for name in ("grpo", "dr_grpo", "rloo", "per_task")})
@BRIEFLY
@given(batch=batches())
def test_a_group_neither_rises_nor_falls_as_a_whole(estimator: Estimator, batch: Batch) -> None:
    """Its advantages sum to 0, and are all 0 exactly where it teaches nothing."""
    found = estimator(batch)
    torch.testing.assert_close(found.sum(-1), torch.zeros(len(found), dtype=torch.float64), rtol=0, atol=1e-9)
    assert torch.equal((found.abs() > 1e-9).any(-1), informative(batch.rewards, batch.valid))


@_each({name: ALL[name] for name in ("grpo", "dr_grpo", "rloo", "whitened", "per_task", "logistic")})
@BRIEFLY
@given(batch=batches())
def test_a_better_reward_never_has_the_smaller_advantage(estimator: Estimator, batch: Batch) -> None:
    found = estimator(batch)
    for rewards, advantages, valid in zip(batch.rewards, found, batch.valid, strict=True):
        ordered = advantages[valid][rewards[valid].argsort()]
        assert (ordered.diff() >= -1e-12).all()


@_each(SHIFTABLE)
def test_large_rewards_keep_their_differences(estimator: Estimator) -> None:
    """At 1e9 in float64 a difference of 1/4 has 22 bits left; one-pass variances would have none."""
    generator = torch.Generator().manual_seed(0)
    rewards = torch.randint(0, 9, (6, 5), generator=generator).double() / 4
    valid = torch.rand(6, 5, generator=generator) > 0.2
    batch = Batch(rewards, valid, torch.ones(6, 5), list("abcabc"))
    torch.testing.assert_close(estimator(batch.with_rewards(rewards + 1e9)), estimator(batch), rtol=1e-6, atol=1e-6)
