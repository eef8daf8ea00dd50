"""One plan: memory, seconds by phase, GPU-hours, and what holds the run up, for a configuration on given GPUs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property

from conversion.architecture import MegatronArchitecture
from recipes.planning.architectures import critic_architecture
from recipes.planning.critic import critic_phases, with_critic
from recipes.planning.hardware import OURS, Gpu, gpu_of
from recipes.planning.layout import Layout, Rollout, layout_of
from recipes.planning.memory import Memory, memory_of
from recipes.planning.memory import verdict as memory_verdict
from recipes.planning.servers import Servers, servers_of
from recipes.planning.timing import (
    Model,
    Parts,
    gathering_seconds,
    generation_seconds,
    generator_of,
    handover_seconds,
    pass_seconds,
    swap_seconds,
    update_seconds,
)
from recipes.runtime.config import Config

# Responses that the reward server scores a second: a third of what benchmarks/reward_server.py measured on two cores.
_SCORES_A_SECOND = 10_000


@dataclass(frozen=True)
class Assumptions:
    """What no configuration says.

    Attributes:
        prompt_tokens, response_tokens: means.
        rollout_nodes: nodes of vLLM's servers beside the trainer's GPUs; 0 where they are these.
    """

    prompt_tokens: int
    response_tokens: int
    rollout_nodes: int = 0


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
    def critic(self) -> MegatronArchitecture | None:
        """The critic's architecture; None without one."""
        return critic_architecture(self.config, self.architecture)

    @cached_property
    def servers(self) -> Servers | None:
        """Where vLLM samples; None for the embedded sampler."""
        return servers_of(self.config, self.architecture, self.gpu, self.assumptions.rollout_nodes)

    @property
    def gpus(self) -> int:
        """GPUs of trainer and servers together."""
        return self.layout.gpus + (self.servers.gpus if self.servers and not self.servers.colocated else 0)

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
        rollout, servers = self.config.rollout, self.servers
        longest = self.config.model.max_length - (rollout.min_new_tokens or rollout.max_new_tokens)
        memory = memory_of(
            self.architecture,
            self.layout,
            self.rollout,
            reference=self.config.algorithm.reads_reference,
            longest_prompt=longest,
            alone=self.config.samples_alone,
        )
        if servers:
            beside = {"vLLM": servers.taken} if servers.colocated else {}
            always = memory.always if servers.sleeps else memory.always | beside
            memory = dataclasses.replace(memory, always=always, sampling=beside if servers.sleeps else {})
        if self.critic is None:
            return memory
        return with_critic(
            memory,
            self.architecture,
            self.critic,
            self.layout,
            self.rollout,
            longest_prompt=longest,
            offload=self.config.critic.offload,
        )

    @property
    def verdict(self) -> str:
        """Of the trainer's memory, and of the servers', which must have room for one longest sequence."""
        if self.servers and self.servers.cached_tokens(self.architecture) < self.config.model.max_length:
            return "does not fit"
        return memory_verdict(self.memory, self.gpu.memory)

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
        alone = self.config.samples_alone
        if self.servers:
            size = self.servers.weights(self.architecture) * self.servers.tensor
            phases = {"weights to vLLM": handover_seconds(model, size, self.gpus)}
            generator = self.servers.generator(self.architecture, rollout)
        else:
            phases, generator = {}, generator_of(self.layout, "embedded", alone=alone)
        gathering = {"gathering weights": gathering_seconds(model)} if alone else {}
        phases |= {
            "generation": generation_seconds(model, generator, rollout) | gathering,
            "scoring": {"reward server": rollout.responses / _SCORES_A_SECOND},
        }
        charged = algorithm.reads_reference and algorithm.kl_place == "reward"
        if algorithm.importance != "none":
            phases["log-probabilities"] = forward
        if algorithm.reads_reference:
            passes = 1 if charged else algorithm.epochs
            swaps = 2 * (1 if charged else updates)
            reference = {name: passes * cost for name, cost in forward.items()}
            phases["reference policy"] = {"swapping weights": swaps * swap_seconds(model), **reference}
        if self.critic:
            critic = dataclasses.replace(model, architecture=self.critic, critic=True)
            phases |= critic_phases(model, critic, tokens, rollout.span, self.config.critic)
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
    def alone_steps(self) -> int:
        """Steps in which the critic alone is trained; they are a step in all else."""
        return min(self.config.critic.alone_steps, self.config.trainer.steps) if self.critic else 0

    @property
    def hours(self) -> float:
        """Hours of all steps, without start, evaluation and conversion."""
        alone = self.alone_steps * self.seconds["training"]
        return (self.config.trainer.steps * self.step_seconds - alone) / 3600

    @property
    def gpu_hours(self) -> float:
        """GPU-hours of all steps."""
        return self.hours * self.gpus

    @property
    def cost(self) -> float:
        """GPU-hours at the configured price."""
        return self.gpu_hours * self.config.cluster.price

    @property
    def tokens_a_second(self) -> float:
        """Tokens of prompts and responses a second and GPU, over the whole step."""
        return self.rollout.tokens / self.step_seconds / self.gpus

    @property
    def rests_on(self) -> dict[str, str]:
        """What each phase's seconds rest on: measured, published, or estimate, and of what."""
        generation = (
            "published: NeMo-RL's 8B step fits a token step's cost; its 70B and 8B of v0.3 are within 17%"
            if self.servers
            else "estimate: launches from Python, good to a factor of two"
        )
        said = {
            "weights to vLLM": "published: NeMo-RL's refit at 70B fits the rate; links alone would allow 1.1 to 1.7 s "
            "for 141 GB; the pause is an estimate",
            "generation": generation,
            "scoring": "measured: a third of the reward server's rate on two cores",
            "log-probabilities": "published: as training",
            "reference policy": "published: as training; swapping is an estimate",
            "taking turns": "estimate: cluster.host_gb_s, which pinned memory may exceed several times",
            "values": "published: as training",
            "critic training": "published: as training",
            "training": "published: torchtitan's 8B pre-training fits the share of peak; links are an estimate",
        }
        return {phase: said[phase] for phase in self.phases}
