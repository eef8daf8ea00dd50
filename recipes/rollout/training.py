"""From scored groups to what an update trains on: advantages, masks, and the sampler's correction.

Every rank computes the same from the same trajectories, so statistics over the batch need no further communication;
only log-probabilities, where an algorithm wants them before the first update, take the engine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from recipes.engines.base import PolicyEngine, TokenBatch, TokenSequence
from recipes.rl.advantages import (
    component_advantages,
    group_advantages,
    informative,
    kl_in_reward,
    leave_one_out_advantages,
    logistic_rewards,
    per_task_advantages,
    whiten_over_tokens,
    whiten_tokens,
)
from recipes.rl.importance import ImportanceKind, importance_weights, mismatch_sums, out_of_range
from recipes.rollout.scoring import Trajectory, reward_table
from recipes.rollout.tables import rows, table, token_mask
from recipes.runtime.config import AlgorithmConfig


@dataclass(frozen=True)
class TrainingData:
    """What a rollout teaches.

    Attributes:
        groups: the sequences to train on by group; groups that teach nothing are left out.
        teaches: which of the rollout's groups do.
        metrics: how far sampler and trainer are apart, where it was looked at, and how good the critic is.
        critic: the sequences that a critic trains on, by group.
    """

    groups: list[list[TokenSequence]]
    teaches: list[bool]
    metrics: dict[str, float]
    critic: list[list[TokenSequence]] = field(default_factory=list)


def training_data(
    groups: Sequence[Sequence[Trajectory]], engine: PolicyEngine, algorithm: AlgorithmConfig, temperature: float
) -> TrainingData:
    """Advantages for all valid responses, with per-token corrections where the algorithm asks for them; collective."""
    chosen, teaches = training_sequences(groups, algorithm)
    sequences = [s for group in chosen for s in group]
    metrics: dict[str, float] = {}
    if sequences:
        batch = TokenBatch(tuple(sequences), temperature)
        if algorithm.importance != "none":
            sequences, metrics = weighted(sequences, engine.logprobs(batch), algorithm)
        if _charges_kl(algorithm):
            sequences, kl = charged(sequences, engine.logprobs(batch, "reference"), algorithm)
            metrics["policy/kl"] = kl
    remaining = iter(sequences)
    return TrainingData([[next(remaining) for _ in group] for group in chosen], teaches, metrics)


def training_sequences(
    groups: Sequence[Sequence[Trajectory]], algorithm: AlgorithmConfig
) -> tuple[list[list[TokenSequence]], list[bool]]:
    """The valid responses of the groups that teach, with their advantages; and which groups do."""
    if not groups:  # dynamic sampling found none that differ, or the likelihood filter left all out
        return [], []
    rewards, valid = reward_table(groups)
    advantages, teaches = _advantages(groups, rewards, valid, algorithm)
    chosen = []
    for group, values, counts, useful in zip(
        groups, advantages.tolist(), valid.tolist(), teaches.tolist(), strict=True
    ):
        own = [
            TokenSequence(
                ids=t.prompt.ids + t.completion.ids,
                prompt_length=len(t.prompt.ids),
                advantages=t.credited(advantage),
                old_logprobs=t.completion.logprobs,
            )
            for t, advantage, scored in zip(group, values, counts, strict=True)
            if useful and scored and (t.completion.finished or not algorithm.overlong_filter)
        ]
        if own:
            chosen.append(own)
    return chosen, teaches.tolist()


def _advantages(
    groups: Sequence[Sequence[Trajectory]], rewards: Tensor, valid: Tensor, algorithm: AlgorithmConfig
) -> tuple[Tensor, Tensor]:
    """[groups, group size] advantages, and [groups] bool, which of them teach anything."""
    kinds = [group[0].prompt.example.group for group in groups]
    teaches = informative(rewards, valid)
    if algorithm.tasks == "components":
        parts = {
            name: torch.tensor(
                [[t.score.components.get(name, 0.0) for t in group] for group in groups], dtype=rewards.dtype
            )
            for name in algorithm.component_weights
        }
        teaches = torch.stack([informative(part, valid) for part in parts.values()]).any(0)
        return component_advantages(parts, algorithm.component_weights, valid), teaches
    if algorithm.tasks == "logistic":
        rewards = logistic_rewards(rewards, valid, kinds, algorithm.task_medians)
    if algorithm.advantage == "rloo":
        advantages = leave_one_out_advantages(rewards, valid)
    else:
        advantages = group_advantages(rewards, valid, normalize=algorithm.advantage == "grpo")
    if algorithm.tasks == "per_task":
        advantages = per_task_advantages(advantages, valid, kinds)
    if algorithm.advantage == "reinforce_pp" and not _charges_kl(algorithm):
        lengths = torch.tensor([[len(t.completion.ids) for t in group] for group in groups])
        advantages = whiten_over_tokens(advantages, valid, lengths)
    return advantages, teaches


def _charges_kl(algorithm: AlgorithmConfig) -> bool:
    return algorithm.reads_reference and algorithm.kl_place == "reward"


def weighted(
    sequences: Sequence[TokenSequence], logprobs: Sequence[Sequence[float]], algorithm: AlgorithmConfig
) -> tuple[list[TokenSequence], dict[str, float]]:
    """Takes the trainer's log-probabilities for the old ones, and weights that correct for the sampler's.

    Args:
        sequences: with the sampler's log-probabilities as old ones.
        logprobs: of each response's tokens by the trainer, before the first update.
        algorithm: which weights.

    Returns:
        the sequences, and metrics of the mismatch, means over tokens (see `recipes.rl.importance.mismatch_sums`).
    """
    low, high = algorithm.importance_low, algorithm.importance_high
    trainer, sampler = table(logprobs), table([s.old_logprobs for s in sequences])
    mask = token_mask(sequences)
    kind: ImportanceKind = algorithm.importance  # type: ignore[assignment]  # as the configuration has checked
    weights = importance_weights(kind, trainer, sampler, mask, low=low, high=high)
    sums = mismatch_sums(trainer, sampler, mask)
    counted, tokens = sums.pop("tokens"), mask.sum()
    metrics = {f"mismatch/{name}": float(value / counted.clamp_min(1)) for name, value in sums.items()}
    metrics["mismatch/outside_share"] = float(out_of_range(trainer, sampler, mask, low, high) / tokens)
    metrics["mismatch/mean_weight"] = float(weights.sum() / tokens)
    corrected = [
        dataclasses.replace(s, old_logprobs=old, weights=weight)
        for s, old, weight in zip(sequences, rows(trainer, sequences), rows(weights, sequences), strict=True)
    ]
    return corrected, metrics


def charged(
    sequences: Sequence[TokenSequence], reference: Sequence[Sequence[float]], algorithm: AlgorithmConfig
) -> tuple[list[TokenSequence], float]:
    """Charges each token's advantage for its divergence from the reference policy, and then whitens for REINFORCE++.

    Returns:
        the sequences, and the mean divergence (k1) in nats a token.
    """
    policy, other, mask = table([s.old_logprobs for s in sequences]), table(reference), token_mask(sequences)
    advantages = kl_in_reward(table([s.advantages for s in sequences]), policy, other, mask, algorithm.kl_coef)
    if algorithm.advantage == "reinforce_pp":
        advantages = whiten_tokens(advantages, mask)
    spread = [
        dataclasses.replace(s, advantages=row) for s, row in zip(sequences, rows(advantages, sequences), strict=True)
    ]
    return spread, float(((policy - other) * mask).sum() / mask.sum())
