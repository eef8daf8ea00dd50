"""PolicyEngine on megatron-core: GPTModel, its pipeline schedules, DDP and optimizer, at any TP x PP x DP."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from recipes.engines.core import state
from recipes.engines.core.batching import PackedBatch
from recipes.engines.core.engine import GPTEngine
from recipes.engines.core.passes import Passes
from recipes.engines.core.stage import Stage
from recipes.engines.megatron.critic import Critic
from recipes.engines.megatron.model import build_model
from recipes.engines.megatron.wrapped import Wrapped
from recipes.rl.losses import Loss


class MegatronEngine(GPTEngine):
    """A policy trained and sampled by megatron-core; every method is collective over all ranks."""

    def _build(self) -> None:
        self.module = build_model(self.architecture, self.config)
        state.load_weights(self.module, self.checkpoint)
        self.wrapped = Wrapped(self.module, self.config.optimizer, self.config.model.precision)
        self.model, self.optimizer = self.wrapped.model, self.wrapped.optimizer
        self.stage = Stage(self.module, self.config)
        self.passes = Passes(self.stage, self.model, self.architecture.vocab_size, self.device)
        if self.config.algorithm.has_critic:
            if self.config.critic.offload:
                self.wrapped.parking.take(weights=False, training=False)
            self.critic = Critic(self.config, self.checkpoint, self.device)
            self._need("policy")

    def _need(self, *models: Literal["policy", "critic"], training: bool = False) -> None:
        if isinstance(self.critic, Critic) and self.config.critic.offload:
            # Who leaves makes room for who comes.
            for name, wrapped in sorted(
                (("policy", self.wrapped), ("critic", self.critic.wrapped)), key=lambda each: each[0] in models
            ):
                wrapped.parking.take(weights=name in models, training=training and name in models)

    def _build_whole(self) -> Stage:
        config = dataclasses.replace(
            self.config,
            model=dataclasses.replace(self.config.model, fp8="none"),
            parallel=dataclasses.replace(self.config.parallel, tensor=1, pipeline=1, sequence=False, recompute=False),
        )
        return Stage(build_model(self.architecture, config), config)

    def _gradient(
        self, micro_batches: list[PackedBatch], loss: Loss, temperature: float, references: list[Tensor] | None
    ) -> dict[str, float]:
        self.wrapped.clear_gradient()
        return self.passes.gradient(micro_batches, loss, temperature, references)

    def save(self, folder: Path, loop_state: dict[str, Any]) -> None:
        """As `GPTEngine.save`, also of what has taken no step yet."""
        self.wrapped.begin_moments()
        super().save(folder, loop_state)
