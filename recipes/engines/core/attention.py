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

from recipes.engines.core.cache import KVCache
from recipes.engines.core.kernels import attend
from recipes.engines.core.packing import Packing
from recipes.engines.core.products import float32_product


class SdpaAttention(MegatronModule):
    """softmax(Q K^T scale) V over [sequence, batch, heads, head dim] inputs, causal, with grouped queries.

    Given a `Packing`, the batch is one packed row; where `cache` is set, it takes up the row's prompts. Else `cache`
    must be set, and a pass is one token of every row, which is appended to it and attends to all of it.
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
        self.groups: int = config.num_query_groups // config.tensor_model_parallel_size
        self.width: int = config.kv_channels
        self.cache: KVCache | None = None

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, *_: Any, packed_seq_params: Any = None, **__: Any
    ) -> Tensor:
        """Attends after the rotation; query [s, b, heads, d], key and value [s, b, groups, d] -> [s, b, heads * d]."""
        seen = packed_seq_params if isinstance(packed_seq_params, Packing) else self.cache
        assert seen is not None
        assert seen.rotation is not None
        # A packed row has b = 1, and a token of every row s = 1.
        of_query, of_key, of_value = (x.flatten(0, 1) for x in (seen.rotation(query), seen.rotation(key), value))
        return self.attend(of_query, of_key, of_value, seen).view(*query.shape[:2], -1)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, seen: Packing | KVCache) -> Tensor:
        """Attends to what was rotated; query [tokens, heads, d], key and value [tokens, groups, d] -> [tokens, any]."""
        # A value is a view of queries, keys and values together; else the gradient would keep all three.
        value = value.contiguous()
        if isinstance(seen, KVCache):
            return self._decode(query, key, value, seen).flatten(1)
        if self.cache is not None:
            self.cache.fill(self.layer_number, key, value)
        return attend(query, key, value, (seen.own, seen.shared), self.scale).flatten(1)

    def _decode(self, query: Tensor, key: Tensor, value: Tensor, cache: KVCache) -> Tensor:
        keys, values = cache.append(self.layer_number, key, value)
        prompt_keys, prompt_values = cache.prompt_keys[self.layer_number], cache.prompt_values[self.layer_number]
        rows, heads, width = query.shape
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
        return out.view(rows, heads, width)


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
