"""Working that can be followed: sums, products and powers of the numbers in an answer, and the parts of a score.

Followed only to refuse a result that its working contradicts and to account for the digits of working behind a result.

Left out: functions, names and conversions of units; working with any of them says neither.
"""

from __future__ import annotations

import math
import re

_MOST_CHARS = 200
_TOKEN = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?|\.[0-9]+|[-+*/^()])")
_UNIT = re.compile(
    r"(?<=[0-9)])\s?(?:(?!x\b)[A-Za-z\u03bc\u00b0]+|%)(?:/[A-Za-z\u03bc]+)*(?:\s?\^\s?[23](?=\s*[)/*]))?"
)
_LABEL = re.compile(r"(?<=[0-9])\s?\([^()0-9+*/^=]*\)")
_NAMED_PART = re.compile(r"[^\W\d_][^()0-9+*/^=]{0,40}\(([0-9.]{1,5})\)")
_SUM_OF_PARTS = re.compile(rf"(?:{_NAMED_PART.pattern}\s?)(?:\+\s?{_NAMED_PART.pattern}\s?)+")
_TIMES = re.compile(r"\bx\b|\btimes\b|(?<=[0-9)])\s?x\s?(?=[0-9(])")


class _UnclearError(Exception):
    """The text is no calculation of plain numbers."""


def is_sum_of_parts(text: str) -> bool:
    """Whether `text` adds named parts and nothing else: "Age (1) + HTN (1)"."""
    return len(text) <= _MOST_CHARS and _SUM_OF_PARTS.fullmatch(text) is not None


def evaluate(text: str) -> float | None:
    """The value of a calculation such as "70 kg / (1.75 m)^2"; None where the text is none, NaN for one of no value."""
    if len(text) > _MOST_CHARS:
        return None
    if is_sum_of_parts(text):
        text = _NAMED_PART.sub(r"\1", text)
    text = text.replace("\u00f7", "/").replace("**", "^").replace("[", "(").replace("]", ")")
    text = _UNIT.sub("", _TIMES.sub("*", _LABEL.sub("", re.sub(r"(?<=[0-9]),(?=[0-9]{3})", "", text))))
    tokens = _TOKEN.findall(text)
    if _TOKEN.sub("", text).strip() or tokens.count("(") > 20:
        return None
    tokens = [*reversed(tokens)]
    try:
        value = _sum(tokens)
    except _UnclearError:
        return None
    except ArithmeticError:
        return math.nan
    return None if tokens else value


def contradicts(text: str, values: set[float]) -> bool:
    """Whether the calculation `text` can be followed and gives none of `values`: 5 % off, with powers 25 %.

    Models round on the way, and powers magnify it.
    """
    value = evaluate(text)
    tolerance = 0.25 if "^" in text or "**" in text else 0.05
    return value is not None and not any(
        math.isclose(value, other, rel_tol=tolerance, abs_tol=0.05) for other in values
    )


def _sum(tokens: list[str]) -> float:
    value = _product(tokens)
    while tokens and tokens[-1] in "+-":
        value = value + _product(tokens) if tokens.pop() == "+" else value - _product(tokens)
    return value


def _product(tokens: list[str]) -> float:
    value = _power(tokens)
    while tokens and tokens[-1] in "*/(":
        operator = "*" if tokens[-1] == "(" else tokens.pop()
        value = value * _power(tokens) if operator == "*" else value / _power(tokens)
    return value


def _power(tokens: list[str]) -> float:
    if tokens and tokens[-1] in "+-":
        return _power(tokens) if tokens.pop() == "+" else -_power(tokens)
    value = _atom(tokens)
    if tokens and tokens[-1] == "^":
        tokens.pop()
        raised = value ** _power(tokens)
        if not isinstance(raised, float):
            raise _UnclearError
        value = raised
    return value


def _atom(tokens: list[str]) -> float:
    if not tokens:
        raise _UnclearError
    token = tokens.pop()
    if token == "(":
        value = _sum(tokens)
        if not tokens or tokens.pop() != ")":
            raise _UnclearError
        return value
    if token in "+-*/^)":
        raise _UnclearError
    return float(token)


# Ages and limits within the name of a criterion ("age 65-74", ">=75 years").
_CRITERION = re.compile(
    r"(?:\bage[ds]?\s?)?(?:(?<!-)[<>]=?\s?[0-9]{1,4}(?:\.[0-9])?|(?<![0-9.+-])[0-9]{2}-[0-9]{2}(?![0-9.-]))"
    r"(?:\s?(?:years?|yrs?|y|mg/dl|mmhg|bpm|%))?(?![\w.])",
    re.IGNORECASE,
)
_TOTAL = r"(?P<total>-?[0-9]{1,3}(?:\.[05])?)(?:\s?(?:points?|pts?)\b)?"
_TOTAL_FIRST = re.compile(rf"(?<![\w.+-]){_TOTAL}\s?(?=[(:=])", re.IGNORECASE)
_TOTAL_LAST = re.compile(
    rf"(?:=|->|\btotal(?: score)?(?:\s?[:=]|\sis|\sof)|\bscore\s?[:=])\s?{_TOTAL}\s?\.?$", re.IGNORECASE
)
_PART = re.compile(r"[+-]?\s?[0-9]{1,2}(?:\.5)?(?:\s?(?:points?|pts?)\b)?", re.IGNORECASE)
_NAMED = re.compile(r"[+]|[^\W\d_]{2}")


def score_of_parts(text: str) -> tuple[float, str] | None:
    """The total of a score and the words beside it, where the text states two or more parts and they add up to it.

    "3 points: hypertension (1), diabetes (1), female (1)", "Age >=75 (2) + HTN (1) = 3". Parts are named or added.
    """
    if len(text) > 5 * _MOST_CHARS:
        return None
    text = _CRITERION.sub(" limit ", text)
    first, last = _TOTAL_FIRST.search(text), _TOTAL_LAST.search(text)
    before = text[: first.start()] if first else ""
    score = None
    if first and not re.search(r"[0-9(]", before):
        score = _score(before, first["total"], text[first.end() :])
    if score is not None:
        return score
    return _score("", last["total"], text[: last.start()]) if last else None


def _score(before: str, total: str, stated: str) -> tuple[float, str] | None:
    parts, gaps = _PART.findall(stated), _PART.split(stated)
    values = [float(re.sub(r"[^0-9.-]", "", part)) for part in parts]
    words = "".join(gaps)
    if len(values) < 2 or abs(sum(values) - float(total)) > 1e-9 or re.search(r"[0-9*/^<>%~\u2248]|[^\W_]-$", words):
        return None
    if not all(
        added or _NAMED.search(gap) for gap, added in zip(gaps[1:-1], ("+" in p for p in parts[1:]), strict=True)
    ):
        return None
    return float(total), before + words
