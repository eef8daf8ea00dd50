"""What a rollout samples with: the engine's own sampler, or servers of vLLM."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from recipes.engines.base import Completion, EngineError, PolicyEngine, Sampling
from recipes.runtime.config import Config


class RolloutError(EngineError):
    """Sampling that failed for good; the message names server or tensor, and what to do."""


@dataclass
class Begun:
    """Responses that were asked for and have yet to be waited for.

    Attributes:
        prompts, sampling: what was asked.
        seconds: that the sampling took since that of another batch ended, on rank 0 once it is finished.
        work: what the sampler knows of it.
    """

    prompts: Sequence[Sequence[int]]
    sampling: Sampling
    seconds: float = 0.0
    work: Any = None


class Sampler(Protocol):
    """Samples from the policy; all ranks call each method together and with the same arguments."""

    def update(self, version: int) -> dict[str, float]:
        """From here on samples are the policy's as it is; returns metrics of how far it is from the sampler's.

        What is in flight is gone on with by these weights.

        Args:
            version: steps that the policy has taken; completions say it.

        Raises:
            RolloutError: no server has the weights, or they compute other probabilities than the trainer.
        """
        ...

    def begin(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        so_far: Sequence[Sequence[Completion]] = (),
        enough: int | None = None,
    ) -> Begun:
        """Asks for `sampling.copies` responses to every prompt, and returns at once; several batches may be in flight.

        Args:
            prompts: token ids.
            sampling: how.
            so_far: what is there already of the responses to the first prompts; those that are `partial` are gone on
                with, within the limit of the whole.
            enough: prompts; once all responses to so many are there, the others are broken off. None for all.
        """
        ...

    def finish(self, begun: Begun, version: int) -> list[list[Completion]]:
        """Waits for the responses; the same result on every rank. Those that were broken off are `partial`.

        They are by the weights of the last `update` before they were begun, and of those since. Where all servers that
        hold these are lost, what is unanswered is sampled by the policy as it is.

        Args:
            begun: from `begin`.
            version: steps that the policy has taken by now.

        Raises:
            RolloutError: a response did not come within its deadline.
            NonFiniteError: the logits are not finite.
        """
        ...

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[list[Completion]]:
        """`begin` and `finish`, of a policy that has not moved since the last `update`."""
        ...

    def close(self) -> None:
        """Stops what was started, and gives up what is in flight; each rank for itself."""
        ...


class EmbeddedSampler:
    """The engine samples with the weights that it trains, and nothing beside its training: when it is waited for."""

    def __init__(self, engine: PolicyEngine) -> None:
        self._engine = engine
        self._version = 0

    def update(self, version: int) -> dict[str, float]:
        """See `Sampler.update`."""
        self._version = version
        return {}

    def begin(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        so_far: Sequence[Sequence[Completion]] = (),
        enough: int | None = None,
    ) -> Begun:
        """See `Sampler.begin`; all responses end together, so that none is broken off."""
        assert not so_far
        assert enough is None
        return Begun(prompts, sampling)

    def finish(self, begun: Begun, version: int) -> list[list[Completion]]:
        """See `Sampler.finish`."""
        began = time.monotonic()
        groups = self._engine.generate(begun.prompts, begun.sampling)
        begun.seconds = time.monotonic() - began
        return [[dataclasses.replace(c, versions=((version, len(c.ids)),)) for c in group] for group in groups]

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[list[Completion]]:
        """See `Sampler.generate`."""
        return self.finish(self.begin(prompts, sampling), self._version)

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
