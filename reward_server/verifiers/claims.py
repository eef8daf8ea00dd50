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
from reward_server.verifiers.plain import clean

SHORT_WORDS = 12
# A longer part of an answer is a sentence about it.
_NAME_WORDS = 4

Objection = Literal["incorrect", "no_answer"]

_DENIAL = re.compile(
    r"(?<![^\W\d_])(?:no|non|not|never|neither|nor|none|without|cannot|absent|absence|lack(?:s|ing)?|exclude[sd]?"
    r"|excluding|except|ruled? out|rules out|disproven?|disproved|unlikely|less likely|improbable|doubtful|impossible"
    r"|incorrect|wrong|false|untrue|anything but|rather than|instead of|opposite of|negative|free of|den(?:y|ies|ied)"
    r"|kein\w{0,2}|nicht|pas d[e']|zero\s(?=[^\W\d_]))\b|(?<![\w.,])0\s(?=[^\W\d_])"
    r"|n't\b|\blie\b|!=|(?<=\s)\u00ac|[\u2260\u2717\u2718\u274c\u2716]|^[\u00ac~-]",
    re.IGNORECASE,
)
_CROSSED_OUT = re.compile(r"~~|<(?:s|del|strike)\b|\\(?:s?out|cancel|st)\b|[\u0335-\u0338]", re.IGNORECASE)
# Where one name may end and another begin: all marks but those within a word or a number, and words that join names.
_PARTING = re.compile(
    r"[^\w\s'%.\-]|[_\n]|'(?=[\s'])|(?<=\s)'|\.(?=\s|$)|--|\s-\s|(?<!\S)[0-9]{1,2}[.)](?=\s)"
    r"|\b(?:and|plus|also|then|maybe|perhaps|possibly|aka|und|oder|et|ou)\b|\u6216|\u0438\u043b\u0438",
    re.IGNORECASE,
)
# The same between names that are marked up each for itself.
_MARKED_APART = re.compile(r"\*\*\s*\*\*|`\s+`|\$\s+\$|</\w{1,9}>\s*<\w{1,9}>|\t|\s\\\s")
# What a part begins with that explains the name before it.
_REASON = re.compile(
    r"(?:because|since|due to|owing to|given|based on|caused by|secondary to|resulting|from|with|which|that is|as)\b",
    re.IGNORECASE,
)
_AMOUNT = re.compile(
    r"(?<![\w.])[0-9][0-9.,]*\s?(?:%|(?:mc|[mk\u03bcu])?g|m?l|units?|iu|meq|mmol|[cm]m|h|hours?|days?|weeks?|months?|years?)?"
    r"(?![^\W_])",
    re.IGNORECASE,
)
_CAPITALS = re.compile(r"[A-Z]{2,8}")
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
    if _MARKED_APART.search(answer):
        text = clean(_MARKED_APART.sub("\n", answer))
    parts = [part for part in map(str.strip, _PARTING.split(text)) if part]
    if len(parts) > 1 and any(_is_another(part, names, tokens) for part in parts if not _abbreviates(part, references)):
        return "no_answer"
    return None


def _is_another(part: str, names: Sequence[set[str]], tokens: Callable[[str], list[str]]) -> bool:
    """Whether a part of an answer is a name of its own."""
    words = tokens(_AMOUNT.sub("", part))
    if len(words) > _NAME_WORDS or is_filler(part) or _REASON.match(part):
        return False
    known = set().union(*names) | _QUALIFIERS
    if all(word in known or is_filler(word) or _is_initials(word, names) for word in words):
        return False
    return not any(name <= set(words) for name in names)


def _is_initials(word: str, names: Sequence[set[str]]) -> bool:
    """Whether a word abbreviates a reference, by a letter for each word, or a word of it, as "E." does in "E. coli"."""
    first = [sorted(each[0] for each in name) for name in names]
    return sorted(word) in first or (len(word) == 1 and any(word in letters for letters in first))


def _abbreviates(part: str, references: Sequence[str]) -> bool:
    """Whether a part is capitals that stand in a reference in this order, from the beginning of a word: "STEMI"."""
    if not _CAPITALS.fullmatch(part):
        return False
    anywhere = re.compile(r"\b" + ".*?".join(part.lower()))
    return any(anywhere.search(reference.lower()) for reference in references)
