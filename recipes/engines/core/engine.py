"""What both engines do alike with a GPTModel of megatron-core: sample, divide batches, take a step, save and load.

An engine adds how model and optimizer are made and how a gradient gets into them. The losses come from `recipes.rl`;
here is only what it takes to evaluate them on a model in pieces. Left out: virtual pipeline stages, context and expert
parallelism.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor

from conversion.checkpoint import open_checkpoint
from recipes.engines.base import Bucket, Completion, EngineError, Room, Sampling, TokenBatch
from recipes.engines.core import finite, state
from recipes.engines.core.batching import PackedBatch, deal, divide, fill, pack
from recipes.engines.core.export import Export
from recipes.engines.core.host_copy import HostCopy
from recipes.engines.core.passes import Passes
from recipes.engines.core.sampling import Sampler, decoder, generate_divided
from recipes.engines.core.stage import Stage
from recipes.engines.core.step import take_step
from recipes.engines.core.whole_model import WholeModel
from recipes.rl.losses import Loss, supervised_loss
from recipes.runtime import platform
from recipes.runtime.config import Config
from recipes.runtime.launch import is_leader
from recipes.runtime.model_rules import float32_attention, validate_model

_CALIBRATION_PASSES = 2
# Of a bucket in which weights come together for sampling.
_GATHERED_BYTES = 512 * 2**20


def _choose_kernels() -> None:
    """Sets what torch may use on a GPU, for this process."""
    if platform.on_gpu():
        # It makes a plan for every new shape, and prompts come in many.
        torch.backends.cuda.enable_cudnn_sdp(False)
        # Parts of a product of bfloat16 matrices would be added up in bfloat16.
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False


class Critic(Protocol):
    """What an engine asks of a critic; every method is collective over all ranks."""

    def values(self, micro_batches: list[PackedBatch]) -> list[Tensor]:
        """[rows, width] values of the states before the response tokens, for every micro-batch."""
        ...

    def train_step(self, micro_batches: list[PackedBatch], loss: Loss, *, learning_rate: float) -> dict[str, float]:
        """One optimizer step; see `PolicyEngine.critic_step`."""
        ...

    def stored(self, where: str) -> Mapping[str, Callable[[], dict[str, Any]]]:
        """What a checkpoint holds of it, by folder; `where` completes the message of what is not finite."""
        ...

    def load(self, folder: Path) -> None:
        """Restores it from a checkpoint."""
        ...


class GPTEngine(ABC):
    """A policy whose model is megatron-core's; every method is collective over all ranks.

    Attributes:
        module: this rank's stage and shard of the GPTModel.
        model: the module as the schedules take it, in its data parallel wrapper.
        optimizer: megatron-core's.
        stage, passes: over the module.
        sampler: decodes with the module.
        critic: of PPO; None where the algorithm has none.
    """

    module: Any
    model: Any
    optimizer: Any
    stage: Stage
    passes: Passes
    critic: Critic | None = None

    def __init__(self, config: Config) -> None:
        """Builds the model from `config.model.path` in an already initialised process group.

        Raises:
            CheckpointError: the checkpoint is missing or damaged.
            ConfigError: the layout does not fit the model.
        """
        self.config = config
        self._calibrated = config.model.fp8 != "delayed"
        self.checkpoint = open_checkpoint(Path(config.model.path))
        self.architecture = self.checkpoint.architecture
        validate_model(config, self.architecture)
        if not parallel_state.model_parallel_is_initialized():
            parallel_state.initialize_model_parallel(
                tensor_model_parallel_size=config.parallel.tensor,
                pipeline_model_parallel_size=config.parallel.pipeline,
                distributed_timeout_minutes=config.parallel.timeout_minutes,
            )
        self.data_rank = parallel_state.get_data_parallel_rank()
        self.data_size = parallel_state.get_data_parallel_world_size()
        self.device = platform.device()
        warning = float32_attention(config, heads=self.architecture.num_attention_heads)
        if warning and platform.on_gpu() and is_leader():
            print(warning, flush=True)
        _choose_kernels()
        self._build()
        self.sampler = Sampler(self.stage, self.architecture.vocab_size, self.device, decoder(config.model.path))
        self._whole_is_old = True
        self.reference = (
            HostCopy([p.data for p in self.module.parameters()], pin=platform.on_gpu())
            if self._needs_reference
            else None
        )

    @abstractmethod
    def _build(self) -> None:
        """Makes module, model, optimizer, stage and passes, weights loaded."""

    @abstractmethod
    def _build_whole(self) -> Stage:
        """Makes a model with all layers and the whole vocabulary, in groups of one rank; weights are not loaded."""

    @abstractmethod
    def _gradient(
        self, micro_batches: list[PackedBatch], loss: Loss, temperature: float, references: list[Tensor] | None
    ) -> dict[str, float]:
        """Leaves the batch's gradient in the model, in place of any before; returns the loss's sums."""

    def _calibrate(self, micro_batches: list[PackedBatch], temperature: float) -> None:
        """Once, before anything is computed at FP8's delayed scaling: passes whose gradient is thrown away.

        Scales begin at 1, where weights of 0.02 lie among E4M3's subnormals, and move after a pass with gradients alone
        (Transformer Engine 2.11, pytorch/quantization.py, autocast_exit). A second pass, because the gradient that
        comes to a block's first product has to get through its last one, whose scale is right after the first.
        """
        if self._calibrated:
            return
        self._calibrated = True
        tokens = max(1.0, float(micro_batches[0].mask.sum()))
        for _ in range(_CALIBRATION_PASSES):
            self._gradient(micro_batches[:1], supervised_loss(tokens=tokens), temperature, None)

    def _need(self, *models: Literal["policy", "critic"], training: bool = False) -> None:
        """Puts on the device what models are about to use, with `training` all that a step takes; here it always is."""
        return

    @property
    def _needs_reference(self) -> bool:
        return self.config.algorithm.reads_reference

    # --- sampling ----------------------------------------------------------------------------------------------------

    @cached_property
    def whole(self) -> WholeModel:
        """What samples in the module's place where `rollout.tensor` says so."""
        return WholeModel(
            self._build_whole, self.checkpoint.family, self.architecture, self.device, self.sampler.decode
        )

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[list[Completion]]:
        """Samples responses to all prompts, divided over ranks; the same result on every rank."""
        self._need("policy")
        if not self.config.samples_alone:
            return generate_divided(self.sampler, prompts, sampling, parallel_state.get_data_parallel_group())
        if self._whole_is_old:
            self.whole.load(self.weights(_GATHERED_BYTES, everywhere=True))
            self._whole_is_old = False
        return self.whole.generate(prompts, sampling)

    def logits(self, ids: Sequence[int]) -> Tensor:
        """Logits [tokens, vocabulary] in float32 for one sequence, on every rank."""
        self._need("policy")
        values = self.sampler.logits(ids)
        if self.config.parallel.pipeline > 1:
            if values is None:
                values = torch.empty(len(ids), self.architecture.vocab_size, device=self.device)
            # Without the vocabulary's padding it is a view with gaps, and gloo sends memory as it lies.
            values = values.contiguous()
            last = parallel_state.get_pipeline_model_parallel_last_rank()
            dist.broadcast(values, last, group=parallel_state.get_pipeline_model_parallel_group())
        assert values is not None
        return values

    # --- training ----------------------------------------------------------------------------------------------------

    def logprobs(self, batch: TokenBatch, model: Literal["policy", "reference"] = "policy") -> list[list[float]]:
        """Log-probabilities of every response's tokens; the same result on every rank."""
        self._need("policy")
        micro_batches = self._divide(batch)
        self._calibrate(micro_batches, batch.temperature)
        if model == "reference":
            self._swap_reference()
        try:
            with torch.no_grad():
                results = self.passes.logprobs(micro_batches, batch.temperature)
        finally:
            if model == "reference":
                self._swap_reference()
        return self._gather(batch, micro_batches, results)

    def _gather(self, batch: TokenBatch, micro_batches: list[PackedBatch], tables: list[Tensor]) -> list[list[float]]:
        """Rows of this rank's tables and of the other data parallel ranks', in the batch's order."""
        own: dict[int, list[float]] = {}
        for micro, values in zip(micro_batches, tables, strict=True):
            for row, index in enumerate(micro.indices):
                own[index] = values[row, : batch.sequences[index].response_length].tolist()
        gathered: list[Any] = [own]
        if self.data_size > 1:
            gathered = [None] * self.data_size
            dist.all_gather_object(gathered, own, group=parallel_state.get_data_parallel_group())
        merged = {index: values for part in gathered for index, values in part.items()}
        return [merged[i] for i in range(len(batch.sequences))]

    def train_step(
        self, batch: TokenBatch, loss: Loss, *, learning_rate: float, reference: bool = False
    ) -> dict[str, float]:
        """One optimizer step on the whole batch; see `PolicyEngine.train_step`."""
        self._need("policy", training=True)
        micro_batches = self._divide(batch)
        self._calibrate(micro_batches, batch.temperature)
        references: list[Tensor] | None = None
        if reference:
            self._swap_reference()
            try:
                with torch.no_grad():
                    references = self.passes.logprobs(micro_batches, batch.temperature)
            finally:
                self._swap_reference()
        sums = self._gradient(micro_batches, loss, batch.temperature, references)
        result = take_step(
            self.module,
            self.optimizer,
            sums,
            learning_rate=learning_rate,
            weight_decay=self.config.optimizer.weight_decay,
        )
        self._whole_is_old = self._whole_is_old or bool(result["stepped"])
        return result

    def values(self, batch: TokenBatch) -> list[list[float]]:
        """The critic's values of all states before a response token; see `PolicyEngine.values`."""
        self._need("critic")
        micro_batches = self._divide(batch)
        return self._gather(batch, micro_batches, self._critic.values(micro_batches))

    def critic_step(self, batch: TokenBatch, loss: Loss, *, learning_rate: float) -> dict[str, float]:
        """One optimizer step of the critic; see `PolicyEngine.critic_step`."""
        self._need("critic", training=True)
        return self._critic.train_step(self._divide(batch), loss, learning_rate=learning_rate)

    @property
    def _critic(self) -> Critic:
        if self.critic is None:
            raise EngineError("there is no critic; set algorithm.advantage=gae")
        return self.critic

    def _divide(self, batch: TokenBatch) -> list[PackedBatch]:
        limit = self.config.parallel.micro_batch_tokens
        shares = divide(batch.sequences, tokens=limit)
        costs = [share.cost for share in shares]
        bins = fill(costs, deal(costs, self.data_size)[self.data_rank], tokens=limit)
        lengths = [max(1, sum(costs[i] for i in chosen)) for chosen in bins]
        if self.config.parallel.pipeline > 1:
            # Stages exchange activations of one shape.
            lengths = [max(lengths)] * len(lengths)
        multiple = self.config.token_multiple
        return [
            pack(
                batch.sequences,
                [shares[i] for i in chosen],
                length=-(-length // multiple) * multiple,
                where=self.device,
            )
            for chosen, length in zip(bins, lengths, strict=True)
        ]

    def _swap_reference(self) -> None:
        """Exchanges the policy's weights with the reference's; called twice it changes nothing."""
        assert self.reference is not None
        self.reference.swap([p.data for p in self.module.parameters()])

    # --- weights -----------------------------------------------------------------------------------------------------

    @cached_property
    def _export(self) -> Export:
        return Export(self.module, self.checkpoint.family, self.architecture, self.device)

    def weights(self, bucket_bytes: int, everywhere: bool, room: Room | None = None) -> Iterator[Bucket]:
        """The weights under their Hugging Face names; see `PolicyEngine.weights`."""
        self._need("policy")
        return self._export.buckets(bucket_bytes, everywhere=everywhere, room=room)

    # --- checkpoints -------------------------------------------------------------------------------------------------

    @cached_property
    def saves(self) -> state.Saves:
        """The saves under way; waiting for one has `parallel.timeout_minutes`."""
        return state.Saves(deadline_s=60 * self.config.parallel.timeout_minutes)

    @property
    def _stored_optimizer(self) -> Any:
        """The optimizer as checkpoints hold it."""
        return self.optimizer

    def save(self, folder: Path, loop_state: dict[str, Any]) -> None:
        """Takes a snapshot of model, optimizer and `loop_state` and begins to write it; see `PolicyEngine.save`."""
        self._need("policy", "critic")
        where = f"at the save of {folder}, which is not made"
        finite.check_weights(self.module, where)
        finite.check_optimizer(self.optimizer, where)
        beside = self.critic.stored(where) if self.critic else {}
        self.saves.start(self.module, self._stored_optimizer, self.checkpoint, folder, loop_state, beside)

    def finish_saves(self, wait: bool, before: Callable[[], None] = lambda: None) -> Path | None:
        """Publishes what all ranks have written, by one rename on rank 0; see `PolicyEngine.finish_saves`."""
        return self.saves.finish(wait, before)

    def load(self, folder: Path) -> dict[str, Any]:
        """Restores model and optimizer from a checkpoint of `save`; returns the loop's state."""
        self._need("policy", training=True)
        # Its scales are in it.
        self._calibrated = self._whole_is_old = True
        loop_state = state.load_checkpoint(self.module, self._stored_optimizer, folder)
        if self.critic:
            self._need("critic", training=True)
            self.critic.load(folder)
        return loop_state

    def close(self) -> None:
        """Gives up an unpublished save and forgets the model parallel groups; the process group stays."""
        self.saves.close()
        parallel_state.destroy_model_parallel()
