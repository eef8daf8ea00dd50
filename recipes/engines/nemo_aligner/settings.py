"""NeMo's configuration of the actor: the checkpoint's model_config.yaml under the run's own settings."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

import torch
import yaml

from conversion.checkpoint import Checkpoint
from conversion.nemo import CONFIG_FILE
from recipes.engines.base import EngineError
from recipes.runtime.config import Config, ConfigError
from recipes.runtime.platform import on_gpu


@dataclass(frozen=True)
class Kernels:
    """Which of NVIDIA's kernels to ask NeMo for: those that are there.

    Attributes:
        transformer_engine: layers of Transformer Engine.
        fp8: their products in FP8.
        fused_weight_gradient: Apex's kernel that adds weight gradients to the buffer.
    """

    transformer_engine: bool
    fp8: bool
    fused_weight_gradient: bool


def describe(module: Any, optimizer: Any) -> str:
    """One line for the run's output, of what was built and not of what was asked for."""
    te = any("transformer_engine" in type(part).__module__ for part in module.modules())
    said = {True: "yes", False: "no"}
    adam = type(optimizer.optimizer)
    return (
        f"NeMo-Aligner: Transformer Engine layers {said[te]}, FP8 {said[te and module.config.fp8 is not None]}, "
        f"Apex's fused weight gradients {said[bool(module.config.gradient_accumulation_fusion)]}, "
        f"Adam {adam.__module__}.{adam.__qualname__}"
    )


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def kernels(config: Config) -> Kernels:
    """The kernels of this process under this configuration.

    Raises:
        ConfigError: FP8 or Transformer Engine is asked for and not there.
    """
    gpu, wanted = on_gpu(), config.model.transformer
    te = gpu and wanted != "local" and _installed("transformer_engine_torch")
    if wanted == "te" and not te:
        raise ConfigError("model.transformer=te: Transformer Engine or a GPU is missing; use the NeMo image, or auto")
    fp8 = config.model.fp8 != "none"
    if fp8 and not te:
        raise ConfigError(
            f"model.fp8={config.model.fp8} needs Transformer Engine layers, and these would be local ones; run in the "
            "NeMo image with model.transformer=te, or set model.fp8=none"
        )
    return Kernels(
        transformer_engine=te,
        fp8=fp8,
        # NeMo takes it in bfloat16 alone, and megatron-core's layers ask for it beside Transformer Engine's as well.
        fused_weight_gradient=gpu
        and _installed("fused_weight_gradient_mlp_cuda")
        and config.model.precision == "bfloat16",
    )


def check(config: Config, checkpoint: Checkpoint) -> None:
    """Refuses what this engine does not do.

    Raises:
        EngineError, ConfigError: naming the key and what to do.
    """
    if checkpoint.manifest.layout != "nemo":
        raise EngineError(
            f"{checkpoint.path}: a checkpoint for engine=megatron; make one for engine=nemo_aligner from the Hugging "
            "Face folder with `python -m conversion.hf_to_megatron SRC DST --layout nemo`"
        )
    if checkpoint.architecture.moe is not None:
        raise ConfigError("model.path: a mixture of experts; this engine trains dense models only")


def model_settings(config: Config, checkpoint: Checkpoint, chosen: Kernels) -> dict[str, Any]:
    """The `model` section for `MegatronGPTGRPOActorModel`, by NeMo's keys."""
    bf16 = config.model.precision == "bfloat16"
    values: dict[str, Any] = yaml.safe_load((checkpoint.path / CONFIG_FILE).read_text(encoding="utf-8"))
    # The loop has the checkpoint's tokenizer; NeMo's copy would serve its own sampler, which is not used.
    values.pop("tokenizer", None)
    values |= {
        "precision": "bf16" if bf16 else 32,
        "megatron_amp_O2": bf16,
        # Every step divides its own batch, so NeMo's calculator of micro-batches has nothing to do.
        "micro_batch_size": None,
        "global_batch_size": None,
        "encoder_seq_length": config.model.max_length,
        "tensor_model_parallel_size": config.parallel.tensor,
        "pipeline_model_parallel_size": config.parallel.pipeline,
        "sequence_parallel": False,
        "seed": 1 + config.seed,
        "use_cpu_initialization": not on_gpu(),
        # Weights are loaded: what would be drawn is thrown away.
        "perform_initialization": False,
        "transformer_engine": chosen.transformer_engine,
        "fp8": chosen.fp8,
        "fp8_hybrid": chosen.fp8,
        # Amaxes are agreed on after every micro-batch, and data parallel ranks have not as many of them.
        "tp_only_amax_red": True,
        "gradient_accumulation_fusion": chosen.fused_weight_gradient,
        "bias_activation_fusion": chosen.transformer_engine,
        "bias_dropout_add_fusion": chosen.transformer_engine,
        "persist_layer_norm": False,
        "masked_softmax_fusion": False,
        # A packed row's positions do not count up from 0, as the fused kernel's do.
        "apply_rope_fusion": False,
        "activations_checkpoint_granularity": "full" if config.parallel.recompute else None,
        "activations_checkpoint_method": "uniform" if config.parallel.recompute else None,
        "activations_checkpoint_num_layers": 1 if config.parallel.recompute else None,
        "activations_checkpoint_layers_per_pipeline": None,
        "num_micro_batches_with_partial_activation_checkpoints": None,
        "optim": {
            "name": "mcore_distributed_optim",
            "lr": config.optimizer.learning_rate,
            "betas": list(config.optimizer.betas),
            "eps": config.optimizer.eps,
            "weight_decay": config.optimizer.weight_decay,
            # NCCL's averaging reduction; gloo has none, and the loss is scaled for either.
            "average_in_collective": False,
        },
        "reinforce": {
            "length_params": {"max_length": config.rollout.max_new_tokens, "min_length": 1},
            "sampling_params": {"temperature": config.rollout.temperature},
            "offload_adam_states": False,
            "forward_micro_batch_size": 1,
        },
    }
    return values


def parameters_dtype(config: Config) -> torch.dtype:
    """Of the weights in a saved checkpoint."""
    return torch.bfloat16 if config.model.precision == "bfloat16" else torch.float32
