"""A plan in words for a terminal, and in keys for machines."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from recipes.planning.advice import advice
from recipes.planning.architectures import parameters
from recipes.planning.estimate import Plan
from recipes.planning.hardware import MEDIAN_ERROR_PERCENT, MEMORY_ERROR_PERCENT
from recipes.planning.memory import verdict

_SHOWN = 10


def as_text(plan: Plan, source: str, layouts: tuple[list[Plan], int] | None = None) -> str:
    """The whole plan, with the sweep's ranking where there is one.

    Args:
        plan: to print.
        source: where the architecture was found.
        layouts: of `sweep`.
    """
    return "\n".join(
        [*_head(plan, source), "", *_memory(plan), "", *_time(plan), "", *_run(plan), "", *advice(plan)]
        + (["", *_layouts(*layouts)] if layouts else [])
    )


def _head(plan: Plan, source: str) -> list[str]:
    config, layout, rollout = plan.config, plan.layout, plan.rollout
    precision = f"{config.model.precision}, FP8 {config.model.fp8}" if layout.fp8 else config.model.precision
    return [
        f"Plan of {config.name}: an estimate, nothing was measured; docs/plan.md says how it is made and how far off",
        f"  model      {parameters(plan.architecture) / 1e9:.2f} billion parameters ({source})",
        f"  GPUs       {layout.gpus} x {plan.gpu.name}: tensor {layout.tensor} x pipeline {layout.pipeline} x data "
        f"{layout.data}, micro-batches of {layout.micro_batch_tokens} tokens, {precision}"
        + (", recomputation" if layout.recompute else ""),
        f"  a step     {rollout.groups} prompts x {rollout.copies} responses of at most {rollout.limit} tokens",
        f"  assumed    prompts of {rollout.prompt_tokens} tokens, responses of {rollout.response_tokens} on average "
        "(--prompt-tokens, --response-tokens)",
    ]


def _memory(plan: Plan) -> list[str]:
    memory, limit = plan.memory, plan.gpu.memory
    rows = [f"  {name:<18}{size / 1e9:7.1f}" for name, size in memory.parts.items()]
    return [
        f"Memory of the fullest GPU, GB (estimate, +-{MEMORY_ERROR_PERCENT}%)",
        *rows,
        f"  while training    {memory.training_peak / 1e9:7.1f}",
        f"  while sampling    {memory.sampling_peak / 1e9:7.1f}",
        f"  while saving      {memory.saving_peak / 1e9:7.1f}",
        f"  verdict           {verdict(memory, limit)}: {memory.peak / 1e9:.1f} of {limit / 1e9:.0f} GB",
        *([f"  in host memory    {memory.host / 1e9:7.1f} a GPU, the reference policy"] if memory.host else []),
        f"  a node's memory   {plan.node_memory / 1e9:7.1f} of {plan.gpu.node_memory / 1e9:.0f} GB while saving",
    ]


def _time(plan: Plan) -> list[str]:
    lines = [
        f"Seconds a step (estimate; half of the published rows are within {MEDIAN_ERROR_PERCENT}%, some are off by more"
        + ("; the embedded sampler's launches are a guess good to a factor of two)" if _guesses(plan) else ")")
    ]
    for phase, parts in plan.phases.items():
        inside = ", ".join(f"{name} {cost:.1f}" for name, cost in parts.items() if cost >= 0.05)
        lines.append(f"  {phase:<18}{plan.seconds[phase]:7.1f}  {inside if len(parts) > 1 else ''}".rstrip())
    lines.append(f"  {'the step':<18}{plan.step_seconds:7.1f}  {plan.tokens_a_second:,.0f} tokens a second and GPU")
    return lines


def _guesses(plan: Plan) -> bool:
    return plan.assumptions.generator == "embedded"


def _run(plan: Plan) -> list[str]:
    price = f"{plan.config.cluster.price:.2f} a GPU-hour (cluster.price, set your own)"
    return [
        f"The run: {plan.config.trainer.steps} steps, {plan.hours:,.1f} hours, {plan.gpu_hours:,.0f} GPU-hours",
        f"  {plan.cost:,.0f} at {price}, evaluation and queues not counted",
    ]


def _layouts(fitting: Sequence[Plan], others: int) -> list[str]:
    head = (
        f"{len(fitting)} legal layouts fit, {others} do not; the fastest (estimates, differences under 5% mean little)"
    )
    lines = [head, "  tensor pipeline data micro-batch recompute  s/step    GB"]
    for plan in fitting[:_SHOWN]:
        layout = plan.layout
        lines.append(
            f"  {layout.tensor:6d} {layout.pipeline:8d} {layout.data:4d} {layout.micro_batch_tokens:11d} "
            f"{'yes' if layout.recompute else 'no':>9} {plan.step_seconds:7.1f} {plan.memory.peak / 1e9:5.1f}"
            + ("  tight" if verdict(plan.memory, plan.gpu.memory) == "tight" else "")
        )
    return lines


def as_dict(plan: Plan, source: str, layouts: tuple[list[Plan], int] | None = None) -> dict[str, Any]:
    """The plan's figures: bytes, seconds, GPU-hours and the user's currency."""
    result: dict[str, Any] = {
        "estimate": True,
        "name": plan.config.name,
        "architecture": source,
        "parameters": parameters(plan.architecture),
        "layout": dataclasses.asdict(plan.layout),
        "assumptions": dataclasses.asdict(plan.assumptions),
        "memory_bytes": {
            **plan.memory.parts,
            "training_peak": plan.memory.training_peak,
            "sampling_peak": plan.memory.sampling_peak,
            "saving_peak": plan.memory.saving_peak,
            "limit": plan.gpu.memory,
            "host": plan.memory.host,
            "node_while_saving": plan.node_memory,
            "node_limit": plan.gpu.node_memory,
        },
        "verdict": verdict(plan.memory, plan.gpu.memory),
        "step_seconds": _rounded(plan.phases) | {"total": round(plan.step_seconds, 2)},
        "gpu_hours": round(plan.gpu_hours, 1),
        "cost": round(plan.cost, 2),
        "advice": advice(plan),
        "median_error_percent": MEDIAN_ERROR_PERCENT,
    }
    if layouts:
        result["layouts"] = [
            {**dataclasses.asdict(p.layout), "step_seconds": round(p.step_seconds, 2), "peak_bytes": p.memory.peak}
            for p in layouts[0]
        ]
    return result


def _rounded(phases: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    return {phase: {name: round(cost, 3) for name, cost in parts.items()} for phase, parts in phases.items()}
