"""Presets: how verdict, format and length become one reward. Each is defined here and nowhere else.

A preset's version and content hash go into every answer and every checkpoint, so that a resumed run cannot change its
reward unnoticed. Left out: weights per task and reward shaping across a group, which belong to the trainer.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping

from reward_server.verifiers.base import VerdictStatus
from reward_server.verifiers.choice import Match
from reward_server.verifiers.length import LengthMode, med_u1_term, relative_cost, token_gap


@dataclasses.dataclass(frozen=True)
class Outcome:
    """All that a preset may look at.

    Attributes:
        status: the verifier's verdict.
        answered: the response has an answer block with text in it.
        format_ok: the response has the form asked for, strict unless the item says lenient.
        length_mode: none, exact or max.
        tokens: tokens of the response.
        target: tokens asked for, at least 1.
        probability: of the answer being right, in [0, 1], from the judge; None where it was not asked for one.
        measure: how like a right answer it is, in [0, 1], where that is to be paid in place of the verdict; else None.
        answer: the text of the answer block.
        right: right answers as text.
    """

    status: VerdictStatus
    answered: bool
    format_ok: bool
    length_mode: LengthMode = "none"
    tokens: int = 0
    target: int = 1
    probability: float | None = None
    measure: float | None = None
    answer: str = ""
    right: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Reward:
    """A reward, and the length term within it."""

    value: float
    length: float = 0.0


@dataclasses.dataclass(frozen=True)
class Preset:
    """A reward definition.

    Attributes:
        name: as requests and configs call it.
        version: raised with every change of `reward`.
        formula: the definition in words and symbols; part of the content hash.
        match: how choice answers are read when an item does not say.
        low, high: the range of the reward.
        reward: the definition as code.
    """

    name: str
    version: str
    formula: str
    match: Match
    low: float
    high: float
    reward: Callable[[Outcome], Reward]

    def content_hash(self, verifier_versions: Mapping[str, str]) -> str:
        """The sha256 of the definition and the versions of everything that feeds it, as 64 hexadecimal digits."""
        definition = {
            "name": self.name,
            "version": self.version,
            "formula": self.formula,
            "match": self.match,
            "range": [self.low, self.high],
            "verifiers": dict(verifier_versions),
        }
        canonical = json.dumps(definition, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(canonical.encode()).hexdigest()


def _gated(outcome: Outcome) -> Reward:
    if not outcome.format_ok:
        return Reward(0.0)
    if outcome.status == "correct":
        term = relative_cost(outcome.length_mode, outcome.tokens, outcome.target)
        return Reward(1.0 + term, term)
    return Reward(0.1 if outcome.status == "incorrect" else 0.0)


def _med_u1(outcome: Outcome) -> Reward:
    form = 1.0 if outcome.format_ok else -1.0
    if not outcome.answered:
        return Reward(form - 2.0)
    answer = 1.0 if outcome.status == "correct" else -1.0
    if outcome.measure is not None:
        answer = outcome.measure
    length = med_u1_term(outcome.length_mode, outcome.tokens, outcome.target)
    return Reward(form + answer + length, length)


def _med_rlvr(outcome: Outcome) -> Reward:
    if not outcome.format_ok:
        return Reward(-1.0)
    return Reward(1.0 if outcome.status == "correct" else 0.0)


def _binary(outcome: Outcome) -> Reward:
    return Reward(1.0 if outcome.format_ok and outcome.status == "correct" else 0.0)


def _huatuo_o1(outcome: Outcome) -> Reward:
    if not outcome.format_ok or not outcome.answered:
        return Reward(0.0)
    return Reward(1.0 if outcome.status == "correct" else 0.1)


def _general_reasoner(outcome: Outcome) -> Reward:
    if not outcome.format_ok or not outcome.answered:
        return Reward(-0.5)
    if outcome.status != "correct":
        return Reward(0.0)
    term = -0.05 * min(10, token_gap(outcome.answer, outcome.right)) + 0.0
    return Reward(1.0 + term, term)


def _reward_bridge(outcome: Outcome) -> Reward:
    if not outcome.format_ok:
        return Reward(0.0)
    if outcome.probability is not None:
        return Reward(outcome.probability)
    return Reward(1.0 if outcome.status == "correct" else 0.0)


PRESETS: Mapping[str, Preset] = {
    preset.name: preset
    for preset in (
        # The 0.1 and the 0 for unreadable answers: arXiv 2512.19691 (MedCalc). The length cost touches correct
        # answers alone, because in Med-U1's plain sum a short wrong answer outbids an effort.
        Preset(
            name="gated",
            version="1",
            formula=(
                "0 without strict format; else correct: 1 - 0.2 e; incorrect but readable: 0.1; no_answer, malformed: "
                "0. e = clip((y-n)/n, 0, 1) in length mode max, clip(|y-n|/n, 0, 1) in mode exact, 0 in mode none; "
                "y = tokens, n = target"
            ),
            match="lenient",
            low=0.0,
            high=1.0,
            reward=_gated,
        ),
        # Med-U1 (arXiv 2506.12307), released medical_score.py; its choice rule takes the letter alone, and a continuous
        # measure of open answers is paid as it is.
        Preset(
            name="med_u1",
            version="2",
            formula=(
                "f + a + l with an answer, f - 2 without; f = +1 strict format, else -1; a = +1 correct, else -1, or "
                "measure / 100 of a text that is continuous; "
                "l = clip(1-|y-n|/1500, -1, 1) in length mode exact, clip(-(y-n)/500, -1, 1) in mode max, 0 in mode "
                "none; y = tokens, n = target"
            ),
            match="strict",
            low=-3.0,
            high=3.0,
            reward=_med_u1,
        ),
        # Med-RLVR (arXiv 2502.19655), as restated in arXiv 2509.15557, equation 2.
        Preset(
            name="med_rlvr",
            version="1",
            formula="-1 without strict format; else 1 if correct, 0 if not",
            match="lenient",
            low=-1.0,
            high=1.0,
            reward=_med_rlvr,
        ),
        # AlphaMed (arXiv 2505.17952), whose form is not checked; here it is, so that no strict form pays for reasoning
        # outside the tags.
        Preset(
            name="binary",
            version="2",
            formula="1 if correct and of strict format, else 0; length does not count",
            match="lenient",
            low=0.0,
            high=1.0,
            reward=_binary,
        ),
        # HuatuoGPT-o1 (arXiv 2412.18925), released ppo_trainer_medo1.py; its form is "## Thinking" and "## Final
        # Response", and P(true) > 0.4 of its verifier is correct: metric judge_probability with threshold 0.4.
        Preset(
            name="huatuo_o1",
            version="1",
            formula="0 without strict format or without an answer; else 1 if correct, 0.1 if not",
            match="lenient",
            low=0.0,
            high=1.0,
            reward=_huatuo_o1,
        ),
        # General-Reasoner (arXiv 2505.14652), released verifier.py: a right answer as long as the reference pays most,
        # so that none is hidden in a long one. The policy's tokenizer counts there, words and marks here; and an answer
        # that cannot be extracted is there one that is not boxed.
        Preset(
            name="general_reasoner",
            version="1",
            formula=(
                "-0.5 without strict format or without an answer; else correct: 1 - 0.05 min(10, d), 0 if not; "
                "d = | words and marks of the answer - those of the right answer |, of several the least"
            ),
            match="lenient",
            low=-0.5,
            high=1.0,
            reward=_general_reasoner,
        ),
        # Crossing the Reward Bridge (arXiv 2503.23829): a generative verifier says 1 or 0, and the probability of the 1
        # is the reward; tasks that rules decide pay 1 or 0.
        Preset(
            name="reward_bridge",
            version="1",
            formula=(
                "0 without strict format; else P(1), the judge's probability that the answer is correct, with metric "
                "judge_probability; else 1 if correct, 0 if not; length does not count"
            ),
            match="lenient",
            low=0.0,
            high=1.0,
            reward=_reward_bridge,
        ),
    )
}
