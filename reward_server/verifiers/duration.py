"""Gestational ages and other durations: "17 weeks, 6 days", "17w6d", "17+6", "17 6/7 weeks", "125 days".

The whole answer is read: beside one duration (in one form or several) it holds words, and no digit, sign, other unit,
bound or negation. Durations are compared in days, so that 125 days is 17 weeks and 6 days; MedCalc-Bench's official
script compares the pair of numbers. Left out: months and years, which have no fixed length, fractions of weeks other
than sevenths, numbers in words.
"""

from __future__ import annotations

import itertools
import re

from reward_server.verifiers.amounts import HIDDEN, OPERATION, SAME_AGAIN, SYMBOL, foreign_numeral, is_alone, result
from reward_server.verifiers.base import MALFORMED, MAX_SHORT_CHARS, NO_ANSWER, Verdict, judged
from reward_server.verifiers.carriers import ALTERNATIVE, COUNTED, NEGATION, is_bound, number_words
from reward_server.verifiers.plain import readable

VERSION = "2"

# An answer says one duration, in two or three forms at most.
_MOST_DURATIONS = 8
_WEEKS = r"\s?-?(?:(?:completed|full)\s)?(?:week\(s\)|weeks?|wks?|w)(?![a-z])"
_DAYS = r"\s?-?(?:day\(s\)|days?|d)(?![a-z])"
_DURATION = re.compile(
    r"(?<![\w.,/+^:*-])(?:"
    # 17 weeks, 6 days; ('17 weeks', '6 days'); 17w6d; 17 weeks (6 days); 17 weeks 6/7
    rf"(?P<weeks>[0-9]{{1,6}}){_WEEKS}"
    rf"(?:[\s,;'\"&+]{{0,6}}(?:(?:and|plus)\s)?(?:(?P<rest>[0-9]{{1,6}}){_DAYS}|(?P<seventh>[0-6])/7(?!{_DAYS})(?![\w/]))"
    rf"|\s?\((?P<inner>[0-6]){_DAYS}\))?"
    # 17+6, 17^+6 and 17 6/7, with or without their weeks; 17+6/40 of British notes
    r"|(?P<whole>[0-9]{1,2})(?:\s?\^?\+\s?(?P<plus>[0-6])(?:/7|/40)?"
    r"|(?:\s?\^|\s?-\s?|\s|\s?\+\s?|\s?&\s?|\sand\s)(?P<of7>[0-6])/7)"
    rf"(?:{_WEEKS}|(?![\w/]))"
    rf"|(?P<days>[0-9]{{1,6}}){_DAYS})"
    r"(?![\w/]|-\w|[.,:][0-9]|\s?[+*^<>\u00b1]|\s?-\s?[0-9])",
    re.IGNORECASE,
)
# Other spans of time, and words that turn an age into what is left of one.
_OTHER_UNIT = re.compile(
    r"(?<![^\W\d_])(?:decades?|years?|yrs?|months?|mos?|hours?|hrs?|h|minutes?|mins?|seconds?(?!\strimester)|secs?|weeks?|weekends?|wks?"
    r"|days?|remaining|left|to go|from now|ago|before|until|till|postpartum|postnatal|overdue)\b",
    re.IGNORECASE,
)


def verify(answer: str, weeks: int, days: int) -> Verdict:
    """Correct iff the answer states one duration and it lasts 7 * weeks + days days."""
    text = readable(answer, MAX_SHORT_CHARS)
    if not text:
        return MALFORMED if text is None else NO_ANSWER
    if HIDDEN.search(answer):
        return NO_ANSWER
    text = result(text)
    found = list(itertools.islice(_DURATION.finditer(text), _MOST_DURATIONS + 1))
    if len(found) > _MOST_DURATIONS:
        return NO_ANSWER
    totals = {_days(match) for match in found}
    if not totals:
        return MALFORMED
    between = SAME_AGAIN.sub("\0", _DURATION.sub("\0", text))
    bounded = any(is_bound(text, *match.span()) for match in found)
    (total,) = totals if len(totals) == 1 else (None,)
    if total is not None and not bounded and is_alone(between):
        return _judged(total, weeks, days)
    if total is None or bounded or NEGATION.search(between) or ALTERNATIVE.search(between):
        return NO_ANSWER
    if any(pattern.search(between) for pattern in (SYMBOL, OPERATION, _OTHER_UNIT, COUNTED)) or number_words(between):
        return MALFORMED
    if foreign_numeral(between):
        return MALFORMED
    return _judged(total, weeks, days)


def _judged(total: int, weeks: int, days: int) -> Verdict:
    return judged(total == 7 * weeks + days, f"{total // 7} weeks, {total % 7} days")


def _days(match: re.Match[str]) -> int:
    weeks = match["weeks"] or match["whole"] or 0
    days = match["rest"] or match["inner"] or match["seventh"] or match["plus"] or match["of7"] or match["days"] or 0
    return 7 * int(weeks) + int(days)
