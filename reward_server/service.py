"""Scores items: verifier, then preset. No HTTP and no time limits in here; those are `pool`'s."""

from __future__ import annotations

import dataclasses
import logging
import os
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from reward_server.presets import Outcome, Preset, Reward
from reward_server.schema import (
    ChoiceItem,
    DateItem,
    DurationItem,
    Item,
    Length,
    NumberItem,
    PresetInfo,
    Result,
    ScoreRequest,
    ScoreResponse,
    Status,
    TextItem,
)
from reward_server.verifiers import choice, date, duration, format, length, number, text
from reward_server.verifiers.base import MAX_ANSWER_CHARS, NO_ANSWER, Verdict
from reward_server.verifiers.choice import Match
from reward_server.verifiers.length import LengthMode

logger = logging.getLogger(__name__)

JUDGE_MODEL_VARIABLE = "MEDATRON_JUDGE_MODEL"
_EXTRACT_CHARS = 200


@dataclasses.dataclass(frozen=True)
class Verifier:
    """A verifier in the service.

    Attributes:
        name: the task that it judges.
        version: raised whenever any input would be judged differently.
        judge: answer text, item and choice match to a verdict. An exception becomes the item's `verifier_error`.
    """

    name: str
    version: str
    judge: Callable[[str, Any, Match], Verdict]


def _choice(answer: str, item: ChoiceItem, match: Match) -> Verdict:
    return choice.verify(answer, item.reference.answer, item.reference.options, match)


def _number(answer: str, item: NumberItem, _: Match) -> Verdict:
    reference = item.reference
    if reference.lower is None or reference.upper is None:
        return number.verify_integer(answer, reference.answer)
    return number.verify_range(answer, reference.lower, reference.upper)


def _date(answer: str, item: DateItem, _: Match) -> Verdict:
    return date.verify(answer, date.parse_gold(item.reference.answer))


def _duration(answer: str, item: DurationItem, _: Match) -> Verdict:
    return duration.verify(answer, item.reference.answer.weeks, item.reference.answer.days)


def _text(answer: str, item: TextItem, _: Match) -> Verdict:
    references = [item.reference.answer, *item.reference.aliases]
    metric, threshold = item.reference.metric, item.reference.threshold
    if metric == "exact" or threshold is None:
        return text.verify_exact(answer, references)
    if metric == "f1":
        return text.verify_f1(answer, references, threshold)
    assert metric != "judge", "an item for the judge comes here with its verdict"
    return text.verify_overlap(answer, references, metric, threshold, compat=item.reference.compat)


VERIFIERS: Mapping[str, Verifier] = {
    verifier.name: verifier
    for verifier in (
        Verifier("choice", choice.VERSION, _choice),
        Verifier("number", number.VERSION, _number),
        Verifier("date", date.VERSION, _date),
        Verifier("duration", duration.VERSION, _duration),
        Verifier("text", text.VERSION, _text),
    )
}


def versions(verifiers: Mapping[str, Verifier]) -> dict[str, str]:
    """Name to version of every rule that feeds a reward: tasks' verifiers, format, length, the judge with its model."""
    tasks = {verifier.name: verifier.version for verifier in verifiers.values()}
    judge = f"{text.JUDGE_VERSION}, {os.environ.get(JUDGE_MODEL_VARIABLE) or 'none'}"
    return {**tasks, "format": format.VERSION, "length": length.VERSION, "judge": judge}


def preset_info(preset: Preset, verifiers: Mapping[str, Verifier]) -> PresetInfo:
    """The preset's identity, as answers and checkpoints carry it."""
    return PresetInfo(name=preset.name, version=preset.version, hash=preset.content_hash(versions(verifiers)))


def score(request: ScoreRequest, preset: Preset, verifiers: Mapping[str, Verifier] = VERIFIERS) -> ScoreResponse:
    """Scores a batch in order; an item whose verifier raises gets `verifier_error` and a null reward."""
    results = [score_item(item, preset, verifiers[item.task]) for item in request.items]
    return ScoreResponse(preset=preset_info(preset, verifiers), results=results)


def case_to_judge(item: Item) -> tuple[str, list[str], str] | None:
    """Question, right answers and candidate's answer of an item that is for the judge; None for any other."""
    if not isinstance(item, TextItem) or item.reference.metric != "judge":
        return None
    answer = format.parse(item.response).answer
    references = [item.reference.answer, *item.reference.aliases]
    return None if answer is None else (item.reference.question or "", references, answer[:MAX_ANSWER_CHARS])


def score_item(item: Item, preset: Preset, verifier: Verifier, judged: Status | None = None) -> Result:
    """Scores one item; `judged` is the judge's verdict on it."""
    parts = format.parse(item.response)
    try:
        verdict = NO_ANSWER
        if judged in ("correct", "incorrect"):
            verdict = Verdict(judged, parts.answer and parts.answer[:_EXTRACT_CHARS])
        elif parts.answer is not None:
            verdict = verifier.judge(parts.answer, item, item.match or preset.match)
    except Exception as error:
        logger.error("verifier %s (version %s) raised %s", verifier.name, verifier.version, where(error))
        return given_result(item, verifier, "verifier_error")
    correct, form = verdict.status == "correct", parts.accepted(item.format)
    reward = _reward(preset, verdict, item.length, answered=parts.answer is not None, format_ok=form)
    return Result(
        id=item.id,
        reward=reward.value,
        status=verdict.status,
        extracted=verdict.extracted,
        components={
            "answer": float(correct),
            "format": float(form),
            "length": reward.length,
        },
        format_issue=parts.issue,
        verifier=verifier.name,
        version=verifier.version,
    )


def given_result(item: Item, verifier: Verifier, status: Status) -> Result:
    """The result of an item that could not be judged: no reward, and `timeout` or `verifier_error`."""
    return Result(
        id=item.id,
        reward=None,
        status=status,
        extracted=None,
        components={},
        format_issue=None,
        verifier=verifier.name,
        version=verifier.version,
    )


def _reward(preset: Preset, verdict: Verdict, span: Length | None, *, answered: bool, format_ok: bool) -> Reward:
    """The preset's reward, with its own length term or the one that the item asks for."""
    mode: LengthMode = "none"
    tokens, target, buffer = 0, 1, 1
    if span is not None and (verdict.status == "correct" or not span.only_correct):
        mode, tokens, target, buffer = span.mode, span.tokens or 0, span.target or 1, span.buffer or 1
    own = span is None or span.shape == "preset"
    outcome = Outcome(verdict.status, answered, format_ok, mode if own else "none", tokens, target)
    reward = preset.reward(outcome)
    if own or mode == "none":
        return reward
    assert span is not None
    term = length.dapo_term(tokens, target, buffer) if span.shape == "dapo" else length.l1_term(mode, tokens, target)
    return Reward(reward.value + term, term)


def where(error: BaseException) -> str:
    """An exception's type and place, without its message, which may quote a patient's text."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{place}"
