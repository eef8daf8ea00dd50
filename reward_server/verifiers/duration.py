"""Gestational ages and other durations: "17 weeks, 6 days", "('17 weeks', '6 days')", "17w6d", "125 days".

Durations are compared in days, so that 125 days is 17 weeks and 6 days; MedCalc-Bench's official script compares the
pair of numbers. Left out: months and years, which have no fixed length, and fractions of weeks.
"""

from __future__ import annotations

import re

from reward_server.verifiers.base import MALFORMED, MAX_ANSWER_CHARS, NO_ANSWER, Verdict, clean, judged

VERSION = "1"

_DURATION = re.compile(
    r"(?<![\w.-])(?P<weeks>[0-9]{1,6})\s*-?(?:weeks?|wks?|w)(?![a-z])"
    r"(?:[\s,;'\"+-]{0,6}(?:and\s)?(?P<rest>[0-9]{1,6})\s*-?(?:days?|d)\b)?"
    r"|(?<![\w.-])(?P<days>[0-9]{1,6})\s*-?(?:days?|d)\b",
    re.IGNORECASE,
)


def verify(answer: str, weeks: int, days: int) -> Verdict:
    """Correct iff the answer states one duration and it lasts 7 * weeks + days days."""
    if len(answer) > MAX_ANSWER_CHARS:
        return MALFORMED
    text = clean(answer)
    if not text:
        return NO_ANSWER
    totals = {
        7 * int(found["weeks"] or 0) + int(found["rest"] or found["days"] or 0) for found in _DURATION.finditer(text)
    }
    if not totals:
        return MALFORMED
    if len(totals) > 1:
        return NO_ANSWER
    (total,) = totals
    return judged(total == 7 * weeks + days, f"{total // 7} weeks, {total % 7} days")
