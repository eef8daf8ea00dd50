"""Every layout that the model, the number of GPUs and the batch allow, ranked by seconds a step.

With vLLM also every way to divide the nodes between its servers and the trainer, the trainer's own GPUs among them.
With a critic also `critic.offload`.

Legal is what the training run itself would accept: `validate` and `validate_model` decide. Left out: layouts whose
tensor parallel groups span nodes, which are legal and never faster.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from conversion.architecture import MegatronArchitecture
from recipes.planning.advice import fitting_share
from recipes.planning.architectures import critic_architecture
from recipes.planning.estimate import Plan
from recipes.runtime.config import Config, ConfigError
from recipes.runtime.model_rules import validate_critic, validate_model
from recipes.runtime.rollout_config import VLLMConfig
from recipes.runtime.rules import Stage, validate

_MICRO_BATCHES = (4096, 8192, 16384, 32768)


def legal_layouts(config: Config, architecture: MegatronArchitecture, per_node: int) -> Iterator[Config]:
    """The configuration under every legal tensor x pipeline x data parallel size, micro-batch and recomputation.

    Of a critic also taking turns with the policy, and not.
    """
    processes = config.parallel.processes
    critics = [config.critic]
    if critic_architecture(config, architecture):
        critics = [dataclasses.replace(config.critic, offload=offload) for offload in (False, True)]
    for tensor in range(1, min(processes, per_node) + 1):
        for pipeline in range(1, processes // tensor + 1):
            if processes % (tensor * pipeline):
                continue
            for tokens in _MICRO_BATCHES:
                for recompute in (False, True):
                    parallel = dataclasses.replace(
                        config.parallel,
                        tensor=tensor,
                        pipeline=pipeline,
                        sequence=tensor > 1,
                        recompute=recompute,
                        micro_batch_tokens=tokens,
                    )
                    candidate = dataclasses.replace(config, parallel=parallel)
                    try:
                        check_layout(candidate, architecture)
                    except ConfigError:
                        continue
                    for critic in critics:
                        yield dataclasses.replace(candidate, critic=critic)


def check_layout(config: Config, architecture: MegatronArchitecture) -> None:
    """Raises ConfigError where the training run would."""
    validate(config, Stage.PLAN)
    validate_model(config, architecture)
    critic = critic_architecture(config, architecture)
    if critic and config.critic.path:
        validate_critic(config, critic, architecture)


def _candidates(plan: Plan) -> Iterator[Plan]:
    if plan.servers is None:
        for config in legal_layouts(plan.config, plan.architecture, plan.gpu.per_node):
            yield dataclasses.replace(plan, config=config)
        return
    per_node = plan.gpu.per_node
    nodes = plan.gpus // per_node if plan.gpus % per_node == 0 else 1
    for sampling in range(nodes):
        processes = plan.gpus - sampling * per_node
        parallel = dataclasses.replace(plan.config.parallel, processes=processes)
        for config in legal_layouts(dataclasses.replace(plan.config, parallel=parallel), plan.architecture, per_node):
            for tensor in (1, 2, 4, 8):
                found = _placed(plan, config, sampling, tensor)
                if found:
                    yield found


def _placed(plan: Plan, config: Config, nodes: int, tensor: int) -> Plan | None:
    """The plan with servers of so many GPUs on nodes of their own or, with 0, asleep while the trainer computes.

    There they take as much memory as the trainer leaves; None where they do not divide GPUs or model.
    """
    share = VLLMConfig().memory_share
    vllm = dataclasses.replace(config.rollout.vllm, sleep=not nodes, memory_share=share)
    rollout = dataclasses.replace(config.rollout, tensor=tensor, vllm=vllm)
    assumptions = dataclasses.replace(plan.assumptions, rollout_nodes=nodes)
    made = dataclasses.replace(plan, config=dataclasses.replace(config, rollout=rollout), assumptions=assumptions)
    try:
        left = share if nodes else min(share, fitting_share(made))
    except ConfigError:
        return None
    vllm = dataclasses.replace(vllm, memory_share=left)
    rollout = dataclasses.replace(rollout, vllm=vllm)
    return dataclasses.replace(made, config=dataclasses.replace(made.config, rollout=rollout))


def splits(fitting: Sequence[Plan]) -> list[Plan]:
    """Of `sweep`'s, the fastest for each number of nodes that sample; none where nothing is divided."""
    best: dict[int, Plan] = {}
    for plan in fitting:
        if plan.servers:
            best.setdefault(plan.assumptions.rollout_nodes, plan)
    return [best[nodes] for nodes in sorted(best)]


def sweep(plan: Plan) -> tuple[list[Plan], int]:
    """Plans of the legal layouts that fit GPUs and nodes, fastest first, and how many do not.

    Seconds are compared to a tenth, since that is more than they are worth; the one with more memory left goes first.
    """
    found = list(_candidates(plan))
    fitting = [p for p in found if p.verdict != "does not fit" and p.node_memory <= p.gpu.node_memory]
    return sorted(fitting, key=lambda p: (round(p.step_seconds, 1), p.memory.peak)), len(found) - len(fitting)
