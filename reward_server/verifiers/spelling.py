"""Spelling: whether a text is another one with a letter or two mistyped.

Left out: synonyms and transliterations. Two letters also part "hypokalemia" from "hyperkalemia": words whose prefix or
ending makes another term of them are no misspellings of each other.
"""

from __future__ import annotations

import re

MOST_EDITS = 2
_LONGEST = 200
_PREFIXES = """
hyper hypo inter intra ante anti non un in im ir dis ab ad endo exo ecto epi sub super supra infra pre pro per peri para
post retro macro micro tachy brady poly oligo mono uni bi di tri a an ex re de homo hetero iso eu dys nor nora
"""
_PREFIX = re.compile("|".join(sorted(_PREFIXES.split(), key=len, reverse=True)))
_ENDING = re.compile(r"(?:at|it|id|ol|in|an|en|on)e?$|(?:emia|uria|osis|itis|oma|ectomy|otomy|ostomy|pathy|algia)$")
_LETTERS = re.compile(r"[^\W\d_]+")


def misspelt(text: str, right: str) -> int | None:
    """The letters that `text` has wrong of `right`: 0 to 2, one for each four letters at most; None for other texts.

    Both in lower case. Digits, signs and punctuation have to be the same.
    """
    distance = _near(text, right)
    return None if distance is None or opposite(text, right) else distance


def opposite(text: str, right: str) -> bool:
    """Whether texts that differ in a letter or two differ in a prefix or an ending that makes another term."""
    if text == right or _near(text, right) is None:
        return False
    words, others = _LETTERS.findall(text), _LETTERS.findall(right)
    if len(words) != len(others):
        return True
    return any(
        word != other and (_part(_PREFIX.match(word)) != _part(_PREFIX.match(other)) or _other_ending(word, other))
        for word, other in zip(words, others, strict=True)
    )


def _other_ending(word: str, other: str) -> bool:
    one, two = _ENDING.search(word), _ENDING.search(other)
    return one is not None and two is not None and one[0] != two[0]


def _part(found: re.Match[str] | None) -> str:
    return found[0] if found else ""


def _near(text: str, right: str) -> int | None:
    if text == right:
        return 0
    most = min(MOST_EDITS, min(len(text), len(right)) // 4)
    if max(len(text), len(right)) > _LONGEST or abs(len(text) - len(right)) > most:
        return None
    if _LETTERS.sub("", text) != _LETTERS.sub("", right):
        return None
    distance = _edits(text, right)
    return distance if distance <= most else None


def _edits(text: str, other: str) -> int:
    """Levenshtein's distance, a row at a time."""
    row = list(range(len(other) + 1))
    for number, character in enumerate(text, 1):
        last, row[0] = row[0], number
        for column, wanted in enumerate(other, 1):
            last, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, last + (character != wanted))
    return row[-1]
