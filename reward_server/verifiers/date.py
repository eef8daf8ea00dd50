"""Calendar dates: MM/DD/YYYY (MedCalc-Bench's form), tolerating M/D/YYYY and ISO YYYY-MM-DD.

Left out: month names and day-first dates. The prompt asks for one form, and 03/04/2020 has to mean one day.
"""

from __future__ import annotations

import datetime
import re

from reward_server.verifiers.base import MALFORMED, MAX_ANSWER_CHARS, NO_ANSWER, Verdict, clean, judged

VERSION = "1"

_DATE = re.compile(
    r"(?<![\w/.-])(?:(?P<m>[0-9]{1,2})/(?P<d>[0-9]{1,2})/(?P<y>[0-9]{4})"
    r"|(?P<iy>[0-9]{4})-(?P<im>[0-9]{2})-(?P<id>[0-9]{2}))(?![\w/-])"
)


def verify(answer: str, gold: datetime.date) -> Verdict:
    """Correct iff the answer holds one date and it is the right one (MedCalc-Bench: equality after strptime)."""
    if len(answer) > MAX_ANSWER_CHARS:
        return MALFORMED
    text = clean(answer)
    if not text:
        return NO_ANSWER
    found = [_date(match) for match in _DATE.finditer(text)]
    if not found or None in found:
        return MALFORMED
    dates = {date for date in found if date is not None}
    if len(dates) > 1:
        return NO_ANSWER
    (date,) = dates
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
    try:
        return datetime.date(
            int(match["y"] or match["iy"]), int(match["m"] or match["im"]), int(match["d"] or match["id"])
        )
    except ValueError:
        return None
