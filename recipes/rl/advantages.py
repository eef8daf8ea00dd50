"""Advantages from the rewards of a group: one prompt's responses are each other's baseline.

Beside them what puts several tasks or several components of a reward on one scale. Left out: a learned critic
(`recipes.rl.returns`), and the filter of truncated responses, which is a plain mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from recipes.rl.losses import kl_estimate

# A name or a number for each group.
Task = str | int
Tasks = Sequence[str] | Tensor


def group_advantages(rewards: Tensor, valid: Tensor, *, normalize: bool, eps: float = 1e-6) -> Tensor:
    """GRPO's advantages, A_i = (r_i - mean) / (std + eps) within a group (Shao et al. 2024, arXiv 2402.03300, eq. 3).

    The standard deviation is the unbiased one over the group's valid samples. Without `normalize` it is Dr. GRPO's
    A_i = r_i - mean (Liu et al. 2025, arXiv 2503.20783).

    Args:
        rewards: [groups, group size]; entries that are not valid are never read.
        valid: [groups, group size], False where a reward is missing.

    Returns:
        [groups, group size]; 0 where not valid, where the group is constant, and in a group of one valid sample.
    """
    mask = valid.to(rewards.dtype)
    count = mask.sum(-1, keepdim=True)
    values = torch.where(valid, rewards, torch.zeros_like(rewards))
    mean = values.sum(-1, keepdim=True) / count.clamp_min(1)
    centred = (values - mean) * mask
    if not normalize:
        return centred
    # Two passes: E[r^2] - E[r]^2 cancels for large rewards.
    std = (centred.square().sum(-1, keepdim=True) / (count - 1).clamp_min(1)).sqrt()
    return torch.where(std > eps, centred / (std + eps), torch.zeros_like(centred))


def leave_one_out_advantages(rewards: Tensor, valid: Tensor) -> Tensor:
    """RLOO's advantages: each reward less the mean of the group's other ones (Ahmadian et al. 2024, arXiv 2402.14740).

    That is G / (G - 1) (r_i - mean) over the G valid samples; shapes and zeros are those of `group_advantages`.
    """
    count = valid.sum(-1, keepdim=True).to(rewards.dtype)
    return group_advantages(rewards, valid, normalize=False) * count / (count - 1).clamp_min(1)


def whiten_tokens(advantages: Tensor, mask: Tensor) -> Tensor:
    """Advantages to mean 0 and variance 1 over the entries that count (REINFORCE++, arXiv 2501.03262).

    The variance is the population's, clamped at 1e-8, so that equal advantages become 0. The statistics are those of
    what is passed: tensors that are divided among ranks have to be gathered first.

    Args:
        advantages: [sequences, positions] of tokens, or [groups, group size] of samples.
        mask: of the same shape, 1 where the entry counts, else 0; or how often it counts. Entries at 0 are never read.

    Returns:
        of the same shape; 0 where the mask is.
    """
    weight = mask.to(advantages.dtype)
    counted = weight > 0
    zeros = torch.zeros_like(advantages)
    total = weight.sum().clamp_min(1)
    mean = (torch.where(counted, advantages, zeros) * weight).sum() / total
    centred = torch.where(counted, advantages - mean, zeros)
    variance = (centred.square() * weight).sum() / total
    return centred / variance.clamp_min(1e-8).sqrt()


def whiten_over_tokens(advantages: Tensor, valid: Tensor, lengths: Tensor) -> Tensor:
    """`whiten_tokens` of responses whose tokens all carry the response's advantage, without spreading them out.

    Args:
        advantages: [groups, group size], such as rewards less their group's mean.
        valid: [groups, group size]; others stay 0.
        lengths: [groups, group size], response tokens; a response without any stays 0.

    Returns:
        [groups, group size].
    """
    return whiten_tokens(advantages, lengths * valid)


@torch.no_grad()
def kl_in_reward(advantages: Tensor, logprobs: Tensor, reference: Tensor, mask: Tensor, coef: float) -> Tensor:
    """Charges every token its own k1 estimate of the divergence: A_t - coef * (log policy_t - log reference_t).

    The penalty of REINFORCE++ (arXiv 2501.03262), to be taken off before `whiten_tokens`. The paper charges a token the
    estimates of all later ones too; here it pays for itself alone, which on policy has the gradient of k2 in the loss.

    Args:
        advantages: [sequences, positions].
        logprobs, reference: [sequences, positions], of the sampled tokens under policy and reference.
        mask: [sequences, positions], 1 where the token counts; others are never read.
        coef: weight of the divergence.

    Returns:
        [sequences, positions], constants; 0 where the token does not count.
    """
    charged = advantages - coef * kl_estimate("k1", logprobs, reference)
    return torch.where(mask > 0, charged, torch.zeros_like(charged))


def per_task_advantages(advantages: Tensor, valid: Tensor, tasks: Tasks, eps: float = 1e-6) -> Tensor:
    """Divides by the standard deviation of the task instead of the group's, so that every task contributes alike.

    The deviation is pooled over the task's groups, sqrt(sum A^2 / (samples - groups)), unbiased because each group's
    mean has been taken off; a task of one group gets `group_advantages`. The mean square of a task's advantages is then
    that of any other one's, however its rewards are scaled and however many of its groups are constant; within the task
    a group counts by how much its rewards differ. A task with one informative group among many therefore pushes
    hard with that one.

    Args:
        advantages: [groups, group size], rewards less their group's mean (`group_advantages` without `normalize`).
        valid: [groups, group size]; others are never read.
        tasks: the task of each group.

    Returns:
        [groups, group size]; 0 where not valid, and in a task none of whose groups varies.

    Raises:
        ValueError: there are not as many tasks as groups.
    """
    values = torch.where(valid, advantages, torch.zeros_like(advantages))
    out = torch.zeros_like(values)
    for rows in _rows(tasks, advantages).values():
        counts = valid[rows].sum(-1)
        freedom = (counts.sum() - (counts > 0).sum()).clamp_min(1)
        std = (values[rows].square().sum() / freedom).sqrt()
        out[rows] = torch.where(std > eps, values[rows] / (std + eps), out[rows])
    return out


def component_advantages(components: Mapping[str, Tensor], weights: Mapping[str, float], valid: Tensor) -> Tensor:
    """GDPO's advantages: each component of the reward against its own group, their weighted sum, whitened.

    Summing rewards first makes different verdicts alike: of two binary components, a group of 0 and 1 gets the
    advantages of a group of 0 and 2. Whitening is over the batch's valid samples, so only the proportions of the
    weights matter.

    Args:
        components: by name, [groups, group size] each.
        weights: of the components, by the same names.
        valid: [groups, group size]; others are never read.

    Returns:
        [groups, group size]; 0 where not valid.

    Raises:
        ValueError: the names differ, or there are none.
    """
    if not components or components.keys() != weights.keys():
        raise ValueError(
            f"reward components {sorted(components)} with weights for {sorted(weights)}: name the same ones in both, "
            "at least one"
        )
    parts = [weights[name] * group_advantages(rewards, valid, normalize=True) for name, rewards in components.items()]
    return whiten_tokens(torch.stack(parts).sum(0), valid)


def task_medians(rewards: Tensor, valid: Tensor, tasks: Tasks) -> dict[Task, float]:
    """Each task's median valid reward, the centres of `logistic_rewards`; estimate them once, with the starting model.

    Args:
        rewards: [groups, group size].
        valid: [groups, group size]; others are never read.
        tasks: the task of each group.

    Returns:
        by task, the middle value or the mean of the two middle ones; a task without a valid reward is left out.

    Raises:
        ValueError: there are not as many tasks as groups.
    """
    held = {task: rewards[rows][valid[rows]] for task, rows in _rows(tasks, rewards).items()}
    return {task: float(values.quantile(0.5)) for task, values in held.items() if len(values)}


def logistic_rewards(
    rewards: Tensor, valid: Tensor, tasks: Tasks, centres: Mapping[Any, float], scale: float = 0.25
) -> Tensor:
    """MedGRPO's rewards, 1 / (1 + exp(-(r - centre of the task) / scale)) (Su et al. 2025, arXiv 2512.06581).

    Every task's median becomes 0.5, so that easy tasks do not drown hard ones. The scale is the distance in reward from
    the centre at which the result is 0.73; our default of 0.25 suits rewards from 0 to 1, whose ends it maps to 0.12
    and 0.88 around a centre of 0.5. Rewards more than about 17 scales above the centre are equal to one another in
    float32. A reward of two values keeps two, so the advantages of GRPO, which divides by the group's deviation, do not
    change.

    Args:
        rewards: [groups, group size].
        valid: [groups, group size]; others are never read.
        tasks: the task of each group.
        centres: the median of each task, see `task_medians`; fixed over training, or progress would be invisible.
        scale: above 0.

    Returns:
        [groups, group size] in (0, 1); 0 where not valid.

    Raises:
        ValueError: a task has no centre, or there are not as many tasks as groups.
    """
    out = torch.zeros_like(rewards)
    for task, rows in _rows(tasks, rewards).items():
        if task not in centres:
            raise ValueError(
                f"task {task!r} has no centre, only {sorted(map(str, centres))} have: estimate it with task_medians"
            )
        mapped = torch.sigmoid((rewards[rows] - centres[task]) / scale)
        out[rows] = torch.where(valid[rows], mapped, out[rows])
    return out


def _rows(tasks: Tasks, table: Tensor) -> dict[Task, list[int]]:
    """The rows of each task, in order of appearance."""
    labels: list[Task] = tasks.tolist() if isinstance(tasks, Tensor) else list(tasks)
    if len(labels) != len(table):
        raise ValueError(f"{len(labels)} tasks for {len(table)} groups: give each group its task")
    rows: dict[Task, list[int]] = {}
    for row, label in enumerate(labels):
        rows.setdefault(label, []).append(row)
    return rows


def informative(rewards: Tensor, valid: Tensor, eps: float = 1e-6) -> Tensor:
    """Which groups teach anything: those whose valid rewards differ. [groups, group size] -> [groups] bool."""
    low = torch.where(valid, rewards, torch.full_like(rewards, torch.inf)).amin(-1)
    high = torch.where(valid, rewards, torch.full_like(rewards, -torch.inf)).amax(-1)
    return high - low > eps
