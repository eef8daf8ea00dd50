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
from reward_server.verifiers.base import MALFORMED, MAX_ANSWER_CHARS, NO_ANSWER, Verdict
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
    if metric == "judge" or metric == "judge_probability":
        assert len(answer) > MAX_ANSWER_CHARS, "an item for the judge comes here with its verdict"
        return MALFORMED
    if metric == "exact" or threshold is None:
        return text.verify_exact(answer, references)
    if metric == "f1":
        return text.verify_f1(answer, references, threshold)
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


def case_to_judge(item: Item) -> tuple[str, list[str], str, bool] | None:
    """What the judge is asked of an item: question, right answers, candidate's answer, whether for a probability.

    None for an item that is for no judge, has no answer, or one of essay length.
    """
    if not isinstance(item, TextItem) or item.reference.metric not in ("judge", "judge_probability"):
        return None
    answer = format.parse(item.response).answer
    if answer is None or len(answer) > MAX_ANSWER_CHARS:
        return None
    references = [item.reference.answer, *item.reference.aliases]
    return item.reference.question or "", references, answer, item.reference.metric == "judge_probability"


def score_item(item: Item, preset: Preset, verifier: Verifier, judged: Status | float | None = None) -> Result:
    """Scores one item; `judged` is the judge's verdict on it, or its probability of being correct."""
    parts = format.parse(item.response)
    probability = judged if isinstance(judged, float) else None
    try:
        verdict = NO_ANSWER
        if isinstance(judged, float):
            judged = "correct" if judged > _threshold(item) else "incorrect"
        if judged in ("correct", "incorrect"):
            verdict = Verdict(judged, parts.answer and parts.answer[:_EXTRACT_CHARS])
        elif parts.answer is not None:
            verdict = verifier.judge(parts.answer, item, item.match or preset.match)
    except Exception as error:
        logger.error("verifier %s (version %s) raised %s", verifier.name, verifier.version, where(error))
        return given_result(item, verifier, "verifier_error")
    correct, form = verdict.status == "correct", parts.accepted(item.format)
    counted = item.length if correct or not (item.length and item.length.only_correct) else None
    mode, tokens, target = _own_length(counted)
    outcome = Outcome(
        status=verdict.status,
        answered=parts.answer is not None,
        format_ok=form,
        length_mode=mode,
        tokens=tokens,
        target=target,
        probability=probability,
        measure=verdict.measure / 100 if isinstance(item, TextItem) and item.reference.continuous else None,
        answer=parts.answer or "",
        right=_right_answers(item),
    )
    reward = _reward(preset, outcome, counted)
    return Result(
        id=item.id,
        reward=reward.value,
        status=verdict.status,
        extracted=verdict.extracted,
        components={
            "answer": float(correct) if outcome.measure is None else outcome.measure,
            "format": float(form),
            "length": reward.length,
            **({} if probability is None else {"probability": probability}),
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


def _threshold(item: Item) -> float:
    """Above which probability of the judge an item is correct."""
    threshold = item.reference.threshold if isinstance(item, TextItem) else None
    assert threshold is not None, "the item asked for a probability"
    return threshold


def _right_answers(item: Item) -> tuple[str, ...]:
    """The right answers of an item as a person would write them."""
    if isinstance(item, ChoiceItem):
        return item.reference.answer, item.reference.options[item.reference.answer]
    if isinstance(item, NumberItem):
        return (f"{item.reference.answer:.15g}",)
    if isinstance(item, DurationItem):
        return (f"{item.reference.answer.weeks} weeks, {item.reference.answer.days} days",)
    return (item.reference.answer, *(item.reference.aliases if isinstance(item, TextItem) else ()))


def _own_length(span: Length | None) -> tuple[LengthMode, int, int]:
    """Mode, tokens and target of the preset's own length term; mode none where another is asked for, or none."""
    if span is None or span.shape != "preset":
        return "none", 0, 1
    return span.mode, span.tokens or 0, span.target or 1


def _reward(preset: Preset, outcome: Outcome, span: Length | None) -> Reward:
    """The preset's reward, with its own length term or the one that the item asks for."""
    reward = preset.reward(outcome)
    if span is None or span.shape == "preset" or span.mode == "none":
        return reward
    correct = outcome.status == "correct"
    tokens, target = span.tokens or 0, span.target or 1
    if span.shape == "dapo":
        term = length.dapo_term(tokens, target, span.buffer or 1)
    elif span.shape in ("relative", "relative_all"):
        counts = correct or span.shape == "relative_all"
        term = length.relative_cost(span.mode, tokens, target) if counts else 0.0
    elif span.mode == "exact":
        term = length.l1_term("exact", tokens, target)
    else:
        # L1-Max multiplies: of what being correct adds, the factor is left.
        wrong = preset.reward(
            dataclasses.replace(outcome, status="incorrect", probability=None, measure=outcome.measure and 0.0)
        )
        term = (length.l1_term("max", tokens, target) - 1.0) * (reward.value - wrong.value) if correct else 0.0
    return Reward(reward.value + term, reward.length + term)


def where(error: BaseException) -> str:
    """An exception's type and place, without its message, which may quote a patient's text."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{place}"
