"""The embedded sampler in a layout of its own: every rank has a whole model and answers its share of the prompts.

A trainer that is divided over tensor or pipeline ranks talks for every token; here ranks talk once a step, when weights
are gathered (`export`) and when responses are. Draws belong to a response and not to a layout, so tokens are the same.
The price is a second copy of the weights, whole on every rank. Left out: copies on some of the ranks, or divided.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from megatron.core import parallel_state

from conversion.families import Family, MegatronArchitecture
from conversion.merge import merge
from recipes.engines.base import Bucket, Completion, Sampling
from recipes.engines.core.export import Shard, shards
from recipes.engines.core.sampling import Decode, Sampler, generate_divided
from recipes.engines.core.stage import Stage


class OneRankGroups:
    """megatron-core's parallel groups for a model that this rank holds alone; its state is one for the process."""

    def __init__(self) -> None:
        """Makes them; collective over all ranks."""
        self._own: dict[str, Any] = dict.fromkeys(_state())
        with self.entered():
            parallel_state.initialize_model_parallel()
            self._own = _state()

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Puts these groups in the trainer's place, and the trainer's back."""
        trainers = _state()
        vars(parallel_state).update(self._own)
        try:
            yield
        finally:
            vars(parallel_state).update(trainers)


def _state() -> dict[str, Any]:
    """The variables that megatron-core keeps its groups, ranks and sizes in."""
    return {name: value for name, value in vars(parallel_state).items() if name.startswith("_") and name.isupper()}


class WholeModel:
    """A copy of the policy that samples; all ranks call each method together."""

    def __init__(
        self,
        build: Callable[[], Stage],
        family: Family,
        architecture: MegatronArchitecture,
        where: torch.device,
        decode: Decode,
    ) -> None:
        """Builds it; there are no weights before the first `load`.

        Args:
            build: makes the model, all its layers in one stage.
            family, architecture: of the policy.
            where: the model's device.
            decode: for stop strings.
        """
        self._architecture = architecture
        self._groups = OneRankGroups()
        with self._groups.entered():
            stage = build()
            self.sampler = Sampler(stage, architecture.vocab_size, where, decode)
            self._shards: dict[str, list[Shard]] = {}
            for shard in shards(stage.model, list(family.entries(architecture))):
                self._shards.setdefault(shard.entry.hf_names[0], []).append(shard)
        for parameter in stage.model.parameters():
            # The vocabulary's padding is never filled, and would be looked at where logits are not finite.
            parameter.detach().zero_()

    def load(self, buckets: Iterable[Bucket]) -> None:
        """Takes the weights over."""
        for bucket in buckets:
            tensors = dict(bucket.tensors())
            for shard in (shard for name in tensors for shard in self._shards.get(name, ())):
                entry, start = shard.entry, shard.start[0]
                merged = merge(entry.row.rule, [tensors[name] for name in entry.hf_names], self._architecture)
                values = merged[start : start + shard.shape[0]]
                shard.live()[: len(values)].copy_(values)

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[list[Completion]]:
        """Samples responses to all prompts, divided over all ranks; the same result on every rank."""
        with self._groups.entered():
            return generate_divided(self.sampler, prompts, sampling, None)
