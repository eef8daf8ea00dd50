"""Short free text: normalised exact match, or a measure against a threshold, over the answer and its aliases.

Exact match and token F1 are SQuAD's (Rajpurkar et al. 2016); BLEU, EMS, their merge and ROUGE-L are in `overlap`. Left
out: synonymy, which needs a judge or a terminology.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from reward_server.verifiers import overlap
from reward_server.verifiers.base import MALFORMED, MAX_ANSWER_CHARS, NO_ANSWER, Verdict, judged
from reward_server.verifiers.claims import objection
from reward_server.verifiers.plain import clean, readable, spelled_out

VERSION = "6"
# Of the instructions and the reading of verdicts in `reward_server.judge`, which this package does not import.
JUDGE_VERSION = "3"

_ARTICLES = frozenset({"a", "an", "the"})
_EXTRACT_CHARS = 200
_ACCENTS = re.compile("[\u0300-\u030c\u0323-\u0328]+")
_PER_CENT = re.compile(r"(?<=[0-9])\s?(?:%|per\s?cent\b|pct\b)")
_THOUSANDS = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")
_NAKED_DECIMAL = re.compile(r"(?<![\w.])\.(?=[0-9])")
_WORD = re.compile(r"[^\W_]+(?:\.[0-9]+)?%?")
# Punctuation says nothing between words. Between digits it makes a date, a ratio, a range; a hyphen is a sign or a
# charge unless it joins two words; every other mark is one of its own.
_MARK_OR_WORD = re.compile(
    r"((?<=[0-9])\s?[,;:.(](?=\s?[0-9])|(?<=[0-9])!|!(?=\w)|\?|(?<![^\W_])-|-(?![^\W_])|(?<=[0-9])-(?=[0-9])"
    r"|[^\w\s,;:.!()\[\]\"\u2014\u2026-])"
    rf"|({_WORD.pattern})"
)


def verify_exact(answer: str, references: Sequence[str]) -> Verdict:
    """Correct iff the answer equals one of the references after normalisation."""
    text = readable(answer, MAX_ANSWER_CHARS)
    if text is None:
        return MALFORMED
    found = _words(text)
    if not found:
        return NO_ANSWER
    said = _marked(text)
    return judged(any(said == _marked_reference(reference) for reference in references), _shown(found))


def verify_f1(answer: str, references: Sequence[str], threshold: float) -> Verdict:
    """Correct iff the best token F1 against a reference is at least `threshold`, in (0, 1], and `claims` are one."""
    found = _read_claim(answer, references)
    if isinstance(found, Verdict):
        return found
    best = max(token_f1(found, tokens(reference)) for reference in references)
    return judged(best >= threshold, _shown(found))


def verify_overlap(
    answer: str, references: Sequence[str], measure: overlap.Measure, threshold: float, *, compat: bool = False
) -> Verdict:
    """Correct iff the best value of the measure against a reference is above `threshold`, in 0 to 100 (Med-U1: 45).

    An answer that denies, or names several things (`claims`), is not, but with `compat`, which grades as Med-U1's
    released code does. One of more than 512 words is an essay and malformed. What is not measured has a measure of 0.
    """
    found = _read(answer) if compat else _read_claim(answer, references)
    if isinstance(found, Verdict):
        return found
    if max(len(found), len(overlap.rouge_words(answer))) > overlap.MAX_WORDS:
        return MALFORMED
    value = overlap.measure(measure, answer, references, compat=compat)
    return dataclasses.replace(judged(value > threshold, _shown(found)), measure=value)


def token_f1(candidate: Sequence[str], reference: Sequence[str]) -> float:
    """2PR / (P + R) of the two bags of tokens, P = common / candidate, R = common / reference; 0 with none common."""
    common = sum((Counter(candidate) & Counter(reference)).values())
    return 2 * common / (len(candidate) + len(reference)) if common else 0.0


def tokens(text: str) -> list[str]:
    """Lowercase words without punctuation and articles; articles stay when nothing else does (blood type "A")."""
    return _words(clean(text))


def _words(plain: str) -> list[str]:
    words = _WORD.findall(_folded(plain))
    return [word for word in words if word not in _ARTICLES] or words


def _marked(plain: str) -> list[str]:
    """The words with the marks between them that change a meaning: signs, bounds, arrows, ratios, charges."""
    text = _THOUSANDS.sub("", _NAKED_DECIMAL.sub("0.", _folded(spelled_out(plain))))
    found = [mark or word for mark, word in _MARK_OR_WORD.findall(text)]
    # Behind all words "a" is a letter: "hepatitis A".
    return [word for word in found[:-1] if word not in _ARTICLES] + [
        word for word in found[-1:] if word != "the"
    ] or found


@functools.lru_cache(maxsize=8192)
def _clean_reference(reference: str) -> str:
    return clean(reference)


@functools.lru_cache(maxsize=8192)
def _marked_reference(reference: str) -> list[str]:
    return _marked(clean(reference))


def _folded(plain: str) -> str:
    """Lower case without accents and apostrophes, per cent signs at their numbers."""
    decomposed = unicodedata.normalize("NFKD", plain.casefold())
    text = unicodedata.normalize("NFKC", _ACCENTS.sub("", decomposed)).replace("'", "")
    return _PER_CENT.sub("%", text)


def _read(answer: str) -> list[str] | Verdict:
    text = readable(answer, MAX_ANSWER_CHARS)
    return MALFORMED if text is None else _words(text) or NO_ANSWER


def _read_claim(answer: str, references: Sequence[str]) -> list[str] | Verdict:
    """The words of an answer; a verdict where there are none, or where they make no one claim (`claims`)."""
    text = readable(answer, MAX_ANSWER_CHARS)
    if text is None:
        return MALFORMED
    found = _words(text)
    if not found:
        return NO_ANSWER
    against = objection(answer, text, [_clean_reference(reference) for reference in references], _words)
    return found if against is None else Verdict(against, _shown(found) if against == "incorrect" else None)


def _shown(found: Sequence[str]) -> str:
    return " ".join(found)[:_EXTRACT_CHARS]
