"""What a step is summed up in: reward, accuracy per task, length, format, phases, groups, and the update itself."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from recipes.data.example import REPORT_GROUPS
from recipes.engines.base import TokenSequence
from recipes.monitor.phases import phase_shares
from recipes.monitor.rollouts import RolloutRecord
from recipes.rollout.collect import Rollout
from recipes.rollout.scoring import Trajectory
from recipes.runtime import platform


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def rollout_metrics(rollout: Rollout, teaches: Sequence[bool]) -> dict[str, float]:
    """Metrics of all that one step sampled; a task without samples is left out.

    Accuracy is the share of scored responses whose status is `correct`; lengths are in tokens of the response.

    Args:
        rollout: of the step.
        teaches: which of `rollout.groups` have something to learn from.
    """
    everything = [t for group in rollout.sampled for t in group]
    scored = [t for t in everything if t.score.reward is not None]
    metrics = {"reward/mean": _mean([t.score.reward or 0.0 for t in scored])}
    accuracies = []
    for name in REPORT_GROUPS:
        own = [t for t in scored if t.prompt.example.group == name]
        if own:
            metrics[f"reward/{name}"] = _mean([t.score.reward or 0.0 for t in own])
            metrics[f"accuracy/{name}"] = _mean([t.score.status == "correct" for t in own])
            accuracies.append(metrics[f"accuracy/{name}"])
            for component in sorted({part for t in own for part in t.score.components}):
                metrics[f"reward/{name}/{component}"] = _mean([t.score.components.get(component, 0.0) for t in own])
    metrics["accuracy/mean"] = _mean(accuracies)
    for component in sorted({name for t in scored for name in t.score.components}):
        metrics[f"reward/component/{component}"] = _mean([t.score.components.get(component, 0.0) for t in scored])
    lengths = [len(t.completion.ids) for t in everything]
    metrics["length/mean"] = _mean(lengths)
    for share in (10, 50, 90, 100):
        metrics[f"length/p{share}"] = float(np.percentile(lengths, share))
    metrics |= _target_metrics(everything)
    metrics["length/truncated_share"] = _mean([not t.completion.finished for t in everything])
    errors = [t for t in scored if t.score.status in ("malformed", "no_answer")]
    metrics["format/error_share"] = len(errors) / len(scored) if scored else float("nan")
    for issue, count in sorted(Counter(t.score.format_issue for t in errors if t.score.format_issue).items()):
        metrics[f"format/issue/{issue}"] = count / len(scored)
    metrics |= phase_shares([t.text for t in everything])
    metrics["groups/zero_advantage_share"] = 1 - _mean([float(t) for t in teaches]) if len(teaches) else 1.0
    if several := [group for group in rollout.sampled if len(group) > 1]:
        metrics["groups/identical_share"] = _mean([len({t.text for t in group}) == 1 for group in several])
        metrics["groups/mixed_share"] = _mean([_is_mixed(group) for group in several])
    metrics["groups/left_out_share"] = 1 - len(rollout.groups) / len(rollout.sampled)
    metrics["groups/batches"] = float(rollout.batches)
    metrics["groups/null_reward_share"] = 1 - len(scored) / len(everything)
    return metrics


def _target_metrics(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """How well responses keep to what was asked of their length; nothing of a mode in which nothing was asked."""
    asked = [(t.prompt.length, len(t.completion.ids)) for t in trajectories]
    errors = [abs(y - target.tokens) / target.tokens for target, y in asked if target and target.mode == "exact"]
    within = [y <= target.tokens for target, y in asked if target and target.mode == "max"]
    found = {"length/error": _mean(errors)} if errors else {}
    return found | ({"length/within_share": _mean(within)} if within else {})


def _is_mixed(group: Sequence[Trajectory]) -> bool:
    """Whether right answers and others that were scored stand side by side."""
    return len({t.score.status == "correct" for t in group if t.score.reward is not None}) == 2


def update_metrics(updates: Sequence[dict[str, float]], rate: float) -> dict[str, float]:
    """Metrics of one step's optimizer steps, averaged over their tokens; none when nothing was learned from."""
    metrics = {"policy/learning_rate": rate, "policy/updates": float(len(updates))}
    tokens = sum(update["tokens"] for update in updates)
    if tokens:
        names = {
            "loss": "policy/loss",
            "kl": "policy/kl",
            "entropy": "policy/entropy",
            "clipped": "policy/clip_share",
        }
        metrics |= {shown: sum(u[name] for u in updates) / tokens for name, shown in names.items()}
        # Before the first update the policy is the one that sampled: what differs is how the two computed it.
        metrics["mismatch/token_prob_error"] = updates[0]["prob_error"] / updates[0]["tokens"]
        metrics["policy/grad_norm"] = _mean([u["grad_norm"] for u in updates])
        metrics["policy/skipped_updates"] = float(sum(not u["stepped"] for u in updates))
    return metrics


def critic_metrics(fits: Sequence[dict[str, float]], rate: float) -> dict[str, float]:
    """Metrics of one step's optimizer steps of a critic, averaged over their tokens; none where there is no critic."""
    tokens = sum(fit["tokens"] for fit in fits)
    if not tokens:
        return {}
    names = {"loss": "loss", "value": "value", "target": "target", "clipped": "clip_share"}
    metrics = {f"critic/{shown}": sum(fit[name] for fit in fits) / tokens for name, shown in names.items()}
    metrics["critic/grad_norm"] = _mean([fit["grad_norm"] for fit in fits])
    metrics["critic/learning_rate"] = rate
    metrics["critic/updates"] = float(len(fits))
    metrics["critic/skipped_updates"] = float(sum(not fit["stepped"] for fit in fits))
    return metrics


def speed_metrics(
    rollout: Rollout, trained: Sequence[Sequence[TokenSequence]], seconds: Mapping[str, float]
) -> dict[str, float]:
    """Seconds of each phase, response tokens a second in sampling and training, and this rank's peak memory in GiB.

    Sampling is counted whole, what went on beside training as well.
    """
    sampled = sum(len(t.completion.ids) for group in rollout.sampled for t in group)
    learned = sum(s.response_length for group in trained for s in group)
    return {
        **{f"time/{name}_s": value for name, value in seconds.items()},
        "speed/sampled_tokens_per_s": sampled / max(seconds["generate"] + seconds.get("overlapped", 0.0), 1e-9),
        "speed/trained_tokens_per_s": learned / max(seconds["train"], 1e-9),
        "memory/peak_gib": platform.peak_memory() / 2**30,
    }


def rollout_records(groups: Sequence[Sequence[Trajectory]], step: int) -> list[RolloutRecord]:
    """Every trajectory of a step as a row for people to read."""
    return [
        RolloutRecord(
            step=step,
            id=t.prompt.example.id,
            task=t.prompt.example.group,
            prompt=t.prompt.text,
            response=t.text,
            answer=t.prompt.example.gold(),
            extracted=None if t.score.extracted is None else _shown(t.score.extracted),
            status=t.score.status,
            reward=t.score.reward,
            components=dict(t.score.components),
            tokens=len(t.completion.ids),
            group=number,
            version=t.completion.versions[0][0] if t.completion.versions else None,
            question=t.prompt.example.question,
        )
        for number, group in enumerate(groups)
        for t in group
    ]


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
