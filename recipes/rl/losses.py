"""Losses on token log-probabilities, as sums over global denominators.

Every function takes what one micro-batch holds and divides by a count over the whole batch, so that micro-batches and
data parallel ranks add up to the same gradient however the batch is divided. Left out: sequence-level ratios (GSPO),
CISPO and dual clipping.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# Sums over the micro-batch, by name; the engine adds them up over micro-batches and ranks.
Sums = dict[str, Tensor]


@dataclass(frozen=True)
class TokenValues:
    """What a loss sees of a micro-batch; all are [sequences, positions] and position t belongs to token t + 1.

    Attributes:
        logprobs: of the current policy, with gradient.
        entropy: of the current policy's distribution, in nats.
        mask: 1 where the token belongs to a response that counts, else 0.
        advantages: of the token's response.
        old_logprobs: of the policy that sampled it.
        reference_logprobs: of the reference policy; zeros where there is none.
    """

    logprobs: Tensor
    entropy: Tensor
    mask: Tensor
    advantages: Tensor
    old_logprobs: Tensor
    reference_logprobs: Tensor


Loss = Callable[[TokenValues], tuple[Tensor, Sums]]


def clipped_objective(ratio: Tensor, advantages: Tensor, low: float, high: float) -> Tensor:
    """max(-A r, -A clip(r, 1 - low, 1 + high)) for every token (PPO, Schulman et al. 2017, eq. 7, negated)."""
    return torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - low, 1 + high))


def kl_k3(logprobs: Tensor, reference: Tensor) -> Tensor:
    """The k3 estimate of KL(policy || reference) on sampled tokens, exp(x) - 1 - x with x = log ref - log policy.

    Schulman's "Approximating KL divergence" (2020); GRPO eq. 4. x is clamped to [-20, 20] against overflow.
    """
    x = (reference - logprobs).clamp(-20, 20)
    return x.exp() - 1 - x


def grpo_loss(*, tokens: float, clip_low: float, clip_high: float, kl_coef: float) -> Loss:
    """The GRPO loss with token-level averaging (DAPO, Yu et al. 2025, arXiv 2503.14476, eq. 8).

    Args:
        tokens: response tokens that count in the whole batch, over all micro-batches and ranks.
        clip_low, clip_high: half-widths of the clip range.
        kl_coef: weight of the k3 estimate to the reference policy.

    Returns:
        a function from TokenValues to the micro-batch's share of the loss and its sums for the metrics.
    """

    def loss(values: TokenValues) -> tuple[Tensor, Sums]:
        log_ratio = (values.logprobs - values.old_logprobs).clamp(-20, 20)
        ratio = log_ratio.exp()
        objective = clipped_objective(ratio, values.advantages, clip_low, clip_high)
        kl = kl_k3(values.logprobs, values.reference_logprobs) if kl_coef else torch.zeros_like(ratio)
        total = ((objective + kl_coef * kl) * values.mask).sum() / tokens
        with torch.no_grad():
            outside = (ratio < 1 - clip_low) & (values.advantages < 0) | (ratio > 1 + clip_high) & (
                values.advantages > 0
            )
            sums = {
                "loss": total.detach() * tokens,
                "kl": (kl * values.mask).sum(),
                "entropy": (values.entropy * values.mask).sum(),
                "clipped": (outside * values.mask).sum(),
                "prob_error": (log_ratio.abs().exp() * values.mask).sum(),
                "tokens": values.mask.sum(),
            }
        return total, sums

    return loss


def supervised_loss(*, tokens: float) -> Loss:
    """Mean negative log-likelihood of the response tokens; `tokens` counts them over the whole batch."""

    def loss(values: TokenValues) -> tuple[Tensor, Sums]:
        total = -(values.logprobs * values.mask).sum() / tokens
        sums = {
            "loss": total.detach() * tokens,
            "entropy": (values.entropy * values.mask).sum().detach(),
            "tokens": values.mask.sum(),
        }
        return total, sums

    return loss
