"""Steps of PPO as a worker takes them: through what a run does with its scored responses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from recipes.engines.base import Completion, TokenBatch
from recipes.engines.megatron.critic import Critic
from recipes.engines.megatron.engine import MegatronEngine
from recipes.rl.losses import value_loss
from recipes.rollout.scoring import Trajectory
from recipes.rollout.update import update_critic, update_policy
from recipes.rollout.valued import valued_data
from recipes.runtime.config import ConfigError
from recipes.runtime.model_rules import validate_critic
from reward_server.client import Status
from tests.engines.steps import batch_of
from tests.rollout.samples import prompt, trajectory


def ppo(make: Callable[[], MegatronEngine], task: dict[str, Any]) -> dict[str, Any]:
    """Two steps, the second once more from a save of the first; its gradients are saved as weights."""
    first, second = task["batches"]
    engine, saved, gradient = _with_head(make(), task["head"]), Path(task["saved"]), Path(task["gradient"])
    found: dict[str, Any] = {"steps": [_step(engine, first)]}
    engine.save(saved, {})
    found["steps"].append(_step(engine, second))
    engine.finish_saves(wait=True)
    fresh = make()
    fresh.load(saved)
    found["resumed"] = _step(fresh, second)
    critic = _critic(fresh)
    found["names"] = [name for name, _ in critic.module.named_parameters()]
    if fresh.config.critic.offload:
        found["bytes"] = _bytes(fresh)
        return found
    gradient_as_weights(fresh.model, fresh.module)
    gradient_as_weights(critic.wrapped.model, critic.module)
    if critic.module.post_process:
        found["head"] = critic.module.output_layer.weight[0].tolist()
    fresh.save(gradient, {})
    fresh.finish_saves(wait=True)
    return found


def critics(make: Callable[[], MegatronEngine], task: dict[str, Any]) -> dict[str, Any]:
    """Values of a critic that starts from what the task names, before and after a step towards 1."""
    engine, batch = make(), batch_of(task["probe"])
    found: dict[str, Any] = {"before": engine.values(batch), "refused": "nothing"}
    towards = [dataclasses.replace(s, advantages=(1.0,) * s.response_length) for s in batch.sequences]
    sums = engine.critic_step(TokenBatch(tuple(towards)), value_loss(tokens=batch.response_tokens), learning_rate=1e-2)
    found |= {"loss": sums["loss"] / sums["tokens"], "after": engine.values(batch)}
    try:
        validate_critic(engine.config, dataclasses.replace(engine.architecture, vocab_size=98), engine.architecture)
    except ConfigError as error:
        found["refused"] = str(error)
    return found


def gradient_as_weights(model: Any, module: Any) -> None:
    """Puts the gradient of a step in the weights' place, so that a save holds it."""
    size, rank = parallel_state.get_data_parallel_world_size(), parallel_state.get_data_parallel_rank()
    for bucket in (bucket for buffer in model.buffers for bucket in buffer.buckets):
        # Each data parallel rank holds the sum of its own share alone.
        own = bucket.grad_data.view(size, -1)[rank].clone()
        dist.all_gather_into_tensor(bucket.grad_data, own, group=parallel_state.get_data_parallel_group())
    for parameter in module.parameters():
        parameter.data.copy_(parameter.main_grad)


def _bytes(engine: MegatronEngine) -> list[list[list[int]]]:
    """Of policy and critic where they compute, after whoever is to compute has come and computed."""
    models, found = {"policy": engine.model, "critic": _critic(engine).wrapped.model}, []
    for act in ("policy", "critic"):
        engine._need(act, training=True)
        # As Transformer Engine's layers keep it.
        models[act].module._fp8_workspaces = {"weight": torch.zeros(8)}
        found.append([_held(model) for model in models.values()])
    return found


def _held(model: Any) -> list[int]:
    """Bytes of weights, gradients and FP8 copies."""
    [buffer], copies = model.buffers, getattr(model.module, "_fp8_workspaces", {})
    sizes = [tensor.untyped_storage().nbytes() for tensor in (buffer.param_data, buffer.grad_data)]
    return [*sizes, sum(copy.nbytes for copy in copies.values())]


def _critic(engine: MegatronEngine) -> Critic:
    assert isinstance(engine.critic, Critic)
    return engine.critic


def _with_head(engine: MegatronEngine, head: list[float]) -> MegatronEngine:
    """With values from the start: from a head of zeros no gradient comes to the layers."""
    module = _critic(engine).module
    engine._need("critic")
    if module.post_process:
        module.output_layer.weight.data.copy_(torch.tensor([head]))
    return engine


def _step(engine: MegatronEngine, batch: dict[str, Any]) -> dict[str, Any]:
    config = engine.config
    config.rollout.temperature = batch["temperature"]
    data = valued_data(_groups(batch), engine, config.algorithm, batch["temperature"])
    foretold, taught = ([s for group in groups for s in group] for groups in (data.critic, data.groups))
    fits = update_critic(engine, config, data.critic, batch["learning_rate"])
    updates = update_policy(engine, config, data.groups, batch["learning_rate"])
    return {
        "values": [s.old_logprobs for s in foretold],
        "targets": [s.advantages for s in foretold],
        "advantages": [s.advantages for s in taught],
        **{name: [_result(each) for each in results] for name, results in (("critic", fits), ("policy", updates))},
        "metrics": data.metrics,
    }


def _result(sums: dict[str, float]) -> dict[str, float]:
    return {"loss": sums["loss"] / sums["tokens"], "grad_norm": sums["grad_norm"]}


def _groups(batch: dict[str, Any]) -> list[list[Trajectory]]:
    groups: dict[tuple[int, ...], list[Trajectory]] = {}
    for s in batch["sequences"]:
        ids, length = tuple(s["ids"]), s["prompt_length"]
        asked = prompt(str(len(groups)), ids=ids[:length])
        status: Status = "correct" if s["right"] else "incorrect"
        answered = trajectory(asked, s["reward"], status=status)
        completion = Completion(ids[length:], tuple(s["old_logprobs"]), s["finished"])
        groups.setdefault(ids[:length], []).append(dataclasses.replace(answered, completion=completion))
    return list(groups.values())
