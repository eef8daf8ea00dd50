"""Log-probabilities and entropy from logits whose vocabulary is divided over the tensor parallel group."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _TokenLogProbs(torch.autograd.Function):
    """log softmax(logits / T)[target] and the entropy of softmax(logits / T), both with gradient."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: Tensor, temperature: float, valid: int, group: Any
    ) -> tuple[Tensor, Tensor]:
        scaled = logits.float() / temperature
        width = scaled.shape[-1]
        first = dist.get_rank(group) * width
        if first + width > valid:
            scaled[..., max(0, valid - first) :] = float("-inf")
        peak = scaled.amax(-1)
        dist.all_reduce(peak, dist.ReduceOp.MAX, group=group)
        scaled -= peak[..., None]
        weights = scaled.exp()
        local = targets - first
        here = (local >= 0) & (local < width)
        local = local.clamp(0, width - 1)
        target = scaled.gather(-1, local[..., None])[..., 0].masked_fill(~here, 0.0)
        # exp(-inf) * -inf is nan: padding rows carry no probability and no entropy.
        spread = (weights * scaled.clamp_min(-1e4)).sum(-1)
        sums = torch.stack((weights.sum(-1), target, spread))
        dist.all_reduce(sums, group=group)
        total, target, spread = sums
        log_total = total.log()
        probabilities = weights.div_(total[..., None])
        entropy = log_total - spread / total
        ctx.save_for_backward(probabilities, local, here, entropy)
        ctx.temperature, ctx.dtype = temperature, logits.dtype
        # A loss without an entropy bonus sends no gradient that way, and should not pay for zeros.
        ctx.set_materialize_grads(False)
        return target - log_total, entropy

    @staticmethod
    def backward(
        ctx: Any, grad: Tensor | None, grad_entropy: Tensor | None
    ) -> tuple[Tensor | None, None, None, None, None]:
        probabilities, local, here, entropy = ctx.saved_tensors
        gradient = torch.zeros_like(probabilities)
        if grad is not None:
            # d logprob / d logit = (onehot - p) / T
            scale = (grad / ctx.temperature)[..., None]
            gradient = probabilities * -scale
            gradient.scatter_add_(-1, local[..., None], torch.where(here[..., None], scale, torch.zeros_like(scale)))
        if grad_entropy is not None:
            # d entropy / d logit = -p (log p + entropy) / T
            scale = (grad_entropy / ctx.temperature)[..., None]
            logs = probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()
            gradient -= scale * probabilities * (logs + entropy[..., None])
        return gradient.to(ctx.dtype), None, None, None, None


def token_logprobs(
    logits: Tensor, targets: Tensor, *, temperature: float, valid: int, group: Any
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target and entropy at its position, in nats, over the whole vocabulary.

    Args:
        logits: [..., vocabulary / tensor parallel size], this rank's part.
        targets: [...], token ids of the whole vocabulary.
        temperature: logits are divided by it first, as in sampling.
        valid: vocabulary size without padding; padded entries get no probability.
        group: the tensor parallel group.

    Returns:
        log-probabilities and entropies, both differentiable, [...] in float32.
    """
    return _TokenLogProbs.apply(logits, targets, temperature, valid, group)
