"""Scores items: verifier, then preset. No HTTP in here.

Left out: a pool of processes with a hard time limit. Every verifier takes bounded, linear time, so that no item ends as
`timeout` yet; the status is in the contract for verifiers that cannot promise it.
"""

from __future__ import annotations

import dataclasses
import logging
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from reward_server.presets import Outcome, Preset
from reward_server.schema import (
    ChoiceItem,
    DateItem,
    DurationItem,
    Item,
    NumberItem,
    PresetInfo,
    Result,
    ScoreRequest,
    ScoreResponse,
    TextItem,
)
from reward_server.verifiers import choice, date, duration, format, length, number, text
from reward_server.verifiers.base import NO_ANSWER, Verdict
from reward_server.verifiers.choice import Match

logger = logging.getLogger(__name__)


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
    if item.reference.threshold is None:
        return text.verify_exact(answer, references)
    return text.verify_f1(answer, references, item.reference.threshold)


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
    """Name to version of every rule that feeds a reward: the tasks' verifiers, format and length."""
    tasks = {verifier.name: verifier.version for verifier in verifiers.values()}
    return {**tasks, "format": format.VERSION, "length": length.VERSION}


def preset_info(preset: Preset, verifiers: Mapping[str, Verifier]) -> PresetInfo:
    """The preset's identity, as answers and checkpoints carry it."""
    return PresetInfo(name=preset.name, version=preset.version, hash=preset.content_hash(versions(verifiers)))


def score(request: ScoreRequest, preset: Preset, verifiers: Mapping[str, Verifier] = VERIFIERS) -> ScoreResponse:
    """Scores a batch in order; an item whose verifier raises gets `verifier_error` and a null reward."""
    results = [score_item(item, preset, verifiers[item.task]) for item in request.items]
    return ScoreResponse(preset=preset_info(preset, verifiers), results=results)


def score_item(item: Item, preset: Preset, verifier: Verifier) -> Result:
    """Scores one item."""
    parts = format.parse(item.response)
    try:
        verdict = NO_ANSWER
        if parts.answer is not None:
            verdict = verifier.judge(parts.answer, item, item.match or preset.match)
    except Exception as error:
        logger.error("verifier %s (version %s) raised %s", verifier.name, verifier.version, where(error))
        return Result(
            id=item.id,
            reward=None,
            status="verifier_error",
            extracted=None,
            components={},
            verifier=verifier.name,
            version=verifier.version,
        )
    span = item.length
    outcome = Outcome(
        status=verdict.status,
        answered=parts.answer is not None,
        format_ok=parts.strict,
        length_mode=span.mode if span else "none",
        tokens=(span.tokens if span else None) or 0,
        target=(span.target if span else None) or 1,
    )
    reward = preset.reward(outcome)
    return Result(
        id=item.id,
        reward=reward.value,
        status=verdict.status,
        extracted=verdict.extracted,
        components={
            "answer": float(verdict.status == "correct"),
            "format": float(parts.strict),
            "length": reward.length,
        },
        verifier=verifier.name,
        version=verifier.version,
    )


def where(error: BaseException) -> str:
    """An exception's type and place, without its message, which may quote a patient's text."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{place}"
