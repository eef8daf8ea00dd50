"""Core attention of packed micro-batches, and with a key-value cache to sample; rotary positions are applied here too.

A drop-in `core_attention` of the layer spec, on CPU and GPU. megatron-core's own local attention materialises the
score matrix, and its static cache keeps keys before RoPE, rotating them all again for every token; here keys are cached
rotated. Transformer Engine's packed (thd) attention has no place for a prompt that several responses share. Left out:
context parallelism.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.transformer.module import MegatronModule
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from recipes.engines.core.cache import KVCache
from recipes.engines.core.kernels import attend
from recipes.engines.core.packing import Packing
from recipes.engines.core.products import float32_product


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
        if cache.keys:
            out = self._decode(query, key, value, cache)
        else:
            # A value is a view of queries, keys and values together, which would all live as long as it.
            value = value.contiguous()
            cache.prompt_keys[self.layer_number] = key.transpose(-1, -2).contiguous()
            cache.prompt_values[self.layer_number] = value
            out = scaled_dot_product_attention(query, key, value, is_causal=True, scale=self.scale, enable_gqa=True)
        return out.permute(2, 0, 1, 3).flatten(2)

    def _packed(self, query: Tensor, key: Tensor, value: Tensor, packing: Packing) -> Tensor:
        rotation = packing.rotation
        assert rotation is not None
        # As above: else the gradient would keep all three.
        query, key, value = rotation(query)[:, 0], rotation(key)[:, 0], value[:, 0].contiguous()
        return attend(query, key, value, (packing.own, packing.shared), self.scale).flatten(1)[:, None]

    def _decode(self, query: Tensor, key: Tensor, value: Tensor, cache: KVCache) -> Tensor:
        keys, values = cache.append(self.layer_number, key, value)
        prompt_keys, prompt_values = cache.prompt_keys[self.layer_number], cache.prompt_values[self.layer_number]
        rows, heads, _, width = query.shape
        groups, shown, copies = keys.shape[1], prompt_keys.shape[-1], cache.copies
        assert cache.bias is not None
        assert copies is not None
        # The query heads of a group stand where a sequence would: one small product a group, no repeated keys.
        query = query.reshape(rows, groups, heads // groups, width)
        # In float32 as in the kernels that the trainer uses, whose log-probabilities these are taken for.
        of_prompt = float32_product(copies.by_prompt(query), prompt_keys)
        of_own = copies.by_prompt(float32_product(query, keys.transpose(-1, -2)))
        scores = of_prompt.new_empty(*of_prompt.shape[:-1], shown + of_own.shape[-1])
        torch.add(cache.bias, of_prompt, alpha=self.scale, out=scores[..., :shown])
        torch.mul(of_own, self.scale, out=scores[..., shown:])
        shares = torch.softmax(scores, -1).to(values.dtype)
        out = copies.by_row(shares[..., shown:]) @ values
        out += copies.by_row(shares[..., :shown] @ prompt_values)
        return out.view(rows, heads, 1, width)


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
