"""A plan in words for a terminal, and in keys for machines."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from recipes.planning.advice import advice
from recipes.planning.architectures import parameters
from recipes.planning.estimate import Plan
from recipes.planning.hardware import MEDIAN_ERROR_PERCENT, MEMORY_ERROR_PERCENT
from recipes.planning.sweep import splits

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
        *_who_samples(plan),
        f"  a step     {rollout.groups} prompts x {rollout.copies} responses of at most {rollout.limit} tokens",
        f"  assumed    prompts of {rollout.prompt_tokens} tokens, responses of {rollout.response_tokens} on average "
        "(--prompt-tokens, --response-tokens)",
    ]


def _who_samples(plan: Plan) -> list[str]:
    servers = plan.servers
    if not servers:
        return []
    where = "the same GPUs, asleep while these train" if servers.sleeps else "the same GPUs"
    where = where if servers.colocated else "GPUs of their own, which wait while the others train"
    return [
        f"  sampling   vLLM, {servers.gpus // servers.tensor} servers of {servers.tensor} GPUs on {where}",
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
        f"  verdict           {plan.verdict}: {memory.peak / 1e9:.1f} of {limit / 1e9:.0f} GB",
        *([f"  in host memory    {memory.host / 1e9:7.1f} a GPU, the reference policy"] if memory.host else []),
        *_server_memory(plan),
        f"  a node's memory   {plan.node_memory / 1e9:7.1f} of {plan.gpu.node_memory / 1e9:.0f} GB while saving",
    ]


def _server_memory(plan: Plan) -> list[str]:
    servers = plan.servers
    if not servers:
        return []
    weights, tokens = servers.weights(plan.architecture) / 1e9, max(0.0, servers.cached_tokens(plan.architecture))
    return [
        f"  a server's GPU    {servers.taken / 1e9:7.1f} (rollout.vllm.memory_share), {weights:.1f} of it weights;"
        f" a server has room for {tokens:,.0f} tokens"
    ]


def _time(plan: Plan) -> list[str]:
    lines = [
        f"Seconds a step (estimate; half of the published rows are within {MEDIAN_ERROR_PERCENT}%, some are off by more"
        + ")"
    ]
    for phase, parts in plan.phases.items():
        inside = ", ".join(f"{name} {cost:.1f}" for name, cost in parts.items() if cost >= 0.05)
        lines.append(f"  {phase:<18}{plan.seconds[phase]:7.1f}  {inside if len(parts) > 1 else ''}".rstrip())
    lines.append(f"  {'the step':<18}{plan.step_seconds:7.1f}  {plan.tokens_a_second:,.0f} tokens a second and GPU")
    return [*lines, "Rests on", *(f"  {phase:<19}{said}" for phase, said in plan.rests_on.items())]


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
    lines = [
        head,
        "  tensor pipeline data micro-batch recompute  s/step    GB" + ("  sampling" if splits(fitting) else ""),
    ]
    for plan in fitting[:_SHOWN]:
        layout = plan.layout
        lines.append(
            f"  {layout.tensor:6d} {layout.pipeline:8d} {layout.data:4d} {layout.micro_batch_tokens:11d} "
            f"{'yes' if layout.recompute else 'no':>9} {plan.step_seconds:7.1f} {plan.memory.peak / 1e9:5.1f}"
            + (f"  {_split(plan)}" if plan.servers else "")
            + ("  tight" if plan.verdict == "tight" else "")
        )
    return lines + _splits(splits(fitting))


def _split(plan: Plan) -> str:
    servers = plan.servers
    assert servers is not None
    if servers.colocated:
        return f"all {servers.gpus} by {servers.tensor}, memory {servers.share:g}"
    return f"{servers.gpus} of {plan.gpus} by {servers.tensor}"


def _splits(best: Sequence[Plan]) -> list[str]:
    """Who samples and who trains: the fastest of each division of the nodes, and the fastest of all."""
    if not best:
        return []
    lines = ["", "The fastest of each division; nothing runs at the same time, so each side waits for the other"]
    lines.append("  nodes that sample   GPUs training  sampling   s/step  generation  training and passes")
    for plan in best:
        assert plan.servers is not None
        generation = plan.seconds["generation"]
        rest = plan.step_seconds - generation - plan.seconds["weights to vLLM"] - plan.seconds["scoring"]
        lines.append(
            f"  {plan.assumptions.rollout_nodes:17d}   {plan.layout.gpus:13d}  {plan.servers.gpus:8d} "
            f"{plan.step_seconds:8.1f}  {generation:10.1f}  {rest:19.1f}"
        )
    first = min(best, key=lambda plan: plan.step_seconds)
    servers = first.servers
    assert servers is not None
    advised = f"ROLLOUT_NODES={first.assumptions.rollout_nodes} ROLLOUT_TENSOR={servers.tensor}"
    if servers.colocated:
        advised += f" EXTRA=rollout.vllm.memory_share={servers.share:g}"
    return [*lines, f"Recommended, as settings of slurm/*.sh: {advised}"]


def as_dict(plan: Plan, source: str, layouts: tuple[list[Plan], int] | None = None) -> dict[str, Any]:
    """The plan's figures: bytes, seconds, GPU-hours and the user's currency."""
    result: dict[str, Any] = {
        "estimate": True,
        "name": plan.config.name,
        "architecture": source,
        "parameters": parameters(plan.architecture),
        "layout": dataclasses.asdict(plan.layout),
        "servers": dataclasses.asdict(plan.servers) if plan.servers else None,
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
        "verdict": plan.verdict,
        "step_seconds": _rounded(plan.phases) | {"total": round(plan.step_seconds, 2)},
        "rests_on": plan.rests_on,
        "gpu_hours": round(plan.gpu_hours, 1),
        "cost": round(plan.cost, 2),
        "advice": advice(plan),
        "median_error_percent": MEDIAN_ERROR_PERCENT,
    }
    if layouts:
        result["layouts"] = [
            {
                **dataclasses.asdict(p.layout),
                "step_seconds": round(p.step_seconds, 2),
                "peak_bytes": p.memory.peak,
                "servers": dataclasses.asdict(p.servers) if p.servers else None,
            }
            for p in layouts[0]
        ]
    return result


def _rounded(phases: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    return {phase: {name: round(cost, 3) for name, cost in parts.items()} for phase, parts in phases.items()}
