"""Multiple choice: which option letter does an answer commit to?

`strict` is Med-U1's rule: the answer is the letter. `lenient` also reads "(B)", "B.", "B. text", "The answer is B",
and an option's own text. It gives a letter only when exactly one option is meant: several options, a negation, or a
letter that belongs to a word ("E. coli", "vitamin C", "hepatitis B", "type A", "stage II") earn nothing. Full-width
letters and single Cyrillic or Greek letters that look like Latin ones are read as those.

Left out: paraphrases of an option. Rules cannot tell one from its neighbour; the answer's letter can.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from reward_server.verifiers.base import MALFORMED, NO_ANSWER, Verdict, clean, judged

VERSION = "2"
MAX_OPTIONS = 14  # A to N

Match = Literal["strict", "lenient"]

# Longer than any option with its label; an answer of this length argues instead of choosing.
_MAX_CHARS = 4_000

# "The correct answer is:", "Answer: option", "I choose" and the like, before the answer proper.
_LEAD_IN = re.compile(
    r"^(?:(?:so|thus|hence|therefore),?\s)?"
    r"(?:i (?:would )?(?:choose|select)\s(?:(?:answer|option|choice)\s)?"
    r"|(?:(?:the|my)\s)?(?:(?:single|final|correct|right|best|most likely|most appropriate)\s){0,3}"
    r"(?:(?:answer|option|choice|diagnosis)\b(?:\s(?:is|would be)\b)?\s?[:=]?\s?){1,2})",
    re.IGNORECASE,
)
_BARE = re.compile(r"^[\s(\[\"'.:]*([A-Za-z])[\s)\]\"'.,:;!]*$")
_LETTER_AND_TEXT = re.compile(r"^[(\[]?\s?([A-Z])\s?(?:[)\]]\s?[.:,-]?|[.:\n]|\.\n|\s-)\s?(.*)$", re.DOTALL)
_BRACKETED_LABEL = re.compile(r"^(?:[(\[]\s?([A-Za-z])\s?[)\]]|([A-Za-z])\))")
_MARKED_LABEL = re.compile(r"^([A-Z])(?:\s?:|\s-\s|\.?\n)")
# "E. coli" and "A patient" have this form too, so that the rest must agree with the option.
_WEAK_LABEL = re.compile(r"^([A-Z])([.,]\s?|\s)(.*)$", re.DOTALL)
_CALLED_RIGHT = re.compile(r"^(?:(?:is|would be)\s(?:the\s)?(?:correct|right|best|answer)|because|since)\b")
_INNER_LABEL = re.compile(
    r"(?:\b(\w{1,20})\s?)?[(\[]\s?(?:[Oo]ption\s)?([A-Z])\s?[)\]]"
    r"|\b(?i:option|choice|answer)(?:\s(?:is|would be))?\s?[:=]?\s([A-Z])"
    r"(?!\w|\.\s?\w|\s(?!because\b|since\b|and\b|or\b|is\b)[a-z])"
)
# A letter standing by itself in a list. It never makes an answer; it can only contradict one.
_LISTED = re.compile(
    r"(?:^|[,;/&(\[\n]|\s-|\b(?:and|or|also|versus|vs|both|either)\b)\s?([A-Z])"
    r"(?=\s?(?:$|[,;/&)\]:\n]|\.$|(?:and|or)\b))"
)
_CONNECTORS = frozenset({"and", "or", "to", "both", "either", "all"})
# A negation, or every option at once.
_EVASION = re.compile(
    r"\b(?:not|cannot|never|neither|nor|none|except|incorrect|wrong|false|unlikely|exclude[sd]?|excluding"
    r"|ruled? out|rather than|instead of|all of|any of|all options)\b|n't\b",
    re.IGNORECASE,
)
# Cyrillic and Greek letters that no reader can tell from Latin ones; only where they stand alone, as labels do.
_LOOKALIKES = str.maketrans(
    "\u0410\u0412\u0421\u0415\u041d\u0406\u0408\u041a\u041c\u0430\u0441\u0435\u0391\u0392\u0395\u0397\u0399\u039a\u039c\u039d",
    "ABCEHIJKMaceABEHIKMN",
)
_LOOKALIKE = re.compile(f"(?<!\\w)[{''.join(map(chr, _LOOKALIKES))}](?!\\w)")
# A single letter after one of these is part of a name.
_LETTERED = frozenset(
    {"vitamin", "hepatitis", "type", "group", "class", "grade", "stage", "factor", "protein", "influenza"}
    | {"immunoglobulin", "interferon", "strain", "chromosome", "phase", "category", "serotype"}
)


def verify(answer: str, gold: str, options: Mapping[str, str], match: Match = "lenient") -> Verdict:
    """Judges a multiple-choice answer.

    Args:
        answer: the text of the answer block.
        gold: the right letter, a key of `options`.
        options: letter (A to N) to option text, at most 14.
        match: strict takes the letter alone; lenient as the module says.
    """
    if len(answer) > _MAX_CHARS:
        return MALFORMED
    text = _latin(clean(answer)) if match == "lenient" else answer.strip()
    if not text:
        return NO_ANSWER
    if match == "strict":
        return judged(text == gold, text) if text in options else MALFORMED
    normal = {letter: _normal(option) for letter, option in options.items()}
    bare = text[found.end() :] if (found := _LEAD_IN.match(text)) else text
    letters = _plain(text, normal) or _plain(bare, normal)
    if not letters:
        pattern = _pattern(normal)
        letters, mentioned = _read(bare, normal, pattern)
        # An option's own "not" says nothing about the choice.
        if len(letters | mentioned) > 1 or _EVASION.search(pattern.sub("", text)):
            return NO_ANSWER
    if len(letters) > 1:
        return NO_ANSWER
    if not letters:
        return MALFORMED
    (letter,) = letters
    return judged(letter == gold, letter)


def _latin(text: str) -> str:
    return _LOOKALIKE.sub(lambda found: found[0].translate(_LOOKALIKES), text)


def _plain(text: str, normal: Mapping[str, str]) -> set[str]:
    """The options of an answer that is nothing but a letter, an option's text, or a letter with its own text."""
    if (found := _BARE.match(text)) and found[1].upper() in normal:
        return {found[1].upper()}
    if (found := _LETTER_AND_TEXT.match(text)) and normal.get(found[1]) == _normal(found[2]):
        return {found[1]}
    return {letter for letter, option in normal.items() if option and option == _normal(text)}


def _read(text: str, normal: Mapping[str, str], pattern: re.Pattern[str]) -> tuple[set[str], set[str]]:
    """The letters that a freer answer names, and those that it only mentions in a list."""
    several = _several(text, normal)
    if several:
        return set(), several
    named: set[str] = set()
    for found in pattern.finditer(text):
        named |= {letter for letter, option in normal.items() if option == _normal(found[0])}
    label = _label(text, normal)
    if label:
        # Twin options (the same text under two letters) are told apart by their letter.
        named = {letter for letter in named if normal[letter] != normal[label]} | {label}
    rest = pattern.sub("", text)
    for before, bracketed, called in _INNER_LABEL.findall(rest):
        if (bracketed or called) in normal and before.lower() not in _LETTERED:
            named.add(bracketed or called)
    return named, {letter for letter in _LISTED.findall(rest) if letter in normal}


def _label(text: str, normal: Mapping[str, str]) -> str | None:
    """The option letter that the answer starts with, when it stands there as a label."""
    if found := _BRACKETED_LABEL.match(text):
        letter = (found[1] or found[2]).upper()
        return letter if letter in normal else None
    if found := _MARKED_LABEL.match(text):
        return found[1] if found[1] in normal else None
    if (found := _WEAK_LABEL.match(text)) and found[1] in normal:
        rest, option = _normal(found[3]), normal[found[1]]
        # "B. Aspirin" is a label even where aspirin is option A: then the answer contradicts itself.
        texts = [option] if found[2].isspace() else list(normal.values())
        agrees = any(text and (rest == text or rest.startswith(text + " ")) for text in texts)
        cut_short = len(rest) > 3 and option.startswith(rest)
        return found[1] if agrees or cut_short or _CALLED_RIGHT.match(found[3]) else None
    return None


def _several(text: str, normal: Mapping[str, str]) -> set[str]:
    """The letters of an answer that is nothing but letters ("A, C", "B or D", "ABCD"), when there are several."""
    runs = [word for word in re.findall(r"\w+", text) if word.lower() not in _CONNECTORS]
    letters = "".join(runs)
    distinct = all(len(set(run)) == len(run) for run in runs)
    return set(letters) if distinct and len(set(letters)) > 1 and set(letters) <= normal.keys() else set()


def _pattern(normal: Mapping[str, str]) -> re.Pattern[str]:
    """Finds whole option texts, the longest first, so that "aspirin and heparin" does not also name "aspirin"."""
    texts = sorted({option for option in normal.values() if len(option) > 1}, key=len, reverse=True)
    if not texts:
        return re.compile(r"(?!)")
    words = "|".join(re.escape(option).replace(r"\ ", r"\s") for option in texts)
    return re.compile(rf"(?<!\w)(?<!\d[.,-])(?:{words})(?!\w)(?![.,]\d)(?!\s?%)", re.IGNORECASE)


def _normal(text: str) -> str:
    return " ".join(clean(text).casefold().split()).strip(" .,;:!\"'")
