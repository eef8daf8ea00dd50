"""Core attention through torch's scaled_dot_product_attention: packed micro-batches, and a key-value cache to sample.

A drop-in `core_attention` of the layer spec, on CPU and GPU. megatron-core's own local attention materialises the
score matrix, and its static cache keeps keys before RoPE, rotating them all again for every token; here keys are cached
rotated. Transformer Engine's packed (thd) attention has no place for a prompt that several responses share. Left out:
context parallelism.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer.module import MegatronModule
from torch import Tensor, nn
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention


@dataclasses.dataclass
class KVCache:
    """Keys and values of one sampling batch.

    Attributes:
        keys, values: by layer number, each [rows, key-value heads, capacity, head dim].
        bias: [rows, 1, 1, capacity], 0 where a row may attend and -inf at its prompt's padding.
        length: positions filled so far, the same for every row.
    """

    keys: dict[int, Tensor] = dataclasses.field(default_factory=dict)
    values: dict[int, Tensor] = dataclasses.field(default_factory=dict)
    bias: Tensor | None = None
    length: int = 0

    def expand(self, copies: int, capacity: int, bias: Tensor) -> None:
        """Repeats every row `copies` times in place and makes room for `capacity` positions."""
        for store in (self.keys, self.values):
            for layer, old in store.items():
                new = old.new_empty(old.shape[0] * copies, old.shape[1], capacity, old.shape[3])
                new[:, :, : self.length] = old.repeat_interleave(copies, dim=0)
                store[layer] = new
        self.bias = bias

    def keep(self, rows: Tensor) -> None:
        """Drops all rows but the given ones."""
        for store in (self.keys, self.values):
            for layer, old in store.items():
                new = old.new_empty(len(rows), *old.shape[1:])
                new[:, :, : self.length] = old[:, :, : self.length][rows]
                store[layer] = new
        assert self.bias is not None
        self.bias = self.bias[rows]


class _Move(torch.autograd.Function):
    """out[target] = x[source] along dimension 0 of a new zeroed tensor; neither list may name a place twice.

    Its gradient is the same move backwards, where an indexed copy's would add up place by place.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, source: Tensor, target: Tensor, size: int) -> Tensor:
        ctx.save_for_backward(source, target)
        ctx.size = len(x)
        return x.new_zeros(size, *x.shape[1:]).index_copy_(0, target, x.index_select(0, source))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        source, target = ctx.saved_tensors
        back = grad.new_zeros(ctx.size, *grad.shape[1:]).index_copy_(0, source, grad.index_select(0, target))
        return back, None, None, None


@dataclasses.dataclass
class Packing(PackedSeqParams):
    """Who attends to whom in a row of packed tokens.

    Roots are sequences that see themselves alone: prompts, and sequences that share no prompt. The branches of a root
    are responses, which see it and themselves. For attention both are laid out as padded blocks, one of all roots and
    one of each root's branches. megatron-core hands it to core attention as it is, since it is none of its own formats.

    Attributes:
        positions: [tokens], of each token in its sequence, where a branch begins behind its root.
        tokens: [tokens that count], of the packed row.
        cells: [tokens that count], their places in the blocks, laid end to end.
        blocks: (rows, columns) of each block.
        prefixes: (root, its length) for each block of branches.
    """

    positions: Tensor = dataclasses.field(default_factory=lambda: torch.zeros(0))
    tokens: Tensor = dataclasses.field(default_factory=lambda: torch.zeros(0))
    cells: Tensor = dataclasses.field(default_factory=lambda: torch.zeros(0))
    blocks: tuple[tuple[int, int], ...] = ()
    prefixes: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(
        cls,
        positions: Tensor,
        roots: Sequence[tuple[int, int]],
        branches: Sequence[tuple[int, Sequence[tuple[int, int]]]],
        where: torch.device,
    ) -> Packing:
        """Lays out roots, each (start, length), and branches, each (number of the root, [(start, length)])."""
        tokens, cells, blocks, begin = [], [], [], 0
        for rows in (roots, *(rows for _, rows in branches)):
            columns = max((length for _, length in rows), default=0)
            for number, (start, length) in enumerate(rows):
                tokens.append(torch.arange(start, start + length))
                cells.append(begin + number * columns + torch.arange(length))
            blocks.append((len(rows), columns))
            begin += len(rows) * columns
        none = [torch.zeros(0, dtype=torch.long)]
        return cls(
            positions=positions.to(where),
            tokens=torch.cat(tokens or none).to(where),
            cells=torch.cat(cells or none).to(where),
            blocks=tuple(blocks),
            prefixes=tuple((root, roots[root][1]) for root, _ in branches),
        )

    def spread(self, x: Tensor) -> list[Tensor]:
        """Packed [tokens, heads, d] -> a block [rows, heads, columns, d] for the roots and for each root's branches."""
        sizes = [rows * columns for rows, columns in self.blocks]
        parts = _Move.apply(x, self.tokens, self.cells, sum(sizes)).split(sizes)
        return [part.view(*block, *x.shape[1:]).transpose(1, 2) for part, block in zip(parts, self.blocks, strict=True)]

    def gather(self, blocks: Sequence[Tensor]) -> Tensor:
        """The inverse of `spread`, as [tokens, heads * d]; 0 at tokens that do not count."""
        flat = torch.cat([block.transpose(1, 2).flatten(2).flatten(0, 1) for block in blocks])
        return _Move.apply(flat, self.cells, self.tokens, len(self.positions))


class SdpaAttention(MegatronModule):
    """softmax(Q K^T scale) V over [sequence, batch, heads, head dim] inputs, causal, with grouped queries.

    With `cache` set, a forward pass of one token a row appends to the cache and attends to all of it; a longer one (the
    prompt) fills it. Given a `Packing`, the batch is one packed row.
    """

    def __init__(
        self,
        config: Any,
        layer_number: int,
        attn_mask_type: Any,
        attention_type: str,
        attention_dropout: float | None = None,
        softmax_scale: float | None = None,
        **_: Any,
    ) -> None:
        super().__init__(config=config)
        self.layer_number = layer_number
        self.scale = softmax_scale or config.kv_channels**-0.5
        self.cache: KVCache | None = None

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, *_: Any, packed_seq_params: Any = None, **__: Any
    ) -> Tensor:
        """Attends; query [s, b, heads, d], key and value [s, b, groups, d] -> [s, b, heads * d]."""
        if isinstance(packed_seq_params, Packing):
            return self._packed(query[:, 0], key[:, 0], value[:, 0], packed_seq_params)[:, None]
        query, key, value = (x.permute(1, 2, 0, 3) for x in (query, key, value))
        if self.cache is not None and query.shape[2] == 1:
            out = self._decode(query, key, value, self.cache)
        else:
            if self.cache is not None:
                self.cache.keys[self.layer_number], self.cache.values[self.layer_number] = key, value
            out = scaled_dot_product_attention(query, key, value, is_causal=True, scale=self.scale, enable_gqa=True)
        batch, heads, length, width = out.shape
        return out.permute(2, 0, 1, 3).reshape(length, batch, heads * width)

    def _packed(self, query: Tensor, key: Tensor, value: Tensor, packing: Packing) -> Tensor:
        queries, keys, values = (packing.spread(x) for x in (query, key, value))
        settings: dict[str, Any] = {"scale": self.scale, "enable_gqa": True}
        outputs = [scaled_dot_product_attention(queries[0], keys[0], values[0], is_causal=True, **settings)]
        # Taken apart all at once: the gradient of a slice is as large as what it was cut from.
        root_keys, root_values = keys[0].unbind(0), values[0].unbind(0)
        for number, (root, length) in enumerate(packing.prefixes, 1):
            rows, columns = packing.blocks[number]
            own_keys, own_values = (
                torch.cat((seen[root][None, :, :length].expand(rows, -1, -1, -1), own[number]), 2)
                for seen, own in ((root_keys, keys), (root_values, values))
            )
            mask = causal_lower_right(columns, length + columns)
            outputs.append(
                scaled_dot_product_attention(queries[number], own_keys, own_values, attn_mask=mask, **settings)
            )
        return packing.gather(outputs)

    def _decode(self, query: Tensor, key: Tensor, value: Tensor, cache: KVCache) -> Tensor:
        keys, values, filled = cache.keys[self.layer_number], cache.values[self.layer_number], cache.length + 1
        keys[:, :, cache.length], values[:, :, cache.length] = key[:, :, 0], value[:, :, 0]
        batch, heads, _, width = query.shape
        groups = keys.shape[1]
        assert cache.bias is not None
        # The query heads of a group stand where a sequence would: one small product a group, no repeated keys.
        query = query.view(batch, groups, heads // groups, width)
        scores = (query * self.scale) @ keys[:, :, :filled].transpose(-1, -2) + cache.bias[..., :filled]
        return (torch.softmax(scores, -1) @ values[:, :, :filled]).view(batch, heads, 1, width)


class RotaryTable:
    """Rotary angles at any positions, from a table made once."""

    def __init__(self, inner: Any, length: int) -> None:
        self._inner = inner
        self._length = length
        self._table: Tensor | None = None

    def at(self, positions: Tensor) -> Tensor:
        """Angles [s, b, 1, d] for positions [s, b]; b may be 1 for all rows alike."""
        if self._table is None:
            self._table = self._inner.get_emb(self._length).detach()[:, 0, 0]
        return self._table[positions][:, :, None]


class Norm:
    """RMSNorm or LayerNorm from torch for the local spec, permitted under sequence parallelism.

    megatron-core's WrappedTorchNorm refuses sequence parallelism; marking the parameters is all that it takes for their
    gradients to be reduced over the tensor parallel group.
    """

    def __new__(  # type: ignore[misc]  # megatron-core builds a layer by calling its class
        cls, config: Any, hidden_size: int, eps: float = 1e-5, **_: Any
    ) -> nn.Module:
        """Builds the torch module."""
        kind = nn.RMSNorm if config.normalization == "RMSNorm" else nn.LayerNorm
        module = kind(hidden_size, eps=eps, dtype=config.params_dtype)
        for parameter in module.parameters():
            parameter.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]  # its own mark
        return module
