"""Overlap measures of free text: BLEU, EMS, their merge as Med-U1 defines it, and ROUGE-L, all from 0 to 100.

BLEU comes from NLTK. Med-U1's released code adds an EMS from 0 to 100 to a BLEU from 0 to
1; `compat` reproduces that. Left out: measures that need a model, and stemming.

Overlap says nothing about truth: "no pulmonary embolism" scores high against "pulmonary embolism". Prefer exact matches
with aliases, or a judge.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

from reward_server.verifiers.plain import clean

Measure = Literal["bleu", "ems", "merge", "rouge_l"]

# The longest common subsequence takes time in proportion to the product of the two lengths.
MAX_WORDS = 512

_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_AS_DIGITS = {word: str(value) for value, word in enumerate(_NUMBERS)} | {"none": "0"}
_ARTICLES = frozenset({"a", "an", "the"})
_WORD = re.compile(r"[^\W_]+(?:\.[0-9]+)?")
_ROUGE_WORD = re.compile(r"[a-z0-9]+")


def vqa_words(text: str) -> list[str]:
    """Lowercase words as the VQA evaluation has them: no punctuation or articles, number words as digits.

    Apostrophes vanish in candidate and reference alike, where VQA restores missing ones.
    """
    found = _WORD.findall(clean(text).casefold().replace("'", ""))
    return [_AS_DIGITS.get(word, word) for word in found if word not in _ARTICLES]


def ems(candidate: Sequence[str], reference: Sequence[str]) -> float:
    """100 |distinct words of the reference that the candidate has| / |candidate|: a precision of words.

    Med-U1 (arXiv 2506.12307), released `medical_score.py`. It can exceed no 100, and a single right word reaches it.
    """
    return 100 * len(set(reference) & set(candidate)) / len(candidate) if candidate else 0.0


def bleu(candidate: Sequence[str], reference: Sequence[str]) -> float:
    """100 times the mean of BLEU-1, BLEU-2 and BLEU-3, each of its own order alone (weight 1 on one order).

    Med-U1's definition, by NLTK's sentence_bleu with smoothing method 1 (Chen and Cherry 2014).
    """
    if not candidate or not reference:
        return 0.0
    sentence_bleu, smoothing = _nltk()
    orders = ((1.0,), (0.0, 1.0), (0.0, 0.0, 1.0))
    scores = [sentence_bleu([reference], candidate, weights=w, smoothing_function=smoothing) for w in orders]
    return 100 * sum(map(float, scores)) / len(scores)


def merge(candidate: Sequence[str], reference: Sequence[str], *, compat: bool = False) -> float:
    """Half EMS, half BLEU (Med-U1). With `compat`, BLEU counts from 0 to 1, as in the released code."""
    return 0.5 * ems(candidate, reference) + 0.5 * bleu(candidate, reference) / (100 if compat else 1)


def rouge_l(candidate: str, reference: str) -> float:
    """100 times the F1 of the longest common subsequence of words (Lin 2004), without stemming.

    The words are rouge-score's, and so is the value.
    """
    words, against = rouge_words(candidate), rouge_words(reference)
    common = lcs_length(words, against)
    return 100 * 2 * common / (len(words) + len(against)) if common else 0.0


def rouge_words(text: str) -> list[str]:
    """Lowercase words as rouge-score has them: runs of ASCII letters and digits."""
    return _ROUGE_WORD.findall(clean(text).lower())


def lcs_length(words: Sequence[str], others: Sequence[str]) -> int:
    """The length of the longest common subsequence, a row of the table in one integer (Hyyro 2004).

    The table itself takes 40 ms in Python for two texts of 512 words.
    """
    places: dict[str, int] = {}
    for index, word in enumerate(others):
        places[word] = places.get(word, 0) | 1 << index
    row = full = (1 << len(others)) - 1
    for word in words:
        found = row & places.get(word, 0)
        row = (row + found | row - found) & full
    return len(others) - row.bit_count()


def measure(name: Measure, candidate: str, references: Sequence[str], *, compat: bool = False) -> float:
    """The best value of a measure against any reference; `compat` as in Med-U1's released code (see the module)."""
    if name == "rouge_l":
        return max(rouge_l(candidate, reference) for reference in references)
    words, against = vqa_words(candidate), [vqa_words(reference) for reference in references]
    one: Callable[[Sequence[str], Sequence[str]], float]
    if name == "merge":
        one = functools.partial(merge, compat=compat)
    elif name == "bleu":
        one = (lambda c, r: bleu(c, r) / 100) if compat else bleu
    else:
        one = ems
    return max(one(words, reference) for reference in against)


@functools.cache
def _nltk() -> tuple[Callable[..., Any], Callable[..., Any]]:
    # Imported late: it takes longer than the start of the whole server.
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    return sentence_bleu, SmoothingFunction().method1
