"""Batches and training steps as the workers of both engines take them; imports no engine."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from conversion.checkpoint import CheckpointError
from recipes.engines.base import NonFiniteError, Sampling, TokenBatch, TokenSequence
from recipes.rl.losses import Objective, policy_loss
from tests.engines.constants import CLIP_HIGH, CLIP_LOW, OBJECTIVES


def batch_of(values: dict[str, Any]) -> TokenBatch:
    sequences = tuple(
        TokenSequence(
            tuple(s["ids"]),
            s["prompt_length"],
            advantages=(s["advantage"],) * len(s["old_logprobs"]),
            old_logprobs=tuple(s["old_logprobs"]),
            weights=tuple(s["weights"]),
        )
        for s in values["sequences"]
    )
    return TokenBatch(sequences, values["temperature"])


def take_steps(engine: Any, batches: list[dict[str, Any]], name: str) -> list[dict[str, float]]:
    kl_coef = engine.config.algorithm.kl_coef
    found = []
    for values in batches:
        batch = batch_of(values)
        objective = Objective(clip_low=CLIP_LOW, clip_high=CLIP_HIGH, kl_coef=kl_coef, **OBJECTIVES[name])
        loss = policy_loss(objective, tokens=batch.response_tokens, sequences=len(batch.sequences))
        metrics = engine.train_step(batch, loss, learning_rate=values["learning_rate"], reference=kl_coef > 0)
        found.append(metrics | {"loss": metrics["loss"] / metrics["tokens"]})
    return found


def sample_all(engine: Any, task: dict[str, Any]) -> dict[str, Any]:
    """What each of `samplings` gives, with the trainer's log-probabilities of it."""
    found = {}
    for name, values in task["samplings"].items():
        sampling = Sampling(**{key: tuple(v) if isinstance(v, list) else v for key, v in values.items()})
        groups = engine.generate(task["prompts"], sampling)
        sequences = [
            TokenSequence((*prompt, *c.ids), len(prompt))
            for prompt, group in zip(task["prompts"], groups, strict=True)
            for c in group
        ]
        found[name] = {
            "ids": [[list(c.ids) for c in group] for group in groups],
            "logprobs": [[list(c.logprobs) for c in group] for group in groups],
            "finished": [[c.finished for c in group] for group in groups],
            "trainer": engine.logprobs(TokenBatch(tuple(sequences), sampling.temperature or 1.0)),
        }
    return found


def sample_between(make: Callable[[], Any], task: dict[str, Any]) -> dict[str, Any]:
    """Completions before, between and after two steps; and again by a fresh engine that loads what the first saved."""
    engine, folder, batches = make(), Path(task["folder"]), task["batches"][:2]
    found = {"unbroken": [_sampled(engine, task)]}
    for number, batch in enumerate(batches):
        take_steps(engine, [batch], "grpo")
        if number == 0:
            engine.save(folder, {})
        found["unbroken"].append(_sampled(engine, task))
    engine.finish_saves(wait=True)
    fresh = make()
    _sampled(fresh, task)
    fresh.load(folder)
    found["resumed"] = [_sampled(fresh, task)]
    take_steps(fresh, batches[1:], "grpo")
    found["resumed"].append(_sampled(fresh, task))
    return found


def _sampled(engine: Any, task: dict[str, Any]) -> list[Any]:
    groups = engine.generate(task["prompts"], Sampling(**task["sampling"]))
    return [[[list(c.ids), list(c.logprobs), c.finished] for c in group] for group in groups]


def export_all(engine: Any, task: dict[str, Any]) -> dict[str, Any]:
    """The weights as they are handed over: at the start, after a step that is saved, after another, and loaded."""
    folder, first, second = Path(task["folder"]), *task["batches"][:2]
    found = {f"start {limit} {ev}": _exported(engine, limit, ev) for limit in task["limits"] for ev in (False, True)}
    take_steps(engine, [first], "grpo")
    found["trained"] = _exported(engine, task["limits"][1], True)
    engine.save(folder, {})
    take_steps(engine, [second], "grpo")
    found["later"] = _exported(engine, task["limits"][1], True)
    engine.finish_saves(wait=True)
    engine.load(folder)
    return found | {"loaded": _exported(engine, task["limits"][1], True)}


def _exported(engine: Any, limit: int, everywhere: bool) -> list[dict[str, Any]]:
    """Of every bucket its pieces and, where it is held, its bytes and its tensors' digests by name."""
    found = []
    for bucket in engine.weights(limit, everywhere):
        held = {name: tensor_digest(tensor) for name, tensor in bucket.tensors()}
        size = None if bucket.flat is None else bucket.flat.nbytes
        found.append({"pieces": [[p.name, list(p.shape), p.start] for p in bucket.pieces], "bytes": size, "held": held})
    return found


def tensor_digest(tensor: torch.Tensor) -> str:
    """Precision, shape and SHA-256 of the values."""
    values = tensor.detach().contiguous().flatten().view(torch.uint8).numpy()
    return f"{tensor.dtype} {list(tensor.shape)} {hashlib.sha256(values.data).hexdigest()}"


def diverge(engine: Any, batch: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What the engine says to a moment and to weights that are not finite, and what it leaves at `folder`."""

    def said(act: Callable[[], Any]) -> str:
        try:
            return repr(act())
        except (NonFiniteError, CheckpointError) as error:
            return f"{type(error).__name__}: {error}"

    take_steps(engine, [batch], "grpo")
    inner = getattr(engine.optimizer, "chained_optimizers", [engine.optimizer])[0].optimizer
    moment = next(iter(inner.state.values()))["exp_avg_sq"].view(-1)
    kept, moment[3] = float(moment[3]), torch.inf
    found = {"save moment": said(lambda: engine.save(folder, {}))}
    moment[3] = kept
    endless = {**batch, "learning_rate": torch.inf}
    found["update"] = said(lambda: take_steps(engine, [endless], "grpo"))
    prompts = [sequence["ids"][:4] for sequence in batch["sequences"][:2]]
    found["sample"] = said(lambda: engine.generate(prompts, Sampling(2, 1.0, 4, ())))
    found["save"] = said(lambda: engine.save(folder, {}))
    found["left"] = [path.name for path in folder.parent.glob(f"{folder.name}*")]
    # Past the check, to have such a checkpoint.
    engine.saves.start(engine.module, engine._stored_optimizer, engine.checkpoint, folder, {}, {})
    engine.finish_saves(wait=True)
    found["load"] = said(lambda: engine.load(folder))
    return found


def assert_named(found: dict[str, Any]) -> None:
    """Of what `diverge` found: each is refused with the tensor named, and nothing is saved."""
    assert re.match(
        r"NonFiniteError: optimizer.exp_avg_sq: 1 of its \d+ values are not finite at the", found["save moment"]
    )
    weight = r"Error: .*weight: [1-9]\d* of its \d+ values are not finite "
    for key, where in (
        ("update", "after the update"),
        ("sample", "and the model samples"),
        ("save", r"at the save of \S*diverged, which is not made"),
        ("load", r"in this checkpoint; take an earlier checkpoint"),
    ):
        assert re.search(weight + where, found[key]), found[key]
    assert found["left"] == []
