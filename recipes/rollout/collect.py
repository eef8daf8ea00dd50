"""One step's rollout: responses to its prompts scored, until there are enough groups to learn from.

Left out: keeping surplus groups for the next step, which would train on an older policy's responses.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from recipes.rl.advantages import informative
from recipes.rollout.ahead import Batches
from recipes.rollout.likelihood import Likelihood, Rewarded
from recipes.rollout.scoring import Trajectory, reward_table, score
from recipes.runtime.config import Config
from recipes.runtime.launch import is_leader
from recipes.runtime.phases import Phases
from reward_server.client import RewardClient

Group = list[Trajectory]


@dataclass(frozen=True)
class Rollout:
    """What a step sampled.

    Attributes:
        groups: to train on, a prompt's responses each.
        sampled: all of them, those left out by dynamic sampling as well.
        batches: how many times prompts were drawn.
        metrics: of the sampler.
    """

    groups: list[Group]
    sampled: list[Group]
    batches: int
    metrics: dict[str, float] = field(default_factory=dict)


def collect(
    batches: Batches,
    step: int,
    *,
    tokenizer: Any,
    client: RewardClient | None,
    config: Config,
    phases: Phases,
    likelihood: Likelihood | None = None,
) -> Rollout:
    """Samples and scores `rollout.prompts` groups; collective.

    With `rollout.max_batches` above 1 only groups whose rewards differ before any length term count (DAPO's dynamic
    sampling, arXiv 2503.14476, eq. 11), and further prompts are drawn until there are enough or batches run out.

    Raises:
        RewardError: see `recipes.rollout.scoring.score`.
        RolloutError: see `recipes.sampling.base.Sampler`.
    """
    wanted, most = config.rollout.prompts, config.rollout.max_batches
    kept: list[Group] = []
    sampled: list[Group] = []
    batch, metrics = 0, dict[str, float]()
    while batch < most and len(kept) < wanted:
        asked, completions, said = batches.sample(step, batch, phases)
        metrics |= said
        with phases("score"):
            groups = score(
                asked, completions, tokenizer=tokenizer, client=client, config=config.reward, first_group=len(sampled)
            )
            rewarded = likelihood.reward(groups) if likelihood else Rewarded(groups, [True] * len(groups), {})
            groups, metrics = rewarded.groups, metrics | rewarded.metrics
        rewards, valid = reward_table(groups)
        told_apart = [a and b for a, b in zip(informative(rewards, valid).tolist(), rewarded.keeps, strict=True)]
        batches.observe(asked, told_apart)
        sampled += groups
        mixed = informative(rewards - _length_terms(groups), valid).tolist()
        kept += [
            group
            for group, each, keep in zip(groups, mixed, rewarded.keeps, strict=True)
            if keep and (each or most == 1)
        ]
        batch += 1
    if len(kept) < wanted and most > 1 and is_leader():
        print(
            f"step {step}: {len(kept)} of {wanted} groups have rewards that differ after {batch} batches "
            f"(rollout.max_batches); {'training on those' if kept else 'the step changes nothing'}",
            file=sys.stderr,
        )
    return Rollout(kept[:wanted], sampled, batch, metrics)


def _length_terms(groups: Sequence[Group]) -> torch.Tensor:
    return torch.tensor(
        [[t.score.components.get("length", 0.0) for t in group] for group in groups], dtype=torch.float64
    )
