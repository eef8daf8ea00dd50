"""Passes of megatron-core's schedules over packed micro-batches: log-probabilities, or a loss and its gradient.

Both engines call it, on megatron-core 0.16 and, in NeMo, on 0.10. The losses come from `recipes.rl`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor

from recipes.engines.core.batching import PackedBatch
from recipes.engines.core.stage import Stage
from recipes.engines.core.vocabulary import token_logprobs
from recipes.rl.losses import Loss, TokenValues


def megatron_loss_scale(micro_batches: int, data_parallel: int) -> float:
    """What to multiply a sum over global denominators by, so that megatron-core leaves it as it is.

    pipeline_parallel/schedules.py divides a loss by the number of micro-batches, and DDP averages gradients over data
    parallel ranks; a share of a global sum must see neither.
    """
    return float(micro_batches * data_parallel)


class Passes:
    """Runs this rank's micro-batches through the policy; all ranks call each method together.

    Attributes:
        stage: this rank's pipeline stage and shard.
        model: the stage's module as the schedules take it, in its data parallel wrapper.
        vocabulary: entries without padding.
        device: of the inputs.
    """

    def __init__(self, stage: Stage, model: Any, vocabulary: int, device: torch.device) -> None:
        self.stage = stage
        self.model = model
        self.vocabulary = vocabulary
        self.device = device

    def gradient(
        self,
        micro_batches: Sequence[PackedBatch],
        loss: Loss,
        temperature: float,
        references: Sequence[Tensor] | None,
        *,
        forward_only: bool = False,
    ) -> dict[str, float]:
        """Adds the batch's gradient to the model's and returns the loss's sums over the batch, on every rank.

        Args:
            micro_batches: of this rank.
            loss: the micro-batch's share of it, over global denominators.
            temperature: that log-probabilities are taken at.
            references: the reference policy's log-probabilities for every micro-batch; None where there is none.
            forward_only: sums alone, no gradient.
        """
        scale = megatron_loss_scale(len(micro_batches), parallel_state.get_data_parallel_world_size())

        def loss_of(states: Tensor, *, number: int) -> tuple[Tensor, dict[str, Tensor]]:
            micro = micro_batches[number]
            logprobs, entropy = self._token_values(states, micro, temperature)
            values = TokenValues(
                logprobs=logprobs,
                entropy=entropy,
                mask=micro.mask,
                advantages=micro.advantages,
                old_logprobs=micro.old_logprobs,
                weights=micro.weights,
                positive=micro.positive,
                reference_logprobs=references[number] if references else torch.zeros_like(micro.mask),
            )
            total, sums = loss(values)
            return total * scale, sums

        return self._reduce(self._run(micro_batches, loss_of, forward_only=forward_only))

    def logprobs(self, micro_batches: Sequence[PackedBatch], temperature: float) -> list[Tensor]:
        """[rows, width] log-probabilities for every micro-batch, on every pipeline stage; call it without gradient."""

        def values_of(states: Tensor, *, number: int, non_loss_data: bool = True) -> Tensor:
            return self._token_values(states, micro_batches[number], temperature)[0]

        outputs = self._run(micro_batches, values_of, forward_only=True, collect=True)
        if parallel_state.get_pipeline_model_parallel_world_size() == 1:
            return outputs
        sizes = [micro.mask.numel() for micro in micro_batches]
        joined = torch.zeros(sum(sizes), device=self.device)
        if self.stage.last:
            joined.copy_(torch.cat([values.flatten() for values in outputs]))
        last = parallel_state.get_pipeline_model_parallel_last_rank()
        dist.broadcast(joined, last, group=parallel_state.get_pipeline_model_parallel_group())
        return [part.view_as(micro.mask) for part, micro in zip(joined.split(sizes), micro_batches, strict=True)]

    def _token_values(self, states: Tensor, micro: PackedBatch, temperature: float) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies as the micro-batch's tables, from its last hidden states."""
        logprobs, entropy = token_logprobs(
            self.stage.to_output(states).index_select(0, micro.sources),
            self.stage.output_weight,
            micro.targets,
            temperature=temperature,
            valid=self.vocabulary,
            group=parallel_state.get_tensor_model_parallel_group(),
        )
        return micro.table(logprobs), micro.table(entropy)

    def _run(
        self, micro_batches: Sequence[PackedBatch], loss_of: Any, *, forward_only: bool, collect: bool = False
    ) -> list[Any]:
        """One pass of the schedule over this rank's micro-batches; outputs exist on the last stage alone."""

        def forward_step(batches: Iterator[tuple[int, PackedBatch]], _: Any) -> tuple[Tensor, Any]:
            number, micro = next(batches)
            states = self.stage.hidden(micro.inputs, micro.packing.positions[:, None], micro.packing)
            return states, partial(loss_of, number=number)

        return get_forward_backward_func()(
            forward_step_func=forward_step,
            data_iterator=iter(enumerate(micro_batches)),
            model=[self.model],
            num_microbatches=len(micro_batches),
            seq_length=micro_batches[0].inputs.shape[1],
            micro_batch_size=1,
            forward_only=forward_only,
            collect_non_loss_data=collect,
        )

    def _reduce(self, outputs: list[dict[str, Tensor]]) -> dict[str, float]:
        """Adds the losses' sums up over micro-batches and data parallel ranks, for every stage."""
        totals: dict[str, float] = {}
        if outputs:
            names = sorted(outputs[0])
            stacked = torch.stack([torch.stack([sums[name] for sums in outputs]).double().sum() for name in names])
            dist.all_reduce(stacked, group=parallel_state.get_data_parallel_group())
            totals = dict(zip(names, stacked.tolist(), strict=True))
        if parallel_state.get_pipeline_model_parallel_world_size() > 1:
            shared = [totals]
            last = parallel_state.get_pipeline_model_parallel_last_rank()
            dist.broadcast_object_list(shared, last, group=parallel_state.get_pipeline_model_parallel_group())
            totals = shared[0]
        return totals
