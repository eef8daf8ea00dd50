"""From scored responses to what PPO trains policy and critic on; the counterpart of `recipes.rollout.training`.

A response stands for itself: whether it has a group, and what the group was paid, plays no part. Every rank computes
the same from the same trajectories.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from recipes.engines.base import PolicyEngine, TokenBatch, TokenSequence
from recipes.rl.losses import kl_estimate
from recipes.rl.returns import Gae, advantages_and_targets, critic_fit
from recipes.rollout.scoring import Trajectory
from recipes.rollout.tables import rows, table, token_mask
from recipes.rollout.training import TrainingData, weighted
from recipes.runtime.config import AlgorithmConfig


def valued_data(
    groups: Sequence[Sequence[Trajectory]], engine: PolicyEngine, algorithm: AlgorithmConfig, temperature: float
) -> TrainingData:
    """Advantages and targets of all responses that were scored, by the critic as it is; collective.

    The metrics say how well the critic foretells the returns themselves, whatever lambda its targets have.
    """
    chosen = [
        [t for t in group if t.score.reward is not None and (t.completion.finished or not algorithm.overlong_filter)]
        for group in groups
    ]
    flat = [t for group in chosen for t in group]
    # As for other algorithms before the filter: what it leaves out could have taught.
    teaches = [any(t.score.reward is not None for t in group) for group in groups]
    if not flat:
        return TrainingData([], teaches, {})
    sequences = [
        TokenSequence(
            ids=t.prompt.ids + t.completion.ids,
            prompt_length=len(t.prompt.ids),
            old_logprobs=t.completion.logprobs,
            positive=t.score.status == "correct",
        )
        for t in flat
    ]
    metrics: dict[str, float] = {}
    batch = TokenBatch(tuple(sequences), temperature)
    if algorithm.importance != "none":
        sequences, metrics = weighted(sequences, engine.logprobs(batch), algorithm)
    mask = token_mask(sequences).double()
    divergence: Tensor | None = None
    if algorithm.reads_reference and algorithm.kl_place == "reward":
        policy, reference = table([s.old_logprobs for s in sequences]), table(engine.logprobs(batch, "reference"))
        divergence = kl_estimate("k1", policy, reference).double()
        metrics["policy/kl"] = float((divergence * mask).sum() / mask.sum())
    values, after = _values(sequences, engine, algorithm)
    outcomes = torch.tensor([t.score.reward for t in flat], dtype=torch.float64)
    truncated = torch.tensor([not t.completion.finished for t in flat])

    def estimated(gae: Gae) -> tuple[Tensor, Tensor]:
        return advantages_and_targets(gae, outcomes, values, mask, kl=divergence, truncated=truncated, after=after)

    gae = estimator(algorithm)
    advantages, targets = estimated(gae)
    returns = targets if gae.critic_lambda == 1 else estimated(dataclasses.replace(gae, critic_lambda=1.0))[1]
    fit = critic_fit(values, returns, mask)
    metrics |= {f"critic/{name}": value for name, value in fit.items()}
    taught = [
        dataclasses.replace(s, advantages=row) for s, row in zip(sequences, rows(advantages, sequences), strict=True)
    ]
    foretold = [
        TokenSequence(s.ids, s.prompt_length, advantages=target, old_logprobs=value)
        for s, target, value in zip(sequences, rows(targets, sequences), rows(values, sequences), strict=True)
    ]
    sizes = [len(group) for group in chosen if group]
    return TrainingData(_divided(taught, sizes), teaches, metrics, _divided(foretold, sizes))


def estimator(algorithm: AlgorithmConfig) -> Gae:
    """How the settings estimate advantages and targets."""
    charged = algorithm.reads_reference and algorithm.kl_place == "reward"
    return Gae(
        gamma=algorithm.gamma,
        critic_lambda=algorithm.critic_lambda,
        policy_lambda=algorithm.policy_lambda,
        length_alpha=algorithm.length_alpha,
        kl_coef=algorithm.kl_coef if charged else 0.0,
        cut=algorithm.cut,  # type: ignore[arg-type]  # as the configuration has checked
        whiten=algorithm.whiten,
    )


def _values(
    sequences: Sequence[TokenSequence], engine: PolicyEngine, algorithm: AlgorithmConfig
) -> tuple[Tensor, Tensor | None]:
    """[responses, tokens] values, and [responses] those behind the last tokens where they are needed."""
    if algorithm.cut != "bootstrap":
        return table(engine.values(TokenBatch(tuple(sequences)))).double(), None
    # The state behind a response is the one before any token that would follow; which one, nobody sees.
    longer = tuple(TokenSequence((*s.ids, s.ids[-1]), s.prompt_length) for s in sequences)
    values = engine.values(TokenBatch(longer))
    return table([row[:-1] for row in values]).double(), torch.tensor([row[-1] for row in values]).double()


def _divided(sequences: Sequence[TokenSequence], sizes: Sequence[int]) -> list[list[TokenSequence]]:
    remaining = iter(sequences)
    return [[next(remaining) for _ in range(size)] for size in sizes]
