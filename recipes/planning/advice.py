"""What holds a run up, and what to change, in plain words."""

from __future__ import annotations

import dataclasses

from recipes.planning.estimate import Plan
from recipes.planning.hardware import OURS
from recipes.planning.memory import verdict
from recipes.planning.timing import Model, generation_seconds, generator_of

_SHARE = 0.15


def advice(plan: Plan) -> list[str]:
    """Sentences: first on memory where it is short, then on the longest phase and its largest parts."""
    return [*_servers(plan), *_critic(plan), *_memory(plan), *_node_memory(plan), *_time(plan)]


def fitting_share(plan: Plan) -> float:
    """The largest rollout.vllm.memory_share, in twentieths, that leaves the trainer's memory tight nowhere; 0 for none.

    Of servers on the trainer's GPUs, which give their memory up while it trains.
    """
    held = sum(plan.memory.always.values()) - plan.memory.always.get("vLLM", 0.0)
    return max(0, int(20 * (0.9 - held / plan.gpu.memory) + 1e-9)) / 20


def _critic(plan: Plan) -> list[str]:
    """On taking turns, where that decides whether the plan fits or is not needed for it."""
    if plan.critic is None:
        return []
    critic = dataclasses.replace(plan.config.critic, offload=not plan.config.critic.offload)
    other = dataclasses.replace(plan, config=dataclasses.replace(plan.config, critic=critic))
    limit = plan.gpu.memory
    sizes = f"{other.memory.peak / 1e9:.0f} GB in place of {plan.memory.peak / 1e9:.0f}"
    seconds = f"{abs(other.step_seconds - plan.step_seconds):.0f} s a step"
    if not critic.offload:
        fits = verdict(other.memory, limit) == "fits"
        said = f"Policy and critic fit beside each other: critic.offload=false takes {sizes} and saves {seconds}."
        return [said] if fits else []
    if verdict(plan.memory, limit) != "does not fit":
        return []
    if verdict(other.memory, limit) == "does not fit":
        return [f"critic.offload=true, by which policy and critic take turns on the GPUs, is not enough: {sizes}."]
    said = f"Set critic.offload=true: policy and critic then take turns on the GPUs, {sizes}, for {seconds}."
    # Where it is too much already, `_node_memory` says so of the plan itself.
    return [said, *([] if _node_memory(plan) else _node_memory(other, "then takes"))]


def _servers(plan: Plan) -> list[str]:
    servers = plan.servers
    if servers is None:
        return []
    said = []
    tokens = servers.cached_tokens(plan.architecture)
    if tokens < plan.config.model.max_length:
        said.append(
            f"A server has room for {max(0, int(tokens)):,} tokens, less than model.max_length="
            f"{plan.config.model.max_length}: raise rollout.tensor or rollout.vllm.memory_share."
        )
    if servers.colocated and not servers.sleeps:
        said.append("vLLM holds its memory while the trainer computes: set rollout.vllm.sleep=true.")
    rollout = plan.config.rollout
    if rollout.ahead:
        sampling, handing_over = plan.seconds["generation"], plan.seconds["weights to vLLM"]
        least = handing_over + max(sampling, plan.step_seconds - handing_over - sampling)
        said.append(
            f"Seconds are those of rollout.ahead=0. With ahead={rollout.ahead} servers sample while the trainer "
            f"computes: {least:.0f} s a step at best, on GPUs of their own; more than 1 saves the wait for a batch's "
            "longest responses alone, which no plan knows."
        )
    if rollout.over_sample:
        said.append(
            "Seconds are those of rollout.over_sample=0: neither what its further prompts cost nor the wait for the "
            "longest responses that they save is planned."
        )
    return said


def _node_memory(plan: Plan, takes: str = "takes") -> list[str]:
    if plan.node_memory <= plan.gpu.node_memory:
        return []
    return [
        f"A save {takes} {plan.node_memory / 1e9:.0f} GB of a node's memory, and it has "
        f"{plan.gpu.node_memory / 1e9:.0f} (cluster.node_memory_gb): raise parallel.pipeline or parallel.tensor, so "
        "that a rank has fewer parameters."
    ]


def _memory(plan: Plan) -> list[str]:
    memory, layout = plan.memory, plan.layout
    if verdict(memory, plan.gpu.memory) == "fits" or "vLLM" in memory.always:
        return []
    when = max(memory.peaks, key=lambda phase: memory.peaks[phase])
    parts = memory.phases[when]
    largest = max(parts, key=lambda part: parts[part])
    remedies = {
        "KV cache": "lower rollout.prompts, rollout.group_size or rollout.max_new_tokens, or use more GPUs",
        "activations": (
            "lower parallel.micro_batch_tokens"
            if layout.recompute
            else "set parallel.recompute=true, or lower parallel.micro_batch_tokens"
        ),
        "optimizer state": "use more GPUs, of which more are data parallel, or raise parallel.pipeline",
        "sampling copy": "set rollout.tensor=0, which samples with the trainer's own weights",
        "logits": "lower parallel.micro_batch_tokens",
        "sampling logits": "lower rollout.group_size or rollout.prompts",
        "vLLM": f"set rollout.vllm.memory_share to {fitting_share(plan):g} at most",
    }
    remedy = remedies.get(largest, "raise parallel.tensor (within a node) or parallel.pipeline")
    when = {"critic training": "training the critic", "critic saving": "saving the critic"}.get(when, when)
    state = "is short" if memory.peak > plan.gpu.memory else "is nearly full"
    return [f"Memory {state} while {when}, most of it {largest} ({parts[largest] / 1e9:.1f} GB): {remedy}."]


def _time(plan: Plan) -> list[str]:
    phase = max(plan.seconds, key=lambda name: plan.seconds[name])
    seconds, parts = plan.seconds[phase], plan.phases[phase]
    said = [f"The bottleneck is {phase}: {seconds:.0f} of {plan.step_seconds:.0f} s a step."]
    if phase == "generation":
        said += _generation(plan)
    passes = plan.phases["training"]
    total = sum(passes.values())
    if passes["pipeline bubble"] > _SHARE * total:
        said.append(
            f"Stages of the pipeline idle for {passes['pipeline bubble'] / total:.0%} of training: fewer stages "
            "(parallel.pipeline), or smaller micro-batches (parallel.micro_batch_tokens), so that there are more."
        )
    if passes["tensor parallel"] > _SHARE * total:
        said.append(
            f"Tensor parallel communication takes {passes['tensor parallel'] / total:.0%} of training: a smaller "
            "parallel.tensor needs less, with more pipeline stages if memory is short."
        )
    if phase != "generation" and plan.layout.recompute:
        said.append("Without parallel.recompute training is about a quarter shorter, if its activations fit.")
    if phase == "reference policy" and parts.get("swapping weights", 0) > 0.5 * seconds:
        said.append("Most of it is swapping weights: fewer algorithm.mini_batches, or algorithm.kl_coef=0.")
    return said


def _generation(plan: Plan) -> list[str]:
    if plan.servers:
        return [
            "Most of it is the longest responses' token steps: shorter ones (rollout.max_new_tokens), or a larger "
            "rollout.tensor, which reads the weights faster."
        ]
    parts = plan.phases["generation"]
    largest = max(parts, key=lambda name: parts[name])
    model = Model(plan.architecture, plan.layout, plan.gpu, OURS)
    engine = sum(generation_seconds(model, generator_of(plan.layout, "engine"), plan.rollout).values())
    other = f"vLLM (rollout=vllm) would take about {engine:.0f} s on the same GPUs, and some for the weights"
    if largest == "launches":
        return [
            f"Most of it ({parts['launches'] / plan.seconds['generation']:.0%}) is the host launching kernels for one "
            "token after another, whatever the batch: more responses a step (rollout.prompts, rollout.group_size) are "
            f"nearly free while the cache fits, shorter ones (rollout.max_new_tokens) save in proportion; {other}."
        ]
    return [
        f"Most of it is reading {largest} from memory: a larger parallel.tensor, or shorter responses "
        f"(rollout.max_new_tokens); {other}."
    ]
