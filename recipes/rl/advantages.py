"""Advantages from the rewards of a group: one prompt's responses are each other's baseline."""

from __future__ import annotations

import torch
from torch import Tensor


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


def whiten_over_tokens(advantages: Tensor, valid: Tensor, lengths: Tensor) -> Tensor:
    """Advantages to mean 0 and variance 1 over all response tokens of the batch (REINFORCE++, arXiv 2501.03262).

    Args:
        advantages: [groups, group size], such as rewards less their group's mean.
        valid: [groups, group size]; others stay 0.
        lengths: [groups, group size], response tokens, each of which carries its response's advantage.

    Returns:
        [groups, group size]; 0 everywhere when all are equal.
    """
    weight = lengths.to(advantages.dtype) * valid
    tokens = weight.sum().clamp_min(1)
    centred = advantages - (advantages * weight).sum() / tokens
    variance = (centred.square() * weight).sum() / tokens
    return centred * valid / variance.clamp_min(1e-8).sqrt()


def informative(rewards: Tensor, valid: Tensor, eps: float = 1e-6) -> Tensor:
    """Which groups teach anything: those whose valid rewards differ. [groups, group size] -> [groups] bool."""
    low = torch.where(valid, rewards, torch.full_like(rewards, torch.inf)).amin(-1)
    high = torch.where(valid, rewards, torch.full_like(rewards, -torch.inf)).amax(-1)
    return high - low > eps
