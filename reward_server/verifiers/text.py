"""Short free text: normalised exact match, or token F1 against a threshold, over the answer and its aliases.

Both are SQuAD's measures (Rajpurkar et al. 2016). Left out: Med-U1's EMS and BLEU, whose released form mixes scales of
0..100 and 0..1, and synonymy, which needs a judge or a terminology.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from reward_server.verifiers.base import MALFORMED, MAX_ANSWER_CHARS, NO_ANSWER, Verdict, clean, judged

VERSION = "1"

_ARTICLES = frozenset({"a", "an", "the"})
_EXTRACT_CHARS = 200


def verify_exact(answer: str, references: Sequence[str]) -> Verdict:
    """Correct iff the answer equals one of the references after normalisation."""
    found = _read(answer)
    if isinstance(found, Verdict):
        return found
    return judged(any(found == tokens(reference) for reference in references), _shown(found))


def verify_f1(answer: str, references: Sequence[str], threshold: float) -> Verdict:
    """Correct iff the best token F1 against a reference is at least `threshold`, in (0, 1]."""
    found = _read(answer)
    if isinstance(found, Verdict):
        return found
    best = max(token_f1(found, tokens(reference)) for reference in references)
    return judged(best >= threshold, _shown(found))


def token_f1(candidate: Sequence[str], reference: Sequence[str]) -> float:
    """2PR / (P + R) of the two bags of tokens, P = common / candidate, R = common / reference; 0 with none common."""
    common = sum((Counter(candidate) & Counter(reference)).values())
    return 2 * common / (len(candidate) + len(reference)) if common else 0.0


def tokens(text: str) -> list[str]:
    """Lowercase words without punctuation and articles; articles stay when nothing else does (blood type "A")."""
    plain = unicodedata.normalize("NFKC", clean(text).casefold())
    words = re.findall(r"[^\W_]+(?:\.[0-9]+)?%?", plain.replace("'", ""))
    return [word for word in words if word not in _ARTICLES] or words


def _read(answer: str) -> list[str] | Verdict:
    if len(answer) > MAX_ANSWER_CHARS:
        return MALFORMED
    return tokens(answer) or NO_ANSWER


def _shown(found: Sequence[str]) -> str:
    return " ".join(found)[:_EXTRACT_CHARS]
