"""Batches and training steps as the workers of both engines take them; imports no engine."""

from __future__ import annotations

from typing import Any

from recipes.engines.base import Sampling, TokenBatch, TokenSequence
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
