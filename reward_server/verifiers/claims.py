"""What a measure of shared words does not see: an answer that denies, leaves open, lists or crosses out what it names.

"No pulmonary embolism" and "pulmonary embolism, pneumonia" share enough words with "pulmonary embolism" to pass most
thresholds. Beside a short reference, which names one thing, such an answer is not paid. A mark or an "and" parts an
answer into names; each has to be made of the reference's words or hold all of them. What a reference says itself
(a negation, an "or") an answer may say too.

Left out: references of more than SHORT_WORDS words, whose sentences deny and weigh, and further words without a mark
between them, which the measure itself weighs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Literal

from reward_server.verifiers.carriers import ALTERNATIVE, is_filler

SHORT_WORDS = 12
# A longer part of an answer is a sentence about it.
_NAME_WORDS = 4

Objection = Literal["incorrect", "no_answer"]

_DENIAL = re.compile(
    r"(?<![^\W\d_-])(?:no|not|never|neither|nor|none|without|cannot|absent|absence|lack(?:s|ing)?|exclude[sd]?|excluding"
    r"|except|ruled? out|rules out|disproven?|disproved|unlikely|impossible|incorrect|wrong|false|untrue|anything but"
    r"|rather than|instead of|opposite of|negative for|free of|den(?:y|ies|ied)|(?:0|zero)\s(?=[^\W\d_]))\b|n't\b"
    r"|\blie\b|(?<=[^\W\d_])\s[\u2260\u00ac]\s|!=|^[\u2260\u00ac~-]",
    re.IGNORECASE,
)
_CROSSED_OUT = re.compile(r"~~|<(?:s|del|strike)\b|\\(?:s?out|cancel|st)\b|[\u0335-\u0338]", re.IGNORECASE)
_PARTING = re.compile(
    r"[,;:?!/|\n&=+<>\[\](){}\"\u2192\u2022]|->|\.(?=\s|$)|\s-\s|\s?\u2014\s?|\b(?:and|plus|also|then)\b"
    r"|(?<!\S)[0-9]{1,2}[.)](?=\s)",
    re.IGNORECASE,
)
# What a part begins with that explains the name before it.
_REASON = re.compile(
    r"(?:because|since|due to|owing to|given|based on|caused by|secondary to|resulting|from|with|which|that is|as)\b",
    re.IGNORECASE,
)
_AMOUNT = re.compile(r"[0-9.,%\s]+[a-z%/\u03bc]{0,8}", re.IGNORECASE)
_QUALIFYING = """
acute subacute chronic mild moderate severe massive minor major primary secondary recurrent congenital idiopathic
bilateral unilateral left right classic typical early late oral orally intravenous intravenously iv im topical systemic
stat immediately type stage grade
"""
_QUALIFIERS = frozenset(_QUALIFYING.split())


def objection(
    answer: str, text: str, references: Sequence[str], tokens: Callable[[str], list[str]]
) -> Objection | None:
    """Why an answer is not paid whatever its measure: it denies the reference, or leaves open which answer is meant.

    Args:
        answer: as it was written.
        text: as it stands on paper.
        references: the right texts, on paper too.
        tokens: the words of a text.
    """
    names = [set(tokens(reference)) for reference in references]
    if any(len(name) > SHORT_WORDS for name in names):
        return None
    if _CROSSED_OUT.search(answer):
        return "no_answer"
    if _DENIAL.search(text) and not any(map(_DENIAL.search, references)):
        return "incorrect"
    if ALTERNATIVE.search(text) and not any(map(ALTERNATIVE.search, references)):
        return "no_answer"
    parts = [part for part in map(str.strip, _PARTING.split(text)) if part]
    return "no_answer" if len(parts) > 1 and any(_is_another(part, names, tokens) for part in parts) else None


def _is_another(part: str, names: Sequence[set[str]], tokens: Callable[[str], list[str]]) -> bool:
    """Whether a part of an answer is a name of its own."""
    words = tokens(part)
    if len(words) > _NAME_WORDS or is_filler(part) or _REASON.match(part) or _AMOUNT.fullmatch(part):
        return False
    known = set().union(*names) | _QUALIFIERS
    if all(word in known or _is_initials(word, names) for word in words):
        return False
    return not any(name <= set(words) for name in names)


def _is_initials(word: str, names: Sequence[set[str]]) -> bool:
    """Whether a word is an abbreviation of a reference: as many letters as words, one of each."""
    return any(sorted(word) == sorted(each[0] for each in name) for name in names)
