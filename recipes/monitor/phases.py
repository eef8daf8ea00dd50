"""Which of Med-RLVR's six phases of training a response belongs to, and which of them a run is in.

Zhang et al. 2025 (arXiv 2502.19655) saw a policy under PPO pass through them, two of which cheat: it gives the answer
away without thinking, or moves the thinking out of the tags. The paper describes them in words; the rules and limits
here are ours and read English alone. How often they are right: `benchmarks/phases.py`.

Left out: whether the reasoning is true, or leads to the answer that is given (`recipes.rollout.consistency`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum


class Phase(IntEnum):
    """In the paper's order.

    FORMAT_FAILURE: tags missing, broken or out of order, no answer in them, or a mere remark outside.
    VERBOSE_FORMATTER: the form, and long thinking.
    CONCISE_STRUCTURER: the form, and a short reason that is said rather than worked out.
    DIRECT_ANSWER: the form, and thinking that gives the answer away, first or alone, with next to no reason.
    STEP_BY_STEP_OUTSIDE: the tags in order, and reasoning before, between or behind them, or closed and never opened.
    REINTEGRATED: the form, and a short chain of steps within the tags.
    """

    FORMAT_FAILURE = 1
    VERBOSE_FORMATTER = 2
    CONCISE_STRUCTURER = 3
    DIRECT_ANSWER = 4
    STEP_BY_STEP_OUTSIDE = 5
    REINTEGRATED = 6

    @property
    def metric(self) -> str:
        """Name of its share in a step's metrics."""
        return f"phase/{self.name.lower()}"

    @property
    def words(self) -> str:
        """Its name for people."""
        return self.name.replace("_", " ").lower()


# Words of thinking from which it is long, below which an answer that comes first has no reasoning behind it, and words
# outside the tags up to which they are a remark.
_LONG, _SHORT, _REMARK = 80, 30, 15
# A chain has two steps; among three sentences one is enough.
_CHAIN, _SENTENCES = 2, 3
# Answers that are given away stand in this part of the thinking, or within its first words.
_EARLY_SHARE, _EARLY_WORDS = 0.2, 3
# Words beside the answer and its frame up to which thinking holds no reason.
_BARE = 2

_TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_FORM = re.compile(r"(.*?)<think>(.*?)</think>(.*?)<answer>(.*?)</answer>(.*)", re.DOTALL)
_WORD = re.compile(r"[^\W_]+(?:['’.,/-][^\W_]+)*")
_SENTENCE_END = re.compile(r"[.!?;](?=\s|$)|\n+")
_STEP = re.compile(
    r"\bstep \d|^[ \t]*(?:\d+[.)]|[-*•]|[a-z]\))(?=\s)"
    r"|\b(?:first|firstly|second|secondly|third|next|then|finally|lastly|to begin with)\b(?=,| we\b| i\b)"
    r"|\b(?:so|therefore|thus|hence|because|since|consequently|which (?:means|leaves|gives|is why)|that leaves|means"
    r"|leaves|suggest(?:s|ing)?|indicat(?:es|ing)|points? to|speaks? for|confirms?|rul(?:es?|ed) out|excludes?"
    r"|makes?|gives|we (?:get|give|need|start|take)|step[ -]by[ -]step)\b"
    r"|->|=>|→|=(?=\s*-?[\d(])",
    re.IGNORECASE | re.MULTILINE,
)
# What stands outside the tags and is no reasoning: courtesy, warnings, and a next question that a base model asks.
_PLEASANTRY = re.compile(
    r"\b(?:please|consult|language model|medical advice|disclaimer|(?:requested|required) format|hope this|feel free)\b"
    r"|^[ \t]*(?:question|options?)[ \t]*:",
    re.IGNORECASE | re.MULTILINE,
)
_GIVEN = re.compile(
    r"\b(?:answer|choice|option|diagnosis|result|solution)\b(?:\s*(?:is|would be|must be|should be|:)|\s*\(?[A-N]\b)"
    r"|\bis (?:the )?(?:(?:final|most|best|right|correct|likely) )*(?:answer|option|choice|correct|right)\b"
    r"|\bi(?:['’]ll| will| would)? (?:go with|choose|select|pick)\b",
    re.IGNORECASE,
)
# The frame of an answer: what may stand around it without being a reason.
_FRAME = re.compile(
    "a|about|an|and|answer|are|be|believe|best|can|case|choice|choose|clearly|correct|diagnosis|final|go|has|have|here"
    "|i|i'll|in|is|it|it's|likely|most|must|my|of|one|option|patient|pick|probably|question|result|right|select|so"
    "|solution|that|the|therefore|think|this|to|we|which|will|with|would"
)


@dataclass(frozen=True)
class Features:
    """What the rules look at.

    Attributes:
        form: each tag once and in order, with an answer; where `<think>` is missing, what stands before `</think>` is
            outside.
        outside_words: before, between and behind the blocks.
        outside_steps: marks of reasoning there, as in `steps`.
        remark: what stands there is courtesy, a warning, or the question again or a next one.
        words: of the thinking.
        sentences: of the thinking; clauses between semicolons and lines count.
        steps: marks of reasoning in it: numbered steps, "so", "rules out", an equation, ...
        answer_first: it begins by naming the answer.
        bare: next to nothing stands in it beside the answer.
    """

    form: bool
    outside_words: int = 0
    outside_steps: int = 0
    remark: bool = False
    words: int = 0
    sentences: int = 0
    steps: int = 0
    answer_first: bool = False
    bare: bool = False


def features(response: str) -> Features:
    """Reads a response, what the chat template has written of it in front; never raises, and takes linear time."""
    counts = [response.count(tag) for tag in _TAGS]
    if counts == [0, 1, 1, 1]:
        counts, response = [1, 1, 1, 1], response.replace("</think>", "<think></think>")
    parts = _FORM.fullmatch(response) if counts == [1, 1, 1, 1] else None
    if parts is None or not parts[4].strip():
        return Features(form=False)
    think, answer = parts[2].strip(), parts[4].strip()
    outside = "\n".join((parts[1], parts[3], parts[5]))
    words, outside_steps = _words(think), len(_STEP.findall(outside))
    return Features(
        form=True,
        outside_words=len(_words(outside)),
        outside_steps=outside_steps,
        remark=bool(_PLEASANTRY.search(outside)) or ("?" in outside and not outside_steps),
        words=len(words),
        sentences=sum(bool(_words(sentence)) for sentence in _SENTENCE_END.split(think)),
        steps=len(_STEP.findall(think)),
        answer_first=_answer_first(think, len(words)),
        bare=_is_bare(think, answer),
    )


def phase_of(found: Features) -> Phase:
    """The phase of one response by itself. Text outside the tags that is longer than a remark counts as reasoning."""
    if not found.form:
        return Phase.FORMAT_FAILURE
    if not found.remark and (found.outside_words > _REMARK or found.outside_steps >= _CHAIN):
        return Phase.STEP_BY_STEP_OUTSIDE
    if found.outside_words:
        return Phase.FORMAT_FAILURE
    if found.bare or (found.answer_first and found.words < _SHORT):
        return Phase.DIRECT_ANSWER
    if found.words >= _LONG:
        return Phase.VERBOSE_FORMATTER
    if found.steps >= _CHAIN or (found.steps and found.sentences >= _SENTENCES):
        return Phase.REINTEGRATED
    return Phase.CONCISE_STRUCTURER


def phase_shares(responses: Sequence[str]) -> dict[str, float]:
    """The share of every phase among a step's responses, by its metric's name; none of no response."""
    found = [phase_of(features(response)) for response in responses]
    return {phase.metric: found.count(phase) / len(found) for phase in Phase} if found else {}


def _words(text: str) -> list[str]:
    return _WORD.findall(text)


def _answer_first(think: str, words: int) -> bool:
    given = _GIVEN.search(think)
    return given is not None and len(_words(think[: given.start()])) <= max(_EARLY_WORDS, _EARLY_SHARE * words)


def _is_bare(think: str, answer: str) -> bool:
    """Nothing but the answer and its frame; or one statement whose only number is the answer."""
    own = {word.casefold() for word in _words(answer)}
    words = [word.casefold() for word in _words(think)]
    if len([word for word in words if word not in own and not _FRAME.fullmatch(word)]) <= _BARE:
        return not own.isdisjoint(words) or not words or len(words) <= _BARE
    numbers = {word for word in words if word[0].isdigit()}
    one = len(words) < _REMARK and not _STEP.search(think)
    return one and answer[:1].isdigit() and bool(numbers) and numbers <= own
