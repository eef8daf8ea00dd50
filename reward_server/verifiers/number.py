"""Numeric answers: plain, 1,234.5, 1.2e3, 1.2 x 10^3, 1.5 million, 25%, 3/4, 1 1/2, "3 out of 5", with units.

The whole answer is read: every digit, sign and operator in it belongs to one number, to its unit or to the name of what
was asked for, or there is no number. What stands before the last "=", "->", "is" or "equals" is the working, and the
number behind it the answer. The text is parsed, never evaluated; MedCalc-Bench's official script evaluates model text
as code.

Left out: unit conversion, because a reference carries no unit; decimal commas and spaces between thousands, which
cannot be told from other commas and other numbers; numbers in words.
"""

from __future__ import annotations

import dataclasses
import math
import re
import unicodedata

from reward_server.verifiers.base import MALFORMED, MAX_SHORT_CHARS, NO_ANSWER, Verdict, judged
from reward_server.verifiers.carriers import ALTERNATIVE, COUNTED, NEGATION, is_bound, number_words
from reward_server.verifiers.plain import readable

VERSION = "2"

# In what is said, not in the working before it.
_MOST_NUMBERS = 50
_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})++(?:\.[0-9]++)?|[0-9]++(?:\.[0-9]++)?|\.[0-9]++)"
# What may not follow digits: more of them, a letter that goes on to digits, a power, a ratio.
_END = r"(?![.,]?[0-9]|[_^]|\s?\*\*|[A-Za-z]++[-+]?[0-9]|\s?:\s?[0-9])"
_TEN = r"10\s?(?:\^|\*\*|to the (?:power (?:of )?)?)\s?\(?(?P<{}>[+-]?\s?[0-9]{{1,4}})(?:th)?\)?(?![.,]?[0-9])"
_MAGNITUDES = {"k": 3, "hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_NUMBER = (
    # A sign, at the start of a word; whether one that stands apart is a dash, `_is_dash` decides.
    r"(?:(?<![\w.)\]%'\"+-])(?P<sign>[+-])\s?|\b(?P<minus>minus|negative|neg)\b\.?\s?|(?<![\w.,^_/]))"
    rf"(?:{_TEN.format('power')}"
    rf"|(?:(?P<whole>[0-9]{{1,9}})(?:\s|\sand\s)(?=[0-9]{{1,9}}/[0-9]))?(?P<value>{_DIGITS})"
    rf"(?:e(?P<e>[+-]?[0-9]{{1,4}})|\s?(?:x|\*|times)\s?{_TEN.format('ten')}|(?P<magnitude>k(?![a-z/])))?)"
    rf"{_END}"
    rf"(?:\s?/\s?(?P<below>{_DIGITS}){_END}(?!\s?/\s?[0-9])"
    rf"|\s(?:out\s)?of\s(?:a (?:possible|maximum|total)\s(?:of\s)?)?(?P<total>{_DIGITS}){_END})?"
    r"(?:\s(?P<order>hundred|thousand|million|billion|trillion)\b)?"
    r"(?P<percent>\s?(?:%|percent\b|per cent\b|pct\b))?"
)
# Digits of a name ("CHA2DS2-VASc", "FIB-4", "SpO2", "E4V5M6") are none of the answer's; those glued to a word of
# arithmetic are no name.
_NAME = (
    r"(?<!\w)(?!(?:or|to|and|is|of|minus|plus|neg|negative|times|by|x|than|over|under|not|no|equals?|vs|between|sqrt"
    r"|root|log|ln|exp|(?<=[0-9]\s)e)[-_]?[0-9])"
    r"(?P<name>(?:[^\W\d_]++['-]){0,4}[^\W\d_]++[-_]?[0-9](?:[\w+-]|[.,](?=[0-9]))*+)"
)
_AMOUNT = re.compile(rf"{_NAME}|{_NUMBER}", re.IGNORECASE)
_FINAL = re.compile(r"={1,2}|->|\u2248|\b(?:is|equals)\b", re.IGNORECASE)
_COMPARED = re.compile(r"[!<>]=|=[<>]")
# Units that hold digits of their own: body surface normalisation, raised units, water.
_UNIT = re.compile(
    r"(?:/|\bper)\s?1\.73\s?m\s?\^?2?\b|(?<![A-Za-z])[cdkm]?m\s?\^?[23]\b|\b[cm]m\s?H_?2O\b|(?<=[cm]m)\^?5\b"
    r"|(?<=[A-Za-z])\^[+-]?[1-5]\b|(?<=[A-Za-z])\*(?=[A-Za-z])",
    re.IGNORECASE,
)
_MEASURED = re.compile(r"\s?(?:points?|pts?)\b", re.IGNORECASE)
_PRESSURE = re.compile(r"\s?mm\s?Hg\b", re.IGNORECASE)
_SCORE = re.compile(r"\bscore\b", re.IGNORECASE)
_FUNCTION = re.compile(
    r"(?<![^\W\d_])(?:sqrt|root|log(?:arithm)?|ln|exp|sin|cos|tan|abs|factorial|squared?|cubed?|times|plus|minus|divided|multiplied"
    r"|inverse|reciprocal|power|permille|per mille|ppm|ppb|basis points?|x|point (?:one|two|five)|(?:and|to) one"
    r"|one (?:and|to|point))\b",
    re.IGNORECASE,
)
# What no reading accounts for, where \x00 stands for a number: symbols, slashes that part no units, dashes and letters
# that touch the number. "5M" may be molar or millions, "5x" a factor, "5th" a place.
_LOOSE = re.compile(
    r"[^\w\s.,;:!?()\[\]\"'\u2014$\u20ac\u00a3\u00b0\u03bc\u03a9/~\u2248=\x00>-]|[\d_]|/(?!\s?[^\W\d_])|[~\u2248](?!\s?\x00)"
    r"|(?<!-)>|\x00(?:[xX]|[eE]|st|nd|rd|th|[MBT]|MM|bn|mn)(?![^\W\d_])|[^\W_]\x00|\x00-(?![^\W\d_])|-\s?$|\x00{2}|-\s?\x00"
)


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
    reading = _read(answer, rounded=False)
    if isinstance(reading, Verdict):
        return reading
    candidates = (reading.value, reading.value / 100) if reading.percent else (reading.value,)
    return judged(any(lower <= value <= upper for value in candidates), str(reading))


def verify_integer(answer: str, gold: float) -> Verdict:
    """Correct iff round(x) == gold (MedCalc-Bench's rule for scores; Python's rounding, halves to even).

    "13/15" is a score of 13, as it is everywhere with the word "score" or "points"; no score exceeds its maximum.
    """
    reading = _read(answer, rounded=True)
    if isinstance(reading, Verdict):
        return reading
    return judged(round(reading.value) == gold, str(reading))


def _read(answer: str, *, rounded: bool) -> Reading | Verdict:
    text = readable(answer, MAX_SHORT_CHARS)
    if text is None:
        return MALFORMED
    if not text or NEGATION.search(text):
        return NO_ANSWER
    text = _UNIT.sub(" unit ", text)
    whole = _only_number(text, rounded=rounded)
    markers = list(_FINAL.finditer(text))
    if isinstance(whole, Reading) or not markers:
        return whole
    # The working in front of the last marker may hold any number, but not an alternative.
    if _COMPARED.search(text) or ALTERNATIVE.search(text, 0, markers[-1].start()):
        return NO_ANSWER
    return _only_number(text[markers[-1].end() :].strip(), rounded=rounded)


def _only_number(text: str, *, rounded: bool) -> Reading | Verdict:
    """The one number that `text` states, where everything else in it is accounted for."""
    found = [match for match in _AMOUNT.finditer(text) if match["name"] is None]
    if len(found) > _MOST_NUMBERS:
        return NO_ANSWER
    scored = rounded or bool(_SCORE.search(text))
    readings = {_value(match, scored=scored) for match in found}
    if not readings or None in readings:
        return MALFORMED
    between = _AMOUNT.sub(lambda match: " name " if match["name"] else "\0", text)
    counts = set(number_words(between)) - {1}
    if len(readings) > 1 or any(is_bound(text, *match.span()) or _is_dash(match) for match in found):
        return NO_ANSWER
    if ALTERNATIVE.search(between) or _COMPARED.search(between):
        return NO_ANSWER
    if not between.isascii() and any(unicodedata.numeric(character, None) is not None for character in between):
        return MALFORMED
    if _LOOSE.search(between) or COUNTED.search(between) or _FUNCTION.search(between):
        return MALFORMED
    (reading,) = readings
    assert reading is not None
    return reading if counts <= {reading.value} else NO_ANSWER


def _is_dash(match: re.Match[str]) -> bool:
    """Whether the sign of a number may as well part it from the word before: "base excess - 5.2"."""
    if match["sign"] is None or not match.string[match.start() + 1].isspace():
        return False
    before = match.string[max(0, match.start() - 12) : match.start()].rstrip()
    return bool(re.search(r"[\w)%]$", before)) and not re.search(r"\b(?:is|equals|of)$", before, re.IGNORECASE)


def _value(match: re.Match[str], *, scored: bool) -> Reading | None:
    """The number that `match` holds; None where it is none: a division by zero, 4 10/3, 16/15 points, infinity."""
    if match["power"] is not None:
        value = float(f"1e{match['power'].replace(' ', '')}")
    else:
        power = (match["e"] or match["ten"] or "0").replace(" ", "")
        value = float(f"{match['value'].replace(',', '')}e{power}")
    if (limit := match["below"] or match["total"]) is not None:
        most = float(limit.replace(",", ""))
        scored = match["whole"] is None and (
            scored or match["total"] is not None or bool(_MEASURED.match(match.string, match.end()))
        )
        if _PRESSURE.match(match.string, match.end()) and match["below"]:
            return None
        if most == 0 or (scored and value > most) or (match["whole"] is not None and value >= most):
            return None
        value = value if scored else value / most
    if match["whole"] is not None:
        value += float(match["whole"])
    if order := match["order"] or match["magnitude"]:
        value *= 10.0 ** _MAGNITUDES[order.lower()]
    if match["sign"] == "-" or match["minus"]:
        value = -value
    return Reading(value, match["percent"] is not None) if math.isfinite(value) else None
