"""A reward without a verifier: how much likelier a response's reasoning makes the right answer (RLPR).

RLPR (Yu et al. 2025, arXiv 2506.18254; released code): with r the mean probability, under the policy itself, of the
right answer's tokens where the response's own answer would stand, and r0 the same with no reasoning in front,

    reward = 0.9 max(0, r - r0) + 0.1 [the response has the form] + the preset's length term

A mean of probabilities and not their product, so that one unlikely token does not rule. Prompts whose responses are
rewarded too much alike are left out: those whose standard deviation is below a share of its running mean.

The response's own answer y is not looked at, so the tokens between its tags have no advantage: in expectation their
policy gradient is 0, E[R(z) grad log p(y | z)] = R(z) grad 1 for all the rest z, and what is left out is its noise,
under which answers come away from their reasonings. The length term, to which an answer adds little, is the rest's.

The reward server's verdict plays no part in it; it is still asked for the form and for `accuracy/*`, so that a run
shows what its reward does not see. What the server could not score stays without a reward.

`reasoning_gain` takes the same texts as a diagnostic of any reward: how much likelier reasoning makes the right answer,
in nats a token, which is Knowledge-or-Reasoning's gain from all steps at once (`recipes.evaluation.gain`).

Where it differs: RLPR's answers take the advantage; without the form r - r0 counts as 0, since there is no place where
the answer would stand; the running mean keeps 0.9 of itself a step, as the paper's value is not known to us.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from conversion.tokenizer_check import encode
from recipes.engines.base import PolicyEngine, TokenBatch, TokenSequence
from recipes.evaluation.steps import reasoning
from recipes.rollout.prompts import Prompt
from recipes.rollout.scoring import Trajectory
from recipes.runtime.config import Config

VERSION = "1"
FORMULA = (
    "0.9 max(0, r - r0) + 0.1 form + length; r, r0: mean probability of the right answer, with and without thought"
)
_GAIN, _FORM = 0.9, 0.1
_KEEP = 0.9

Group = list[Trajectory]


@dataclass(frozen=True)
class Rewarded:
    """Groups after `Likelihood.reward`.

    Attributes:
        groups: with their rewards.
        keeps: which of them are told apart enough to learn from.
        metrics: means of r and r0, and the share of groups that are not.
    """

    groups: list[Group]
    keeps: list[bool]
    metrics: dict[str, float]


class Likelihood:
    """Rewards of the kinds of task that `reward.likelihood` names; collective over all ranks."""

    def __init__(self, config: Config, engine: PolicyEngine, tokenizer: Any) -> None:
        self._kinds = frozenset(config.reward.likelihood)
        self._share = config.reward.likelihood_filter
        self._longest = config.model.max_length
        self._engine = engine
        self._tokenizer = tokenizer
        self._deviation: float | None = None

    def reward(self, groups: Sequence[Group]) -> Rewarded:
        """The groups of these kinds with their own rewards, by the policy as it is; others as they are."""
        own = {n: group for n, group in enumerate(groups) if group[0].prompt.example.group in self._kinds}
        asked = {n: sequences(group, self._tokenizer) for n, group in own.items()}
        everything = [each for part in asked.values() for each in part]
        found = iter(_probability(each) for each in answer_logprobs(everything, self._engine, self._longest))
        done, after, before = list(groups), list[float](), list[float]()
        for n, group in own.items():
            without, *behind = (next(found) for _ in asked[n])
            done[n] = [
                dataclasses.replace(_with_reward(t, r, without), unread=answer_tokens(t, self._tokenizer))
                for t, r in zip(group, behind, strict=True)
            ]
            after += [r for r in behind if r is not None]
            before += [] if without is None else [without]
        keeps = [True] * len(groups)
        metrics = {"likelihood/with_reasoning": _mean(after), "likelihood/without": _mean(before)} if own else {}
        if self._share and own:
            for n, keep in zip(own, self._told_apart([done[n] for n in own]), strict=True):
                keeps[n] = keep
            metrics["likelihood/left_out_share"] = 1 - sum(keeps[n] for n in own) / len(own)
        return Rewarded(done, keeps, metrics)

    def _told_apart(self, groups: Sequence[Group]) -> list[bool]:
        """Which groups' rewards differ as much as is asked of what they did lately; the first ones all do."""
        deviations, known = [_deviation(group) for group in groups], self._deviation
        now = _mean(deviations)
        self._deviation = now if known is None else _KEEP * known + (1 - _KEEP) * now
        return [known is None or each >= self._share * known for each in deviations]

    def state(self) -> float | None:
        """What a resumed run needs: the running mean of the deviations."""
        return self._deviation

    def restore(self, state: float | None) -> None:
        """Takes over what `state` gave."""
        self._deviation = state


def sequences(group: Group, tokenizer: Any) -> list[tuple[TokenSequence, int] | None]:
    """The right answer behind no reasoning, and behind each response's; each with the answer's number of tokens.

    None for a response without the form. The answer is tokenised by itself, so that its tokens are the same behind all.
    """
    prompt = group[0].prompt
    begins = "" if prompt.opened else "<think>"
    written = [f"{begins}</think><answer>", *(f"{begins}{_thought(t, prompt)}</think><answer>" for t in group)]
    answer, *thoughts = encode(tokenizer, [prompt.example.gold(), *written])
    found = [(TokenSequence((*prompt.ids, *each, *answer), len(prompt.ids)), len(answer)) for each in thoughts]
    return [found[0], *(one if _has_form(t) else None for t, one in zip(group, found[1:], strict=True))]


def answer_logprobs(
    asked: Sequence[tuple[TokenSequence, int] | None], engine: PolicyEngine, longest: int
) -> list[list[float] | None]:
    """Log-probabilities of each one's last tokens; None where nothing is asked, or more than `longest` tokens."""
    fits = [each is not None and len(each[0].ids) <= longest for each in asked]
    # What is asked twice is passed once: it costs nothing, and gets one value to the last bit.
    batch = tuple(dict.fromkeys(each[0] for each, fit in zip(asked, fits, strict=True) if each and fit))
    logprobs = dict(zip(batch, engine.logprobs(TokenBatch(batch)), strict=True)) if batch else {}
    return [logprobs[each[0]][-each[1] :] if each and fit else None for each, fit in zip(asked, fits, strict=True)]


def reasoning_gain(groups: Sequence[Group], engine: PolicyEngine, tokenizer: Any, longest: int) -> dict[str, float]:
    """How much likelier reasoning makes the right answer, by the policy as it is; collective over all ranks.

    Args:
        groups: what a step sampled; responses without the form have no place for an answer and are left out.
        engine: of the policy.
        tokenizer: of the checkpoint.
        longest: tokens that the model reads at most.

    Returns:
        `reasoning/gain`, the mean over responses of the right answer's mean log-probability after the reasoning less
        that after none, in nats a token; and `reasoning/gaining_share`, of responses, where it is above 0. Nothing
        where no response counts.
    """
    asked = [sequences(group, tokenizer) for group in groups]
    found = iter(answer_logprobs([each for part in asked for each in part], engine, longest))
    gains = list[float]()
    for part in asked:
        without, *behind = (next(found) for _ in part)
        gains += [_mean(after) - _mean(without) for after in behind if after is not None and without is not None]
    if not gains:
        return {}
    return {"reasoning/gain": _mean(gains), "reasoning/gaining_share": _mean([gain > 0 for gain in gains])}


def definition(reward: Mapping[str, str], config: Config) -> dict[str, str]:
    """The definition of a run's reward, of the server's preset and what is rewarded by likelihood in its place."""
    if not config.reward.likelihood:
        return dict(reward)
    own = [VERSION, FORMULA, sorted(config.reward.likelihood), config.reward.likelihood_filter, reward["hash"]]
    return {
        "name": f"{reward['name']}+rlpr",
        "version": f"{reward['version']}+{VERSION}",
        "hash": hashlib.sha256(json.dumps(own).encode()).hexdigest(),
    }


def _has_form(trajectory: Trajectory) -> bool:
    return trajectory.score.components.get("format") == 1.0


def _thought(trajectory: Trajectory, prompt: Prompt) -> str:
    return reasoning(trajectory.text).removeprefix(prompt.opened.removeprefix("<think>"))


def answer_tokens(trajectory: Trajectory, tokenizer: Any) -> tuple[int, int]:
    """From which token to before which the answer stands; none without the form, which any token may have broken."""
    if not _has_form(trajectory):
        return 0, 0
    ids, text = trajectory.completion.ids, trajectory.text.removeprefix(trajectory.prompt.opened)
    first = text.rindex("<answer>") + len("<answer>")
    last = text.index("</answer>", first)

    def read(count: int) -> int:
        return len(tokenizer.decode(ids[:count], skip_special_tokens=True))

    start, end = (bisect_right(range(len(ids) + 1), place, key=read) - 1 for place in (first, last))
    # A token that holds a part of the answer and of a tag is the answer's.
    return start, end + (read(end) < last)


def _with_reward(trajectory: Trajectory, after: float | None, before: float | None) -> Trajectory:
    score = trajectory.score
    if score.reward is None:
        return trajectory
    length = score.components.get("length", 0.0)
    if not _has_form(trajectory):
        rewarded = dataclasses.replace(score, reward=length, components={**score.components, "likelihood": 0.0})
    elif after is None or before is None:
        # With the right answer it is longer than the model reads: nothing is known, and a zero is not earned.
        rewarded = dataclasses.replace(score, reward=None, status="verifier_error", components={})
    else:
        gain = _GAIN * max(0.0, after - before)
        parts = {**score.components, "likelihood": gain}
        rewarded = dataclasses.replace(score, reward=gain + _FORM + length, components=parts)
    return dataclasses.replace(trajectory, score=rewarded)


def _probability(logprobs: Sequence[float] | None) -> float | None:
    return None if logprobs is None else float(np.exp(logprobs).mean())


def _deviation(group: Group) -> float:
    rewards = [t.score.reward for t in group if t.score.reward is not None]
    return float(np.std(rewards)) if rewards else 0.0


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
