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


def informative(rewards: Tensor, valid: Tensor, eps: float = 1e-6) -> Tensor:
    """Which groups teach anything: those whose valid rewards differ. [groups, group size] -> [groups] bool."""
    low = torch.where(valid, rewards, torch.full_like(rewards, torch.inf)).amin(-1)
    high = torch.where(valid, rewards, torch.full_like(rewards, -torch.inf)).amax(-1)
    return high - low > eps
