"""What holds a run up, and what to change, in plain words."""

from __future__ import annotations

import dataclasses

from recipes.planning.estimate import Plan
from recipes.planning.memory import verdict

_SHARE = 0.15


def advice(plan: Plan) -> list[str]:
    """Sentences: first on memory where it is short, then on the longest phase and its largest parts."""
    return [*_memory(plan), *_node_memory(plan), *_time(plan)]


def _node_memory(plan: Plan) -> list[str]:
    if plan.node_memory <= plan.gpu.node_memory:
        return []
    return [
        f"A save takes {plan.node_memory / 1e9:.0f} GB of a node's memory, and it has {plan.gpu.node_memory / 1e9:.0f} "
        "(cluster.node_memory_gb): raise parallel.pipeline or parallel.tensor, so that a rank has fewer parameters."
    ]


def _memory(plan: Plan) -> list[str]:
    memory, layout = plan.memory, plan.layout
    if verdict(memory, plan.gpu.memory) == "fits":
        return []
    parts = memory.parts
    largest = max(parts, key=lambda name: parts[name])
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
    }
    remedy = remedies.get(largest, "raise parallel.tensor (within a node) or parallel.pipeline")
    peaks = {"training": memory.training_peak, "sampling": memory.sampling_peak, "saving": memory.saving_peak}
    when = max(peaks, key=lambda name: peaks[name])
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
    if plan.assumptions.generator == "engine":
        return ["Tokens are bound by memory: more GPUs, or shorter responses (rollout.max_new_tokens)."]
    parts = plan.phases["generation"]
    largest = max(parts, key=lambda name: parts[name])
    engine = dataclasses.replace(plan, assumptions=dataclasses.replace(plan.assumptions, generator="engine"))
    other = f"an inference engine on the same GPUs would take about {engine.seconds['generation']:.0f} s"
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
