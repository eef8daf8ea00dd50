"""Gestational ages and other durations: "17 weeks, 6 days", "17w6d", "17+6", "17 6/7 weeks", "125 days".

The whole answer is read: beside one duration (in one form or several) it holds words, and no digit, sign, other unit,
bound or negation. Durations are compared in days, so that 125 days is 17 weeks and 6 days; MedCalc-Bench's official
script compares the pair of numbers. Left out: months and years, which have no fixed length, fractions of weeks other
than sevenths, numbers in words.
"""

from __future__ import annotations

import datetime
import itertools
import re

from reward_server.verifiers.amounts import (
    HIDDEN,
    OPERATION,
    SAME_AGAIN,
    SYMBOL,
    foreign_numeral,
    is_alone,
    result,
    without_rule,
)
from reward_server.verifiers.base import MALFORMED, MAX_SHORT_CHARS, NO_ANSWER, Verdict, judged
from reward_server.verifiers.beside import changes
from reward_server.verifiers.carriers import ALTERNATIVE, COUNTED, NEGATION, is_bound, number_words
from reward_server.verifiers.plain import readable

VERSION = "4"

# An answer says one duration, in two or three forms at most.
_MOST_DURATIONS = 8
_WEEKS = r"\s?-?(?:(?:completed?|full)\s)?(?:week\(s\)|weeks?|wks?|w)(?![a-z])"
_DAYS = r"\s?-?(?:day\(s\)|days?|d)(?![a-z])"
_DURATION = re.compile(
    r"(?<![\w.,/+^:*-])(?:"
    # {"weeks": 17, "days": 6}, without the braces
    r"['\"]?weeks?['\"]?\s?[:=]\s?(?P<w>[0-9]{1,6})[,;]?\s['\"]?days?['\"]?\s?[:=]\s?(?P<d>[0-9]{1,6})|"
    # 17 weeks, 6 days; ('17 weeks', '6 days'); 17w6d; 17 weeks (6 days); 17 weeks 6/7
    rf"(?P<weeks>[0-9]{{1,6}}){_WEEKS}"
    rf"(?:[\s,;:/'\"&+]{{0,6}}(?:(?:and|plus)\s)?(?:(?P<rest>[0-9]{{1,6}}){_DAYS}"
    rf"|(?P<seventh>[0-6])/7(?!{_DAYS})(?![\w/]))"
    rf"|\s?\((?:and\s)?(?P<inner>[0-6]){_DAYS}\))?"
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
    r"(?<![^\W\d_])(?:decades?|years?|yrs?|months?|mos?|hours?|hrs?|h|minutes?|mins?"
    r"|seconds?(?!\strimester)|secs?|weeks?|weekends?|wks?"
    r"|days?|remaining|left|to go|from now|ago|before|until|till|postpartum|postnatal|overdue|nearly|almost)\b",
    re.IGNORECASE,
)
# The same age as a decimal, and the two days that it lies between.
_DECIMAL = re.compile(r"(?<![\w.,/+^:*-])(?P<value>[0-9]{1,3}\.(?P<digits>[0-9]{1,3}))\s?(?:weeks|wks?|w)\b")
_SPAN = re.compile(
    r"\b(?:from )?([0-9]{1,2}/[0-9]{1,2}/[0-9]{4}) (?:to|until|->) ([0-9]{1,2}/[0-9]{1,2}/[0-9]{4})(?: is| =|:)? ?",
    re.IGNORECASE,
)
_ON = re.compile(
    r"\b(?:as of|on) (?:[0-9]{1,2}/[0-9]{1,2}/[0-9]{4})(?![\w/])|\bLMP:? \(?[0-9]{1,2}/[0-9]{1,2}/[0-9]{4}\b\)?"
)


def verify(answer: str, weeks: int, days: int) -> Verdict:
    """Correct iff the answer states one duration and it lasts 7 * weeks + days days."""
    text = readable(answer, MAX_SHORT_CHARS)
    if not text:
        return MALFORMED if text is None else NO_ANSWER
    if HIDDEN.search(answer):
        return NO_ANSWER
    text = without_rule(_ON.sub("LMP", result(text)))
    found = list(itertools.islice(_DURATION.finditer(text), _MOST_DURATIONS + 1))
    if len(found) > _MOST_DURATIONS:
        return NO_ANSWER
    totals = {_days(match) for match in found}
    if not totals:
        return MALFORMED
    bounded = any(is_bound(text, *match.span()) for match in found)
    if len(totals) > 1 or bounded:
        return NO_ANSWER
    (total,) = totals
    between = SAME_AGAIN.sub("\0", _without_equals(_DURATION.sub("\0", text), total))
    if is_alone(between):
        return _judged(total, weeks, days)
    if any(pattern.search(between) for pattern in (NEGATION, ALTERNATIVE)) or changes(between, obstetric=True):
        return NO_ANSWER
    if any(pattern.search(between) for pattern in (SYMBOL, OPERATION, _OTHER_UNIT, COUNTED)) or number_words(between):
        return MALFORMED
    if foreign_numeral(between):
        return MALFORMED
    return _judged(total, weeks, days)


def _without_equals(between: str, total: int) -> str:
    """`between` without a decimal of weeks and a pair of dates that say the same as `total` days."""
    if not re.search(r"[0-9]", between):
        return between
    between = _DECIMAL.sub(lambda found: "\0" if _is_rounded(found, total) else found[0], between)
    return _SPAN.sub(lambda found: "" if _between(found) == total else found[0], between)


def _is_rounded(found: re.Match[str], total: int) -> bool:
    return abs(float(found["value"]) - total / 7) <= 0.5001 * 10.0 ** -len(found["digits"])


def _between(found: re.Match[str]) -> int | None:
    try:
        first, last = (datetime.datetime.strptime(day, "%m/%d/%Y") for day in found.groups())
    except ValueError:
        return None
    return (last - first).days


def _judged(total: int, weeks: int, days: int) -> Verdict:
    return judged(total == 7 * weeks + days, f"{total // 7} weeks, {total % 7} days")


def _days(match: re.Match[str]) -> int:
    weeks = match["weeks"] or match["whole"] or match["w"] or 0
    names = ("rest", "inner", "seventh", "plus", "of7", "days", "d")
    days = next((match[name] for name in names if match[name]), 0)
    return 7 * int(weeks) + int(days)
