"""Numeric answers: plain, 1,234.5, 1.2e3, 1.2 x 10^3, 25%, 3/4, 1 1/2, "3 out of 5", with words and units around.

The text is parsed, never evaluated; MedCalc-Bench's official script evaluates model text as code. Several different
numbers count only when a final marker ("=" or "is") singles one out.

Left out: unit conversion, because a reference carries no unit; decimal commas, which cannot be told from thousands.
"""

from __future__ import annotations

import dataclasses
import math
import re

from reward_server.verifiers.base import MALFORMED, MAX_ANSWER_CHARS, NO_ANSWER, Verdict, clean, judged

VERSION = "1"

_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
_END = r"(?![.,]?[0-9]|[_^]|[A-Za-z][0-9])"
_NUMBER = re.compile(
    # Digits inside a word ("CHA2DS2"), after a hyphenated name ("FIB-4") or in an exponent are no answer.
    r"(?:(?<![\w).^])(?P<sign>[+-])|\b(?P<minus>minus|negative)\s+|(?<![\w.^])(?<![A-Za-z]-)(?<![0-9],))"
    rf"(?:10\^(?P<power>[+-]?[0-9]+)|(?:(?P<whole>[0-9]+)\s+(?=[0-9]+/[0-9]))?(?P<value>{_DIGITS})"
    r"(?:[eE](?P<e>[+-]?[0-9]+)|\s*(?:[x*\u00d7]|\\times)\s*10\^(?P<ten>[+-]?[0-9]+))?)"
    rf"{_END}"
    rf"(?:\s*/\s*(?P<below>{_DIGITS}){_END}(?!\s*/\s*[0-9])|\s+out\s+of\s+{_DIGITS}{_END})?"
    r"(?P<percent>\s*(?:%|percent\b))?",
    re.IGNORECASE,
)
_FINAL = re.compile(r"=|\u2248|\b(?:is|equals)\b", re.IGNORECASE)
# Units that hold digits of their own: body surface normalisation and squared or cubed metres.
_UNIT = re.compile(r"(?:/|\bper)\s*1\.73\s*m\s*\^?2?|(?<![A-Za-z])[cdkm]?m\^?[23]\b", re.IGNORECASE)
_SUPERSCRIPT = re.compile("[\u2070\u00b9\u00b2\u00b3\u2074-\u2079\u207a\u207b]+")
_RAISED = str.maketrans("\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207a\u207b", "0123456789+-")


@dataclasses.dataclass(frozen=True)
class Reading:
    """A number read from text; `percent` says that a percent sign followed it, and `value` is what stood before."""

    value: float
    percent: bool = False

    def __str__(self) -> str:
        """Twelve significant digits, and the percent sign."""
        return f"{self.value:.12g}{'%' if self.percent else ''}"


def verify_range(answer: str, lower: float, upper: float) -> Verdict:
    """Correct iff lower <= x <= upper (MedCalc-Bench's rule for decimals, limits of 95% and 105%).

    A percentage counts as either x or x/100: some references hold per cents (FENa), some shares, and none says which.
    """
    reading = _read(answer)
    if isinstance(reading, Verdict):
        return reading
    candidates = (reading.value, reading.value / 100) if reading.percent else (reading.value,)
    return judged(any(lower <= value <= upper for value in candidates), str(reading))


def verify_integer(answer: str, gold: float) -> Verdict:
    """Correct iff round(x) == gold (MedCalc-Bench's rule for scores; Python's rounding, halves to even)."""
    reading = _read(answer)
    if isinstance(reading, Verdict):
        return reading
    return judged(round(reading.value) == gold, str(reading))


def _read(answer: str) -> Reading | Verdict:
    if len(answer) > MAX_ANSWER_CHARS:
        return MALFORMED
    # NFKC would turn a raised 3 into a plain one: 10 to the third into 103.
    raised = _SUPERSCRIPT.sub(lambda found: "^" + found[0].translate(_RAISED), answer)
    text = _UNIT.sub(" ", clean(raised))
    if not text:
        return NO_ANSWER
    readings = readings_in(text)
    if len(readings) > 1:
        readings = readings_in(_FINAL.split(text)[-1]) if _FINAL.search(text) else readings
        if len(readings) != 1:
            return NO_ANSWER
    return readings.pop() if readings else MALFORMED


def readings_in(text: str) -> set[Reading]:
    """Every different finite number in `text`."""
    found = (_value(match) for match in _NUMBER.finditer(text))
    return {reading for reading in found if reading is not None}


def _value(match: re.Match[str]) -> Reading | None:
    if match["power"] is not None:
        value = float(f"1e{match['power']}")
    else:
        value = float(f"{match['value'].replace(',', '')}e{match['e'] or match['ten'] or '0'}")
    if match["below"] is not None:
        below = float(match["below"].replace(",", ""))
        if below == 0:
            return None
        value /= below
    if match["whole"] is not None:
        value += float(match["whole"])
    if match["sign"] == "-" or match["minus"]:
        value = -value
    return Reading(value, match["percent"] is not None) if math.isfinite(value) else None
