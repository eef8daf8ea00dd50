"""MedCalc-Bench (Khandekar et al., 2024), v1.0 to v1.2 and Verified: CSV or the hub's parquet, all output types.

`--label-overrides` takes labels from another file, such as the physician-corrected ones of arXiv 2512.19691: CSV with
"Unique ID" or "Row Number", "Calculator Name", "Patient Note", "Ground Truth Answer", "Lower Limit" and "Upper Limit".
A label is replaced and nothing else, so that questions and ids are those of the benchmark; a gestational age in days
becomes weeks and days. Row numbers differ between releases, so calculator and note of a row have to be those that the
override was made for.

Left out: the explanations, and checking a label against a calculation of our own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conversion import command
from recipes.data.choices import is_missing
from recipes.data.errors import ExampleError
from recipes.data.example import Example, example_from_row
from recipes.data.readers.base import NO_LABEL, Ids, LeftOut, Reader, label_of
from recipes.data.sources import Source
from recipes.data.tables import Row, read_rows

_DATES = {13, 68}
_DURATION = 69
_INTEGERS = {4, 15, 16, 17, 18, 20, 21, 25, 27, 28, 29, 32, 33, 36, 43, 45, 48, 51}
# What people and pandas write where there is no label.
_NO_LABEL = {"", "nan", "n/a", "na", "none", "null", "unknown"}
_DATE = re.compile(r"(?P<m>\d{1,2})/(?P<d>\d{1,2})/(?P<y>\d{4})|(?P<iy>\d{4})-(?P<im>\d\d)-(?P<id>\d\d)(?: 00:00:00)?")
_WEEKS_DAYS = re.compile(r"\D*(\d{1,6}) weeks?\D+(\d{1,6}) days?\W*")
_GOLD, _LOWER, _UPPER = "Ground Truth Answer", "Lower Limit", "Upper Limit"


def _rows(
    source: Source, ids: str, *, label_overrides: Path | None = None, overridden_only: bool = False
) -> Iterator[Example | LeftOut]:
    named = Ids(source, ids)
    if overridden_only and not label_overrides:
        raise ExampleError("--overridden-only: which rows those are, --label-overrides FILE tells")
    overrides = _Overrides(label_overrides) if label_overrides else None
    for row in source.rows():
        number, calculator = whole(row, "Row Number"), whole(row, "Calculator ID")
        name = named.of(row, number)
        corrected = overrides.of(row, number) if overrides else None
        if overridden_only and corrected is None:
            yield LeftOut("no override names it", row.where)
            continue
        labelled = corrected or row
        if has_no_label(labelled[_GOLD]):
            yield LeftOut("its corrected label is none" if corrected else NO_LABEL, labelled.where)
            continue
        yield example_from_row(
            {
                "id": name,
                "source": "MedCalc-Bench",
                "question": row["Question"],
                "context": row["Patient Note"],
                "license": "CC-BY-SA-4.0",
                "meta": {
                    "skill": row["Calculator Name"],
                    "calculator": calculator,
                    "subject": label_of(row.values.get("Category")),
                    "category": label_of(row.values.get("Category")),
                    "output": label_of(row.values.get("Output Type")),
                    "label": "corrected" if corrected else None,
                    "split": source.split,
                },
                **_calculated(labelled, calculator),
            },
            row.where,
        )
    if overrides:
        yield from overrides.unused()


class _Overrides:
    """Labels by row number, each for one row."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: dict[int, Row] = {}
        self._used: set[int] = set()
        for row in read_rows(path):
            number = whole(row, "Unique ID" if "Unique ID" in row.values else "Row Number")
            if number in self._rows:
                raise ExampleError(f"{row.where}: row {number} has a label already, from {self._rows[number].where}")
            self._rows[number] = row

    def of(self, row: Row, number: int) -> Row | None:
        """The override of a row of the benchmark. Raises ExampleError where it was made for another row."""
        override = self._rows.get(number)
        if override is None:
            return None
        for name in ("Calculator Name", "Patient Note"):
            if _words(override[name]) != _words(row[name]):
                raise ExampleError(
                    f"{override.where}: field '{name}': is not that of {row.where}; the override is for another release"
                )
        self._used.add(number)
        return override

    def unused(self) -> Iterator[LeftOut]:
        """Overrides without their row. Raises ExampleError where no row was overridden."""
        if not self._used:
            raise ExampleError(f"{self._path}: names no row of the data set; these labels are for another file")
        for number, row in self._rows.items():
            if number not in self._used:
                yield LeftOut("an override whose row is not there", row.where)


def _words(text: Any) -> list[str]:
    return str(text).split()


def has_no_label(gold: Any) -> bool:
    """Whether a label says that there is none."""
    return is_missing(gold) or str(gold).strip().casefold() in _NO_LABEL


def _calculated(row: Row, calculator: int) -> dict[str, Any]:
    """Task and answer by MedCalc-Bench's rule for the calculator."""
    gold = str(row[_GOLD]).strip()
    if calculator in _DATES:
        return {"task": "date", "answer": date_of(row, _GOLD)}
    if calculator == _DURATION:
        if gold.isascii() and gold.isdigit():
            return {"task": "duration", "answer": dict(zip(("weeks", "days"), divmod(int(gold), 7), strict=True))}
        return {"task": "duration", "answer": duration_of(row, _GOLD)}
    if calculator in _INTEGERS:
        return {"task": "number", "answer": number_of(row, _GOLD), "rounding": "integer"}
    lower, upper = sorted((number_of(row, _LOWER), number_of(row, _UPPER)))
    return {"task": "number", "answer": number_of(row, _GOLD), "lower": lower, "upper": upper}


def date_of(row: Row, name: str) -> str:
    """A date as MM/DD/YYYY. Raises ExampleError for what is none."""
    gold = str(row[name]).strip()
    if not (date := _DATE.fullmatch(gold)):
        raise row.wrong(name, "a date as MM/DD/YYYY", gold)
    year, month, day = (int(date[part] or date[f"i{part}"]) for part in "ymd")
    return f"{month:02d}/{day:02d}/{year:04d}"


def duration_of(row: Row, name: str) -> dict[str, int]:
    """Weeks and days. Raises ExampleError for what is none."""
    gold = str(row[name]).strip()
    if not (found := _WEEKS_DAYS.fullmatch(gold)):
        raise row.wrong(name, "weeks and days as ('17 weeks', '6 days')", gold)
    return {"weeks": int(found[1]), "days": int(found[2])}


def number_of(row: Row, name: str) -> float:
    """A number. Raises ExampleError for what is none."""
    try:
        # Without the digit groups that float() would take: 1_000.
        return float(str(row[name]).strip().replace("_", "?"))
    except ValueError:
        raise row.wrong(name, "a number with a decimal point and no thousands separators", row[name]) from None


def whole(row: Row, name: str) -> int:
    """A number that counts something; pandas writes "12.0" where a column has gaps."""
    found = re.fullmatch(r"([0-9]{1,12})(?:\.0+)?", str(row[name]).strip())
    if not found:
        raise row.wrong(name, "a whole number", row[name])
    return int(found[1])


READER = Reader(
    "medcalc",
    "MedCalc-Bench v1.0 to v1.2 and Verified, CSV or parquet",
    _rows,
    {
        "--label-overrides": {
            "type": command.path_argument,
            "metavar": "FILE",
            "help": "corrected labels by row number; rows that it does not name keep theirs",
        },
        "--overridden-only": {
            "action": "store_true",
            "help": "leave out the rows that it does not name",
        },
    },
)
