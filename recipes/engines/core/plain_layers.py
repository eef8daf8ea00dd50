"""A stage's layers as a CPU samples with them fastest: matrix products and little else.

On few rows megatron-core's modules take longer over a token than its products do. Here the same layers are run without
them, over copies of the matrices that lie in memory as products of few rows read them. Left out: what takes gradients;
half precision, where sums of bias and residual would be rounded otherwise than the trainer's; and Transformer Engine's
layers, which are a GPU's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor, nn

from recipes.engines.core.attention import SdpaAttention
from recipes.engines.core.cache import KVCache
from recipes.engines.core.packing import Packing
from recipes.engines.core.rotary import Rotation


@dataclass(frozen=True)
class _Layer:
    """One layer; matrices [inputs, outputs]. Rows of `qkv` are each key-value group's queries, its key, its value."""

    attention: SdpaAttention
    norm: nn.Module
    qkv: Tensor
    qkv_bias: Tensor | None
    query_norm: nn.Module | None
    key_norm: nn.Module | None
    proj: Tensor
    mlp_norm: nn.Module
    gate_up: Tensor
    down: Tensor

    @classmethod
    def of(cls, layer: Any) -> _Layer:
        """Of megatron-core's local layer of a dense model, without other biases than of queries, keys and values."""
        attention, mlp = layer.self_attention, layer.mlp
        qkv, proj, gate_up, down = (
            module.weight.detach().t().contiguous()
            for module in (attention.linear_qkv, attention.linear_proj, mlp.linear_fc1, mlp.linear_fc2)
        )
        return cls(
            attention=attention.core_attention,
            norm=layer.input_layernorm,
            qkv=qkv,
            qkv_bias=attention.linear_qkv.bias,
            query_norm=getattr(attention, "q_layernorm", None),
            key_norm=getattr(attention, "k_layernorm", None),
            proj=proj,
            mlp_norm=layer.pre_mlp_layernorm,
            gate_up=gate_up,
            down=down,
        )


class PlainLayers:
    """A stage's decoder; call it without gradient."""

    def __init__(self, decoder: Any) -> None:
        """Copies the matrices of megatron-core's TransformerBlock, in local layers on a CPU."""
        self._layers = [_Layer.of(layer) for layer in decoder.layers]
        self._final: nn.Module | None = decoder.final_layernorm
        self._shards = parallel_state.get_tensor_model_parallel_world_size()

    def __call__(self, states: Tensor, seen: Packing | KVCache, wanted: Tensor | None) -> Tensor:
        """Final hidden states, or the next stage's input.

        Args:
            states: [tokens, hidden size], which are overwritten.
            seen: what tokens attend to, with the rotation of their positions.
            wanted: the tokens whose final states are wanted, for the last stage; None for all.
        """
        assert seen.rotation is not None
        for layer in self._layers:
            out = self._attended(layer, states, seen, seen.rotation)
            if wanted is not None and layer is self._layers[-1]:
                out, states = out[wanted], states[wanted]
            self._add(states, out, layer.proj)
            gate, up = (layer.mlp_norm(states) @ layer.gate_up).chunk(2, -1)
            self._add(states, nn.functional.silu(gate, inplace=True).mul_(up), layer.down)
        return states if self._final is None else self._final(states)

    def _attended(self, layer: _Layer, states: Tensor, seen: Packing | KVCache, rotation: Rotation) -> Tensor:
        """Attention's output [tokens, heads * head dim], before its projection."""
        normed = layer.norm(states)
        qkv = normed @ layer.qkv if layer.qkv_bias is None else torch.addmm(layer.qkv_bias, normed, layer.qkv)
        groups, width = layer.attention.groups, layer.attention.width
        qkv = qkv.view(len(qkv), groups, -1, width)
        query, key, value = qkv[:, :, :-2], qkv[:, :, -2:-1], qkv[:, :, -1]
        if layer.query_norm is not None and layer.key_norm is not None:
            query, key = rotation(layer.query_norm(query)), rotation(layer.key_norm(key))
        else:
            turned = rotation(qkv[:, :, :-1])
            query, key = turned[:, :, :-1], turned[:, :, -1:]
        return layer.attention.attend(query.flatten(1, 2), key[:, :, 0], value, seen)

    def _add(self, states: Tensor, x: Tensor, matrix: Tensor) -> None:
        """Adds x @ matrix, of which every tensor parallel rank has a share."""
        if self._shards == 1:
            states.addmm_(x, matrix)
            return
        product = x @ matrix
        dist.all_reduce(product, group=parallel_state.get_tensor_model_parallel_group())
        states += product
