"""NeMo-Aligner's actor model with GRPO: old log-probabilities, clipping, KL in the loss, global denominators.

NeMo-Aligner 0.7.0, its last release, has REINFORCE alone. What `MegatronGPTGRPOActorModel` takes over is NeMo's: how
the model is built from NeMo's keys, precision, Transformer Engine, Apex, the distributed optimizer. What it replaces is
what a step computes: micro-batches are packed rows of whole groups and the losses those of `recipes.rl`, as on the
Megatron engine. Import it through `upstream.prepare()`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_layer_local_spec,
    get_gpt_layer_with_transformer_engine_spec,
)
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed
from megatron.core.transformer import transformer_block
from nemo.collections.nlp.models.language_modeling.megatron_gpt_model import mcore_model_customize
from nemo_aligner.models.nlp.gpt.megatron_gpt_reinforce_actor import MegatronGPTReinforceActorModel
from nemo_aligner.utils.train_utils import set_sync_funcs
from torch import Tensor

from recipes.engines.base import EngineError
from recipes.engines.core.attention import Norm, SdpaAttention
from recipes.engines.core.batching import PackedBatch
from recipes.engines.core.packing import Packing
from recipes.engines.core.passes import Passes
from recipes.engines.core.rotary import RotaryTable
from recipes.engines.core.stage import Stage, mark_shards
from recipes.rl.losses import Loss
from recipes.runtime.config import Config


class PackedAttention(SdpaAttention):
    """Core attention as megatron-core 0.10 calls it, which takes the batch of 1 off packed inputs."""

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, *_: Any, packed_seq_params: Any = None, **__: Any
    ) -> Tensor:
        """Attends; packed query [tokens, heads, d] -> [tokens, 1, heads * d], others as `SdpaAttention`."""
        if isinstance(packed_seq_params, Packing):
            query, key, value = query[:, None], key[:, None], value[:, None]
            return super().forward(query, key, value, packed_seq_params=packed_seq_params)
        return super().forward(query, key, value)


class NemoStage(Stage):
    """A pipeline stage of megatron-core 0.10, whose rotary module has another method."""

    def __init__(self, model: Any, config: Config) -> None:
        super().__init__(model, config)
        inner = SimpleNamespace(get_emb=model.rotary_pos_emb)
        self.rotary = RotaryTable(inner, config.model.max_length, model.config.params_dtype)


def layer_spec(*, qk_layernorm: bool, transformer_engine: bool, fp8: str | None) -> Any:
    """megatron-core 0.10's layers with our core attention and, where they are its own, our norms."""
    if transformer_engine:
        spec = get_gpt_layer_with_transformer_engine_spec(qk_layernorm=qk_layernorm, fp8=fp8)
    else:
        spec = get_gpt_layer_local_spec(qk_layernorm=qk_layernorm)
        layer, attention = spec.submodules, spec.submodules.self_attention.submodules
        layer.input_layernorm = layer.pre_mlp_layernorm = Norm
        if qk_layernorm:
            attention.q_layernorm = attention.k_layernorm = Norm
        # transformer_block.py takes the norm after the last layer from this module-level name.
        transformer_block.LayerNormImpl = Norm
    spec.submodules.self_attention.submodules.core_attention = PackedAttention
    return spec


@dataclass(frozen=True)
class ActorBatch:
    """This data parallel rank's share of one optimizer step.

    Attributes:
        micro_batches: packed rows of whole groups, any number of sequences each.
        loss: of `recipes.rl`, over denominators of the whole batch.
        temperature: that log-probabilities are taken at.
        references: the reference policy's log-probabilities for every micro-batch; None where there is none.
    """

    micro_batches: Sequence[PackedBatch]
    loss: Loss
    temperature: float
    references: Sequence[Tensor] | None = None


class MegatronGPTGRPOActorModel(MegatronGPTReinforceActorModel):
    """The policy of a GRPO run, built by NeMo from NeMo's configuration.

    Attributes:
        module: this rank's stage and shard of the GPTModel.
        passes: the schedules over it; there after `prepare`.
    """

    # NeMo pads the vocabulary by its tokenizer, which is not built here; model_config.yaml says the stored size.
    padded_vocab_size: int | None = None
    passes: Passes

    @property
    def module(self) -> Any:
        """The GPTModel inside NeMo's and megatron-core's wrappers."""
        return self.get_model_module_list()[0]

    def model_provider_func(self, pre_process: bool, post_process: bool) -> GPTModel:
        """Builds this rank's part; NeMo's own function makes Transformer Engine's layers even to throw them away."""
        model_parallel_cuda_manual_seed(self.cfg.seed)
        return self._model(self.transformer_config, pre_process, post_process)

    def whole_stage(self, config: Config, device: torch.device) -> Stage:
        """A model with all layers and the whole vocabulary, to sample with; it takes groups of one rank."""
        alone = copy.copy(self.transformer_config)
        alone.tensor_model_parallel_size = alone.pipeline_model_parallel_size = 1
        alone.fp8 = None
        return NemoStage(self._model(alone, True, True).to(device), config)

    def _model(self, transformer_config: Any, pre_process: bool, post_process: bool) -> GPTModel:
        model = GPTModel(
            config=transformer_config,
            transformer_layer_spec=layer_spec(
                qk_layernorm=self.cfg.qk_layernorm,
                transformer_engine=self.cfg.transformer_engine,
                fp8=transformer_config.fp8,
            ),
            vocab_size=self.cfg.override_vocab_size,
            max_sequence_length=self.cfg.encoder_seq_length,
            pre_process=pre_process,
            post_process=post_process,
            parallel_output=True,
            share_embeddings_and_output_weights=self.cfg.share_embeddings_and_output_weights,
            position_embedding_type=self.cfg.position_embedding_type,
            rotary_percent=self.cfg.rotary_percentage,
            rotary_base=self.cfg.rotary_base,
            seq_len_interpolation_factor=self.cfg.seq_len_interpolation_factor,
        )
        mcore_model_customize(self.cfg, model)
        mark_shards(model)
        return model

    def prepare(self, config: Config, vocabulary: int, device: torch.device) -> None:
        """Wraps the model, whose weights are loaded by now, for data parallel training, and makes the optimizer."""
        self.setup_mcore_distributed_parallel()
        self.setup_optimization()
        self.module.config.grad_scale_func = self.optimizer.scale_loss
        self.passes = Passes(NemoStage(self.module, config), self.model[0], vocabulary, device)

    @property
    def optimizer(self) -> Any:
        """megatron-core's distributed optimizer inside NeMo's wrapper."""
        return self._optimizer.mcore_optimizer

    def setup_megatron_optimization(self, optim_config: Any) -> Any:
        """NeMo's optimizer settings with the epsilon, which NeMo 2.1 forgets to hand on."""
        settings = super().setup_megatron_optimization(optim_config)
        settings.adam_eps = optim_config["eps"]
        return settings

    def setup_optimizer_param_groups(self) -> None:
        """Nothing: megatron-core's optimizer groups parameters itself, and NeMo's way to them leads through Apex."""
        self._optimizer_param_groups: list[Any] = []

    def _enable_nvidia_optimizations(self) -> None:
        """Nothing: it reads an environment variable of the container and fails where that is not set."""

    def get_actor_forward_output_and_loss_func(self) -> Any:
        """Refused: upstream's REINFORCE loss is right for one sequence a micro-batch only, and has no clipping."""
        raise EngineError("MegatronGPTGRPOActorModel computes its loss in get_loss_and_metrics")

    def get_loss_and_metrics(self, batch: ActorBatch, forward_only: bool) -> tuple[float, dict[str, float]]:
        """The loss's mean over the batch's tokens, and all of the loss's sums over it, on every rank.

        Without `forward_only` the gradient is added to the model's buffers.
        """
        set_sync_funcs(self, forward_only)
        sums = self.passes.gradient(
            batch.micro_batches, batch.loss, batch.temperature, batch.references, forward_only=forward_only
        )
        return sums["loss"] / max(1.0, sums["tokens"]), sums

    def get_inference_log_probs(  # the Megatron engine's packed rows, not padded ones
        self, micro_batches: Sequence[PackedBatch], temperature: float = 1.0
    ) -> list[Tensor]:
        """[rows, width] log-probabilities of the responses of every micro-batch, on every pipeline stage."""
        set_sync_funcs(self, forward_only=True)
        with torch.no_grad():
            return self.passes.logprobs(micro_batches, temperature)

    def infer(self, inference_batch: Any) -> Any:
        """Refused: NeMo's own sampler fails with this optimizer; sample with `NemoAlignerEngine.generate`."""
        raise EngineError("MegatronGPTGRPOActorModel.infer: sample with NemoAlignerEngine.generate instead")
