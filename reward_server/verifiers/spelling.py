"""Spelling: whether a text is another one with a letter or two mistyped.

Left out: synonyms and transliterations. Two letters also part "hypokalemia" from "hyperkalemia" and "stage II" from
"stage III": short words, first letters, prefixes and endings that make other terms may not differ.
"""

from __future__ import annotations

import re

_MOST_EDITS = 2
_LONGEST = 200
# Shorter words are abbreviations, units, Roman numerals and names of which each letter counts.
_SHORTEST_WORD = 6
_PREFIXES = """
hyper hypo inter intra ante anti non un in im ir dis ab ad endo exo ecto epi sub super supra infra pre pro per peri para
post retro macro micro tachy brady poly oligo mono uni bi di tri a an ex re de homo hetero iso eu dys nor nora
"""
_PREFIX = re.compile("|".join(sorted(_PREFIXES.replace("y", "i").split(), key=len, reverse=True)))
_ENDING = re.compile(
    r"(?:ase|ose|ate|ite|ide|ole|ine|ane|ene|one|olone|at|it|id|ol|in|an|en|on|phagia|phasia|plegia|pathi|algia"
    r"|uria|osis"
    r"|itis|oma|ectomi|otomi|ostomi)$"
)
# What an "-emia" is about: potassium or calcium, too much of one or of the other.
_OF_BLOOD = re.compile(r"^(?P<stem>.+?)a?em(?:ia|ic)$")
_LETTERS = re.compile(r"[^\W\d_]+")


def misspelt(text: str, right: str) -> int | None:
    """The letters that `text` has wrong of `right`: 0 to 2, one for each four letters of a word; None for other texts.

    Both in lower case. Digits, signs, punctuation and short words have to be the same.
    """
    distance = _near(text, right)
    return None if distance is None or opposite(text, right) else distance


def opposite(text: str, right: str) -> bool:
    """Whether texts that differ in a letter or two differ in a part that makes another term of a word."""
    if text == right or _near(text, right) is None:
        return False
    pairs = zip(_LETTERS.findall(text), _LETTERS.findall(right), strict=True)
    return any(word != other and _other_term(word.replace("y", "i"), other.replace("y", "i")) for word, other in pairs)


def _other_term(word: str, other: str) -> bool:
    if word[0] != other[0] or _part(_PREFIX.match(word)) != _part(_PREFIX.match(other)):
        return True
    one, two = _ENDING.search(word), _ENDING.search(other)
    if one and two and one[0] != two[0]:
        return True
    blood, bloods = _OF_BLOOD.match(word), _OF_BLOOD.match(other)
    return bool(blood and bloods and blood["stem"] != bloods["stem"])


def _part(found: re.Match[str] | None) -> str:
    return found[0] if found else ""


def _near(text: str, right: str) -> int | None:
    """The edits between two texts of the same words, a few of them mistyped; None where they are other texts."""
    if text == right:
        return 0
    if max(len(text), len(right)) > _LONGEST or abs(len(text) - len(right)) > _MOST_EDITS:
        return None
    words, rights = _LETTERS.findall(text), _LETTERS.findall(right)
    if len(words) != len(rights) or _LETTERS.sub("", text) != _LETTERS.sub("", right):
        return None
    differing = [pair for pair in zip(words, rights, strict=True) if pair[0] != pair[1]]
    if len(differing) > _MOST_EDITS or any(min(map(len, pair)) < _SHORTEST_WORD for pair in differing):
        return None
    edits = [_edits(*pair) for pair in differing]
    mistyped = all(edit <= min(map(len, pair)) // 4 for edit, pair in zip(edits, differing, strict=True))
    return sum(edits) if mistyped and sum(edits) <= _MOST_EDITS else None


def _edits(text: str, other: str) -> int:
    """Levenshtein's distance, a row at a time."""
    row = list(range(len(other) + 1))
    for number, character in enumerate(text, 1):
        last, row[0] = row[0], number
        for column, wanted in enumerate(other, 1):
            last, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, last + (character != wanted))
    return row[-1]
