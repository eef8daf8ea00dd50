"""Core attention of packed micro-batches, and with a key-value cache to sample; rotary positions are applied here too.

A drop-in `core_attention` of the layer spec, on CPU and GPU. megatron-core's own local attention materialises the
score matrix, and its static cache keeps keys before RoPE, rotating them all again for every token; here keys are cached
rotated. Transformer Engine's packed (thd) attention has no place for a prompt that several responses share. Left out:
context parallelism.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from megatron.core.transformer.module import MegatronModule
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from recipes.engines.core.kernels import attend
from recipes.engines.core.packing import Packing
from recipes.engines.core.products import float32_product
from recipes.engines.core.rotary import Rotation


@dataclasses.dataclass
class KVCache:
    """Keys and values of one sampling batch.

    Attributes:
        keys, values: by layer number, each [rows, key-value heads, capacity, head dim].
        bias: [rows, 1, 1, capacity], 0 where a row may attend and -inf at its prompt's padding.
        length: positions filled so far, the same for every row.
        rotation: of the positions that a pass computes.
    """

    keys: dict[int, Tensor] = dataclasses.field(default_factory=dict)
    values: dict[int, Tensor] = dataclasses.field(default_factory=dict)
    bias: Tensor | None = None
    length: int = 0
    rotation: Rotation = dataclasses.field(default_factory=Rotation)

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

    Given a `Packing`, the batch is one packed row. Else `cache` must be set: the first pass, over prompts, fills it;
    later ones of one token a row append to it and attend to all of it.
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
        """Attends after the rotation; query [s, b, heads, d], key and value [s, b, groups, d] -> [s, b, heads * d]."""
        if isinstance(packed_seq_params, Packing):
            return self._packed(query, key, value, packed_seq_params)
        cache = self.cache
        assert cache is not None
        query, key, value = (x.permute(1, 2, 0, 3) for x in (cache.rotation(query), cache.rotation(key), value))
        if cache.length:
            out = self._decode(query, key, value, cache)
        else:
            # A value is a view of queries, keys and values together, which would all live as long as it.
            value = value.contiguous()
            cache.keys[self.layer_number], cache.values[self.layer_number] = key, value
            out = scaled_dot_product_attention(query, key, value, is_causal=True, scale=self.scale, enable_gqa=True)
        return out.permute(2, 0, 1, 3).flatten(2)

    def _packed(self, query: Tensor, key: Tensor, value: Tensor, packing: Packing) -> Tensor:
        rotation = packing.rotation
        assert rotation is not None
        # As above: else the gradient would keep all three.
        query, key, value = rotation(query)[:, 0], rotation(key)[:, 0], value[:, 0].contiguous()
        return attend(query, key, value, (packing.own, packing.shared), self.scale).flatten(1)[:, None]

    def _decode(self, query: Tensor, key: Tensor, value: Tensor, cache: KVCache) -> Tensor:
        keys, values, filled = cache.keys[self.layer_number], cache.values[self.layer_number], cache.length + 1
        keys[:, :, cache.length], values[:, :, cache.length] = key[:, :, 0], value[:, :, 0]
        batch, heads, _, width = query.shape
        groups = keys.shape[1]
        assert cache.bias is not None
        # The query heads of a group stand where a sequence would: one small product a group, no repeated keys.
        query = query.reshape(batch, groups, heads // groups, width)
        # In float32 as in the kernels that the trainer uses, whose log-probabilities these are taken for.
        scores = float32_product(query, keys[:, :, :filled].transpose(-1, -2))
        scores = torch.add(cache.bias[..., :filled], scores, alpha=self.scale)
        shares = torch.softmax(scores, -1).to(values.dtype)
        return (shares @ values[:, :, :filled]).view(batch, heads, 1, width)


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
