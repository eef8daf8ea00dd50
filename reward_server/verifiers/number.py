"""Numeric answers: plain, 1,234.5, 1.2e3, 1.2 x 10^3, 1.5 million, 25%, 3/4, 1 1/2, "3 out of 5", with units.

The whole answer is read: every digit, sign and operator in it belongs to one number, to its unit or to the name of what
was asked for, or there is no number. What stands before the last "=", "->", "is" or "equals" is the working, and the
number behind it the answer. The text is parsed, and plain arithmetic in it followed (`arithmetic`), but never run as
code, as MedCalc-Bench's official script does. Words and remarks beside the number are for `beside` and `remarks`.

Left out: unit conversion, because a reference carries no unit; decimal commas and spaces between thousands, which
cannot be told from other commas and other numbers; numbers in words.
"""

from __future__ import annotations

import dataclasses
import math
import re

from reward_server.verifiers.amounts import HIDDEN, OPERATION, SAME_AGAIN, foreign_numeral, is_alone
from reward_server.verifiers.arithmetic import contradicts, evaluate, is_sum_of_parts, score_of_parts
from reward_server.verifiers.base import MALFORMED, MAX_SHORT_CHARS, NO_ANSWER, Verdict, judged
from reward_server.verifiers.beside import CHANGING, changes, denies
from reward_server.verifiers.carriers import ALTERNATIVE, COUNTED, NEGATION, is_bound, number_words
from reward_server.verifiers.plain import readable
from reward_server.verifiers.remarks import without_remarks

VERSION = "4"

# In what is said, not in the working before it.
_MOST_NUMBERS = 50
_MOST_STEPS = 12
_DIGITS = r"(?:[1-9][0-9]{0,2}(?:,[0-9]{3})++(?:\.[0-9]++)?|[0-9]++(?:\.[0-9]++)?|\.[0-9]++)"
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
    rf"|\s(?:out\s)?of\s(?:a (?:possible|maximum|total)\s(?:of\s)?)?(?P<total>{_DIGITS}){_END}"
    rf"|\s\((?:(?:out\s)?of|max(?:imum)?\.?:?)\s(?P<most>{_DIGITS})\s?\))?"
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
# A dose's times, and a power of ten.
_NO_NAME = re.compile(r"q[0-9]+[hd]|e[0-9]+", re.IGNORECASE)
_SMALL_NAME = re.compile(
    r"(?:[a-z]{0,3}c?o2|hco3|h2o|cha2ds2|hba1c|a1c|fev1|f?t[34]|b12|c?m[23]|kg/m2|fib-?4|phq|gad|curb|apache|news|ca1|il-?\d"
    r"|name|step|eq|sofa|p50|sars|covid|grade|stage|class|type|ckd|g\d|[a-z]+_\d)"
)
# What is asked for may count something itself: "10-year risk", "24-hour urine".
_SPAN = (
    r"(?<![\w.,/+-])(?<!\bto\s)(?<!\bor\s)(?<!\band\s)"
    r"(?P<span>[0-9]{1,3}-(?:year|month|week|day|hour|minute|item|point|lead)s?(?=\s[^\W\d_]{2}))"
)
_AMOUNT = re.compile(rf"{_NAME}|{_SPAN}|{_NUMBER}", re.IGNORECASE)
_ANSWERED = re.compile(r"\b(?:final |correct )?answer(?:\s(?:is|would be)|\s?[:=])\s?:?\s?", re.IGNORECASE)
_FINAL = re.compile(r"={1,2}|->|\u2248|\b(?:is|equals)\b", re.IGNORECASE)
_COMPARED = re.compile(r"[!<>]=|=[<>]")
# Units that hold digits of their own (body surface, raised units, water, charges), and remarks about decimals.
_RAISED = r"(?:[mcdk\u03bc]?m|s|sec|min|h|hr|d|day|[cdm\u03bc]?l|[mk\u03bc]?g|m?mol|m?eq|dyne?|wk|yr|year)"
_UNIT = re.compile(
    r"(?:/|\bper)\s?\(?1\.73\s?m\s?(?:\^|\*\*)?2?\)?(?![\w^]|[.,][0-9])"
    r"|(?:/|\bper)\s?(?:24\s?-?(?:hours?|hrs?|h)|100\s?(?:mL|cc|g))\b|/\s?1\.73 sq\.? m\b"
    r"|(?<=[A-Za-z^0-9*])\s?\*?\s?\(1\.73\s?m\^?2\)\^-1"
    r"|(?<![A-Za-z])(?:(?-i:[cdkm]?m)|(?<=/)M)\s?(?:\^|\*\*)?[23](?![\w^]|[.,/]?[0-9])"
    r"|(?<![^\W\d_])(?-i:Ca|Mg|Fe|Cu|Zn)\^?2\+(?=[\s)\]:]|$)"
    r"|\b[cm]m\s?H_?2O\b|(?<=cm)5\b"
    rf"|(?<![^\W\d_]){_RAISED}\^[+-]?[1-5](?![\w^]|[.,][0-9])|(?<=[A-Za-z])\*(?=[A-Za-z])"
    r"|\(?\b(?:rounded (?:(?:up |down )?to )?|(?<=\()to |(?<=\())(?:the nearest (?:whole number|integer"
    r"|tenth|hundredth)"
    r"|(?:[0-6]|one|two|three|four) (?:decimals?(?: places?)?|d\.?p\.?|places"
    r"|s\.?f\.?|significant (?:figures|digits)|sig\.? figs?))"
    r"(?![^\W_])\)?",
    re.IGNORECASE,
)
_MEASURED = re.compile(r"\s?(?:points?|pts?)\b", re.IGNORECASE)
_PRESSURE = re.compile(r"\s?mm\s?Hg\b", re.IGNORECASE)
_SCORE = re.compile(r"\bscore\b", re.IGNORECASE)
# Words that may be glued to a number. "5M" may be molar or millions, "5x" a factor, "5i" imaginary, "5th" a place.
_GLUED = (
    r"(?:[kmcd\u03bcunp]?[gm]|mc[gl]|[mdc\u03bcunf]?[lL]|[mnpu\u03bc]?mol|[mnpu\u03bc]M|m?[eE][qQ]|m?osm"
    r"|Osm|m?I?U|iu|m?mHg|cmH|k?Pa"
    r"|[kKM](?=/)|m?s|ms|msec|secs?|mins?|h|hrs?|d|days?|wks?|w|weeks?|m?V|mos?|y|yo|yrs?|years?|months?"
    r"|hours?|minutes?"
    r"|k?[cC]al|k?J|[kM]?Hz|[CFNVW]|bpm|pts?|points?|unit|percent|pct|kgs|lbs?|in|ft|cells|mmhg|meq|dyn"
    r"|feet|inches|grams?)"
)
# What no reading accounts for, where \x00 stands for a number: symbols, slashes that part no units, dashes and letters
# that touch the number, signs apart from it, single letters that may be magnitudes.
_LOOSE = re.compile(
    r"[^\w\s.,;:!?()\[\]\"'\u2014$\u20ac\u00a3\u00b0\u03bc\u03a9/~\u2248=\x00>-]|[\d_]"
    r"|/(?!\s?[(]?[^\W\d_])|[~\u2248](?!\s?\x00)"
    rf"|(?<!-)>|\x00(?!{_GLUED}(?![^\W\d_]))[^\W\d_]|\x00\s(?![glLmshdywUJNVWCF](?!\w))[^\W\d_](?![\w'.]|\s?/)"
    r"|[^\W_]\x00|\x00-(?![^\W\d_])|-\s?$|\x00{2}|-\s?[(\[\"'$\u20ac\u00a3~\u2248]*\s?\x00|[(\[]\s?-+\s?[)\]]"
    r"|(?:^|[\s(\[])-(?=[^\W\d_])|(?:\b(?:is|of)|[=:])\s?-(?!>)"
)
# What makes working of the text before it, and what says so of amounts that were measured.
_CALCULATED = re.compile(r"={1,2}|->|\u2248")
_OPERATOR = re.compile(r"[+*/^\u00f7-]|\b(?:x|times|plus|minus|divided|multiplied|over)\b", re.IGNORECASE)
_GIVEN = re.compile(r"\s*(?:with|for|given|using|from|based on|at)\b", re.IGNORECASE)
_SO = re.compile(r"[,;]?\s(?:so|thus|hence|therefore|then)\b,?\s", re.IGNORECASE)
_CLAIM = re.compile(r"\b(?:is|are|equals|scores?|points?|risk)\b|[%:]", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|[;\n]")
_RANGE = re.compile(r"([0-9.]+)\s?(-|to)\s?([0-9.]*[0-9])", re.IGNORECASE)
_WORD = re.compile(r"[^\W\d_]")
# Working behind its result.
_IN_BRACKETS = re.compile(r"\(\s?=?\s?((?:[^()\n]|\([^()\n]{0,40}\)){3,120})\)[\s.]*$")
_BEHIND = re.compile(r"(?:\s?=|,? (?:calculated|computed|obtained) as|,? from)\s([-0-9.(][^=\n]{2,120}?)\.?$")
# "The BMI is calculated as 70 / 1.75^2": no result, where a sign of equality follows.
_LED = re.compile(r"^[^0-9]*?\b(?:is|equals)\s(?:(?:calculated|computed|given) (?:as|by)\s)?(?=[-0-9(])", re.IGNORECASE)
_POWER_OF_NAME = re.compile(r"(?<=[^\W\d_]{3})\s?\^[23](?![\w.])")


# A number with its unit and nothing else, which most answers are, read without a look at anything else.
_PLAIN = re.compile(
    r"(?:= ?)?(-?(?:[0-9]{1,12}|[1-9][0-9]{0,2}(?:,[0-9]{3}){1,3})(?:\.[0-9]{1,12})?)"
    r"(?: ?(%)| ?(?:points?|kg/m(?:\^2|2|\u00b2)|mg/d[Ll]|g/d[Ll]|[mn\u00b5]mol/L|mEq/L"
    r"|m[Ll]/min(?:/1\.73 ?m(?:\^2|2|\u00b2))?"
    r"|mm ?Hg|mg|m[Ll]|kg|ms|mOsm/kg|mL/hr?))?\.?"
)


@dataclasses.dataclass(frozen=True)
class Reading:
    """A number read from text; `percent` says that a percent sign followed it, and `value` is what stood before."""

    value: float
    percent: bool = False

    @property
    def share(self) -> float:
        """The value itself, one per cent being 0.01."""
        return self.value / 100 if self.percent else self.value

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
    candidates = {reading.value, reading.share}
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
    if plain := _PLAIN.fullmatch(answer):
        return Reading(float(plain[1].replace(",", "")), plain[2] is not None)
    text = readable(answer, MAX_SHORT_CHARS)
    if text is None:
        return MALFORMED
    if not text or HIDDEN.search(answer):
        return NO_ANSWER
    text = without_remarks(_UNIT.sub(" unit ", text).replace("\n=", " ="))
    if NEGATION.search(text):
        return NO_ANSWER
    whole = _only_number(text, rounded=rounded)
    if isinstance(whole, Reading):
        return whole
    if denies(_AMOUNT.sub("\0", text)):
        return NO_ANSWER
    explained = _with_parts(text, rounded=rounded) or _with_working(text, rounded=rounded)
    if explained is not None:
        return explained
    markers = list(_FINAL.finditer(text))
    answered = _answered(text, rounded=rounded)
    if answered is not None or not markers:
        return answered or whole
    if len(markers) > _MOST_STEPS:
        return NO_ANSWER
    end = markers[-1].end()
    last = _only_number(text[end:].strip(), rounded=rounded)
    if isinstance(last, Verdict):
        return last
    # "At least = 5.2"
    if is_bound(text, end, end):
        return NO_ANSWER
    return last if _is_working(text[: markers[-1].start()], markers[-1][0], last) else NO_ANSWER


def _with_parts(text: str, *, rounded: bool) -> Reading | None:
    """A score with the parts that add up to it."""
    if not rounded and _SCORE.search(text) is None:
        return None
    found = score_of_parts(_without_names(text))
    if found is None:
        return None
    total, words = found
    if ALTERNATIVE.search(words) or COUNTED.search(words) or OPERATION.search(words) or denies(words, CHANGING):
        return None
    return Reading(total)


def _with_working(text: str, *, rounded: bool) -> Reading | None:
    """A number with the calculation that gives it behind: "22.86 (70 / 1.75^2)"."""
    found = _IN_BRACKETS.search(text) or _BEHIND.search(text)
    if found is None or not _OPERATOR.search(found[1]) or (value := evaluate(found[1])) is None:
        return None
    rest = _only_number(text[: found.start()], rounded=rounded)
    same = isinstance(rest, Reading) and math.isclose(value, rest.value, rel_tol=0.01, abs_tol=0.005)
    return rest if same and isinstance(rest, Reading) else None


def _answered(text: str, *, rounded: bool) -> Reading | None:
    """The number behind "the answer is", whatever stands in front; None where there is none, or another one too."""
    stated = list(_ANSWERED.finditer(text))[:_MOST_STEPS]
    ends = [*(found.start() for found in stated[1:]), len(text)]
    readings = {
        _only_number(text[found.end() : end].strip(), rounded=rounded) for found, end in zip(stated, ends, strict=False)
    }
    only = readings.pop() if len(readings) == 1 else None
    return only if isinstance(only, Reading) else None


def _is_working(text: str, marker: str, result: Reading) -> bool:
    """Whether `text`, which stands in front of `marker` and `result`, leads to the result and states no other.

    Certain are a calculation ("BMI = 70 / 1.75^2 ="), the same number once more ("22.86 ="), and measured inputs in
    front of what they give ("70 kg and 1.75 m, so the BMI is", "With 70 kg and 1.75 m, the BMI is").
    """
    text = _without_names(text)
    ends = [end.end() for end in _SENTENCE_END.finditer(text)]
    if ends and re.search(r"[0-9]", text[: ends[-1]]):
        return False
    opened = text.rfind("(") if text.count("(") > text.count(")") else 0
    if re.search(r"[0-9]", text[:opened]) or ALTERNATIVE.search(text) or _COMPARED.search(text + marker):
        return False
    text = _LED.sub("", _POWER_OF_NAME.sub("", text)) if _CALCULATED.match(marker) else text
    *before, step = _CALCULATED.split(text)
    if marker.lower() in ("is", "equals") and before:
        return False
    return all(_is_step(part, result) for part in before) and (_is_step(step, result) or _is_input(step))


def _without_names(text: str) -> str:
    return _AMOUNT.sub(lambda found: "name" if found["name"] or found["span"] else found[0], text)


def _is_step(text: str, result: Reading) -> bool:
    """Whether `text` is a name, a calculation or the number of `result` once more."""
    digits = [found.start() for found in re.finditer(r"[0-9]", text)]
    if not digits:
        return True
    if _FINAL.search(text):
        return False
    same = _only_number(text.strip(), rounded=False)
    if isinstance(same, Reading):
        return math.isclose(same.share, result.share) or (_is_rounded(same, result) and _WORD.search(text) is None)
    inner = text[digits[0] : digits[-1] + 1]
    if _OPERATOR.search(inner) is None or re.search(r",(?![0-9]{3})", inner):
        return False
    ends = _RANGE.fullmatch(inner)
    if ends is not None:
        return ends[2] == "-" and math.isclose(float(ends[1]) - float(ends[3]), result.value, rel_tol=0.01)
    calculation = text.rpartition(":")[2].strip()
    followed = calculation[:1] in "-+(.[" or calculation[:1].isdecimal() or is_sum_of_parts(calculation)
    return not followed or not contradicts(calculation, {result.value, result.share, 100 * result.value})


def _is_rounded(exact: Reading, result: Reading) -> bool:
    """Whether `result` is `exact` with fewer digits: 22.857 and 22.9."""
    return any(round(exact.value, digits) == result.value for digits in range(5))


def _is_input(text: str) -> bool:
    """Whether `text` holds two or more measured inputs, says that something follows from them, and claims nothing."""
    inputs = [found for found in _AMOUNT.finditer(text) if found["name"] is None]
    if len(inputs) < 2 or _RANGE.search(text) or _CLAIM.search(text[: inputs[-1].end()]):
        return False
    return bool(_GIVEN.match(text) or _SO.search(text, inputs[-1].end()))


def _only_number(text: str, *, rounded: bool) -> Reading | Verdict:
    """The one number that `text` states, where everything else in it is accounted for."""
    found = [match for match in _AMOUNT.finditer(text) if match["name"] is None and match["span"] is None]
    if len(found) > _MOST_NUMBERS:
        return NO_ANSWER
    scored = rounded or bool(_SCORE.search(text))
    readings = {_value(match, scored=scored) for match in found}
    if not readings or None in readings:
        return MALFORMED
    readings = _same(readings)
    if len(readings) > 1 or any(is_bound(text, *match.span()) or _is_dash(match) for match in found):
        return NO_ANSWER
    if any(match["name"] and not _is_name(match["name"]) for match in _AMOUNT.finditer(text)):
        return MALFORMED
    between = _AMOUNT.sub(lambda match: " name " if match["name"] or match["span"] else "\0", text)
    if len(found) > 1:
        between = SAME_AGAIN.sub("\0", between)
    (reading,) = readings
    assert reading is not None
    if is_alone(between):
        return reading
    if ALTERNATIVE.search(between) or _COMPARED.search(between):
        return NO_ANSWER
    if changes(between):
        return NO_ANSWER
    if foreign_numeral(between) or _LOOSE.search(between) or COUNTED.search(between) or OPERATION.search(between):
        return MALFORMED
    return reading if set(number_words(between)) - {1} <= {reading.value} else NO_ANSWER


def _is_name(text: str) -> bool:
    """Whether letters with a digit are a name: with a capital, or one of those that are written without."""
    if _NO_NAME.fullmatch(text):
        return False
    return not text.islower() or _SMALL_NAME.match(text) is not None


def _same(readings: set[Reading | None]) -> set[Reading | None]:
    """One reading for a share and the per cents that say the same ("0.052 (5.2%)"); else `readings` as they are."""
    shares = [reading.share for reading in readings if reading]
    percents = {reading for reading in readings if reading and reading.percent}
    same = all(math.isclose(share, shares[0], rel_tol=1e-9) for share in shares)
    return {*percents} if len(readings) == 2 and len(percents) == 1 and same else readings


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
    if (limit := match["below"] or match["total"] or match["most"]) is not None:
        most = float(limit.replace(",", ""))
        scored = match["whole"] is None and (
            scored or match["below"] is None or bool(_MEASURED.match(match.string, match.end()))
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
