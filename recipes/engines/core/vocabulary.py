"""Log-probabilities and entropy of given tokens, from hidden states and an output matrix divided over ranks.

The product with the output matrix, the softmax and their gradients are taken in chunks of tokens, and again in the
backward pass, so that logits of a whole micro-batch never exist: at 128 thousand entries they would be the largest
tensor of a training step. Only where they all fit into one chunk are the probabilities kept for the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from recipes.engines.core.products import float32_product

# Float32 logits held at once: 64 MiB.
_CHUNK_ELEMENTS = 2**24


class _TokenLogProbs(torch.autograd.Function):
    """log softmax(h W^T / T)[target] and the entropy of softmax(h W^T / T), both with gradient."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, valid: int, group: Any
    ) -> tuple[Tensor, Tensor]:
        width, first = len(weight), dist.get_rank(group) * len(weight)
        divided = dist.get_world_size(group) > 1
        local = targets - first
        here = (local >= 0) & (local < width)
        local = local.clamp(0, width - 1)
        logprobs, entropy, normalizer = (torch.zeros(len(hidden), device=hidden.device) for _ in range(3))
        chunks, kept = _chunks(len(hidden), width), None
        for rows in chunks:
            scaled = _scaled_logits(hidden[rows], weight, temperature, valid - first)
            peak = scaled.amax(-1)
            if divided:
                dist.all_reduce(peak, dist.ReduceOp.MAX, group=group)
            scaled -= peak[:, None]
            target = scaled.gather(-1, local[rows, None])[:, 0].masked_fill(~here[rows], 0.0)
            weights = scaled.exp()
            # exp(-inf) * -inf is nan: padding carries no probability and no entropy.
            spread = (weights * scaled.clamp_min_(-1e4)).sum(-1)
            sums = torch.stack((weights.sum(-1), target, spread))
            if divided:
                dist.all_reduce(sums, group=group)
            total, target, spread = sums
            log_total = total.log()
            logprobs[rows], entropy[rows] = target - log_total, log_total - spread / total
            normalizer[rows] = peak + log_total
            if len(chunks) == 1:
                kept = weights.div_(total[:, None])
        ctx.save_for_backward(hidden, weight, local, here, entropy, normalizer, kept)
        ctx.temperature, ctx.valid = temperature, valid - first
        # A loss without an entropy bonus sends no gradient that way, and should not pay for zeros.
        ctx.set_materialize_grads(False)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, grad_entropy: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, local, here, entropy, normalizer, kept = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        # Chunks add up in float32, whatever the parameters' precision.
        grad_weight = torch.zeros(weight.shape, device=weight.device)
        for rows in _chunks(len(hidden), len(weight)):
            shares, own = kept, None
            if shares is None:
                logits = _scaled_logits(hidden[rows], weight, ctx.temperature, ctx.valid)
                shares = own = logits.sub_(normalizer[rows, None]).exp_()
            if grad_entropy is not None:
                # d entropy / d logit = -p (log p + entropy) / T
                scale = (grad_entropy[rows] / ctx.temperature)[:, None]
                d_logits = shares.log().clamp_min_(-1e4).add_(entropy[rows, None]).mul_(shares).mul_(-scale)
                if grad is not None:
                    d_logits.addcmul_(shares, (-grad[rows] / ctx.temperature)[:, None])
            else:
                assert grad is not None
                d_logits = torch.mul(shares, (-grad[rows] / ctx.temperature)[:, None], out=own)
            if grad is not None:
                # d logprob / d logit = (onehot - p) / T
                ones = torch.where(here[rows], grad[rows] / ctx.temperature, torch.zeros_like(grad[rows]))
                d_logits.scatter_add_(-1, local[rows, None], ones[:, None])
            d_logits = d_logits.to(hidden.dtype)
            torch.mm(d_logits, weight, out=grad_hidden[rows])
            grad_weight += float32_product(d_logits.t(), hidden[rows])
        return grad_hidden, grad_weight.to(weight.dtype), None, None, None, None


def _chunks(tokens: int, width: int) -> list[slice]:
    size = max(1, _CHUNK_ELEMENTS // width)
    return [slice(start, start + size) for start in range(0, tokens, size)]


def _scaled_logits(hidden: Tensor, weight: Tensor, temperature: float, valid: int) -> Tensor:
    """Float32 logits of one chunk over the temperature; -inf at padded entries, which begin at `valid`."""
    logits = float32_product(hidden, weight.t())
    if temperature != 1:
        logits /= temperature
    if valid < len(weight):
        logits[:, max(0, valid) :] = float("-inf")
    return logits


def token_logprobs(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, temperature: float, valid: int, group: Any
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target and entropy at its position, in nats, over the whole vocabulary.

    Args:
        hidden: [tokens, hidden size], the same on every rank of the group; its gradient is this rank's part of a sum.
        weight: [vocabulary / tensor parallel size, hidden size], this rank's part of the output matrix.
        targets: [tokens], token ids of the whole vocabulary.
        temperature: logits are divided by it first, as in sampling.
        valid: vocabulary size without padding; padded entries get no probability.
        group: the tensor parallel group.

    Returns:
        log-probabilities and entropies, both differentiable, [tokens] in float32.
    """
    return _TokenLogProbs.apply(hidden, weight, targets, temperature, valid, group)
