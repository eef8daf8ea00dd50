"""What a critic adds to a plan: bytes on a GPU and in host memory, and seconds of a step.

It has the policy's layout and its micro-batches, so that memory and passes are counted as the policy's, less the output
matrix. Where policy and critic take turns on the GPU (`critic.offload`) a step exchanges them twice: the critic comes
for its values and its updates, and goes again before the policy's. Weights and optimizer state move, gradients do not.

Left out: FP8's copies of the weights, which the first pass after an exchange makes again.
"""

from __future__ import annotations

import dataclasses

from conversion.architecture import MegatronArchitecture
from recipes.planning.architectures import stage_parameters
from recipes.planning.layout import Layout, Rollout
from recipes.planning.memory import Memory, activation_bytes, hidden_bytes, saved_bytes, state_bytes
from recipes.planning.timing import Model, Parts, pass_seconds, update_seconds
from recipes.runtime.config import CriticConfig


def with_critic(
    memory: Memory,
    policy: MegatronArchitecture,
    critic: MegatronArchitecture,
    layout: Layout,
    rollout: Rollout,
    *,
    longest_prompt: int,
    offload: bool,
) -> Memory:
    """The memory of a step with a critic on the same GPUs.

    Args:
        memory: of the step without it.
        policy, critic: their architectures.
        layout, rollout: of both.
        longest_prompt: as for `memory_of`.
        offload: whether they take turns; else the critic's weights, gradients and optimizer state are there always.
    """
    own = state_bytes(critic, layout, critic=True)
    state = {_named(part): size for part, size in own.items()}
    policys = stage_parameters(policy, layout.tensor, layout.pipeline)
    held = stage_parameters(critic, layout.tensor, layout.pipeline, critic=True)
    kept, tokens = activation_bytes(critic, layout, rollout, longest_prompt)
    gathered, host_saving = saved_bytes(held, layout.data, earlier=policys)
    if offload:
        always = memory.always
        there = {part: size for part, size in always.items() if part not in own} | state
        host = memory.host | {"policy": policys * _moved(layout), "critic": held * _moved(layout)}
    else:
        always = there = memory.always | state
        host = memory.host
    return dataclasses.replace(
        memory,
        always=always,
        host=host,
        host_saving=max(memory.host_saving, host_saving),
        critic={
            "critic training": there | {_named("activations"): kept + hidden_bytes(critic, layout, tokens)},
            "critic saving": there | {"gathered optimizer state": gathered},
        },
    )


def critic_phases(policy: Model, critic: Model, tokens: float, span: float, settings: CriticConfig) -> dict[str, Parts]:
    """Seconds by phase and part, in the order in which they happen, before the policy's training.

    Args:
        policy, critic: models in one layout.
        tokens: of a pass over the rollout, of all ranks.
        span: mean number of tokens that a token attends to.
        settings: of the critic.
    """
    updates = settings.epochs * settings.mini_batches
    train = pass_seconds(
        critic, tokens * settings.epochs, span, trained="all", updates=updates, recomputes_output=False
    )
    # Each goes out and comes in again.
    rate = policy.gpu.host / (2 * _moved(policy.layout))
    turns = {"policy": policy.held / rate, "critic": critic.held / rate}
    return {
        **({"taking turns": turns} if settings.offload else {}),
        "values": pass_seconds(critic, tokens, span, trained="nothing"),
        "critic training": train | {name: updates * cost for name, cost in update_seconds(critic).items()},
    }


def _named(part: str) -> str:
    return f"critic {part.removesuffix(' state')}"


def _moved(layout: Layout) -> float:
    """Bytes of a parameter's weight and of this rank's share of its optimizer state."""
    return layout.bytes_per_weight + layout.optimizer_bytes / layout.data
