"""From a checkpoint's architecture to this rank's share of a megatron-core GPTModel.

Layers are Transformer Engine's where that is installed and megatron-core's local ones elsewhere; core attention is our
own in both, since sampling needs its cache. Left out: mixture of experts, virtual pipeline stages, context parallelism.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_with_transformer_engine_spec
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed
from megatron.core.transformer import transformer_block
from megatron.core.transformer.transformer_config import TransformerConfig

from conversion.families import MegatronArchitecture
from conversion.megatron_model import NO_FUSION, gpt_arguments, local_layer_spec, transformer_arguments
from recipes.engines.core.attention import Norm, SdpaAttention
from recipes.engines.core.stage import mark_shards
from recipes.runtime.config import Config, ConfigError
from recipes.runtime.platform import on_gpu

# megatron-core's format for a recipe. Gradients want e5m2's range (hybrid), except where every block of 128 has a
# scale of its own, as in NeMo-RL's grpo_math_70B_megatron_fp8.yaml.
_FP8_FORMATS = {"delayed": "hybrid", "tensorwise": "hybrid", "blockwise": "e4m3"}


def uses_transformer_engine(config: Config) -> bool:
    """Whether layers come from Transformer Engine.

    Raises:
        ConfigError: when it is asked for, or FP8 is, and it is not there: the local layers would ignore FP8 in silence.
    """
    installed = on_gpu() and importlib.util.find_spec("transformer_engine_torch") is not None
    wanted = config.model.transformer
    if wanted == "te" and not installed:
        raise ConfigError("model.transformer=te: Transformer Engine or a GPU is missing; use the NGC image, or auto")
    use = installed and wanted != "local"
    if config.model.fp8 != "none" and not use:
        raise ConfigError(
            f"model.fp8={config.model.fp8} needs Transformer Engine layers, and these would be local ones; "
            "run in the NGC image with model.transformer=te, or set model.fp8=none"
        )
    return use


def transformer_config(architecture: MegatronArchitecture, config: Config) -> TransformerConfig:
    """megatron-core's configuration of the layers for this architecture and layout."""
    dtype = torch.bfloat16 if config.model.precision == "bfloat16" else torch.float32
    te = uses_transformer_engine(config)
    extra: dict[str, Any] = NO_FUSION | {"bias_activation_fusion": te, "bias_dropout_fusion": te}
    if config.model.fp8 != "none":
        extra |= {"fp8": _FP8_FORMATS[config.model.fp8], "fp8_recipe": config.model.fp8}
    if config.parallel.recompute:
        extra |= {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
    return TransformerConfig(
        **transformer_arguments(architecture),
        tensor_model_parallel_size=config.parallel.tensor,
        pipeline_model_parallel_size=config.parallel.pipeline,
        sequence_parallel=config.parallel.sequence,
        # Delayed scaling agrees on amaxes after every micro-batch, and data parallel ranks have not as many of them.
        tp_only_amax_red=True,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        # It would wait for the whole device after every exchange between stages, for versions of torch older than ours.
        batch_p2p_sync=False,
        bf16=dtype is torch.bfloat16,
        use_cpu_initialization=not on_gpu(),
        perform_initialization=False,
        **extra,
    )


def _layer_spec(architecture: MegatronArchitecture, te: bool) -> Any:
    if te:
        spec = get_gpt_layer_with_transformer_engine_spec(qk_layernorm=architecture.qk_layernorm)
    else:
        spec = local_layer_spec(architecture)
        layer, attention = spec.submodules, spec.submodules.self_attention.submodules
        layer.input_layernorm = layer.pre_mlp_layernorm = Norm
        if architecture.qk_layernorm:
            attention.q_layernorm = attention.k_layernorm = Norm
        # transformer_block.py takes the norm after the last layer from this module-level name.
        transformer_block.LayerNormImpl = Norm
    spec.submodules.self_attention.submodules.core_attention = SdpaAttention
    return spec


def build_model(
    architecture: MegatronArchitecture, config: Config, change: Callable[[GPTModel], None] = lambda model: None
) -> GPTModel:
    """This rank's stage and shard, with weights not yet loaded; needs initialised model parallel groups.

    `change` is given the model before it goes to the device.
    """
    if architecture.moe is not None:
        raise ConfigError(
            "model.path: a mixture of experts; this engine trains dense models only (conversion carries both)"
        )
    model_parallel_cuda_manual_seed(config.seed)
    model = GPTModel(
        config=transformer_config(architecture, config),
        transformer_layer_spec=_layer_spec(architecture, uses_transformer_engine(config)),
        **gpt_arguments(architecture, tensor_parallel=config.parallel.tensor),
        max_sequence_length=config.model.max_length,
        pre_process=parallel_state.is_pipeline_first_stage(),
        post_process=parallel_state.is_pipeline_last_stage(),
        parallel_output=True,
    )
    change(model)
    mark_shards(model)
    for part in model.modules():
        # Transformer Engine's alone, which add to the float32 gradient in the product itself. megatron-core's own flag
        # would ask for Apex too, on behalf of an output layer whose product is not used here.
        if hasattr(part, "fuse_wgrad_accumulation"):
            part.fuse_wgrad_accumulation = True
    return model.cuda()
