"""PolicyEngine on NeMo-Aligner: the same passes, batches, losses and sampler as the Megatron engine, on NeMo's model.

Sampling is the embedded sampler on NeMo's GPTModel: NeMo's own fails with the distributed optimizer, draws from one
stream of random numbers, so that rollouts would depend on the layout, and talks to all ranks for every token. Left out
beside what the Megatron engine leaves out: sequence parallelism, FP8 scaling other than delayed, LoRA, TensorRT-LLM.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from torch import Tensor

from recipes.engines.core import state
from recipes.engines.core.batching import PackedBatch
from recipes.engines.core.engine import GPTEngine
from recipes.engines.core.stage import Stage
from recipes.engines.nemo_aligner import settings
from recipes.engines.nemo_aligner.actor import ActorBatch, MegatronGPTGRPOActorModel
from recipes.engines.nemo_aligner.checkpoints import ModelSpaceOptimizer, NemoSaves
from recipes.engines.nemo_aligner.trainer import make_trainer
from recipes.rl.losses import Loss
from recipes.runtime.launch import is_leader


class NemoAlignerEngine(GPTEngine):
    """A policy trained by NeMo-Aligner's actor model; every method is collective over all ranks."""

    def _build(self) -> None:
        """Lets NeMo make model and optimizer.

        Raises:
            EngineError: the checkpoint has not NeMo's layout.
            ConfigError: this engine does not do what a key asks for.
        """
        from omegaconf import OmegaConf

        settings.check(self.config, self.checkpoint)
        chosen = settings.kernels(self.config)
        values = settings.model_settings(self.config, self.checkpoint, chosen)
        self.actor = MegatronGPTGRPOActorModel(OmegaConf.create(values), make_trainer(self.config))
        self.module = self.actor.module
        state.load_weights(self.module, self.checkpoint)
        self.actor.prepare(self.config, self.architecture.vocab_size, self.device)
        self.model = self.actor.model[0]
        self.optimizer = self.actor.optimizer
        self.passes = self.actor.passes
        self.stage = self.passes.stage
        if is_leader():
            print(settings.describe(self.module, self.optimizer), flush=True)

    def _build_whole(self) -> Stage:
        return self.actor.whole_stage(self.config, self.device)

    def _gradient(
        self, micro_batches: list[PackedBatch], loss: Loss, temperature: float, references: Sequence[Tensor] | None
    ) -> dict[str, float]:
        self.actor.prepare_for_training_step()
        self.optimizer.zero_grad()
        _, sums = self.actor.get_loss_and_metrics(
            ActorBatch(micro_batches, loss, temperature, references), forward_only=False
        )
        self.actor.finish_training_step()
        return sums

    @cached_property
    def saves(self) -> state.Saves:
        """The saves under way; waiting for one has `parallel.timeout_minutes`."""
        return NemoSaves(
            deadline_s=60 * self.config.parallel.timeout_minutes, dtype=settings.parameters_dtype(self.config)
        )

    @property
    def _stored_optimizer(self) -> Any:
        """The optimizer as checkpoints in NeMo's form hold it, those of a `.nemo`'s folder with an optimizer."""
        return ModelSpaceOptimizer(self.optimizer)
