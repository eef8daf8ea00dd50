"""Readers of medical data sets in the formats that their authors publish; each gives Examples and what it left out.

Left out: every data set that a later release will add readers for, and downloading (the files come with licences to
be read by a person first).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.data.choices import TwoLabelsError, choice_of, is_missing
from recipes.data.errors import UniqueIds
from recipes.data.example import Example, example_from_row
from recipes.data.tables import Row, read_rows


@dataclass(frozen=True)
class LeftOut:
    """A row that is no Example, and why; `where` names file and row."""

    reason: str
    where: str


@dataclass(frozen=True)
class Reader:
    """One published format: `rows` gives, row by row, what a file holds, with ids that begin with a given word.

    It raises ExampleError with file and row for a row that cannot be read, FileNotFoundError for a missing file.
    """

    help: str
    rows: Callable[[Path, str], Iterator[Example | LeftOut]]


def _medqa(path: Path, ids: str) -> Iterator[Example | LeftOut]:
    for row in read_rows(path):
        if isinstance(row.values.get("data"), dict):  # openlifescienceai/medqa
            row = Row(row.where, row.number, row.key, {**row.values, **row.values["data"]})
        try:
            options, answer = choice_of(row)
        except TwoLabelsError:
            yield LeftOut("its letter and its answer's text are two options", row.where)
            continue
        yield example_from_row(
            {
                "id": f"{ids}/{row.number}",
                "source": "MedQA-US",
                "task": "choice",
                "question": row["question" if "question" in row.values or "Question" not in row.values else "Question"],
                "context": _texts(row, "context", row.values.get("context")) or None,
                "options": options,
                "answer": answer,
                "license": "MIT",
            },
            row.where,
        )


def _texts(row: Row, name: str, value: Any) -> str:
    """A text, or a list of texts, a line each; empty for a missing one."""
    parts = value if isinstance(value, list | tuple) else [value]
    parts = ["" if is_missing(part) else part for part in parts]
    if not all(isinstance(part, str) for part in parts):
        raise row.wrong(name, "a text or a list of texts", value)
    return "\n".join(parts)


_YES_NO_MAYBE = {"A": "yes", "B": "no", "C": "maybe"}


def _pubmedqa(path: Path, ids: str) -> Iterator[Example | LeftOut]:
    """The authors' object of rows by PubMed id, or the Hugging Face hub's rows with a `pubid`."""
    rows, seen = read_rows(path, keyed_by="QUESTION"), UniqueIds()
    first = next(rows, None)
    if first is None:
        return
    held_out = path.with_name("test_ground_truth.json")
    if not held_out.is_file():
        raise FileNotFoundError(f"{held_out}: missing; it names the official test rows, which must not be trained on")
    test = {key for row in read_rows(held_out) for key in row.values}
    letters = {text: letter for letter, text in _YES_NO_MAYBE.items()}
    for row in (first, *rows):
        identity = row.key or str(row["pubid"])
        seen.add(identity, path, row.number, row.where)
        if identity in test:
            yield LeftOut("row of the official test split", row.where)
            continue
        context = row["CONTEXTS"] if row.key else row["context"]
        decision = row["final_decision"]
        yield example_from_row(
            {
                "id": f"{ids}/{identity}",
                "source": "PubMedQA",
                "task": "choice",
                "question": row["QUESTION" if row.key else "question"],
                "context": _texts(row, "context", context.get("contexts") if isinstance(context, dict) else context),
                "options": _YES_NO_MAYBE,
                "answer": letters.get(str(decision).strip().casefold(), decision),
                "license": "MIT",
            },
            row.where,
        )


_DATES = {13, 68}
_DURATION = 69
_INTEGERS = {4, 15, 16, 17, 18, 20, 21, 25, 27, 28, 29, 32, 33, 36, 43, 45, 48, 51}
# What people and pandas write where there is no label.
_NO_LABEL = {"", "nan", "n/a", "na", "none", "null", "unknown"}
_DATE = re.compile(r"(?P<m>\d{1,2})/(?P<d>\d{1,2})/(?P<y>\d{4})|(?P<iy>\d{4})-(?P<im>\d\d)-(?P<id>\d\d)(?: 00:00:00)?")
_WEEKS_DAYS = re.compile(r"\D*(\d{1,6}) weeks?\D+(\d{1,6}) days?\W*")


def _medcalc(path: Path, ids: str) -> Iterator[Example | LeftOut]:
    seen = UniqueIds()
    for row in read_rows(path):
        number, calculator = _whole(row, "Row Number"), _whole(row, "Calculator ID")
        seen.add(f"{ids}/{number}", path, row.number, row.where)
        if str(row["Ground Truth Answer"]).strip().casefold() in _NO_LABEL:
            yield LeftOut(f"label of calculator {calculator} cannot be read", row.where)
            continue
        yield example_from_row(
            {
                "id": f"{ids}/{number}",
                "source": "MedCalc-Bench",
                "question": row["Question"],
                "context": row["Patient Note"],
                "license": "CC-BY-SA-4.0",
                "meta": {"skill": row["Calculator Name"], "calculator": calculator},
                **_calculated(row, calculator),
            },
            row.where,
        )


def _calculated(row: Row, calculator: int) -> dict[str, Any]:
    """Task and answer by MedCalc-Bench's rule for the calculator."""
    name = "Ground Truth Answer"
    gold = str(row[name]).strip()
    if calculator in _DATES:
        if not (date := _DATE.fullmatch(gold)):
            raise row.wrong(name, "a date as MM/DD/YYYY", gold)
        year, month, day = (int(date[part] or date[f"i{part}"]) for part in "ymd")
        return {"task": "date", "answer": f"{month:02d}/{day:02d}/{year:04d}"}
    if calculator == _DURATION:
        if not (found := _WEEKS_DAYS.fullmatch(gold)):
            raise row.wrong(name, "weeks and days as ('17 weeks', '6 days')", gold)
        return {"task": "duration", "answer": {"weeks": int(found[1]), "days": int(found[2])}}
    if calculator in _INTEGERS:
        return {"task": "number", "answer": _number(row, name), "rounding": "integer"}
    lower, upper = sorted((_number(row, "Lower Limit"), _number(row, "Upper Limit")))
    return {"task": "number", "answer": _number(row, name), "lower": lower, "upper": upper}


def _number(row: Row, name: str) -> float:
    try:
        # Without the digit groups that float() would take: 1_000.
        return float(str(row[name]).strip().replace("_", "?"))
    except ValueError:
        raise row.wrong(name, "a number with a decimal point and no thousands separators", row[name]) from None


def _whole(row: Row, name: str) -> int:
    """A number that counts something; pandas writes "12.0" where a column has gaps."""
    found = re.fullmatch(r"([0-9]{1,12})(?:\.0+)?", str(row[name]).strip())
    if not found:
        raise row.wrong(name, "a whole number", row[name])
    return int(found[1])


READERS: dict[str, Reader] = {
    "medqa": Reader("MedQA (US), JSON or JSONL with question, options and answer", _medqa),
    "pubmedqa": Reader("PubMedQA PQA-L (ori_pqal.json) without the official test rows", _pubmedqa),
    "medcalc": Reader("MedCalc-Bench CSV", _medcalc),
}
