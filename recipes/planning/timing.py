"""Seconds of a step by phase, each with its parts: roofline sums over matrix products, memory and links.

Time is counted in GPU-seconds a token (what one GPU alone would need), divided by the number of GPUs, and then made
longer by what does not divide: pipeline bubbles, latency, launches. Sources of the counts: 2 operations a weight and
token forward and 4 backward (Kaplan et al., arXiv 2001.08361, section 2.1); attention 4 x width x span forward, and 5
products instead of 2 backward (FlashAttention-2, arXiv 2307.08691); tensor parallel volume (Korthikanti et al., arXiv
2205.05198, section 4); pipeline bubble (p - 1) / (v m) (Narayanan et al., arXiv 2104.04473, section 2.2).

Left out: data loading, checkpoint writing (it runs beside training), imbalance between data parallel ranks, batches
that dynamic sampling adds (rollout.max_batches), and communication of context parallelism, which is taken as hidden.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from conversion.architecture import MegatronArchitecture
from recipes.planning.architectures import (
    cache_bytes,
    embedding_weights,
    layer_matrices,
    parameters,
    stage_parameters,
)
from recipes.planning.hardware import (
    EAGER_LAYER_S,
    ENGINE_STEP_S,
    FP8_ELEMENTS,
    HANDOVER_BYTES_S,
    HANDOVER_S,
    HBM_SHARE,
    LATENCY_S,
    LINK_SHARE,
    MATMUL_SHARE,
    Gpu,
    Kernels,
)
from recipes.planning.layout import Layout, Rollout

Parts = dict[str, float]


@dataclass(frozen=True)
class Model:
    """What passes over tokens: an architecture in a layout, on GPUs, with a framework's kernels.

    Attributes:
        critic: whether a value head stands in place of the output matrix.
    """

    architecture: MegatronArchitecture
    layout: Layout
    gpu: Gpu
    kernels: Kernels
    critic: bool = False

    @property
    def held(self) -> float:
        """Parameters on the GPU that has most."""
        return stage_parameters(self.architecture, self.layout.tensor, self.layout.pipeline, critic=self.critic)


def _link(model: Model, ranks: int) -> float:
    """Bytes a second between `ranks` neighbouring GPUs, each way."""
    return (model.gpu.nvlink if ranks <= model.gpu.per_node else model.gpu.network) * LINK_SHARE


def _token_costs(model: Model, span: float) -> tuple[Parts, float]:
    """GPU-seconds of one token's forward pass through all layers by part, and through output matrix or value head.

    Args:
        model: what computes.
        span: mean number of tokens that a token attends to.
    """
    architecture, layout, gpu = model.architecture, model.layout, model.gpu
    layers, hidden = architecture.num_layers, architecture.hidden_size
    query, ffn = architecture.dimension("query"), architecture.ffn_hidden_size
    peak = gpu.fp8 if layout.fp8 else gpu.bf16
    # Two norms and two sums over the residual stream, rotation and layout of Q, K and V, gate times up.
    moved = layout.bytes_per_weight * (10 * hidden + 3 * ffn + 4 * query) * (FP8_ELEMENTS if layout.fp8 else 1.0)
    # A gather before and a scatter after attention and MLP, or two reductions, which move as much.
    sent = 4 * layout.bytes_per_weight * hidden * (layout.tensor - 1) / layout.tensor
    exposed = 0.0 if model.kernels.hides_tensor_parallel else sent * layout.tensor / _link(model, layout.tensor)
    costs = {
        "matrix products": layers * 2 * layer_matrices(architecture) / (peak * MATMUL_SHARE),
        "attention": layers * 4 * query * span / (gpu.bf16 * model.kernels.attention),
        "element-wise": layers * moved / (gpu.hbm * HBM_SHARE),
        "tensor parallel": layers * exposed,
    }
    head = architecture.hidden_size if model.critic else embedding_weights(architecture)
    return costs, 2 * head / (gpu.bf16 * MATMUL_SHARE)


def pass_seconds(
    model: Model,
    tokens: float,
    span: float,
    *,
    trained: Literal["all", "lora", "nothing"],
    updates: int = 1,
    recomputes_output: bool = True,
) -> Parts:
    """Seconds of a pass over `tokens` tokens (over all ranks), forward alone or with its gradient, by part.

    Args:
        model: what computes.
        tokens: of all ranks together.
        span: mean number of tokens that a token attends to.
        trained: all weights; adapters alone, where the weights' own gradients are not computed; or nothing.
        updates: optimizer steps that the tokens are divided over.
        recomputes_output: whether the backward pass computes logits again, as our engine does.
    """
    layout = model.layout
    costs, output = _token_costs(model, span)
    if trained != "nothing":
        weights = 1.0 if trained == "all" else 0.0
        # Under sequence parallelism the inputs of Q, K, V and gate, up are gathered again for the weights' gradients.
        gathers = 1.5 if layout.sequence and trained == "all" else 1.0
        again = layout.recompute
        costs = {
            "matrix products": costs["matrix products"] * (2 + weights + again),
            # Selective recomputation keeps attention.
            "attention": costs["attention"] * (1 + 2.5 + (again == 1)),
            "element-wise": costs["element-wise"] * (3 + again),
            "tensor parallel": costs["tensor parallel"] * (1 + gathers + (again == 1)),
        }
        output *= 2 + weights + recomputes_output
    parts = {name: cost * tokens / layout.gpus for name, cost in costs.items()}
    # The last stage alone multiplies with the output matrix, and the others wait for it.
    parts["matrix products"] += output * tokens / layout.gpus
    waiting = output * (layout.pipeline - 1) * tokens / layout.gpus
    micro_batches = max(1.0, tokens / (updates * layout.data * layout.micro_batch_tokens))
    bubble = (sum(parts.values()) + waiting) * (layout.pipeline - 1) / (layout.virtual * micro_batches)
    parts["pipeline bubble"] = waiting + bubble
    return parts


def update_seconds(model: Model) -> Parts:
    """Seconds of one optimizer step: gradients summed and weights gathered over data parallel ranks, then AdamW.

    Gradients are float32 and not sent while the backward pass runs; AdamW reads gradient, weight and two moments and
    writes three of them and the bfloat16 weight, for this rank's share, after a norm over all gradients.
    """
    layout, gpu, held = model.layout, model.gpu, model.held
    sent = (4 + layout.bytes_per_weight) * held * (layout.data - 1) / layout.data
    moved = held * 8 + held / layout.data * (28 + layout.bytes_per_weight)
    return {
        "gradients and weights": sent / _link(model, layout.tensor * layout.data),
        "optimizer": moved / (gpu.hbm * HBM_SHARE),
    }


def swap_seconds(model: Model) -> float:
    """Seconds to exchange the policy's weights with the reference's in host memory: once out, once in."""
    return 2 * model.held * model.layout.bytes_per_weight / model.gpu.host


@dataclass(frozen=True)
class Generator:
    """What samples responses.

    Attributes:
        kind: embedded (our engine: the training model itself, launched from Python, its stages in turn) or engine (an
            inference engine such as vLLM or TensorRT-LLM, its weights divided by `tensor` alone).
        tensor: GPUs that hold one copy of the model.
        gpus: all of them.
        weight_bytes, cache_bytes: of a weight and a cached value; 1 in FP8.
        rows: responses that a copy decodes at the same time; 0 for all.
        refills: whether a response that ends makes room for the next, as in vLLM; else a batch runs to its end.
    """

    kind: Literal["embedded", "engine"]
    tensor: int
    gpus: int
    pipeline: int = 1
    weight_bytes: float = 2
    cache_bytes: int = 2
    rows: int = 0
    refills: bool = False


def gathering_seconds(model: Model) -> float:
    """Seconds until every rank has all weights: what the others of its replica hold, at the slowest link among them."""
    layout = model.layout
    ranks = layout.tensor * layout.pipeline
    held = parameters(model.architecture) * layout.bytes_per_weight
    return held * (ranks - 1) / ranks / _link(model, ranks)


def generator_of(layout: Layout, kind: Literal["embedded", "engine"], *, alone: bool = False) -> Generator:
    """The embedded sampler in the training layout, or an engine of the same tensor parallel size on the same GPUs.

    Of `alone`, the embedded sampler is a whole model on every GPU.
    """
    if kind == "embedded" and alone:
        return Generator(
            kind, 1, layout.gpus, weight_bytes=layout.bytes_per_weight, cache_bytes=layout.bytes_per_weight
        )
    pipeline = layout.pipeline if kind == "embedded" else 1
    size = layout.bytes_per_weight
    return Generator(kind, layout.tensor, layout.gpus, pipeline, weight_bytes=size, cache_bytes=size)


def _token_steps(generator: Generator, rollout: Rollout, rows: float, at_once: float) -> float:
    """Token steps of a copy that decodes `rows` responses, `at_once` at a time.

    All copies wait for the longest response of any where they decode one batch, else each for the longest of its own.
    Where what ends makes room, the last response begins at the latest when all before it are divided evenly.
    """
    batches = math.ceil(rows / at_once)
    if batches == 1:
        return rollout.longest(rollout.responses)
    if generator.refills:
        return (rows - at_once) / at_once * rollout.response_tokens + rollout.longest(at_once)
    return batches * rollout.longest(at_once)


def handover_seconds(model: Model, size: float, gpus: int) -> Parts:
    """Seconds until an inference engine has new weights and answers again.

    A published system's rate, as far as the links let through what one rank takes in and sends out again.

    Args:
        model: what trains.
        size: bytes of the weights.
        gpus: of trainer and engine together; beyond a node the network is between them.
    """
    rate = min(HANDOVER_BYTES_S, _link(model, gpus) / 2)
    return {"pausing and waking": HANDOVER_S, "weights": size / rate}


def generation_seconds(model: Model, generator: Generator, rollout: Rollout) -> Parts:
    """Seconds to sample a step's responses, by part.

    A token step reads the weights and every response's cache from memory (the embedded sampler a prompt once for all of
    its responses), or, with many responses, is limited by its matrix products; stages of a pipeline work in turn, so
    that neither weights nor cache are read faster for them.
    """
    architecture, gpu = model.architecture, model.gpu
    copies = generator.gpus / (generator.tensor * generator.pipeline)
    rows = rollout.responses / copies
    at_once = min(rows, generator.rows or rows)
    steps = _token_steps(generator, rollout, rows, at_once)
    rate = gpu.hbm * HBM_SHARE * generator.tensor
    read = parameters(architecture) * generator.weight_bytes / rate
    if generator.kind == "embedded":
        launches = architecture.num_layers * EAGER_LAYER_S
    else:
        launches = ENGINE_STEP_S
    collectives = 2 * architecture.num_layers * LATENCY_S if generator.tensor > 1 else 0.0
    attended = rollout.shared_attended if generator.kind == "embedded" else rollout.attended
    cache = rows * attended * cache_bytes(architecture, generator.cache_bytes) / rate
    peak = (gpu.fp8 if generator.weight_bytes == 1 else gpu.bf16) * MATMUL_SHARE * generator.tensor
    products = rows * rollout.response_tokens * 2 * parameters(architecture) / peak
    costs, output = _token_costs(model, rollout.prompt_tokens / 2)
    prompts = rollout.groups * rollout.prompt_tokens * (sum(costs.values()) + output)
    return {
        "launches": steps * launches,
        "weights": max(steps * read, products),
        "cache": cache,
        "collectives": steps * collectives,
        # Stages of a pipeline compute the prompts in turn as well.
        "prompts": prompts * generator.pipeline / generator.gpus,
    }
