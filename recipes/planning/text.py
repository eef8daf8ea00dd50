"""A plan in words for a terminal, and in keys for machines."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from recipes.planning.advice import advice
from recipes.planning.architectures import parameters
from recipes.planning.estimate import Plan
from recipes.planning.hardware import MEDIAN_ERROR_PERCENT, MEMORY_ERROR_PERCENT
from recipes.planning.sweep import splits

_SHOWN = 10
# Whose the other phases are.
_WHEN = {"critic training": "critic trains", "critic saving": "critic is saved"}


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
        *_critic(plan),
        *_who_samples(plan),
        f"  a step     {rollout.groups} prompts x {rollout.copies} responses of at most {rollout.limit} tokens",
        f"  assumed    prompts of {rollout.prompt_tokens} tokens, responses of {rollout.response_tokens} on average "
        "(--prompt-tokens, --response-tokens)",
    ]


def _critic(plan: Plan) -> list[str]:
    if plan.critic is None:
        return []
    settings = plan.config.critic
    turns = "takes turns with the policy on the GPUs (critic.offload)" if settings.offload else "beside the policy"
    return [
        f"  critic     {parameters(plan.critic, critic=True) / 1e9:.2f} billion parameters "
        f"({settings.path or 'the policy, with a value head'}), {turns}"
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
        *(f"  {_WHEN.get(phase, f'while {phase}'):<18}{peak / 1e9:7.1f}" for phase, peak in memory.peaks.items()),
        f"  verdict           {plan.verdict}: {memory.peak / 1e9:.1f} of {limit / 1e9:.0f} GB",
        *(
            [f"  in host memory    {sum(memory.host.values()) / 1e9:7.1f} a GPU, {_held(memory.host)}"]
            * bool(memory.host)
        ),
        *_server_memory(plan),
        f"  a node's memory   {plan.node_memory / 1e9:7.1f} of {plan.gpu.node_memory / 1e9:.0f} GB while saving",
    ]


def _held(host: Mapping[str, float]) -> str:
    return ", ".join(f"the {name}" for name in host)


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
    alone = f" ({plan.alone_steps} of them train the critic alone)" if plan.alone_steps else ""
    return [
        f"The run: {plan.config.trainer.steps} steps{alone}, {plan.hours:,.1f} hours, {plan.gpu_hours:,.0f} GPU-hours",
        f"  {plan.cost:,.0f} at {price}, evaluation and queues not counted",
    ]


def _layouts(fitting: Sequence[Plan], others: int) -> list[str]:
    head = (
        f"{len(fitting)} legal layouts fit, {others} do not; the fastest (estimates, differences under 5% mean little)"
    )
    critic = any(plan.critic for plan in fitting)
    lines = [
        head,
        "  tensor pipeline data micro-batch recompute"
        + (" offload" if critic else "")
        + "  s/step    GB"
        + ("  sampling" if splits(fitting) else ""),
    ]
    for plan in fitting[:_SHOWN]:
        layout = plan.layout
        lines.append(
            f"  {layout.tensor:6d} {layout.pipeline:8d} {layout.data:4d} {layout.micro_batch_tokens:11d} "
            f"{_yes(layout.recompute):>9}"
            + (f" {_yes(plan.config.critic.offload):>7}" if critic else "")
            + f" {plan.step_seconds:7.1f} {plan.memory.peak / 1e9:5.1f}"
            + (f"  {_split(plan)}" if plan.servers else "")
            + ("  tight" if plan.verdict == "tight" else "")
        )
    return lines + _splits(splits(fitting))


def _yes(value: float) -> str:
    return "yes" if value else "no"


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
    extra = [f"rollout.vllm.memory_share={servers.share:g}"] if servers.colocated else []
    extra += ["critic.offload=true"] if first.critic and first.config.critic.offload else []
    if extra:
        advised += f" EXTRA={shlex.quote(' '.join(extra))}"
    return [*lines, f"Recommended, as settings of slurm/*.sh: {advised}"]


def as_dict(plan: Plan, source: str, layouts: tuple[list[Plan], int] | None = None) -> dict[str, Any]:
    """The plan's figures: bytes, seconds, GPU-hours and the user's currency."""
    result: dict[str, Any] = {
        "estimate": True,
        "name": plan.config.name,
        "architecture": source,
        "parameters": parameters(plan.architecture),
        "layout": dataclasses.asdict(plan.layout),
        "critic": _critic_dict(plan),
        "servers": dataclasses.asdict(plan.servers) if plan.servers else None,
        "assumptions": dataclasses.asdict(plan.assumptions),
        "memory_bytes": {
            **plan.memory.parts,
            **{f"{phase.replace(' ', '_')}_peak": peak for phase, peak in plan.memory.peaks.items()},
            "limit": plan.gpu.memory,
            "host": sum(plan.memory.host.values()),
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
                "critic": _critic_dict(p),
                "servers": dataclasses.asdict(p.servers) if p.servers else None,
            }
            for p in layouts[0]
        ]
    return result


def _critic_dict(plan: Plan) -> dict[str, Any] | None:
    if plan.critic is None:
        return None
    return {
        "parameters": parameters(plan.critic, critic=True),
        "offload": plan.config.critic.offload,
        "alone_steps": plan.alone_steps,
    }


def _rounded(phases: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    return {phase: {name: round(cost, 3) for name, cost in parts.items()} for phase, parts in phases.items()}
