"""Losses on token log-probabilities, as sums over global denominators.

Every function takes what one micro-batch holds and divides by a count over the whole batch, so that micro-batches and
data parallel ranks add up to the same gradient however the batch is divided.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

# Sums over the micro-batch, by name; the engine adds them up over micro-batches and ranks.
Sums = dict[str, Tensor]


@dataclass(frozen=True)
class TokenValues:
    """What a loss sees of a micro-batch; all are [sequences, positions] and position t belongs to token t + 1.

    Attributes:
        logprobs: of the current policy, with gradient.
        entropy: of the current policy's distribution, in nats, with gradient.
        mask: 1 where the token belongs to a response that counts, else 0.
        advantages: of the token's response.
        old_logprobs: of the policy before the update.
        weights: of the token in the policy gradient, constants; 1 where nothing is corrected.
        reference_logprobs: of the reference policy; zeros where there is none.
        positive: 1 at tokens of responses that are imitated as well; needed where `Objective.positive_coef` is set.
    """

    logprobs: Tensor
    entropy: Tensor
    mask: Tensor
    advantages: Tensor
    old_logprobs: Tensor
    weights: Tensor
    reference_logprobs: Tensor
    positive: Tensor | None = None


KlEstimator = Literal["k1", "k2", "k3"]
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


def kl_estimate(name: KlEstimator, logprobs: Tensor, reference: Tensor) -> Tensor:
    """Schulman's estimates of KL(policy || reference) on tokens of the policy, with x = log ref - log policy.

    k1 = -x is unbiased, but its gradient is zero on average: as a loss it holds nothing back, use it to watch.
    k2 = x^2 / 2 has the right gradient and a biased value; k3 = exp(x) - 1 - x is never negative and varies little.
    """
    if name == "k3":
        return kl_k3(logprobs, reference)
    x = (reference - logprobs).clamp(-20, 20)
    return -x if name == "k1" else x.square() / 2


@dataclass(frozen=True)
class Objective:
    """What a policy update maximises.

    Attributes:
        surrogate: clip, the clipped ratio times the advantage (PPO); or cispo, the clipped ratio as a constant weight
            of the log-probability (MiniMax-M1, arXiv 2506.13585), so that no token's gradient is cut off.
        ratio: of each token (PPO, GRPO), or the geometric mean over the response for all its tokens (GSPO, arXiv
            2507.18071, eq. 7).
        clip_low, clip_high: half-widths of the clip range; DAPO's clip-higher has the upper one wider.
        dual_clip: with a negative advantage the surrogate loss is at most this times it (Ye et al. 2020), above 1; None
            leaves it unbounded.
        kl_coef, kl_estimator: weight and estimate of the divergence from the reference policy.
        entropy_coef: weight of the entropy bonus.
        reduction: mean over the batch's tokens (DAPO), or over responses of the means over their tokens (GRPO's paper).
        positive_coef: weight of the mean negative log-likelihood of the tokens of correct responses (VAPO, arXiv
            2504.05118, eq. 7 and 8).
    """

    surrogate: Literal["clip", "cispo"] = "clip"
    ratio: Literal["token", "sequence"] = "token"
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float | None = None
    kl_coef: float = 0.0
    kl_estimator: KlEstimator = "k3"
    entropy_coef: float = 0.0
    reduction: Literal["token", "sequence"] = "token"
    positive_coef: float = 0.0


def policy_loss(objective: Objective, *, tokens: float, sequences: float, positives: float = 0.0) -> Loss:
    """The loss of a policy update.

    Args:
        objective: what to maximise.
        tokens: response tokens that count in the whole batch, over all micro-batches and ranks.
        sequences: responses that count in the whole batch.
        positives: tokens of the correct ones in the whole batch; with none nothing is imitated.

    Returns:
        a function from TokenValues, a response a row, to the micro-batch's share of the loss and its sums for the
        metrics.
    """
    low, high = objective.clip_low, objective.clip_high

    def loss(values: TokenValues) -> tuple[Tensor, Sums]:
        log_ratio = (values.logprobs - values.old_logprobs).clamp(-20, 20)
        lengths = values.mask.sum(-1, keepdim=True).clamp_min(1)
        if objective.ratio == "sequence":
            mean = (log_ratio * values.mask).sum(-1, keepdim=True) / lengths
            ratio = mean.exp().expand_as(log_ratio)
        else:
            ratio = log_ratio.exp()
        if objective.surrogate == "cispo":
            each = -values.advantages * ratio.detach().clamp(1 - low, 1 + high) * values.logprobs
        else:
            each = clipped_objective(ratio, values.advantages, low, high)
            if objective.dual_clip is not None:
                bound = -values.advantages * objective.dual_clip
                each = torch.where(values.advantages < 0, torch.minimum(each, bound), each)
        kl = torch.zeros_like(log_ratio)
        if objective.kl_coef:
            kl = kl_estimate(objective.kl_estimator, values.logprobs, values.reference_logprobs)
        each = each * values.weights + objective.kl_coef * kl
        if objective.entropy_coef:
            each = each - objective.entropy_coef * values.entropy
        weight = values.mask / tokens if objective.reduction == "token" else values.mask / (lengths * sequences)
        total = (each * weight).sum()
        if objective.positive_coef and positives:
            assert values.positive is not None
            total = total - objective.positive_coef * (values.logprobs * values.positive).sum() / positives
        with torch.no_grad():
            above, below = ratio > 1 + high, ratio < 1 - low
            gains = values.advantages > 0
            cut = above | below if objective.surrogate == "cispo" else above & gains | below & (values.advantages < 0)
            sums = {
                "loss": total.detach() * tokens,
                "kl": (kl * values.mask).sum(),
                "entropy": (values.entropy * values.mask).sum().detach(),
                "clipped": (cut * values.mask).sum(),
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


def value_loss(*, tokens: float, clip: float | None = None) -> Loss:
    """The loss of a critic: the mean over tokens of (V - G)^2 / 2, half of PPO's L^VF (Schulman et al. 2017, eq. 9).

    With `clip` it is max((V - G)^2, (V' - G)^2) / 2 where V' is V within `clip` of the value before the update, as in
    OpenAI's PPO2 (Engstrom et al. 2020, arXiv 2005.12729): a value that has already gone that far towards its target
    gets no gradient.

    A critic's passes give TokenValues that hold, of the state before each token, the value V in `logprobs`, the target
    G in `advantages` and the value before the update in `old_logprobs`. Nothing else but `mask` is read; `weights`
    correct the policy's gradient.

    Args:
        tokens: response tokens that count in the whole batch, over all micro-batches and ranks.
        clip: half-width, in the reward's unit; None for the plain squared error.

    Returns:
        a function from TokenValues to the micro-batch's share of the loss and its sums for the metrics.
    """

    def loss(values: TokenValues) -> tuple[Tensor, Sums]:
        # Elsewhere a table may hold anything; 0 times no number would be none, in the gradient too.
        value, target, old = (
            torch.where(values.mask > 0, table, torch.zeros_like(table))
            for table in (values.logprobs, values.advantages, values.old_logprobs)
        )
        plain = (value - target).square()
        error = plain
        if clip is not None:
            error = torch.maximum(plain, (value.clamp(old - clip, old + clip) - target).square())
        total = error.sum() / (2 * tokens)
        with torch.no_grad():
            sums = {
                "loss": total.detach() * tokens,
                "value": value.sum(),
                "target": target.sum(),
                "clipped": (error > plain).sum().to(value.dtype),
                "tokens": values.mask.sum(),
            }
        return total, sums

    return loss
