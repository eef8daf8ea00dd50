"""Readers of MedQA, PubMedQA and MedCalc-Bench in every form that they are found in: small files written here."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from recipes.data.errors import ExampleError
from recipes.data.example import Example
from recipes.data.readers import READERS, LeftOut
from recipes.data.sources import FileSource


def _json(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path


def _read(kind: str, path: Path, **options: Any) -> tuple[list[Example], list[str]]:
    """The Examples of a file, and for each row left out the reason."""
    rows = list(READERS[kind].rows(FileSource(path), kind, **options))
    return [r for r in rows if isinstance(r, Example)], [r.reason for r in rows if isinstance(r, LeftOut)]


MEDQA = {"question": "Which?", "options": {"A": "one", "B": "two"}, "answer": "two", "answer_idx": "B"}


@pytest.mark.parametrize(
    "row",
    [
        MEDQA,
        {**MEDQA, "answer": "B", "answer_idx": None},
        {k: v for k, v in MEDQA.items() if k != "answer_idx"},
        {"question": "Which?", "options": ["A. one", "B. two"], "answer": "B"},
        {"question": "Which?", "options": ["A. one", "B. two"], "answer": "two"},
    ],
    ids=["index", "letter", "text", "list and letter", "list and text"],
)
def test_medqa_in_its_several_forms(row: dict[str, Any], tmp_path: Path) -> None:
    [example], skipped = _read("medqa", _json(tmp_path / "rows.json", [row]))
    assert (example.answer, example.options, skipped) == ("B", {"A": "one", "B": "two"}, [])


def test_medqa_as_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{json.dumps(MEDQA)}\n\n{json.dumps(MEDQA)}\n")
    examples, _ = _read("medqa", path)
    assert [e.id for e in examples] == ["medqa/1", "medqa/2"]


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({k: v for k, v in MEDQA.items() if k != "question"}, "question"),
        ({k: v for k, v in MEDQA.items() if k != "options"}, "options"),
        ({**MEDQA, "answer_idx": "F"}, "answer"),
    ],
)
def test_a_medqa_row_without_its_parts_is_named(row: dict[str, Any], field: str, tmp_path: Path) -> None:
    path = _json(tmp_path / "rows.json", [MEDQA, row])
    with pytest.raises(ExampleError, match=f"row 2: field '{field}'"):
        _read("medqa", path)


def test_pubmedqa_leaves_the_official_test_rows_out(tmp_path: Path) -> None:
    row = {"QUESTION": "Does it?", "CONTEXTS": ["a", "b"], "final_decision": "maybe"}
    path = _json(tmp_path / "ori_pqal.json", {"1": row, "2": {**row, "final_decision": "no"}})
    with pytest.raises(FileNotFoundError, match=r"test_ground_truth\.json: missing; it names the official test rows"):
        _read("pubmedqa", path)
    _json(tmp_path / "test_ground_truth.json", {"2": "no"})
    [example], skipped = _read("pubmedqa", path)
    assert (example.id, example.answer, example.context) == ("pubmedqa/1", "C", "a\nb")
    assert skipped == ["row of the official test split"]


@pytest.mark.parametrize("content", ["", "pmid,decision\n2,no\n", '{"name": "another file"}'])
def test_pubmedqa_is_not_read_by_a_file_that_names_no_test_row(content: str, tmp_path: Path) -> None:
    """Else its test half would be training data, and nothing would say so."""
    row = {"pubid": 1.0, "question": "Does it?", "context": "a", "final_decision": "maybe"}
    path = _json(tmp_path / "rows.json", [row, {**row, "pubid": 2.0}])
    truth = tmp_path / "truth.json"
    truth.write_text(content)
    with pytest.raises(ExampleError, match=r"truth\.json: names no row of .*rows\.json, .* by --part all"):
        _read("pubmedqa", path, test_ids=truth)
    assert len(_read("pubmedqa", path, part="all", test_ids=truth)[0]) == 2
    _json(truth, {"2": "no"})
    assert [e.id for e in _read("pubmedqa", path, test_ids=truth)[0]] == ["pubmedqa/1"]


def test_medcalc_kinds_of_answers(tmp_path: Path) -> None:
    """Dates, durations, rounded scores and decimals each have their own rule; a label that is none is counted."""
    columns = ["Row Number", "Calculator ID", "Calculator Name", "Patient Note", "Question", "Ground Truth Answer"]
    columns += ["Lower Limit", "Upper Limit"]
    rows = [
        [1, 13, "due date", "note", "?", "3/7/2024", "", ""],
        [2, 69, "gestational age", "note", "?", "('17 weeks', '6 days')", "", ""],
        [3, 4, "CHA2DS2-VASc", "note", "?", "3", "3", "3"],
        [4, 3, "CKD-EPI", "note", "?", "-2.5", "-2.375", "-2.625"],
        [5, 69, "gestational age", "note", "?", "unknown", "", ""],
    ]
    path = tmp_path / "medcalc.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    examples, skipped = _read("medcalc", path)
    assert [e.reference() for e in examples] == [
        {"answer": "03/07/2024"},
        {"answer": {"weeks": 17, "days": 6}},
        {"answer": 3.0, "rounding": "integer"},
        {"answer": -2.5, "lower": -2.625, "upper": -2.375},
    ]
    assert skipped == ["has no label"]


COLUMNS = ("Row Number", "Calculator ID", "Calculator Name", "Patient Note", "Question", "Ground Truth Answer")
DECIMAL = (*COLUMNS, "Lower Limit", "Upper Limit")
SOUND = ("1", "3", "CKD-EPI", "note", "?", "88.5", "84", "93")


def _csv(path: Path, *rows: tuple[str, ...]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([DECIMAL, *rows])
    return path


def _changed(**cells: str) -> tuple[str, ...]:
    names = {"number": 0, "calculator": 1, "question": 4, "gold": 5, "lower": 6, "upper": 7}
    row = list(SOUND)
    for name, cell in cells.items():
        row[names[name]] = cell
    return tuple(row)


@pytest.mark.parametrize(
    ("cells", "reference"),
    [
        ({"number": "1.0", "calculator": "3.0"}, {"answer": 88.5, "lower": 84, "upper": 93}),
        ({"lower": "93", "upper": "84"}, {"answer": 88.5, "lower": 84, "upper": 93}),
        ({"calculator": "4.0", "gold": "3.0"}, {"answer": 3, "rounding": "integer"}),
        ({"calculator": "13", "gold": "2024-02-09"}, {"answer": "02/09/2024"}),
        ({"calculator": "13", "gold": "2024-02-09 00:00:00"}, {"answer": "02/09/2024"}),
        ({"calculator": "68", "gold": "\u0662/\u0669/\u0662\u0660\u0662\u0664"}, {"answer": "02/09/2024"}),
        ({"calculator": "69", "gold": "17 weeks, 6 days"}, {"answer": {"weeks": 17, "days": 6}}),
        ({"calculator": "69", "gold": "('1 week', '1 day')"}, {"answer": {"weeks": 1, "days": 1}}),
    ],
)
def test_medcalc_as_pandas_and_excel_write_it(cells: dict[str, str], reference: dict[str, Any], tmp_path: Path) -> None:
    [example], skipped = _read("medcalc", _csv(tmp_path / "rows.csv", _changed(**cells)))
    assert (example.id, example.reference(), skipped) == ("medcalc/1", reference, [])


@pytest.mark.parametrize("gold", ["", "nan", "NaN", "N/A", "None", " "])
def test_medcalc_rows_without_a_label_are_left_out(gold: str, tmp_path: Path) -> None:
    path = _csv(tmp_path / "rows.csv", SOUND, _changed(number="2", gold=gold))
    assert _read("medcalc", path)[1] == ["has no label"]


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ({"calculator": ""}, "'Calculator ID': expected a whole number, found ''"),
        ({"calculator": "nan"}, "'Calculator ID': expected a whole number"),
        ({"number": ""}, "'Row Number': expected a whole number"),
        ({"number": "1"}, "'id': 'medcalc/1' occurs twice, first in .*row 1"),
        ({"gold": "88,5"}, "'Ground Truth Answer': expected a number with a decimal point.*found '88,5'"),
        ({"gold": "1_0"}, "'Ground Truth Answer': expected a number"),
        ({"gold": "inf"}, "'answer': expected a finite number"),
        ({"gold": "200"}, "'answer': expected a number from lower = 84.0 to upper = 93.0, found 200.0"),
        ({"lower": ""}, "'Lower Limit': expected a number"),
        ({"upper": "nan"}, "'upper': expected a finite number"),
        ({"calculator": "4", "gold": "3.5"}, "'answer': expected a whole number"),
        (
            {"calculator": "13", "gold": "16.06.2012"},
            "'Ground Truth Answer': expected a date as MM/DD/YYYY, found '16.06.2012'",
        ),
        ({"calculator": "13", "gold": "06/16/12"}, "'Ground Truth Answer': expected a date as MM/DD/YYYY"),
        ({"calculator": "13", "gold": "16/06/2012"}, "'answer': expected a date as MM/DD/YYYY"),
        ({"calculator": "69", "gold": "5 months"}, "'Ground Truth Answer': expected weeks and days"),
        ({"question": ""}, "'question': expected a text that is not empty"),
        ({"question": "5\0"}, "'question': expected text without NUL"),
    ],
)
def test_a_medcalc_row_that_cannot_be_read_is_named(cells: dict[str, str], said: str, tmp_path: Path) -> None:
    path = _csv(tmp_path / "rows.csv", SOUND, _changed(**{"number": "2", **cells}))
    with pytest.raises(ExampleError, match=f", row 2: field {said}"):
        _read("medcalc", path)


def test_medcalc_without_its_columns_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("Unique ID,Question\n1,?\n")
    with pytest.raises(ExampleError, match="row 1: field 'Row Number' is missing; found Question, Unique ID"):
        _read("medcalc", path)


def test_medqa_of_openlifescience_and_with_a_context(tmp_path: Path) -> None:
    inner = {"Question": "Which?", "Options": MEDQA["options"], "Correct Answer": "two", "Correct Option": "B"}
    rows = [
        {"id": "x", "data": inner, "subject_name": None},
        {**MEDQA, "context": ["a", "b"]},
        {**MEDQA, "context": ""},
    ]
    examples, _ = _read("medqa", _json(tmp_path / "rows.json", rows))
    assert [(e.question, e.answer, e.context) for e in examples] == [
        ("Which?", "B", None),
        ("Which?", "B", "a\nb"),
        ("Which?", "B", None),
    ]


def test_medqa_rows_with_contradictory_labels_are_left_out(tmp_path: Path) -> None:
    path = _json(tmp_path / "rows.json", [MEDQA, {**MEDQA, "answer_idx": "A"}])
    assert _read("medqa", path)[1] == ["its letter and its answer's text are two options"]


def test_pubmedqa_of_the_hub(tmp_path: Path) -> None:
    """Rows with a pubid, their contexts one level down; labels in any case."""
    row = {"pubid": 1, "question": "?", "context": {"contexts": ["a", "b"]}, "final_decision": " Yes"}
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({**row, "pubid": n}) + "\n" for n in (1, 2)))
    _json(tmp_path / "test_ground_truth.json", {"2": "yes"})
    [example], skipped = _read("pubmedqa", path)
    assert (example.id, example.answer, example.context, len(skipped)) == ("pubmedqa/1", "A", "a\nb", 1)
    path.write_text(
        "".join(json.dumps({**row, "pubid": n, "context": "{'contexts': ['a', 'b']}"}) + "\n" for n in (1, 2))
    )
    assert _read("pubmedqa", path)[0][0].context == "a\nb"
    path.write_text(2 * (json.dumps(row) + "\n"))
    with pytest.raises(ExampleError, match="row 2: field 'id': 'pubmedqa/1' occurs twice"):
        _read("pubmedqa", path)
    path.write_text(json.dumps({**row, "final_decision": "unclear"}))
    with pytest.raises(
        ExampleError,
        match="row 1: field 'answer': expected one of the letters A, B, C, or an option's text, found 'unclear'",
    ):
        _read("pubmedqa", path)


@pytest.mark.parametrize("kind", [kind for kind in READERS if kind not in ("trec", "difficulty", "context")])
def test_a_missing_file_is_named(kind: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json: no such file; expected"):
        _read(kind, tmp_path / "nowhere.json", **({"question": "?"} if kind == "ehr" else {}))


@pytest.mark.parametrize("name", ["broken.json", "broken.jsonl"])
def test_a_damaged_file_is_named_with_its_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(json.dumps(MEDQA) + "\n" + '{"question": \n')
    with pytest.raises(ExampleError, match=rf"{name}:2"):
        _read("medqa", path)
