"""Core attention through torch's scaled_dot_product_attention, with a key-value cache for sampling.

A drop-in `core_attention` of the layer spec. megatron-core's own local attention materialises the score matrix, and
its static cache keeps keys before RoPE, rotating the whole cache again for every token; here keys are cached rotated.
Left out: context parallelism and packed (thd) batches.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from megatron.core.transformer.module import MegatronModule
from torch import Tensor, nn
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


class SdpaAttention(MegatronModule):
    """softmax(Q K^T scale) V over [sequence, batch, heads, head dim] inputs, causal, with grouped queries.

    With `cache` set, a forward pass of one token a row appends to the cache and attends to all of it; a longer one (the
    prompt) fills it.
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
        self.dropout = config.attention_dropout if attention_dropout is None else attention_dropout
        self.cache: KVCache | None = None

    def forward(self, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
        """Attends; query [s, b, heads, d], key and value [s, b, groups, d] -> [s, b, heads * d]."""
        query, key, value = (x.permute(1, 2, 0, 3) for x in (query, key, value))
        if self.cache is not None and query.shape[2] == 1:
            out = self._decode(query, key, value, self.cache)
        else:
            if self.cache is not None:
                self.cache.keys[self.layer_number], self.cache.values[self.layer_number] = key, value
            dropout = self.dropout if self.training else 0.0
            out = scaled_dot_product_attention(
                query, key, value, is_causal=True, scale=self.scale, dropout_p=dropout, enable_gqa=True
            )
        batch, heads, length, width = out.shape
        return out.permute(2, 0, 1, 3).reshape(length, batch, heads * width)

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


class CachedRotary(nn.Module):
    """Rotary angles from a table made once, at the positions that sampling asks for.

    Replaces a GPTModel's `rotary_pos_emb`. `rows` None gives positions 0, 1, ...; otherwise it is one position for each
    row of the batch, as in decoding, where rows are at different places.
    """

    def __init__(self, inner: Any, length: int) -> None:
        super().__init__()
        self.inner = inner
        self.length = length
        self.rows: Tensor | None = None
        self._table: Tensor | None = None

    def get_rotary_seq_len(self, *args: Any, **kwargs: Any) -> int:
        """Delegates to megatron-core's rule."""
        return self.inner.get_rotary_seq_len(*args, **kwargs)

    def forward(self, length: int, **_: Any) -> Tensor:
        """Angles [length, 1, 1, d], or [1, rows, 1, d] when `rows` is set."""
        if self._table is None:
            self._table = self.inner.get_emb(self.length).detach()
        if self.rows is not None:
            return self._table[self.rows, 0, 0][None, :, None]
        return self._table[:length]


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
