"""The critic of PPO: a model's layers with a value head in place of the output matrix, trained beside the policy.

The head is inside the model before that is wrapped, so that learning rates, reductions and norms know it, and every
tensor parallel rank holds it whole: its gradient is the same on all of them. It begins at 0, and so do all values:
drawn at random, first estimates would be louder than any reward. Layout, precision, packed micro-batches and pipeline
schedules are the policy's. Left out: a critic in a layout or on GPUs of its own, a reward model as its beginning, and
FP8's delayed scaling.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from megatron.core.models.gpt.gpt_model import GPTModel
from torch import Tensor, nn

from conversion.checkpoint import Checkpoint, open_checkpoint
from conversion.families import MegatronArchitecture
from recipes.engines.core import finite, state
from recipes.engines.core.batching import PackedBatch
from recipes.engines.core.passes import Passes
from recipes.engines.core.products import float32_product
from recipes.engines.core.stage import Stage
from recipes.engines.core.step import take_step
from recipes.engines.megatron.model import build_model
from recipes.engines.megatron.wrapped import Wrapped
from recipes.rl.losses import Loss
from recipes.runtime.config import Config
from recipes.runtime.model_rules import validate_critic

# Folders beside the policy's in a checkpoint.
WEIGHTS, OPTIMIZER = "critic", "critic_optimizer"
# Its key in the model; a checkpoint that the critic starts from holds the output matrix under it.
_HEAD = "output_layer.weight"


class ValueHead(nn.Module):
    """From a hidden state to its value; the same on every tensor parallel rank."""

    def __init__(self, hidden_size: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, hidden_size, dtype=dtype))

    def forward(self, states: Tensor) -> Tensor:
        """Values [tokens] in float32 of states [tokens, hidden size]."""
        return float32_product(states, self.weight.t())[:, 0]


class ValuePasses(Passes):
    """Passes that read values where a policy's read log-probabilities."""

    def _token_values(self, states: Tensor, micro: PackedBatch, temperature: float) -> tuple[Tensor, Tensor]:
        """Values of the states before the response tokens, as the micro-batch's table; and no entropies."""
        values = self.stage.model.output_layer(self.stage.whole(states).index_select(0, micro.sources))
        return micro.table(values), torch.zeros_like(micro.mask)


class Critic:
    """The critic of one engine; every method is collective over all ranks.

    Attributes:
        module: this rank's stage and shard.
    """

    def __init__(self, config: Config, policy: Checkpoint, device: torch.device) -> None:
        """Builds it from `critic.path`, or from the policy's checkpoint.

        Raises:
            CheckpointError: the checkpoint is missing or damaged.
            ConfigError: it has another vocabulary than the policy, or does not fit the layout.
        """
        self._settings = config.critic
        source = open_checkpoint(Path(config.critic.path)) if config.critic.path else policy
        validate_critic(config, source.architecture, policy.architecture)
        self.module = build_critic(source.architecture, config)
        state.load_weights(self.module, source, without=(_HEAD,))
        self.wrapped = Wrapped(self.module, config.critic.optimizer, config.model.precision)
        stage = Stage(self.module, config)
        self.passes = ValuePasses(stage, self.wrapped.model, source.architecture.vocab_size, device)

    def values(self, micro_batches: list[PackedBatch]) -> list[Tensor]:
        """[rows, width] values for every micro-batch, on every pipeline stage."""
        with torch.no_grad():
            return self.passes.logprobs(micro_batches, 1.0)

    def train_step(self, micro_batches: list[PackedBatch], loss: Loss, *, learning_rate: float) -> dict[str, float]:
        """One optimizer step; see `PolicyEngine.critic_step`."""
        self.wrapped.clear_gradient()
        sums = self.passes.gradient(micro_batches, loss, 1.0, None)
        return take_step(
            self.module,
            self.wrapped.optimizer,
            sums,
            learning_rate=learning_rate,
            weight_decay=self._settings.optimizer.weight_decay,
            where="in the critic after its update",
        )

    def stored(self, where: str) -> Mapping[str, Callable[[], dict[str, Any]]]:
        """What a checkpoint holds of it, by folder, each made when it is called for.

        Raises:
            NonFiniteError: a weight or a moment is not finite; `where` completes the message.
        """
        finite.check_weights(self.module, f"in the critic {where}")
        finite.check_optimizer(self.wrapped.optimizer, f"in the critic {where}")
        self.wrapped.begin_moments()
        return {
            WEIGHTS: lambda: self.module.sharded_state_dict(prefix=""),
            OPTIMIZER: lambda: state.sharded_optimizer(self.module, self.wrapped.optimizer),
        }

    def load(self, folder: Path) -> None:
        """Restores weights and optimizer from a checkpoint of the run.

        Raises:
            CheckpointError: it holds no critic, another one, or is damaged.
        """
        state.load_model(self.module, folder / WEIGHTS)
        state.load_optimizer(self.module, self.wrapped.optimizer, folder / OPTIMIZER)


def build_critic(architecture: MegatronArchitecture, config: Config) -> GPTModel:
    """This rank's stage and shard, with a head of zeros and other weights not yet loaded; see `build_model`."""

    def put_head(model: GPTModel) -> None:
        if model.post_process:
            model.output_layer = ValueHead(architecture.hidden_size, model.config.params_dtype)

    untied = dataclasses.replace(architecture, share_embeddings_and_output_weights=False)
    return build_model(untied, config, change=put_head)
