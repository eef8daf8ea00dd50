"""The optimizer steps of one rollout, of the policy and of its critic."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from recipes.engines.base import PolicyEngine, TokenBatch, TokenSequence
from recipes.rl.losses import Objective, policy_loss, value_loss
from recipes.runtime.config import AlgorithmConfig, Config

Groups = Sequence[Sequence[TokenSequence]]


def update_policy(engine: PolicyEngine, config: Config, groups: Groups, rate: float) -> list[dict[str, float]]:
    """The policy's steps: in every epoch the groups are dealt out among the mini-batches; results of each."""
    algorithm, results = config.algorithm, []
    objective = _objective(algorithm)
    for chosen in _mini_batches(groups, algorithm.epochs, algorithm.mini_batches):
        batch = TokenBatch(chosen, config.rollout.temperature)
        loss = policy_loss(
            objective,
            tokens=batch.response_tokens,
            sequences=len(chosen),
            positives=sum(s.response_length for s in chosen if s.positive),
        )
        results.append(engine.train_step(batch, loss, learning_rate=rate, reference=objective.kl_coef > 0))
    return results


def update_critic(engine: PolicyEngine, config: Config, groups: Groups, rate: float) -> list[dict[str, float]]:
    """The critic's steps on its own sequences, likewise."""
    critic, results = config.critic, []
    for chosen in _mini_batches(groups, critic.epochs, critic.mini_batches):
        batch = TokenBatch(chosen)
        loss = value_loss(tokens=batch.response_tokens, clip=critic.clip)
        results.append(engine.critic_step(batch, loss, learning_rate=rate))
    return results


def _mini_batches(groups: Groups, epochs: int, parts: int) -> Iterator[tuple[TokenSequence, ...]]:
    for _ in range(epochs):
        for part in range(parts):
            chosen = tuple(s for group in groups[part::parts] for s in group)
            if chosen:
                yield chosen


def _objective(algorithm: AlgorithmConfig) -> Objective:
    names = {field.name for field in dataclasses.fields(Objective)}
    chosen = {name: value for name, value in dataclasses.asdict(algorithm).items() if name in names}
    if algorithm.kl_place == "reward":
        chosen["kl_coef"] = 0.0
    return Objective(**chosen)
