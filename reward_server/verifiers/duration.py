"""Gestational ages and other durations: "17 weeks, 6 days", "17w6d", "17+6", "17 6/7 weeks", "125 days".

The whole answer is read: beside one duration (in one form or several) it holds words, and no digit, sign, other unit,
bound or negation. Durations are compared in days, so that 125 days is 17 weeks and 6 days; MedCalc-Bench's official
script compares the pair of numbers. Left out: months and years, which have no fixed length, fractions of weeks other
than sevenths, numbers in words.
"""

from __future__ import annotations

import re

from reward_server.verifiers.base import MALFORMED, MAX_SHORT_CHARS, NO_ANSWER, Verdict, judged
from reward_server.verifiers.carriers import COUNTED, NEGATION, is_bound, number_words
from reward_server.verifiers.plain import readable

VERSION = "2"

_WEEKS = r"\s?-?(?:weeks?|wks?|w)(?![a-z])"
_DAYS = r"\s?-?(?:days?|d)(?![a-z])"
_DURATION = re.compile(
    r"(?<![\w.,/+^:*-])(?:"
    # 17 weeks, 6 days; ('17 weeks', '6 days'); 17w6d; 17 weeks 6/7
    rf"(?P<weeks>[0-9]{{1,6}}){_WEEKS}"
    rf"(?:[\s,;'\"&+]{{0,6}}(?:and\s)?(?:(?P<rest>[0-9]{{1,6}}){_DAYS}|(?P<seventh>[0-6])/7(?:{_DAYS})?(?![\w/])))?"
    # 17+6, 17^+6 and 17 6/7, with or without their weeks; 17+6/40 of British notes
    r"|(?P<whole>[0-9]{1,2})(?:\s?\^?\+\s?(?P<plus>[0-6])(?:/7|/40)?|(?:\s?-\s?|\s|\s?\+\s?|\s?&\s?|\sand\s)(?P<of7>[0-6])/7)"
    rf"(?![\w/])(?:{_WEEKS})?"
    rf"|(?P<days>[0-9]{{1,6}}){_DAYS})"
    r"(?![\w/]|-\w|[.,:][0-9]|\s?[+*^<>=\u00b1]|\s?-\s?[0-9])",
    re.IGNORECASE,
)
_UNREAD = re.compile(r"[0-9+*/\\^_<=\u00b1%~&@#|]|(?<!-)>")
_OTHER_UNIT = re.compile(
    r"(?<![^\W\d_])(?:years?|yrs?|months?|mos?|hours?|hrs?|h|minutes?|mins?|seconds?|secs?|weeks?|wks?|days?|plus|minus|times|x)\b",
    re.IGNORECASE,
)


def verify(answer: str, weeks: int, days: int) -> Verdict:
    """Correct iff the answer states one duration and it lasts 7 * weeks + days days."""
    text = readable(answer, MAX_SHORT_CHARS)
    if not text:
        return MALFORMED if text is None else NO_ANSWER
    found = list(_DURATION.finditer(text))
    totals = {_days(match) for match in found}
    if not totals:
        return MALFORMED
    between = _DURATION.sub("\n", text)
    bounded = any(is_bound(text, match.start(), match.end()) for match in found)
    if len(totals) > 1 or bounded or NEGATION.search(between):
        return NO_ANSWER
    if _UNREAD.search(between) or _OTHER_UNIT.search(between) or COUNTED.search(between) or number_words(between):
        return MALFORMED
    (total,) = totals
    return judged(total == 7 * weeks + days, f"{total // 7} weeks, {total % 7} days")


def _days(match: re.Match[str]) -> int:
    weeks = match["weeks"] or match["whole"] or 0
    days = match["rest"] or match["seventh"] or match["plus"] or match["of7"] or match["days"] or 0
    return 7 * int(weeks) + int(days)
