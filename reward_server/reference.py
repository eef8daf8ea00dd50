"""What the answer side of a question may be: the one validator of rows to train on and of requests to score.

`recipes.data.example` asks it for every row, `reward_server.schema` for every item, so that the server refuses no row
that training takes. Left out: how an answer is read (the verifiers), and what only a text measure needs (the wire).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from reward_server.verifiers.base import MAX_ANSWER_CHARS
from reward_server.verifiers.choice import MAX_OPTIONS
from reward_server.verifiers.date import parse_gold
from reward_server.verifiers.format import FormatIssue, parse
from reward_server.verifiers.overlap import MAX_WORDS
from reward_server.verifiers.plain import is_blank as is_blank  # for rows to train on
from reward_server.verifiers.text import tokens

LETTERS = "ABCDEFGHIJKLMN"[:MAX_OPTIONS]
_MAX_DURATION = 999_999

# The field at fault and what was expected there; None where all is well.
Fault = tuple[str, str] | None


def choice_fault(answer: Any, options: Any) -> Fault:
    """A letter of `options`, which maps at least two letters (A to N) to texts."""
    if not isinstance(options, Mapping) or len(options) < 2 or not all(isinstance(v, str) for v in options.values()):
        return "options", "an object of at least two letters and their texts"
    if not all(isinstance(letter, str) and len(letter) == 1 and letter in LETTERS for letter in options):
        return "options", f"letters from {LETTERS[0]} to {LETTERS[-1]}"
    if not isinstance(answer, str) or answer not in options:
        return "answer", f"one of the letters {', '.join(options)}"
    return None


def number_fault(answer: Any, lower: Any, upper: Any, rounding: Any) -> Fault:
    """A finite number with limits around it, or with `rounding` "integer"."""
    for field, value in (("answer", answer), ("lower", lower), ("upper", upper)):
        if (value is not None or field == "answer") and not is_finite(value):
            return field, "a finite number"
    if rounding not in (None, "integer"):
        return "rounding", '"integer" or nothing'
    if rounding and answer != int(answer):
        return "answer", 'a whole number, since rounding is "integer"'
    if not rounding and (lower is None or upper is None):
        return "lower" if lower is None else "upper", 'a limit (or "rounding": "integer")'
    if lower is not None and upper is not None and lower > upper:
        return "lower", f"a limit not above upper = {upper}"
    return None


def date_fault(answer: Any) -> Fault:
    """A calendar date as MM/DD/YYYY, in ASCII digits."""
    try:
        parse_gold(answer)
    except (TypeError, ValueError):
        return "answer", "a date as MM/DD/YYYY"
    return None


def duration_fault(answer: Any) -> Fault:
    """Whole weeks and days, each of at most six digits, as a duration is read."""
    if (
        not isinstance(answer, Mapping)
        or set(answer) != {"weeks", "days"}
        or not all(type(value) is int and 0 <= value <= _MAX_DURATION for value in answer.values())
    ):
        return "answer", f'an object {{"weeks": number, "days": number}} of whole numbers from 0 to {_MAX_DURATION}'
    return None


def text_fault(answer: Any, aliases: Sequence[Any]) -> Fault:
    """Texts that an answer could equal: with a word in each, and not longer than an answer may be."""
    if not isinstance(aliases, list | tuple):
        return "aliases", "a list of texts"
    for field, value in (("answer", answer), *(("aliases", alias) for alias in aliases)):
        many = "a list of texts, each" if field == "aliases" else "a text"
        if not isinstance(value, str) or not (words := tokens(value)):
            return field, f"{many} with a letter or digit"
        if len(words) > MAX_WORDS or len(value) > MAX_ANSWER_CHARS:
            return field, f"{many} of at most {MAX_WORDS} words and {MAX_ANSWER_CHARS} characters"
    return None


def reference_fault(task: str, reference: Mapping[str, Any]) -> Fault:
    """What is wrong with the answer side of a question of one of the five tasks; fields of other tasks are ignored."""
    answer = reference.get("answer")
    if task == "choice":
        return choice_fault(answer, reference.get("options"))
    if task == "number":
        return number_fault(answer, *(reference.get(name) for name in ("lower", "upper", "rounding")))
    if task == "date":
        return date_fault(answer)
    if task == "duration":
        return duration_fault(answer)
    return text_fault(answer, reference.get("aliases", ()))


def form_fault(response: str) -> FormatIssue | None:
    """Why a response is not of the form that is rewarded, with an answer in it; None when it is."""
    parts = parse(response)
    return parts.issue or (None if parts.answer else "missing_answer")


def is_finite(value: Any) -> bool:
    """Whether this is a number that a double holds, to the last digit; JSON has longer integers."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value) and float(value) == value
    except OverflowError:
        return False
