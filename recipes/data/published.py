"""Readers of medical data sets in the formats that their authors publish; each gives Examples and what it left out.

Left out: every data set that a later release will add readers for, and downloading (the files come with licences to
be read by a person first).
"""

from __future__ import annotations

import ast
import csv
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.data.example import Example, ExampleError, example_from_row

Rows = tuple[list[Example], list[str]]


@dataclass(frozen=True)
class Reader:
    """One published format: `read` returns the Examples and, for each row left out, the reason."""

    help: str
    read: Callable[[Path], Rows]


def _json_file(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected the data set as its authors publish it")
    text = path.read_text(encoding="utf-8")
    # Not splitlines(), which would also split at separators that may stand within a JSON text.
    lines = path.suffix == ".jsonl"
    values = []
    for number, part in enumerate(text.split("\n") if lines else [text]):
        if lines and not part.strip():
            continue
        try:
            values.append(json.loads(part))
        except json.JSONDecodeError as error:
            raise ExampleError(f"{path}:{number + error.lineno}: not JSON ({error.msg})") from None
    return values if lines else values[0]


def _field(row: dict[str, Any], name: str, where: str) -> Any:
    if name not in row:
        raise ExampleError(f"{where}: field '{name}' is missing; found {', '.join(sorted(row))}")
    return row[name]


def _medqa(path: Path) -> Rows:
    examples = []
    for number, row in enumerate(_json_file(path), 1):
        where = f"{path}, row {number}"
        options = _field(row, "options", where)
        if isinstance(options, list):
            options = {text[0]: text.split(". ", 1)[1] for text in options}
        answer = row.get("answer_idx") or _field(row, "answer", where)
        if answer not in options:
            answer = next((letter for letter, text in options.items() if text == answer), answer)
        examples.append(
            example_from_row(
                {
                    "id": f"medqa/{number}",
                    "source": "MedQA-US",
                    "task": "choice",
                    "question": _field(row, "question", where),
                    "options": options,
                    "answer": answer,
                    "license": "MIT",
                },
                where,
            )
        )
    return examples, []


def _pubmedqa(path: Path) -> Rows:
    rows = _json_file(path)
    held_out = path.with_name("test_ground_truth.json")
    if not held_out.is_file():
        raise FileNotFoundError(f"{held_out}: missing; it names the official test rows, which must not be trained on")
    test = set(_json_file(held_out))
    options = {"A": "yes", "B": "no", "C": "maybe"}
    letters = {text: letter for letter, text in options.items()}
    examples, skipped = [], []
    for identity, row in rows.items():
        where = f"{path}, row {identity}"
        if identity in test:
            skipped.append("row of the official test split")
            continue
        examples.append(
            example_from_row(
                {
                    "id": f"pubmedqa/{identity}",
                    "source": "PubMedQA",
                    "task": "choice",
                    "question": _field(row, "QUESTION", where),
                    "context": "\n".join(_field(row, "CONTEXTS", where)),
                    "options": options,
                    "answer": letters.get(_field(row, "final_decision", where), row["final_decision"]),
                    "license": "MIT",
                },
                where,
            )
        )
    return examples, skipped


_DATES = {"13", "68"}
_DURATION = "69"
_INTEGERS = {"4", "15", "16", "17", "18", "20", "21", "25", "27", "28", "29", "32", "33", "36", "43", "45", "48", "51"}


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected MedCalc-Bench's CSV")
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8", newline="") as file:
        yield from enumerate(csv.DictReader(file), 2)


def _medcalc(path: Path) -> Rows:
    examples, skipped = [], []
    for number, row in _csv_rows(path):
        where = f"{path}, record {number - 1}"
        identity = _field(row, "Row Number", where)
        made = {
            "id": f"medcalc/{identity}",
            "source": "MedCalc-Bench",
            "question": _field(row, "Question", where),
            "context": _field(row, "Patient Note", where),
            "license": "CC-BY-SA-4.0",
            "meta": {"skill": _field(row, "Calculator Name", where), "calculator": int(row["Calculator ID"])},
        }
        gold = _field(row, "Ground Truth Answer", where)
        calculator = row["Calculator ID"]
        try:
            if calculator in _DATES:
                month, day, year = (int(part) for part in gold.split("/"))
                made |= {"task": "date", "answer": f"{month:02d}/{day:02d}/{year:04d}"}
            elif calculator == _DURATION:
                weeks, days = (int(re.findall(r"\d+", part)[0]) for part in ast.literal_eval(gold))
                made |= {"task": "duration", "answer": {"weeks": weeks, "days": days}}
            elif calculator in _INTEGERS:
                made |= {"task": "number", "answer": float(gold), "rounding": "integer"}
            else:
                low, high = sorted((float(row["Lower Limit"]), float(row["Upper Limit"])))
                made |= {"task": "number", "answer": float(gold), "lower": low, "upper": high}
        except (ValueError, SyntaxError, IndexError):
            skipped.append(f"label of calculator {calculator} cannot be read")
            continue
        examples.append(example_from_row(made, where))
    return examples, skipped


READERS: dict[str, Reader] = {
    "medqa": Reader("MedQA (US), JSON or JSONL with question, options and answer", _medqa),
    "pubmedqa": Reader("PubMedQA PQA-L (ori_pqal.json) without the official test rows", _pubmedqa),
    "medcalc": Reader("MedCalc-Bench CSV", _medcalc),
}
