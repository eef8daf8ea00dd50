"""Bytes on the GPU that holds most, by part, while training, while sampling and while saving, and in host memory.

Weights, gradients and optimizer state follow Megatron-LM's count with a distributed optimizer (6 + 12 / data parallel
size bytes a parameter in bfloat16; megatron/training/theoretical_memory_usage.py); activations are counted from what
our layers keep for the backward pass; logits and cache from recipes/engines/core/vocabulary.py and cache.py.

Left out: vocabulary padding, tensors that live for one layer only, fragmentation beyond the constant overhead.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from conversion.architecture import MegatronArchitecture
from recipes.planning.architectures import (
    cache_bytes,
    embedding_weights,
    layer_matrices,
    parameters,
    stage_parameters,
)
from recipes.planning.hardware import OVERHEAD_BYTES
from recipes.planning.layout import Layout, Rollout

# Float32 logits that vocabulary.py holds at once, and the temporaries of the same size beside them.
_CHUNK_BYTES = 4 * 2**24
_CHUNK_COPIES = 4


@dataclass(frozen=True)
class Memory:
    """Bytes by part on the fullest GPU; what trains, what samples and what saves is not there at the same time.

    Attributes:
        always: weights, gradients, optimizer state, a copy of the weights to sample with, overhead.
        training: activations and logits at their peak.
        sampling: keys and values, and logits.
        saving: what a save gathers.
        host: bytes in host memory by what they are of, a GPU.
        host_saving: bytes beside them in host memory while a save gathers the optimizer, a GPU.
        critic: what is there, of everything, while a critic trains and while it is saved; empty without one.
    """

    always: dict[str, float]
    training: dict[str, float]
    sampling: dict[str, float]
    saving: dict[str, float]
    host: dict[str, float]
    host_saving: float
    critic: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def phases(self) -> dict[str, dict[str, float]]:
        """What is there, of everything, in each phase."""
        own = {"training": self.training, "sampling": self.sampling, "saving": self.saving}
        return {phase: self.always | parts for phase, parts in own.items()} | self.critic

    @property
    def parts(self) -> dict[str, float]:
        """Every part by name, without what saves gather; the reference policy takes none of a GPU."""
        critic = self.critic.get("critic training", {})
        return {**self.always, **self.training, **self.sampling, **critic, "reference policy": 0.0}

    @property
    def peaks(self) -> dict[str, float]:
        """Bytes in each phase."""
        return {phase: sum(parts.values()) for phase, parts in self.phases.items()}

    @property
    def training_peak(self) -> float:
        """Bytes while training."""
        return self.peaks["training"]

    @property
    def sampling_peak(self) -> float:
        """Bytes while sampling."""
        return self.peaks["sampling"]

    @property
    def saving_peak(self) -> float:
        """Bytes while a save gathers the optimizer."""
        return self.peaks["saving"]

    @property
    def peak(self) -> float:
        """The largest of all phases."""
        return max(self.peaks.values())

    def of_node(self, gpus: int) -> float:
        """Bytes of host memory that a node with so many GPUs needs for them, at a save."""
        return gpus * (sum(self.host.values()) + self.host_saving)


def verdict(memory: Memory, limit: float) -> str:
    """fits, tight (above 90 % of the limit, within the estimate's error), or does not fit."""
    if memory.peak > limit:
        return "does not fit"
    return "tight" if memory.peak > 0.9 * limit else "fits"


def state_bytes(architecture: MegatronArchitecture, layout: Layout, *, critic: bool = False) -> dict[str, float]:
    """Weights, float32 gradients, and this rank's share of main weights and two moments in float32.

    Float32 weights are their own main weights. With FP8, Transformer Engine keeps every layer matrix in FP8 twice,
    row-wise and column-wise, beside the bfloat16 weight (as read in its source, not measured).
    """
    held = stage_parameters(architecture, layout.tensor, layout.pipeline, critic=critic)
    copies = 2 * architecture.num_layers / layout.pipeline * layer_matrices(architecture) / layout.tensor
    return {
        "weights": held * layout.bytes_per_weight + (copies if layout.fp8 else 0.0),
        "gradients": held * 4,
        "optimizer state": held * layout.optimizer_bytes / layout.data,
    }


def saved_bytes(held: float, data: int, *, earlier: float = 0.0) -> tuple[float, float]:
    """Bytes on a GPU and, for each, in host memory while a save gathers the state of `held` parameters.

    A save of several models gathers one after the other, and keeps in host memory what it has: of `earlier` parameters.

    Every data parallel rank receives the float32 main weights and two moments of all, one of the three after another on
    its GPU beside its own share, and keeps them in host memory; there the last comes twice more, as received and as
    joined, beside the rank's own shares (megatron/core/optimizer/distrib_optimizer.py, get_parameter_state_dp_zero).
    The rank that writes then copies each tensor out of them (strategies/filesystem_async.py, _clone_if_needed).
    """
    gathering, copying = 12 * earlier + (12 + 8 + 12 / data) * held, (12 + 12) * (earlier + held)
    return 4 * held * (1 + 1 / data), max(gathering, copying)


def layer_activations(architecture: MegatronArchitecture, layout: Layout) -> float:
    """Bytes that one layer keeps of one token for the backward pass, on one rank.

    Inputs and outputs of two norms (4 x hidden); Q and the output of attention (2 x query), K and V (2 x key), all
    packed; gate and up, and their product (3 x ffn). Full recomputation keeps the layer's input alone. What tensor
    parallelism does not divide by itself is divided by sequence parallelism.
    """
    hidden, ffn = architecture.hidden_size, architecture.ffn_hidden_size
    query, key = architecture.dimension("query"), architecture.dimension("kv")
    whole = layout.tensor if layout.sequence else 1
    if layout.recompute == 1:
        return layout.bytes_per_weight * hidden / whole
    divided = 2 * query + 2 * key + 3 * ffn
    return layout.bytes_per_weight * (4 * hidden / whole + divided / layout.tensor)


def activation_bytes(
    architecture: MegatronArchitecture, layout: Layout, rollout: Rollout, longest_prompt: int
) -> tuple[float, float]:
    """Bytes that a training pass keeps for its backward pass, and the tokens of a micro-batch.

    The first stage holds as many micro-batches as there are stages before the first comes back. A sequence longer than
    a micro-batch's limit is a micro-batch of its own.
    """
    tokens = max(layout.micro_batch_tokens, longest_prompt + rollout.limit)
    rank_tokens = rollout.packed_tokens(layout.micro_batch_tokens) / layout.data
    in_flight = min(layout.pipeline, max(1, math.ceil(rank_tokens / tokens)))
    layers = architecture.num_layers / layout.pipeline
    kept = tokens * layers * in_flight * layer_activations(architecture, layout)
    if layout.recompute == 1:
        # One layer at a time is there in full, and its gradients beside it.
        full = Layout(layout.tensor, sequence=layout.sequence, bytes_per_weight=layout.bytes_per_weight)
        kept += 1.5 * tokens * layer_activations(architecture, full)
    return kept, tokens


def hidden_bytes(architecture: MegatronArchitecture, layout: Layout, tokens: float) -> float:
    """Bytes of what the last layer hands to logits or values, of a whole micro-batch, with gradients."""
    return 4 * layout.bytes_per_weight * tokens * architecture.hidden_size


def memory_of(
    architecture: MegatronArchitecture,
    layout: Layout,
    rollout: Rollout,
    *,
    reference: bool,
    longest_prompt: int,
    alone: bool = False,
) -> Memory:
    """Memory of a GRPO step on our engine.

    Args:
        architecture: of the model.
        layout: of the run.
        rollout: responses a step.
        reference: whether updates read a reference policy.
        longest_prompt: tokens that the cache must have room for before a response.
        alone: whether every rank samples with a whole model of its own, which stays there while training.
    """
    held = stage_parameters(architecture, layout.tensor, layout.pipeline)
    output = embedding_weights(architecture) / layout.tensor
    activations, tokens = activation_bytes(architecture, layout, rollout, longest_prompt)
    replicas, divided = (layout.gpus, 1) if alone else (layout.data, layout.tensor * layout.pipeline)
    rows = rollout.responses / replicas
    # A prompt is there once for all of its responses.
    cached = rollout.groups / replicas * longest_prompt + rows * rollout.limit
    cache = cache_bytes(architecture, layout.bytes_per_weight) / divided
    cached_layers = architecture.num_layers if alone else architecture.num_layers / layout.pipeline
    copy = {"sampling copy": float(parameters(architecture) * layout.bytes_per_weight)} if alone else {}
    gathered, host_saving = saved_bytes(held, layout.data)
    return Memory(
        always={**state_bytes(architecture, layout), **copy, "overhead": OVERHEAD_BYTES},
        training={
            "activations": activations,
            # Chunks, hidden states, the output matrix's gradient in float32 twice.
            "logits": _CHUNK_COPIES * _CHUNK_BYTES + hidden_bytes(architecture, layout, tokens) + 8 * output,
        },
        sampling={
            # One layer's cache is there twice while it is copied.
            "KV cache": cached * cache * (1 + 1 / cached_layers),
            "sampling logits": 3 * 4 * rows * architecture.vocab_size,
        },
        saving={"gathered optimizer state": gathered},
        host={"reference policy": held * layout.bytes_per_weight} if reference else {},
        host_saving=host_saving,
    )
