"""Calendar dates: MM/DD/YYYY (MedCalc-Bench's form), tolerating M/D/YYYY and ISO YYYY-MM-DD.

The whole answer is read: beside one date (in one form or several) it holds words, and no digit, sign, bound or
negation. Left out: month names and day-first dates as answers. The prompt asks for one form, and 03/04/2020 has to mean
one day; a month's name may stand beside the number form and has to agree with it.
"""

from __future__ import annotations

import datetime
import re

from reward_server.verifiers.base import MALFORMED, MAX_SHORT_CHARS, NO_ANSWER, Verdict, judged
from reward_server.verifiers.carriers import NEGATION, is_bound, number_words
from reward_server.verifiers.plain import readable

VERSION = "2"

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = r"(?P<{}>jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]{{0,6}}\.?"
_DATE = re.compile(
    r"(?<![\w/.,+-])(?:(?P<m>[0-9]{1,2})/(?P<d>[0-9]{1,2})/(?P<y>[0-9]{4})"
    r"|(?P<iy>[0-9]{4})-(?P<im>[0-9]{2})-(?P<id>[0-9]{2})"
    rf"|{_MONTH.format('name')}\s(?P<day>[0-9]{{1,2}})(?:st|nd|rd|th)?,?\s(?P<year>[0-9]{{4}})"
    rf"|(?P<before>[0-9]{{1,2}})(?:st|nd|rd|th)?\s(?:of\s)?{_MONTH.format('named')},?\s(?P<then>[0-9]{{4}}))"
    r"(?![\w/]|-[\w]|[.,][0-9]|\s?[+\u00b1*^<>=])",
    re.IGNORECASE,
)
# A date's neighbours are words and punctuation; whatever else stands there is not accounted for.
_UNREAD = re.compile(r"[0-9+*/\\^_<=\u00b1%~&@#|]|(?<!-)>")


def verify(answer: str, gold: datetime.date) -> Verdict:
    """Correct iff the answer holds one date and it is the right one (MedCalc-Bench: equality after strptime)."""
    text = readable(answer, MAX_SHORT_CHARS)
    if not text:
        return MALFORMED if text is None else NO_ANSWER
    found = list(_DATE.finditer(text))
    dates = {_date(match) for match in found}
    if None in dates or not any(match["m"] or match["iy"] for match in found):
        return MALFORMED
    between = _DATE.sub("\n", text)
    if len(dates) > 1 or NEGATION.search(between) or number_words(between):
        return NO_ANSWER
    bounded = any(is_bound(text, match.start(), match.end()) for match in found)
    if bounded or _UNREAD.search(between):
        return NO_ANSWER
    (date,) = dates
    assert date is not None
    return judged(date == gold, f"{date:%m/%d}/{date.year:04d}")


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
