"""Questions with passages in front of them, in MedRGB's four conditions (arXiv 2411.09213; code ngotrnghia1811/MedRGB).

- `relevant`: the passages that BM25 finds for question and context (never for the options, as in MIRAGE);
- `mixed`: a share of them unrelated: drawn from what was found for other questions, as MedRGB draws its noise;
- `insufficient`: all of them unrelated, and the right answer is that they do not suffice;
- `false`: a share of them, or as many of it as can be made, states something wrong: the corpus's own edited passage
  (MedRGB's, written by GPT-4o), or the right option's text in a passage exchanged for a wrong one's, or a solved case
  with another of its options as answer.

An unrelated passage is not among the first found for its question, and does not name the right answer. What holds the
question itself is never shown. In every condition a choice question gets a last option, that the passages do not
suffice, and every question asks for the numbers of irrelevant and of false passages, and for the sub-questions of the
passages shown: `recipes.evaluation.context_scores` reads them. `meta.context` says what was shown.

LLM-MedQA (arXiv 2501.05464) has its model write similar cases; here a corpus of solved cases is searched for them.
Left out: MedRGB's topics, sub-questions and edits by GPT-4o, and judging whether a passage found really helps.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from recipes.data.errors import ExampleError
from recipes.data.example import Example
from recipes.data.retrieval import Index, Passage, case_text
from reward_server.reference import LETTERS

CONDITIONS = ("relevant", "mixed", "insufficient", "false")
REFUSAL = "insufficient information"
_REFUSAL_ALIASES = ("the passages do not suffice", "not enough information")
# Of the passages found for a question, how many times as many as are shown count as related to it.
_RELATED = 20
# A single letter or digit stands in every other passage, and so do these.
_NAMED_CHARS = 2
_COMMON = {"yes", "no", "maybe", "true", "false"}
# A shorter question may stand in a passage by chance.
_OWN_WORDS = 8
_UNDEFINED = re.compile(r"(all|none|both|neither) of\b|.*\b(above|below)\b", re.IGNORECASE)
_PLURAL = re.compile(r"(?<=\w\w)s\b")
_INSTRUCTION = (
    "\n\nSome passages may have nothing to do with the question, and some may state something false. Name them in two "
    'lines of your reasoning, "Irrelevant passages: " and "False passages: ", each with their numbers or none.'
)


@dataclass(frozen=True)
class Settings:
    """What is shown.

    Attributes:
        condition: one of CONDITIONS.
        passages: how many a question.
        share: of unrelated passages in `mixed`, of false ones in `false`; MedRGB's p_sig is 1 less it.
        seed: of what is drawn; with it and its id a question always gets the same passages, whatever stands beside it.
    """

    condition: str
    passages: int
    share: float = 0.5
    seed: int = 0

    @property
    def bad(self) -> int:
        """How many of the passages are unrelated or false."""
        if self.condition in ("relevant", "insufficient"):
            return 0 if self.condition == "relevant" else self.passages
        most = self.passages - (self.condition == "mixed")
        return min(max(1, int(self.passages * self.share + 0.5)), most)

    def __post_init__(self) -> None:
        """Refuses a share that leaves a condition without what it is named after."""
        if not 0 < self.share <= 1 or (self.condition == "mixed" and (self.share == 1 or self.passages < 2)):
            raise ExampleError(
                f"--share {self.share:g} of {self.passages} passages: expected more than 0 and at most 1; mixed needs "
                "two passages and less than 1"
            )


def with_passages(
    questions: Sequence[Example], corpus: Sequence[Passage], settings: Settings
) -> Iterator[tuple[Example, Example | str]]:
    """Every question, in order, and it with its passages, or why it has none.

    Raises:
        ExampleError: a question has passages already.
    """
    if again := next((question for question in questions if "context" in question.meta), None):
        raise ExampleError(f"the question {again.id!r} has passages already; name the file without them")
    index = Index(corpus)
    found = [_found(index, question, settings.passages) for question in questions]
    noise = sorted({place for related in found for place in related[: settings.passages]})
    for question, related in zip(questions, found, strict=True):
        chosen = _Choice(question, related, corpus, noise, settings).passages()
        if isinstance(chosen, str):
            yield question, chosen
        else:
            yield question, _asked(question, chosen, settings)


def _found(index: Index, question: Example, passages: int) -> list[int]:
    """Passages that are related to a question, the best first, without those that hold it."""
    query = f"{question.context or ''} {question.question}"
    own = _words(query)
    places = index.find(query, passages * _RELATED)
    return [place for place in places if not _holds(index.passages[place], own)]


def _holds(passage: Passage, own: str) -> bool:
    if passage.case and _words(f"{passage.case.context or ''} {passage.case.question}") == own:
        return True
    return own.count(" ") + 1 >= _OWN_WORDS and f" {own} " in f" {_words(passage.text)} "


@dataclass(frozen=True)
class _Shown:
    """A passage as it is shown: relevant, unrelated or false."""

    passage: Passage
    kind: str
    text: str
    wrong: str | None = None


@dataclass(frozen=True)
class _Choice:
    """The passages of one question; `related` and `noise` are places in the corpus."""

    question: Example
    related: list[int]
    corpus: Sequence[Passage]
    noise: list[int]
    settings: Settings

    def passages(self) -> list[_Shown] | str:
        """In the order in which they are shown, or why there are none."""
        wanted, bad = self.settings.passages, self.settings.bad
        rng = random.Random(f"{self.settings.seed}/{self.settings.condition}/{self.question.id}")
        if self.settings.condition == "insufficient" and self.question.task not in ("choice", "text"):
            return f"a {self.question.task} cannot be answered with words"
        if self.question.options and _refusal_letter(self.question) is None:
            return "no letter is left for the option that passages do not suffice"
        if wanted > bad and not self.related:
            return "no passage of the corpus has a word in common with it"
        shown: list[_Shown] = []
        if self.settings.condition == "false":
            shown = self._false(bad, rng)
        elif bad:
            shown = [_Shown(passage, "unrelated", passage.text) for passage in self._unrelated(bad, rng)]
        if self.settings.condition == "false" and not shown:
            return "no passage found for it can be made false"
        if self.settings.condition != "false" and len(shown) < bad:
            return "fewer passages are unrelated to it than are wanted"
        taken = {each.passage.id for each in shown}
        rest = [self.corpus[place] for place in self.related if self.corpus[place].id not in taken]
        shown += [_Shown(passage, "relevant", passage.text) for passage in rest[: wanted - len(shown)]]
        rng.shuffle(shown)
        return shown

    def _unrelated(self, wanted: int, rng: random.Random) -> list[Passage]:
        names, related = _names(self.question), set(self.related)
        own = _words(f"{self.question.context or ''} {self.question.question}")
        chosen: list[Passage] = []
        for pool in (self.noise, range(len(self.corpus))):
            chosen = []
            for place in _shuffled(pool, rng):
                if place in related or _named(self.corpus[place].text, names) or _holds(self.corpus[place], own):
                    continue
                chosen.append(self.corpus[place])
                if len(chosen) == wanted:
                    return chosen
        return chosen

    def _false(self, wanted: int, rng: random.Random) -> list[_Shown]:
        names, options = _names(self.question), self.question.options or {}
        # One that contains the right option, or is a part of it, would still say or half say what is right.
        wrongs = [letter for letter in _wrong_options(self.question, names) if not _part(options[letter], names)]
        wrong = rng.choice(wrongs) if names and wrongs else None
        shown: list[_Shown] = []
        for place in self.related:
            passage = self.corpus[place]
            if passage.false is not None:
                shown.append(_Shown(passage, "false", passage.false))
            elif passage.case is not None:
                if others := _wrong_options(passage.case, names):
                    shown.append(_Shown(passage, "false", case_text(passage.case, rng.choice(others))))
            elif wrong:
                right = options[str(self.question.answer)]
                text, times = _exchanged(passage.text, right, options[wrong])
                if times:
                    shown.append(_Shown(passage, "false", text, wrong))
            if len(shown) == wanted:
                break
        return shown


def _wrong_options(example: Example, names: Sequence[str]) -> list[str]:
    """Letters of options that are wrong by themselves, and that do not name what must not be said."""
    return [
        letter
        for letter, text in (example.options or {}).items()
        if letter != example.answer and not _UNDEFINED.match(text) and not _named(text, names)
    ]


def _part(text: str, names: Sequence[str]) -> bool:
    return any(f" {_words(text)} " in f" {name} " for name in names)


def _exchanged(text: str, old: str, new: str) -> tuple[str, int]:
    """`text` with `new` wherever it names `old`, whatever its case, and how often that is."""
    pattern = r"(?<!\w)" + r"\W+".join(map(re.escape, re.findall(r"\w+", old))) + r"(?!\w)"
    return re.subn(pattern, lambda _: new, text, flags=re.IGNORECASE)


def _shuffled(places: Sequence[int], rng: random.Random) -> Iterator[int]:
    """All places in random order, drawn one by one."""
    moved: dict[int, int] = {}
    for first in range(len(places)):
        other = rng.randrange(first, len(places))
        yield places[moved.get(other, other)]
        moved[other] = moved.get(first, first)


@lru_cache(maxsize=2**16)  # passages are asked for by many questions
def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))


def _names(question: Example) -> list[str]:
    """The right answers' words, where a passage with them would tell."""
    if question.task == "choice":
        texts = [(question.options or {})[str(question.answer)]]
    else:
        texts = [str(question.answer), *question.aliases] if question.task == "text" else []
    names = map(_words, texts)
    return [name for name in names if len(name) >= _NAMED_CHARS and name not in _COMMON]


def _named(text: str, names: Sequence[str]) -> bool:
    """Whether a text has one of the names in it, in the plural or not."""
    words = f" {_singular(_words(text))} " if names else ""
    return any(f" {_singular(name)} " in words for name in names)


def _singular(words: str) -> str:
    return _PLURAL.sub("", words)


def _refusal_letter(question: Example) -> str | None:
    last = max(map(LETTERS.index, question.options or {}), default=-1)
    return LETTERS[last + 1] if last + 1 < len(LETTERS) else None


def _asked(question: Example, shown: Sequence[_Shown], settings: Settings) -> Example:
    """The question as it is put, with what is shown."""
    condition = settings.condition
    lines = [f"Passage {number}: {each.text}" for number, each in enumerate(shown, 1)]
    text = question.question + _INSTRUCTION
    asked = [pair for each in shown if each.kind != "unrelated" for pair in each.passage.questions]
    if asked:
        text += '\nAnswer these from the passages too, in a few words, each in a line such as "Sub-answer 1: ...":'
        text += "".join(f"\n{number}. {pair[0]}" for number, pair in enumerate(asked, 1))
    about: dict[str, Any] = {"of": question.id, "condition": condition, "gold": question.gold()}
    about["passages"] = [{"id": each.passage.id, "kind": each.kind} for each in shown]
    if asked:
        about["asked"] = [{"question": pair[0], "answer": pair[1]} for pair in asked]
    if wrong := next((each.wrong for each in shown if each.wrong), None):
        about["wrong"] = wrong
    changed: dict[str, Any] = {}
    meta = {**question.meta, "context": about}
    if question.options:
        letter = _refusal_letter(question)
        about["refusal"] = letter
        text += "\nWhere the passages do not suffice for an answer, choose the option that says so."
        changed["options"] = {**question.options, letter: f"The passages do not suffice ({REFUSAL})"}
    elif question.task == "text":
        about["refusal"] = REFUSAL
        text += f'\nWhere the passages do not suffice for an answer, answer "{REFUSAL}".'
    if condition == "insufficient":
        changed |= {"answer": about["refusal"]}
        changed |= {"aliases": _REFUSAL_ALIASES} if question.task == "text" else {}
        # It leads to another answer.
        meta.pop("trace", None)
    return replace(
        question,
        id=f"{question.id}/{condition}",
        question=text,
        context="\n\n".join([*([question.context] if question.context else []), *lines]),
        meta=meta,
        **changed,
    )
