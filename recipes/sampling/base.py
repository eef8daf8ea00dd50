"""What a rollout samples with: the engine's own sampler, or servers of vLLM."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from recipes.engines.base import Completion, EngineError, PolicyEngine, Sampling
from recipes.runtime.config import Config


class RolloutError(EngineError):
    """Sampling that failed for good; the message names server or tensor, and what to do."""


class Sampler(Protocol):
    """Samples from the policy; all ranks call each method together and with the same arguments."""

    def update(self, version: int) -> dict[str, float]:
        """From here on samples are the policy's as it is; returns metrics of how far it is from the sampler's.

        Args:
            version: steps that the policy has taken; completions say it.

        Raises:
            RolloutError: no server has the weights, or they compute other probabilities than the trainer.
        """
        ...

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[list[Completion]]:
        """Samples `sampling.copies` responses to every prompt; the same result on every rank.

        Raises:
            RolloutError: a response did not come within its deadline.
            NonFiniteError: the logits are not finite.
        """
        ...

    def close(self) -> None:
        """Stops what was started; each rank for itself."""
        ...


class EmbeddedSampler:
    """The engine samples with the weights that it trains."""

    def __init__(self, engine: PolicyEngine) -> None:
        self._engine = engine
        self._version = 0

    def update(self, version: int) -> dict[str, float]:
        """See `Sampler.update`."""
        self._version = version
        return {}

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[list[Completion]]:
        """See `Sampler.generate`."""
        return [
            [dataclasses.replace(c, versions=((self._version, len(c.ids)),)) for c in group]
            for group in self._engine.generate(prompts, sampling)
        ]

    def close(self) -> None:
        """See `Sampler.close`."""


def create_sampler(config: Config, engine: PolicyEngine, examples: Sequence[Sequence[int]]) -> Sampler:
    """The sampler that the configuration names; collective over all ranks.

    Args:
        config: of the run.
        engine: whose policy is sampled from.
        examples: prompts of the run, to probe other samplers with.

    Raises:
        RolloutError: it cannot start.
    """
    if config.rollout.sampler == "embedded":
        return EmbeddedSampler(engine)
    from recipes.sampling.vllm.sampler import VLLMSampler

    return VLLMSampler(config, engine, examples, Path(config.output))
