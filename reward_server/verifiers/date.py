"""Calendar dates: MM/DD/YYYY (MedCalc-Bench's form), tolerating M/D/YYYY and ISO YYYY-MM-DD.

The whole answer is read: beside one date (in one form or several) it holds words, and no digit, sign, bound, negation
or other span of time. A sum in front of "=" ("LMP 11/27/2013 + 280 days =") is working. A weekday or a month beside the
date has to be its own. Left out: month names and day-first dates as answers. The prompt asks for one form, and
03/04/2020 has to mean one day; a month's name may stand beside the number form and has to agree with it.
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

VERSION = "5"

# An answer says one date, in two or three forms at most.
_MOST_DATES = 8
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = r"(?P<{}>jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]{{0,6}}\.?"
_DATE = re.compile(
    r"(?<![\w/.,+-])(?:(?P<m>[0-9]{1,2})\s?/\s?(?P<d>[0-9]{1,2})\s?/\s?(?P<y>[0-9]{4})"
    r"|(?P<iy>[0-9]{4})(?P<part>[-/])(?P<im>[0-9]{2})(?P=part)(?P<id>[0-9]{2})"
    rf"|{_MONTH.format('name')}\s(?P<day>[0-9]{{1,2}})(?:st|nd|rd|th)?,?\s(?P<year>[0-9]{{4}})"
    rf"|(?P<before>[0-9]{{1,2}})(?:st|nd|rd|th)?\s(?:of\s)?{_MONTH.format('named')},?\s(?P<then>[0-9]{{4}}))"
    r"(?![\w/]|-[\w]|[.,][0-9]|\s?[+\u00b1*^<>])",
    re.IGNORECASE,
)
_FORM = re.compile(r"\(?\bMM?/DD?/Y(?:YYY)?\b\)?", re.IGNORECASE)
_NAMED_MONTH = re.compile(
    r"\b(?:(?i:(jan|feb|apr|jun|jul|aug|sep|oct|nov|dec)(?:t|uary|ruary|il|e|y|ust|tember|ober|ember)?)"
    r"|(Mar|May)(?:ch)?)\b"
)
_WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_WEEKDAY = re.compile(r"\b(mon|tue|wed|thu|fri|sat|sun)(?:(?<=tue)s|nes|rs?|ur)?(?:day)?\b", re.IGNORECASE)
# What makes another day of the one that is written.
_MOVED = re.compile(
    r"\b(?:days?|weeks?|weekends?|months?|years?|decades?|tomorrow|yesterday|tonight|eve|later|earlier"
    r"|sooner|onwards?"
    r"|postponed|delayed|thereabouts)\b|\b(?:since|till|by|from|following|past|next|previous)\s\x00|\b(?:BCE?|AH)\b"
    # Whose dates begin with the day.
    r"|\b(?:UK|EU|British|English|European|Australian|Indian|day[\s-]first|dmy|little[\s-]endian)\b",
    re.IGNORECASE,
)


def verify(answer: str, gold: datetime.date) -> Verdict:
    """Correct iff the answer holds one date and it is the right one (MedCalc-Bench: equality after strptime)."""
    # An en dash that stands apart is punctuation; in front of digits it might be a minus sign.
    text = readable(answer.replace(" \u2013 ", " \u2014 "), MAX_SHORT_CHARS)
    if not text:
        return MALFORMED if text is None else NO_ANSWER
    # `clean` writes a minus sign as the hyphen that leads an item of a list.
    if HIDDEN.search(answer) or "\u2212" in answer:
        return NO_ANSWER
    text = without_rule(result(_FORM.sub("", text).strip()))
    found = list(itertools.islice(_DATE.finditer(text), _MOST_DATES + 1))
    if len(found) > _MOST_DATES:
        return NO_ANSWER
    dates = {_date(match) for match in found}
    if None in dates or not any(match["m"] or match["iy"] for match in found):
        return MALFORMED
    if len(dates) > 1 or any(is_bound(text, *match.span()) for match in found):
        return NO_ANSWER
    (date,) = dates
    assert date is not None
    between = SAME_AGAIN.sub("\0", re.sub(r"\A-\s\0", "\0", _DATE.sub("\0", text)))
    return judged(date == gold, f"{date:%m/%d}/{date.year:04d}") if _adds_nothing(between, date) else NO_ANSWER


def _adds_nothing(between: str, date: datetime.date) -> bool:
    """Whether the words around \\x00, the date, leave it as it is."""
    if is_alone(between):
        return True
    if foreign_numeral(between) or number_words(between) or changes(between, obstetric=True):
        return False
    if any(pattern.search(between) for pattern in (NEGATION, ALTERNATIVE, COUNTED, OPERATION, SYMBOL, _MOVED)):
        return False
    months = {_MONTHS.index((found[1] or found[2]).lower()) + 1 for found in _NAMED_MONTH.finditer(between)}
    weekdays = {_WEEKDAYS.index(found[1].lower()) for found in _WEEKDAY.finditer(between)}
    return months <= {date.month} and weekdays <= {date.weekday()}


def parse_gold(text: str) -> datetime.date:
    """The date of a reference, written MM/DD/YYYY.

    Raises:
        ValueError: when `text` is no such date.
    """
    match = _DATE.fullmatch(text)
    date = _date(match) if match and match["m"] else None
    if date is None:
        raise ValueError("expected a calendar date as MM/DD/YYYY")
    return date


def _date(match: re.Match[str]) -> datetime.date | None:
    name = match["name"] or match["named"]
    month = _MONTHS.index(name.lower()) + 1 if name else int(match["m"] or match["im"])
    day = int(match["d"] or match["id"] or match["day"] or match["before"])
    try:
        return datetime.date(int(match["y"] or match["iy"] or match["year"] or match["then"]), month, day)
    except ValueError:
        return None
