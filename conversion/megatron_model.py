"""A checkpoint's architecture in the arguments of megatron-core 0.16.1's TransformerConfig and GPTModel.

What an architecture fixes is here, once, for the training engine and for the logits of `conversion.verify`; what a run
chooses (layout, dtype, kernels, recompute) each adds itself. Imports megatron-core: on CPU, `megatron_cpu.install()`
must have run.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.transformer.spec_utils import ModuleSpec

from conversion.families import MegatronArchitecture

# Fused kernels need CUDA, Apex or Transformer Engine.
NO_FUSION: dict[str, Any] = {
    "gradient_accumulation_fusion": False,
    "masked_softmax_fusion": False,
    "persist_layer_norm": False,
    "bias_activation_fusion": False,
    "bias_dropout_fusion": False,
    "apply_rope_fusion": False,
}


def transformer_arguments(architecture: MegatronArchitecture) -> dict[str, Any]:
    """Arguments of TransformerConfig that the architecture fixes."""
    arguments: dict[str, Any] = {
        **architecture.layer_arguments(),
        "gated_linear_unit": architecture.gated_linear_unit,
        "activation_func": torch.nn.functional.silu,
        "normalization": architecture.normalization,
        "add_bias_linear": architecture.add_bias_linear,
        "add_qkv_bias": architecture.add_qkv_bias,
    }
    if architecture.moe is not None:
        arguments |= {
            "moe_router_load_balancing_type": "none",
            "moe_token_dispatcher_type": "allgather",
        }
    return arguments


def gpt_arguments(architecture: MegatronArchitecture, *, tensor_parallel: int) -> dict[str, Any]:
    """Arguments of GPTModel that the architecture fixes; the vocabulary padded for `tensor_parallel` ranks."""
    scaling = architecture.rope_scaling
    return {
        **architecture.model_arguments(),
        "vocab_size": padded_vocabulary(architecture.vocab_size, tensor_parallel),
        "rope_scaling": scaling is not None,
        "rope_scaling_factor": scaling.factor if scaling else 1.0,
    }


def local_layer_spec(architecture: MegatronArchitecture) -> ModuleSpec:
    """megatron-core's own layers, whose checkpoint keys are those of the Transformer Engine spec."""
    moe = architecture.moe
    spec: ModuleSpec = get_gpt_layer_local_spec(
        num_experts=moe.num_experts if moe else None,
        normalization=architecture.normalization,
        qk_layernorm=architecture.qk_layernorm,
    )
    if moe:
        # get_gpt_layer_local_spec renames the norm before experts as if it were fused into a dense layer.
        del spec.submodules.sharded_state_dict_keys_map["pre_mlp_layernorm."]
    return spec


def padded_vocabulary(size: int, tensor_parallel: int) -> int:
    """The vocabulary rounded up so that every tensor parallel rank holds as many rows, a multiple of 8 each."""
    multiple = 8 * tensor_parallel
    return (size + multiple - 1) // multiple * multiple
