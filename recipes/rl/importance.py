"""Weights that correct for a sampler that computes other probabilities than the trainer, and how far apart they are.

An inference engine samples with its own kernels, precision and weights' layout, so its log-probabilities of a token
differ from the trainer's of the same policy; without a correction the update is off-policy unnoticed. The weight
multiplies a token's policy loss, beside the clipped ratio, which answers for updates since the rollout.

Left out: leaving whole responses out before the loss' denominators are counted (that is a mask), and weights with the
product of a response's ratios (their variance grows with its length).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

ImportanceKind = Literal["none", "truncated", "masked", "sequence_masked"]


def _log_ratio(trainer: Tensor, sampler: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Which tokens count, which of them have a finite log-ratio, and it, clamped to [-20, 20]; 0 for all others."""
    counted = mask > 0
    difference = trainer - sampler
    usable = counted & difference.isfinite()
    return counted, usable, torch.where(usable, difference, torch.zeros_like(difference)).clamp(-20, 20)


def _within(ratio: Tensor, low: float, high: float) -> Tensor:
    return (ratio >= low) & (ratio <= high)


@torch.no_grad()
def importance_weights(
    kind: ImportanceKind, trainer: Tensor, sampler: Tensor, mask: Tensor, *, low: float, high: float
) -> Tensor:
    """Weights w of the tokens' policy loss from rho = p_trainer / p_sampler; constants, without gradient.

    - none: w = 1.
    - truncated: w = clamp(rho, low, high), truncated importance sampling (Yao et al. 2025, "Your Efficient RL Framework
      Secretly Brings You Off-Policy RL Training"); low is 0 and high 2 or 3.
    - masked: w = rho within [low, high], otherwise 0 (IcePop; Ling team 2025, the Ring-1T report); 0.5 and 5.
    - sequence_masked: w = rho of every token of a response whose geometric mean of rho is within [low, high], otherwise
      0 for the whole response; 0.999 and 1.002. A mean over tokens moves little, hence the narrow range.

    Args:
        kind: which of them.
        trainer: [sequences, positions], the trainer's log-probabilities of the sampled tokens before the first update.
        sampler: [sequences, positions], the sampler's of the same tokens, at the temperature it sampled with.
        mask: [sequences, positions], 1 where the token counts; others are never read.
        low, high: bounds of rho, low <= high; none reads neither them nor the log-probabilities.

    Returns:
        [sequences, positions]; 0 where the token does not count. Where the log-ratio is nan or infinite the token's
        weight is 0, and with sequence_masked its response's.
    """
    counted, usable, log_ratio = _log_ratio(trainer, sampler, mask)
    ratio = log_ratio.exp()
    if kind == "none":
        weights, kept = torch.ones_like(ratio), counted
    elif kind == "truncated":
        weights, kept = ratio.clamp(low, high), usable
    elif kind == "masked":
        weights, kept = ratio, usable & _within(ratio, low, high)
    else:
        lengths = counted.sum(-1, keepdim=True).clamp_min(1)
        mean = (log_ratio.sum(-1, keepdim=True) / lengths).exp()
        sound = (usable | ~counted).all(-1, keepdim=True)
        weights, kept = ratio, counted & sound & _within(mean, low, high)
    return torch.where(kept, weights, torch.zeros_like(weights))


@torch.no_grad()
def mismatch_sums(trainer: Tensor, sampler: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """How far trainer and sampler are apart, as sums over tokens that add up over micro-batches and ranks.

    Divide each by `tokens`. With d = log p_trainer - log p_sampler and rho = e^d, shapes as in `importance_weights`:

    - token_mult_prob_error: e^|d|; below 1.05 for engines that agree.
    - gen_kl: e^d - 1 - d, the k3 estimate (Schulman 2020) of KL(sampler || trainer); below 1e-3.
    - policy_kl: e^-d - 1 + d, the same with the two exchanged; below 1e-3. On the sampler's tokens it estimates no
      divergence, but it is what sees tokens that the trainer finds far less likely.
    - js: (rho log(p_trainer / m) + log(p_sampler / m)) / 2 with m = (p_trainer + p_sampler) / 2, whose mean is the
      Jensen-Shannon divergence; below 1e-3.
    - ratio: rho; near 1.
    - tokens: those that count and have a finite d, which are the ones in the other sums.
    - not_finite: those that count and have none; 0 unless something is broken.
    """
    counted, usable, d = _log_ratio(trainer, sampler, mask)
    ratio = d.exp()
    over_mixture = math.log(2) - torch.nn.functional.softplus(d)  # log p_sampler / m
    # expm1: where engines nearly agree, e^d - 1 - d has no correct digit in float32.
    each = {
        "token_mult_prob_error": d.abs().exp(),
        "gen_kl": torch.expm1(d) - d,
        "policy_kl": torch.expm1(-d) + d,
        "js": (ratio * (d + over_mixture) + over_mixture) / 2,
        "ratio": ratio,
        "tokens": torch.ones_like(d),
    }
    sums = {name: torch.where(usable, value, torch.zeros_like(value)).sum() for name, value in each.items()}
    return sums | {"not_finite": (counted & ~usable).sum().to(d.dtype)}


@torch.no_grad()
def out_of_range(trainer: Tensor, sampler: Tensor, mask: Tensor, low: float, high: float) -> Tensor:
    """Tokens that count and whose own ratio is not within [low, high] or not finite; adds up like `mismatch_sums`."""
    counted, usable, log_ratio = _log_ratio(trainer, sampler, mask)
    return (counted & ~(usable & _within(log_ratio.exp(), low, high))).sum().to(log_ratio.dtype)
