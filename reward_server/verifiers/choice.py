"""Multiple choice: which option letter does an answer commit to?

`strict` is Med-U1's rule: the answer is the letter. `lenient` also reads "(B)", "B.", "B. text", "The answer is B",
and an option's own text. It gives a letter only when exactly one option is meant: several options, a negation, or a
letter that belongs to a word ("E. coli", "vitamin C", "hepatitis B", "type A", "stage II") earn nothing.

Left out: paraphrases of an option. Rules cannot tell one from its neighbour; the answer's letter can.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from reward_server.verifiers.base import MALFORMED, MAX_ANSWER_CHARS, NO_ANSWER, Verdict, clean, judged

VERSION = "1"
MAX_OPTIONS = 14  # A to N

Match = Literal["strict", "lenient"]

# "The correct answer is:", "Answer: option", "I choose" and the like, before the answer proper.
_LEAD_IN = re.compile(
    r"^(?:(?:so|thus|hence|therefore|i choose|i would choose|i select),?\s+)?"
    r"(?:(?:the|my|a|an)\s+)?(?:(?:single|final|correct|right|best|most likely|most appropriate)\s+){0,3}"
    r"(?:(?:answer|option|choice|diagnosis)\b(?:\s+(?:is|would be)\b)?\s*[:=]?\s*){0,2}",
    re.IGNORECASE,
)
_BARE = re.compile(r"^[\s(\[\"'.:]*([A-Za-z])[\s)\]\"'.,:;!]*$")
_BRACKETED_LABEL = re.compile(r"^(?:[(\[]\s*([A-Za-z])\s*[)\]]|([A-Za-z])\))\s*[.:,-]?\s*(.*)$", re.DOTALL)
_MARKED_LABEL = re.compile(r"^([A-Z])(?:\s*:|\s+-(?=\s)|\s*\.?\s*\n)\s*(.*)$", re.DOTALL)
# "E. coli" and "A patient" have this form too, so that the rest must agree with the option.
_WEAK_LABEL = re.compile(r"^([A-Z])(?:\.\s*|\s+)(.*)$", re.DOTALL)
_CALLED_RIGHT = re.compile(r"^(?:is|would be)\s+(?:the\s+)?(?:correct|right|best|answer)\b|^(?:because|since)\b")
_INNER_LABEL = re.compile(r"(?:(\w+)\s*)?[(\[]\s*(?:option\s+)?([A-Z])\s*[)\]]|\b(?:option|choice|answer)\s+([A-Z])(?!\w|\.\s*\w)")
# A letter standing by itself in a list. It never makes an answer; it can only contradict one.
_LISTED = re.compile(
    r"(?:^|[,;/&(\[\n]|\s-|\b(?:and|or|also|versus|vs|both|either)\b)\s*([A-Z])(?=\s*(?:$|[,;/&)\]:\n]|\.\s*$|(?:and|or)\b))"
)
_SEVERAL = re.compile(r"^[\s,;/&.()+-]*(?:(?:[A-Z]+|and|or|to|both|either|all)[\s,;/&.()+-]*)+$")
_NEGATION = re.compile(
    r"\b(?:not|cannot|never|neither|nor|except|incorrect|wrong|false|unlikely|exclude[sd]?|excluding|rather than"
    r"|instead of|ruled? out|none)\b|n't\b",
    re.IGNORECASE,
)
# A single letter after one of these is part of a name.
_LETTERED = frozenset(
    "vitamin hepatitis type group class grade stage factor protein influenza immunoglobulin interferon strain"
    " chromosome phase category serotype".split()
)


def verify(answer: str, gold: str, options: Mapping[str, str], match: Match = "lenient") -> Verdict:
    """Judges a multiple-choice answer.

    Args:
        answer: the text of the answer block.
        gold: the right letter, a key of `options`.
        options: letter (A to N) to option text, at most 14.
        match: strict takes the letter alone; lenient as the module says.
    """
    if len(answer) > MAX_ANSWER_CHARS:
        return MALFORMED
    text = clean(answer)
    if not text:
        return NO_ANSWER
    if match == "strict":
        return judged(text == gold, text) if text in options else MALFORMED
    letters, vetoes = _read(text, options)
    if len(letters | vetoes) > 1:
        return NO_ANSWER
    if not letters:
        return MALFORMED
    if _NEGATION.search(_without_options(text, options)):
        return NO_ANSWER
    (letter,) = letters
    return judged(letter == gold, letter)


def _read(text: str, options: Mapping[str, str]) -> tuple[set[str], set[str]]:
    """The letters that the answer names, and those that it mentions beside them."""
    text = text[_LEAD_IN.match(text).end() :] or text  # type: ignore[union-attr]  # it matches the empty string too
    bare = _BARE.match(text)
    if bare and bare[1].upper() in options:
        return {bare[1].upper()}, set()
    normal = {letter: _normal(option) for letter, option in options.items()}
    exact = {letter for letter, option in normal.items() if option and option == _normal(text)}
    if exact:
        return exact, set()
    if _SEVERAL.match(text):
        runs = re.findall(r"[A-Z]+", text)
        if all(letter in options for run in runs for letter in run):
            return set(), set("".join(runs))
    named = _named(_normal(text), normal)
    label = _label(text, normal)
    if label:
        # Twin options (the same text under two letters) are told apart by their letter.
        named = {letter for letter in named if letter == label or normal[letter] != normal[label]} | {label}
    rest = _without_options(text, options)
    for before, bracketed, called in _INNER_LABEL.findall(rest):
        if (bracketed or called) in options and before.lower() not in _LETTERED:
            named.add(bracketed or called)
    return named, {letter for letter in _LISTED.findall(rest) if letter in options}


def _label(text: str, normal: Mapping[str, str]) -> str | None:
    """The letter that the answer starts with, when it stands there as a label."""
    if found := _BRACKETED_LABEL.match(text):
        letter = (found[1] or found[2]).upper()
        return letter if letter in normal else None
    if found := _MARKED_LABEL.match(text):
        return found[1] if found[1] in normal else None
    if (found := _WEAK_LABEL.match(text)) and found[1] in normal:
        rest, option = _normal(found[2]), normal[found[1]]
        agrees = bool(option) and (
            rest == option or rest.startswith(option + " ") or (len(rest) > 3 and option.startswith(rest))
        )
        return found[1] if agrees or _CALLED_RIGHT.match(found[2]) else None
    return None


def _named(text: str, normal: Mapping[str, str]) -> set[str]:
    """The options whose whole text occurs in `text`, without those that only occur inside a longer one."""
    spans = {
        letter: [found.span() for found in _whole(option).finditer(text)]
        for letter, option in normal.items()
        if len(option) > 1
    }
    return {
        letter
        for letter, own in spans.items()
        if any(not any(_inside(span, other) for others in spans.values() for other in others) for span in own)
    }


def _inside(span: tuple[int, int], other: tuple[int, int]) -> bool:
    return span != other and other[0] <= span[0] and span[1] <= other[1]


def _whole(option: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w)(?<!\d[.,-]){re.escape(option)}(?!\w)(?![.,]\d)(?!\s*%)", re.IGNORECASE)


def _without_options(text: str, options: Mapping[str, str]) -> str:
    """The answer without the words of the options, whose own "not" or "(C)" says nothing about the choice."""
    flat = re.sub(r"[^\S\n]+", " ", text)
    for option in sorted((_normal(option) for option in options.values()), key=len, reverse=True):
        if len(option) > 1:
            flat = _whole(option).sub("", flat)
    return flat


def _normal(text: str) -> str:
    return re.sub(r"\s+", " ", clean(text).casefold()).strip(" .,;:!\"'")
