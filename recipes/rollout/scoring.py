"""From completions to scored trajectories; the reward client is the only door to the server.

Rank 0 asks the server and tells the others, so all ranks see the same rewards or the same error. A sample that the
server could not score has no reward: it leaves the loss and its group's statistics, and too many of them stop the run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from recipes.data.example import Example
from recipes.data.prompts import LengthTarget
from recipes.engines.base import Completion
from recipes.rollout.lengths import least_target
from recipes.rollout.prompts import Prompt, RowError
from recipes.runtime.agreement import told_by_leader
from recipes.runtime.config import RewardConfig
from reward_server.client import (
    SERVER_FAULTS,
    Length,
    RewardClient,
    RewardDefinitionError,
    RewardProtocolError,
    Score,
    ScoreItem,
)


class RewardError(RuntimeError):
    """Scoring failed for good; the message says why and what to do."""


@dataclass(frozen=True)
class Trajectory:
    """One scored response.

    Attributes:
        prompt: what was asked.
        completion: what was sampled.
        text: the response: the completion as text, special tokens left out, after what the chat template has written
            of it (`Prompt.opened`).
        score: the server's verdict.
        group: number of the prompt within the step.
        unread: tokens of the completion, from one to before another, whose choice the reward does not depend on.
    """

    prompt: Prompt
    completion: Completion
    text: str
    score: Score
    group: int
    unread: tuple[int, int] = (0, 0)

    def credited(self, advantage: float) -> tuple[float, ...]:
        """The response's advantage at each of its tokens, 0 at those that are `unread`."""
        start, end = self.unread
        return tuple(0.0 if start <= n < end else advantage for n in range(len(self.completion.ids)))


def score(
    prompts: Sequence[Prompt],
    completions: Sequence[Sequence[Completion]],
    *,
    tokenizer: Any,
    client: RewardClient | None,
    config: RewardConfig,
    first_group: int = 0,
) -> list[list[Trajectory]]:
    """Scores every completion; collective, with a client on rank 0 alone.

    Args:
        prompts: what was asked.
        completions: the responses to each prompt.
        tokenizer: of the checkpoint.
        client: of the reward server, None on all ranks but 0.
        config: preset and limits.
        first_group: number of the first prompt within the step.

    Raises:
        RewardError: the server stayed away, refused the request, scored by another definition of the reward than
            before, or failed on more than `config.max_null_share`.
    """
    decoded = [tokenizer.batch_decode([c.ids for c in group], skip_special_tokens=True) for group in completions]
    texts = [[prompt.opened + text for text in group] for prompt, group in zip(prompts, decoded, strict=True)]
    responses = [
        Response(prompt.example, text, len(completion.ids), prompt.length)
        for prompt, group, group_texts in zip(prompts, completions, texts, strict=True)
        for completion, text in zip(group, group_texts, strict=True)
    ]
    told = score_responses(responses, client, config)
    check_unscored([each for each in told if each.reward is None], len(told), config)
    scores = iter(told)
    return [
        [Trajectory(prompt, c, text, next(scores), number) for c, text in zip(group, group_texts, strict=True)]
        for number, (prompt, group, group_texts) in enumerate(
            zip(prompts, completions, texts, strict=True), first_group
        )
    ]


@dataclass(frozen=True)
class Response:
    """What was answered to an example, in how many tokens, and how many had been asked for."""

    example: Example
    text: str
    tokens: int
    length: LengthTarget | None = None


def score_responses(responses: Sequence[Response], client: RewardClient | None, config: RewardConfig) -> list[Score]:
    """Scores responses, in order; collective. RewardError: the server stayed away or refused, as in `score`."""
    items = [_item(each, str(n), config) for n, each in enumerate(responses)]
    scores: list[Score] = _told_by_leader(lambda asked: asked.score(config.preset, items)[1], client)
    return scores


def check_unscored(missing: Sequence[Score], count: int, config: RewardConfig) -> None:
    """Raises RewardError where the server could not score more than `config.max_null_share` of `count` responses."""
    if len(missing) > config.max_null_share * count:
        kinds = sorted({s.status for s in missing})
        raise RewardError(
            f"the reward server could not score {len(missing)} of {count} responses ({', '.join(kinds)}), more "
            f"than reward.max_null_share={config.max_null_share}; see its log, mend it and resume"
        )


def reward_definition(client: RewardClient | None, config: RewardConfig) -> dict[str, str]:
    """Name, version and content hash of the preset as every server defines it; collective like `score`.

    Raises:
        RewardError: a server stayed away or does not know the preset, or two define it differently.
    """
    return _told_by_leader(lambda asked: dataclasses.asdict(asked.definition(config.preset)), client)


def check_same_reward(saved: Mapping[str, str] | None, now: Mapping[str, str], config: RewardConfig) -> None:
    """Refuses to go on under another definition of the reward than the checkpoint was trained with.

    Raises:
        RewardError: naming both, unless `config.allow_change`.
    """
    if saved is None or dict(saved) == dict(now) or config.allow_change:
        return
    before, after = (f"{r['name']} version {r['version']} ({r['hash'][:12]})" for r in (saved, now))
    raise RewardError(
        f"the checkpoint was trained with reward {before}, the server now defines {after}; run the release of the "
        "server that trained it, or go on knowingly with reward.allow_change=true"
    )


def check_rows(examples: Sequence[Example], client: RewardClient | None, config: RewardConfig) -> list[int]:
    """Scores a made-up response to each example, of the right form and with the row's own answer; collective.

    What the server refuses of an example it refuses for every response to it, which would end a run at its first draw.

    Returns:
        which examples' own answers are not graded correct, so that no response to them may ever be paid.

    Raises:
        RowError: the server refuses an example.
        RewardError: it stayed away, or refuses preset or settings.
    """
    # One open answer shows whether there is a judge; more of them would cost it a request each.
    open_answer = next((index for index, example in enumerate(examples) if example.task == "text"), None)
    exact = dataclasses.replace(config, text_metric="exact") if _is_judged(config) else config
    target = least_target(config)
    items = [
        _item(
            Response(example, f"<think>-</think><answer>{_own_answer(example)}</answer>", 1, target),
            str(index),
            config if index == open_answer else exact,
        )
        for index, example in enumerate(examples)
    ]

    def ask(asked: RewardClient) -> tuple[list[str], tuple[int, str] | None]:
        asked.score(config.preset, [])
        try:
            return [score.status for score in asked.score(config.preset, items)[1]], None
        except RewardDefinitionError:
            raise
        except RewardProtocolError:
            return [], _refused(asked, config.preset, items)

    statuses, refused = _told_by_leader(ask, client)
    if refused is not None:
        raise RowError(examples[refused[0]], f"the reward server refuses it: {refused[1]}")
    return [index for index, status in enumerate(statuses) if status not in ("correct", *SERVER_FAULTS)]


def _own_answer(example: Example) -> str:
    """`Example.gold`, with numbers to their last digit: limits may be narrow."""
    return f"{example.answer:.15g}" if example.task == "number" else example.gold()


def _refused(client: RewardClient, preset: str, items: Sequence[ScoreItem]) -> tuple[int, str] | None:
    """The first item that the server refuses, by its id, and why; found by halving."""
    try:
        client.score(preset, items)
    except RewardProtocolError as error:
        if len(items) == 1:
            return int(items[0].id), str(error)
        half = len(items) // 2
        return _refused(client, preset, items[:half]) or _refused(client, preset, items[half:])
    return None


def _item(response: Response, identity: str, config: RewardConfig) -> ScoreItem:
    example, target = response.example, response.length
    length = None
    if target is not None:
        length = Length(
            target.mode,
            target.tokens,
            response.tokens,
            config.length_shape,  # type: ignore[arg-type]  # one of its values, as the configuration has checked
            config.length_buffer,
            config.length_only_correct,
        )
    return ScoreItem(
        id=identity,
        task=example.task,
        response=response.text,
        reference=example.reference() | _graded(example, config),
        match=config.match,  # type: ignore[arg-type]  # checked as the shape is
        format=config.format,  # type: ignore[arg-type]  # checked as the shape is
        length=length,
    )


def _graded(example: Example, config: RewardConfig) -> dict[str, Any]:
    """How an open answer is graded, where it is not by exact matches; a judge is told the question."""
    if example.task != "text" or config.text_metric == "exact":
        return {}
    graded = {
        "metric": config.text_metric,
        "threshold": config.text_threshold,
        "compat": config.text_compat,
        "continuous": config.text_continuous,
    }
    asked = f"{example.context or ''}\n{example.question}".strip()
    return graded | ({"question": asked} if _is_judged(config) else {})


def _is_judged(config: RewardConfig) -> bool:
    return config.text_metric in ("judge", "judge_probability")


def _told_by_leader(ask: Callable[[RewardClient], Any], client: RewardClient | None) -> Any:
    """What `ask` returns on rank 0, or its error, on every rank: a rank left alone would wait for the deadline."""
    value, failure = told_by_leader(None if client is None else lambda: ask(client))
    if failure is not None:
        raise RewardError(f"scoring failed: {failure}")
    return value


def reward_table(groups: Sequence[Sequence[Trajectory]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rewards [groups, group size] in float64 and which of them are valid; missing rewards read 0."""
    rewards = torch.tensor([[t.score.reward or 0.0 for t in group] for group in groups], dtype=torch.float64)
    valid = torch.tensor([[t.score.reward is not None for t in group] for group in groups])
    return rewards, valid
