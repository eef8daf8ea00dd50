"""Servers of vLLM as a plan sees them: on which GPUs, with how much room for keys and values, and what that costs.

Where they share the trainer's GPUs each holds its share of memory while it samples, and gives it up while the trainer
computes (rollout.vllm.sleep). On GPUs of their own the trainer waits while they sample, and they while it trains.

Left out: prefixes that vLLM keeps from one step to the next, which new weights make worthless.
"""

from __future__ import annotations

from dataclasses import dataclass

from conversion.architecture import MegatronArchitecture
from recipes.planning.architectures import cache_bytes, parameters
from recipes.planning.hardware import Gpu
from recipes.planning.layout import Rollout
from recipes.planning.timing import Generator
from recipes.runtime.config import Config, ConfigError

# Responses that vLLM decodes at once by default on a GPU of 70 GB and more (vllm/engine/arg_utils.py, 0.32).
_AT_ONCE = 1024
# Activations of its largest batch, CUDA graphs, communicators: estimate.
_OVERHEAD_BYTES = 4e9


@dataclass(frozen=True)
class Servers:
    """vLLM's servers of a run.

    Attributes:
        tensor: GPUs of one server.
        gpus: of all.
        colocated: whether these are the trainer's.
        sleeps: whether they give up their memory while the trainer computes.
        share: of a GPU's memory that one takes.
        weight_bytes: of a weight.
        memory: bytes of a GPU.
    """

    tensor: int
    gpus: int
    colocated: bool
    sleeps: bool
    share: float
    weight_bytes: int
    memory: float

    @property
    def taken(self) -> float:
        """Bytes of a GPU that a server takes while it samples."""
        return self.share * self.memory

    def weights(self, architecture: MegatronArchitecture) -> float:
        """Bytes of weights on a GPU."""
        return parameters(architecture) * self.weight_bytes / self.tensor

    def cached_tokens(self, architecture: MegatronArchitecture) -> float:
        """Tokens whose keys and values one server has room for; below 0 where its weights do not fit."""
        room = self.taken - self.weights(architecture) - _OVERHEAD_BYTES
        return room * self.tensor / cache_bytes(architecture, self.weight_bytes)

    def generator(self, architecture: MegatronArchitecture, rollout: Rollout) -> Generator:
        """As generation is timed: so many responses at once as there is room for at their mean length."""
        held = rollout.attended / rollout.response_tokens
        rows = max(1, min(_AT_ONCE, int(self.cached_tokens(architecture) / held)))
        size = self.weight_bytes
        return Generator("engine", self.tensor, self.gpus, weight_bytes=size, cache_bytes=size, rows=rows, refills=True)


def servers_of(config: Config, architecture: MegatronArchitecture, gpu: Gpu, nodes: int) -> Servers | None:
    """The servers that a configuration asks for, on `nodes` nodes of their own or, with 0, the trainer's GPUs.

    Raises:
        ConfigError: they do not divide the GPUs or the model.
    """
    rollout = config.rollout
    if rollout.sampler == "embedded":
        if nodes:
            raise ConfigError(f"--rollout-nodes {nodes}: the embedded sampler has no servers; set rollout=vllm")
        return None
    tensor, gpus = max(1, rollout.tensor), nodes * gpu.per_node or config.parallel.processes
    if min(gpus, gpu.per_node) % tensor:
        raise ConfigError(f"rollout.tensor={tensor} does not divide a node's {min(gpus, gpu.per_node)} GPUs")
    if architecture.num_attention_heads % tensor:
        raise ConfigError(f"rollout.tensor={tensor} does not divide {architecture.num_attention_heads} attention heads")
    return Servers(
        tensor=tensor,
        gpus=gpus,
        colocated=not nodes,
        sleeps=not nodes and rollout.vllm.sleep,
        share=rollout.vllm.memory_share,
        weight_bytes=2 if config.model.precision == "bfloat16" else 4,
        memory=gpu.memory,
    )
