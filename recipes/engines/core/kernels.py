"""Attention over a packed row: two calls of a kernel, over own and over shared keys, joined to one softmax.

A softmax over both is the mean of the two, weighted by their sums of exponentials, which kernels return as logarithms;
and a kernel's gradient, given the joined output and log-sum-exp, is its part of the whole one, as in ring attention
(Liu et al. 2023, arXiv:2310.01889). Three kernels: FlashAttention with cumulated lengths on a GPU in half precision;
torch's for the CPU on padded blocks; scores written out on padded blocks for float32 on a GPU, where torch has none for
fewer key heads than query heads: for small models and comparisons. No FlexAttention: it is compiled, and again for new
shapes, and all that its mask would skip is not there in the first place. Left out: dropout, context parallelism.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from recipes.engines.base import EngineError
from recipes.engines.core.pieces import Block, Part

_aten = torch.ops.aten


class Kernel(Protocol):
    """softmax(Q K^T scale) V piece by piece; queries [tokens, heads, d], keys and values [tokens, key heads, d]."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor, part: Part, scale: float) -> tuple[Tensor, Tensor]:
        """Output as the queries, and the log-sum-exp of the scores, [heads, tokens] in float32."""
        ...

    def backward(
        self,
        grad: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        out: Tensor,
        lse: Tensor,
        part: Part,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of query, key and value, given the output's, by the whole output and log-sum-exp."""
        ...


class Flash:
    """FlashAttention-2 of torch (Dao 2023, arXiv:2307.08691): no padding, any number of query heads a key head."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor, part: Part, scale: float) -> tuple[Tensor, Tensor]:
        """See `Kernel.forward`."""
        out, lse, *_ = _aten._flash_attention_forward(
            query, key, value, *self._pieces(part), 0.0, part.causal, False, scale=scale
        )
        if lse.shape != query.shape[1::-1]:
            raise EngineError(
                f"torch {torch.__version__}: FlashAttention gave log-sum-exps of shape {tuple(lse.shape)}, expected "
                f"{tuple(query.shape[1::-1])}, (heads, tokens); use another version of torch"
            )
        return out, lse

    def backward(
        self,
        grad: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        out: Tensor,
        lse: Tensor,
        part: Part,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `Kernel.backward`."""
        # The state of random numbers that a dropout would have drawn from.
        state = torch.zeros(2, dtype=torch.uint64, device=query.device), torch.empty(0, device=query.device)
        grads: tuple[Tensor, Tensor, Tensor] = _aten._flash_attention_backward(
            grad, query, key, value, out, lse, *self._pieces(part), 0.0, part.causal, *state, scale=scale
        )
        return grads

    @staticmethod
    def _pieces(part: Part) -> tuple[Tensor, Tensor, int, int]:
        # At one query a piece the kernel would lay the heads of a group out as if they were a sequence.
        return part.query_ends, part.key_ends, max(2, part.longest_query), part.longest_key


class _Blocks(ABC):
    """Pads pieces of about one length to blocks [rows, heads, columns, d], one call a block."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor, part: Part, scale: float) -> tuple[Tensor, Tensor]:
        """See `Kernel.forward`."""
        out, lse = torch.empty_like(query), query.new_empty(query.shape[1::-1], dtype=torch.float32)
        for block in part.blocks:
            own = _rows(query, block.queries), _rows(key, block.keys), _rows(value, block.keys)
            block_out, block_lse = self._attend(*own, _hidden(block, query), part.causal, scale)
            out.index_copy_(0, block.tokens, _tokens(block_out, block.cells))
            lse[:, block.tokens] = block_lse.transpose(0, 1).flatten(1)[:, block.cells]
        return out, lse

    def backward(
        self,
        grad: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        out: Tensor,
        lse: Tensor,
        part: Part,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `Kernel.backward`."""
        grads = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        for block in part.blocks:
            own = _rows(query, block.queries), _rows(key, block.keys), _rows(value, block.keys)
            # Padded cells repeat a query, and nothing came back for them.
            block_grad = _rows(grad, block.queries).masked_fill_(block.padded, 0.0)
            block_lse = lse[:, block.queries].transpose(0, 1)
            found = self._gradients(
                block_grad, *own, _rows(out, block.queries), block_lse, _hidden(block, query), part.causal, scale
            )
            places = (
                (block.tokens, block.cells),
                (block.key_tokens, block.key_cells),
                (block.key_tokens, block.key_cells),
            )
            for whole, piece, (tokens, cells) in zip(grads, found, places, strict=True):
                whole.index_copy_(0, tokens, _tokens(piece, cells))
        return grads

    @abstractmethod
    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, hidden: Tensor | None, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor]:
        """Output and log-sum-exp of one block; `hidden` is added to the scores."""

    @abstractmethod
    def _gradients(
        self,
        grad: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        out: Tensor,
        lse: Tensor,
        hidden: Tensor | None,
        causal: bool,
        scale: float,
    ) -> Sequence[Tensor]:
        """Gradients of one block's query, key and value."""


class CpuBlocks(_Blocks):
    """torch's FlashAttention for the CPU."""

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, hidden: Tensor | None, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor]:
        out, lse = _aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, causal, attn_mask=hidden, scale=scale
        )
        return out, lse

    def _gradients(
        self,
        grad: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        out: Tensor,
        lse: Tensor,
        hidden: Tensor | None,
        causal: bool,
        scale: float,
    ) -> Sequence[Tensor]:
        found: Sequence[Tensor] = _aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, query, key, value, out, lse, 0.0, causal, attn_mask=hidden, scale=scale
        )
        return found


class PlainBlocks(_Blocks):
    """Scores and probabilities written out, in float32."""

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, hidden: Tensor | None, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor]:
        key, value = _repeated(key, query), _repeated(value, query)
        scores = _scores(query, key, hidden, causal, scale)
        lse = scores.logsumexp(-1)
        return (scores - lse[..., None]).exp_() @ value, lse

    def _gradients(
        self,
        grad: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        out: Tensor,
        lse: Tensor,
        hidden: Tensor | None,
        causal: bool,
        scale: float,
    ) -> Sequence[Tensor]:
        groups = key.shape[1]
        key, value = _repeated(key, query), _repeated(value, query)
        shares = (_scores(query, key, hidden, causal, scale) - lse[..., None]).exp_()
        of_shares = grad @ value.transpose(-1, -2) - (grad * out).sum(-1, keepdim=True)
        of_scores = of_shares.mul_(shares).mul_(scale)
        of_key, of_value = (
            x.unflatten(1, (groups, -1)).sum(2)
            for x in (of_scores.transpose(-1, -2) @ query, shares.transpose(-1, -2) @ grad)
        )
        return of_scores @ key, of_key, of_value


def _scores(query: Tensor, key: Tensor, hidden: Tensor | None, causal: bool, scale: float) -> Tensor:
    scores = (query * scale) @ key.transpose(-1, -2)
    if causal:
        scores.masked_fill_(torch.ones(scores.shape[-2:], dtype=torch.bool, device=key.device).triu(1), float("-inf"))
    return scores if hidden is None else scores + hidden


def _repeated(x: Tensor, query: Tensor) -> Tensor:
    """Key heads [rows, key heads, columns, d] once for each query head."""
    return x.repeat_interleave(query.shape[1] // x.shape[1], dim=1)


def _rows(x: Tensor, tokens: Tensor) -> Tensor:
    """[tokens, heads, d] as a block [rows, heads, columns, d]."""
    return x.index_select(0, tokens.flatten()).view(*tokens.shape, *x.shape[1:]).transpose(1, 2)


def _tokens(block: Tensor, cells: Tensor) -> Tensor:
    """The tokens [cells, heads, d] of a block [rows, heads, columns, d]."""
    return block.transpose(1, 2).flatten(0, 1).index_select(0, cells)


def _hidden(block: Block, query: Tensor) -> Tensor | None:
    """What is added to a block's scores: -inf at padded keys."""
    if block.hidden is None:
        return None
    return torch.zeros(block.hidden.shape, dtype=query.dtype, device=query.device).masked_fill_(
        block.hidden, float("-inf")
    )


def kernel_for(query: Tensor) -> Kernel:
    """The kernel for these queries' device and precision."""
    if not query.is_cuda:
        return CpuBlocks()
    return Flash() if query.dtype in (torch.bfloat16, torch.float16) else PlainBlocks()


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        parts: tuple[Part, Part | None],
        scale: float,
        kernel: Kernel,
    ) -> Tensor:
        own, shared = parts
        out, lse = kernel.forward(query[own.queries], key[own.keys], value[own.keys], own, scale)
        if shared is not None:
            part = shared.queries
            more, more_lse = kernel.forward(query[part], key[shared.keys], value[shared.keys], shared, scale)
            joined = torch.logaddexp(lse[:, part], more_lse)
            weights = (more_lse - joined).exp_().t()[:, :, None]
            out[part] = torch.lerp(out[part].float(), more.float(), weights).to(out.dtype)
            lse[:, part] = joined
        result = _lengthened(out, len(query))
        ctx.save_for_backward(query, key, value, result, lse)
        ctx.parts, ctx.scale, ctx.kernel = parts, scale, kernel
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, result, lse = ctx.saved_tensors
        grad = grad.contiguous()

        def found(part: Part) -> tuple[Tensor, Tensor, Tensor]:
            q, k = part.queries, part.keys
            own = grad[q], query[q], key[k], value[k], result[q], lse[:, q].contiguous()
            gradients: tuple[Tensor, Tensor, Tensor] = ctx.kernel.backward(*own, part, ctx.scale)
            return gradients

        own, shared = ctx.parts
        grads = [_lengthened(x, len(query)) for x in found(own)]
        if shared is not None:
            places = shared.queries, shared.keys, shared.keys
            for whole, place, piece in zip(grads, places, found(shared), strict=True):
                whole[place] += piece
        return *grads, None, None, None


def _lengthened(x: Tensor, tokens: int) -> Tensor:
    """x [fewer tokens, heads, d] with zeros at its end; itself where none are wanted."""
    return x if len(x) == tokens else pad(x, (0, 0, 0, 0, 0, tokens - len(x)))


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    parts: tuple[Part, Part | None],
    scale: float,
    kernel: Kernel | None = None,
) -> Tensor:
    """Attention of a packed row with its gradient.

    Args:
        query: [tokens, heads, d].
        key, value: [tokens, key heads, d]; key heads divide heads.
        parts: of the row, from `pieces.lay_out`.
        scale: of the scores.
        kernel: another than the one that fits device and precision.

    Returns:
        [tokens, heads, d]; 0 at tokens that do not count.
    """
    result: Tensor = _Attend.apply(query, key, value, parts, scale, kernel or kernel_for(query))
    return result
