"""PolicyEngine on megatron-core: GPTModel, its pipeline schedules, DDP and optimizer, at any TP x PP x DP."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from megatron.core.distributed import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
    finalize_model_grads,
)
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from torch import Tensor

from recipes.engines.core import state
from recipes.engines.core.batching import PackedBatch
from recipes.engines.core.engine import GPTEngine
from recipes.engines.core.passes import Passes
from recipes.engines.core.stage import Stage
from recipes.engines.megatron import torch_adam
from recipes.engines.megatron.model import build_model
from recipes.rl.losses import Loss


class MegatronEngine(GPTEngine):
    """A policy trained and sampled by megatron-core; every method is collective over all ranks."""

    def _build(self) -> None:
        self.module = build_model(self.architecture, self.config)
        state.load_weights(self.module, self.checkpoint)
        self.model = DistributedDataParallel(
            config=self.module.config,
            ddp_config=DistributedDataParallelConfig(
                use_distributed_optimizer=True,
                grad_reduce_in_fp32=True,
                overlap_grad_reduce=True,
            ),
            module=self.module,
        )
        self.optimizer = get_megatron_optimizer(self._optimizer_config(), [self.model])
        # The distributed optimizers behind it; one alone is not wrapped.
        self.parts = getattr(self.optimizer, "chained_optimizers", [self.optimizer])
        torch_adam.adopt(self.parts)
        self.module.config.finalize_model_grads_func = finalize_model_grads
        # Gradients are reduced during the last micro-batch's backward pass, once a step whatever the micro-batches are.
        self.module.config.no_sync_func = self.model.no_sync
        self.module.config.grad_scale_func = self.optimizer.scale_loss
        self.stage = Stage(self.module, self.config)
        self.passes = Passes(self.stage, self.model, self.architecture.vocab_size, self.device)

    def _build_whole(self) -> Stage:
        config = dataclasses.replace(
            self.config,
            model=dataclasses.replace(self.config.model, fp8="none"),
            parallel=dataclasses.replace(self.config.parallel, tensor=1, pipeline=1, sequence=False, recompute=False),
        )
        return Stage(build_model(self.architecture, config), config)

    def _optimizer_config(self) -> OptimizerConfig:
        chosen = self.config.optimizer
        bf16 = self.config.model.precision == "bfloat16"
        return OptimizerConfig(
            optimizer="adam",
            lr=chosen.learning_rate,
            adam_beta1=chosen.betas[0],
            adam_beta2=chosen.betas[1],
            adam_eps=chosen.eps,
            weight_decay=chosen.weight_decay,
            clip_grad=chosen.clip_grad,
            bf16=bf16,
            params_dtype=torch.bfloat16 if bf16 else torch.float32,
            use_distributed_optimizer=True,
        )

    def _gradient(
        self, micro_batches: list[PackedBatch], loss: Loss, temperature: float, references: list[Tensor] | None
    ) -> dict[str, float]:
        self.model.zero_grad_buffer()
        self.optimizer.zero_grad()
        return self.passes.gradient(micro_batches, loss, temperature, references)

    def save(self, folder: Path, loop_state: dict[str, Any]) -> None:
        """As `GPTEngine.save`; what has taken no step yet has moments of 0, as without them it could not be loaded."""
        for part in self.parts:
            part.init_state_fn(part.optimizer, part.config)
        super().save(folder, loop_state)
