"""One plan: memory, seconds by phase, GPU-hours, and what holds the run up, for a configuration on given GPUs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from conversion.architecture import MegatronArchitecture
from recipes.planning.hardware import OURS, Gpu, gpu_of
from recipes.planning.layout import Layout, Rollout, layout_of
from recipes.planning.memory import Memory, memory_of
from recipes.planning.timing import (
    Model,
    Parts,
    gathering_seconds,
    generation_seconds,
    generator_of,
    pass_seconds,
    swap_seconds,
    update_seconds,
)
from recipes.runtime.config import Config

GeneratorKind = Literal["embedded", "engine"]
# Responses that the reward server scores a second: a third of what benchmarks/reward_server.py measured on two cores.
_SCORES_A_SECOND = 10_000


@dataclass(frozen=True)
class Assumptions:
    """What no configuration says.

    Attributes:
        prompt_tokens, response_tokens: means.
        generator: embedded for our sampler; engine for what an inference engine on the same GPUs would take.
    """

    prompt_tokens: int
    response_tokens: int
    generator: GeneratorKind = "embedded"


@dataclass(frozen=True)
class Plan:
    """An estimate of a run; every figure is computed from the configuration, none is measured."""

    config: Config
    architecture: MegatronArchitecture
    assumptions: Assumptions

    @cached_property
    def gpu(self) -> Gpu:
        """What it runs on."""
        return gpu_of(self.config.cluster)

    @cached_property
    def layout(self) -> Layout:
        """Who holds what."""
        return layout_of(self.config)

    @cached_property
    def rollout(self) -> Rollout:
        """The responses of a step."""
        rollout, given = self.config.rollout, self.assumptions
        return Rollout(
            rollout.prompts, rollout.group_size, given.prompt_tokens, given.response_tokens, rollout.max_new_tokens
        )

    @cached_property
    def memory(self) -> Memory:
        """Bytes on the fullest GPU; the cache has room for the longest prompt that the configuration lets through."""
        rollout = self.config.rollout
        return memory_of(
            self.architecture,
            self.layout,
            self.rollout,
            reference=self.config.algorithm.reads_reference,
            longest_prompt=self.config.model.max_length - (rollout.min_new_tokens or rollout.max_new_tokens),
            alone=self._alone,
        )

    @property
    def _alone(self) -> bool:
        return self.config.samples_alone and self.assumptions.generator == "embedded"

    @property
    def node_memory(self) -> float:
        """Bytes of host memory that a node needs, at a save."""
        return self.memory.of_node(min(self.gpu.per_node, self.layout.gpus))

    @cached_property
    def phases(self) -> dict[str, Parts]:
        """Seconds of a step by phase, and of a phase by part, in the order in which they happen."""
        algorithm, rollout = self.config.algorithm, self.rollout
        model = Model(self.architecture, self.layout, self.gpu, OURS)
        tokens = rollout.packed_tokens(self.layout.micro_batch_tokens)
        forward = pass_seconds(model, tokens, rollout.span, trained="nothing")
        updates = algorithm.mini_batches * algorithm.epochs
        generator = generator_of(self.layout, self.assumptions.generator, alone=self._alone)
        gathering = {"gathering weights": gathering_seconds(model)} if self._alone else {}
        phases = {
            "generation": generation_seconds(model, generator, rollout) | gathering,
            "scoring": {"reward server": rollout.responses / _SCORES_A_SECOND},
        }
        charged = algorithm.reads_reference and algorithm.kl_place == "reward"
        if algorithm.importance != "none" or charged:
            phases["log-probabilities"] = forward
        if algorithm.reads_reference:
            passes = 1 if charged else algorithm.epochs
            swaps = 2 * (1 if charged else updates)
            reference = {name: passes * cost for name, cost in forward.items()}
            phases["reference policy"] = {"swapping weights": swaps * swap_seconds(model), **reference}
        train = pass_seconds(model, tokens * algorithm.epochs, rollout.span, trained="all", updates=updates)
        phases["training"] = train | {name: updates * cost for name, cost in update_seconds(model).items()}
        return phases

    @cached_property
    def seconds(self) -> dict[str, float]:
        """Seconds of a step by phase."""
        return {phase: sum(parts.values()) for phase, parts in self.phases.items()}

    @property
    def step_seconds(self) -> float:
        """Seconds of a step."""
        return sum(self.seconds.values())

    @property
    def hours(self) -> float:
        """Hours of all steps, without start, evaluation and conversion."""
        return self.config.trainer.steps * self.step_seconds / 3600

    @property
    def gpu_hours(self) -> float:
        """GPU-hours of all steps."""
        return self.hours * self.layout.gpus

    @property
    def cost(self) -> float:
        """GPU-hours at the configured price."""
        return self.gpu_hours * self.config.cluster.price

    @property
    def tokens_a_second(self) -> float:
        """Tokens of prompts and responses a second and GPU, over the whole step."""
        return self.rollout.tokens / self.step_seconds / self.layout.gpus
