"""Spelling: whether a text is another one with a letter or two mistyped.

A word that is a term of its own is no misspelling of another: `drugs.txt` and `terms.txt` hold such words. British and
American spellings, singular and plural, and the endings of verbs count as one word (`stem`).

Left out: synonyms and transliterations. Two letters also part "hypokalemia" from "hyperkalemia" and "stage II" from
"stage III": short words may not differ, nor prefixes and endings that make other terms of words that no list has.
"""

from __future__ import annotations

import functools
import re
from importlib import resources

_MOST_EDITS = 2
_LONGEST = 200
# Shorter words are abbreviations, units, Roman numerals and names of which each letter counts. One of six letters may
# have lost one.
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
# What a "hyper-" or "hypo-emia" is about: potassium or calcium, too much of one or of the other.
_OF_BLOOD = re.compile(r"^(?P<stem>hip(?:er|o).+?)a?em(?:ia|ic)$")
_LETTERS = re.compile(r"[^\W\d_]+")
_DOUBLED = re.compile(r"(.)\1")
# Of one word: its endings, then its British and American spelling. Each line takes what those before it left.
_FORMS = [
    (re.compile(pattern), form)
    for pattern, form in (
        (r"(?<=.{4})(?:ing|ed)$", ""),
        (r"(?<=log|tom|met)ical$", "ic"),
        (r"(?<=.{3})ae$", "a"),
        (r"(?<=.{2})um$|(?<=[rl]i)on$", "a"),
        (r"(?<=.{2}[^o])us$", "i"),
        (r"(?<=.{3})sis$", "se"),
        (r"(?<=.{2})ies?$", "i"),
        (r"(?<=ss|ch|sh|.x)es$|(?<=[^siu])s$", ""),
        (r"(?<=[bt])re$", "er"),
        (r"(?<=.{5})e$", ""),
        (r"(?<=.{2})our", "or"),
        (r"ae|oe", "e"),
        (r"leuc", "leuk"),
        (r"ph", "f"),
        (r"y", "i"),
        (r"z", "s"),
    )
]
_SHORTEST_STEM = 4
# Words that read like a form of another.
_LOOKALIKES = """
aluminum ammonium anyone corneum ketosis lysin media rational reversed secrete silicone stripe tetany these typhi varus
"""
_UNLIKE = frozenset(_LOOKALIKES.split())


def misspelt(text: str, right: str) -> int | None:
    """The letters that `text` has wrong of `right`: 0 to 2, one for each four letters of a word; None for other texts.

    Both in lower case. Digits, signs, punctuation and short words have to be the same. Two letters exchanged are one
    mistake.
    """
    distance = _near(text, right)
    return None if distance is None or opposite(text, right) else distance


def opposite(text: str, right: str) -> bool:
    """Whether texts that differ in a letter or two differ in a part that makes another term of a word."""
    if text == right or _near(text, right) is None:
        return False
    pairs = zip(_LETTERS.findall(text), _LETTERS.findall(right), strict=True)
    return any(not _same(word, other) and _other_term(word, other) for word, other in pairs)


@functools.lru_cache(maxsize=8192)
def stem(word: str) -> str:
    """What the spellings and the forms of one word have in common: "anaemias" and "anemia" are "anemia"."""
    if len(word) < _SHORTEST_STEM or word in _UNLIKE:
        return word
    for pattern, form in _FORMS:
        word = pattern.sub(form, word)
    return word


@functools.cache
def _list(name: str) -> dict[str, str]:
    """The stems of a list's words, each with that of its term: a line is one term, in its spellings."""
    text = resources.files("reward_server.verifiers").joinpath(name).read_text(encoding="utf-8")
    lines = [line.split() for line in text.splitlines()]
    return {stem(word): stem(spellings[0]) for spellings in lines for word in spellings}


def _term(word: str) -> str | None:
    """What the spellings of a listed term have in common; None for other words."""
    return _list("drugs.txt").get(stem(word)) or _list("terms.txt").get(stem(word))


def _same(word: str, other: str) -> bool:
    """Whether two words are one, in its spellings and forms."""
    return stem(word) == stem(other) or (_term(word) is not None and _term(word) == _term(other))


def _other_term(word: str, other: str) -> bool:
    """Whether `word`, a letter or two from `other`, is a term of its own, or reads like one."""
    # The option may be what is misspelt ("amoxicilin", "nadalol"), where no list has it.
    if _term(word) is not None and (_term(other) is not None or _edits(word, other) > 1):
        return _DOUBLED.sub(r"\1", word) != _DOUBLED.sub(r"\1", other)
    # Names of drugs are not made of such parts, and letters exchanged make none.
    if stem(other) in _list("drugs.txt") or sorted(word) == sorted(other):
        return False
    word, other = word.replace("y", "i"), other.replace("y", "i")
    prefix, others = _part(_PREFIX.match(word)), _part(_PREFIX.match(other))
    rests = _edits(word[len(prefix) :], other[len(others) :])
    if prefix != others and _edits(prefix, others) + rests == _edits(word, other):
        return True
    one, two = _ENDING.search(word), _ENDING.search(other)
    if one and two and one[0].rstrip("e") != two[0].rstrip("e"):
        return True
    blood, bloods = _OF_BLOOD.match(word), _OF_BLOOD.match(other)
    return bool(blood and bloods and blood["stem"] != bloods["stem"])


def _part(found: re.Match[str] | None) -> str:
    return found[0] if found else ""


def _near(text: str, right: str) -> int | None:
    """The edits between two texts of the same words, a few of them mistyped; None where they are other texts."""
    if text == right:
        return 0
    if max(len(text), len(right)) > _LONGEST:
        return None
    words, rights = _LETTERS.findall(text), _LETTERS.findall(right)
    if len(words) != len(rights) or _LETTERS.sub("", text) != _LETTERS.sub("", right):
        return None
    differing = [pair for pair in zip(words, rights, strict=True) if pair[0] != pair[1] and not _same(*pair)]
    if len(differing) > _MOST_EDITS or any(len(other) < _SHORTEST_WORD for _, other in differing):
        return None
    edits = [_edits(*pair) for pair in differing]
    mistyped = all(edit <= min(map(len, pair)) // 4 for edit, pair in zip(edits, differing, strict=True))
    return sum(edits) if mistyped and sum(edits) <= _MOST_EDITS else None


@functools.lru_cache(maxsize=8192)
def _edits(text: str, other: str) -> int:
    """Letters dropped, added, replaced, or exchanged with their neighbour (optimal string alignment), row by row.

    Three stand for three or more.
    """
    if abs(len(text) - len(other)) > _MOST_EDITS:
        return _MOST_EDITS + 1
    older: list[int] = []
    last = list(range(len(other) + 1))
    for number, character in enumerate(text, 1):
        row = [number]
        for column, wanted in enumerate(other, 1):
            edits = min(last[column] + 1, row[-1] + 1, last[column - 1] + (character != wanted))
            if older and column > 1 and character == other[column - 2] and text[number - 2] == wanted:
                edits = min(edits, older[column - 2] + 1)
            row.append(edits)
        if min(row) > _MOST_EDITS:
            return _MOST_EDITS + 1
        older, last = last, row
    return min(last[-1], _MOST_EDITS + 1)
