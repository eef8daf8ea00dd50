"""A model in megatron-core's data parallel wrapper, with its distributed optimizer."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from megatron.core.distributed import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
    finalize_model_grads,
)
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer

from recipes.engines.megatron import torch_adam
from recipes.engines.megatron.parking import Parking
from recipes.runtime import config as settings


class Wrapped:
    """What trains a model.

    Attributes:
        model: the module as the schedules take it.
        optimizer: megatron-core's.
        parts: the distributed optimizers behind it; one alone is not wrapped.
    """

    def __init__(self, module: Any, optimizer: settings.OptimizerConfig, precision: str) -> None:
        """Wraps the module, whose weights are loaded and whose parameters are all there.

        Args:
            module: of this rank.
            optimizer: its settings.
            precision: model.precision.
        """
        self.model = DistributedDataParallel(
            config=module.config,
            ddp_config=DistributedDataParallelConfig(
                use_distributed_optimizer=True,
                grad_reduce_in_fp32=True,
                overlap_grad_reduce=True,
            ),
            module=module,
        )
        self.optimizer = get_megatron_optimizer(_optimizer_config(optimizer, precision), [self.model])
        self.parts = getattr(self.optimizer, "chained_optimizers", [self.optimizer])
        torch_adam.adopt(self.parts)
        module.config.finalize_model_grads_func = finalize_model_grads
        # Gradients are reduced during the last micro-batch's backward pass, once a step whatever the micro-batches are.
        module.config.no_sync_func = self.model.no_sync
        module.config.grad_scale_func = self.optimizer.scale_loss

    @cached_property
    def parking(self) -> Parking:
        """Where its memory waits while another model computes."""
        return Parking(self.model, self.parts)

    def clear_gradient(self) -> None:
        """Makes room for the gradient of another batch."""
        self.model.zero_grad_buffer()
        self.optimizer.zero_grad()

    def begin_moments(self) -> None:
        """Gives what has taken no step yet moments of 0, as without them a save of it could not be loaded."""
        for part in self.parts:
            part.init_state_fn(part.optimizer, part.config)


def _optimizer_config(chosen: settings.OptimizerConfig, precision: str) -> OptimizerConfig:
    bf16 = precision == "bfloat16"
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
