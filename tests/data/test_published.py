"""Readers of published formats: small files written here, and the real files where they lie beside the checkout."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from recipes.data.example import ExampleError, read_examples
from recipes.data.published import READERS
from tests.conftest import REPOSITORY, shared_data


def _json(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path


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
    [example], skipped = READERS["medqa"].read(_json(tmp_path / "rows.json", [row]))
    assert (example.answer, example.options, skipped) == ("B", {"A": "one", "B": "two"}, [])


def test_medqa_as_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{json.dumps(MEDQA)}\n\n{json.dumps(MEDQA)}\n")
    examples, _ = READERS["medqa"].read(path)
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
        READERS["medqa"].read(path)


def test_pubmedqa_leaves_the_official_test_rows_out(tmp_path: Path) -> None:
    row = {"QUESTION": "Does it?", "CONTEXTS": ["a", "b"], "final_decision": "maybe"}
    path = _json(tmp_path / "ori_pqal.json", {"1": row, "2": {**row, "final_decision": "no"}})
    with pytest.raises(FileNotFoundError, match=r"test_ground_truth\.json: missing; it names the official test rows"):
        READERS["pubmedqa"].read(path)
    _json(tmp_path / "test_ground_truth.json", {"2": "no"})
    [example], skipped = READERS["pubmedqa"].read(path)
    assert (example.id, example.answer, example.context) == ("pubmedqa/1", "C", "a\nb")
    assert skipped == ["row of the official test split"]


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
    examples, skipped = READERS["medcalc"].read(path)
    assert [e.reference() for e in examples] == [
        {"answer": "03/07/2024"},
        {"answer": {"weeks": 17, "days": 6}},
        {"answer": 3.0, "rounding": "integer"},
        {"answer": -2.5, "lower": -2.625, "upper": -2.375},
    ]
    assert skipped == ["label of calculator 69 cannot be read"]


@pytest.mark.parametrize("kind", READERS)
def test_a_missing_file_is_named(kind: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json: no such file; expected"):
        READERS[kind].read(tmp_path / "nowhere.json")


@pytest.mark.parametrize("name", ["broken.json", "broken.jsonl"])
def test_a_damaged_file_is_named_with_its_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(json.dumps(MEDQA) + "\n" + '{"question": \n')
    with pytest.raises(ExampleError, match=rf"{name}:2"):
        READERS["medqa"].read(path)


def test_real_medqa() -> None:
    examples, skipped = READERS["medqa"].read(shared_data("medqa_dev/medqa_full_dev.json"))
    assert (len(examples), skipped) == (1272, [])
    assert {tuple(e.options or {}) for e in examples} == {tuple("ABCDE")}


def test_real_pubmedqa() -> None:
    path = shared_data("pubmedqa/ori_pqal.json")
    examples, skipped = READERS["pubmedqa"].read(path)
    held_out = json.loads(path.with_name("test_ground_truth.json").read_text())
    assert (len(examples), len(skipped), len(held_out)) == (500, 500, 500)
    assert not {e.id.removeprefix("pubmedqa/") for e in examples} & set(held_out)


def test_real_medcalc() -> None:
    examples, skipped = READERS["medcalc"].read(shared_data("medcalc_bench/train_subset_valid_split.csv"))
    assert (len(examples), skipped) == (1006, [])
    assert {e.task for e in examples} >= {"number", "date"}
    for example in examples:
        if example.lower is not None and example.upper is not None:
            assert isinstance(example.answer, float)
            assert example.lower <= example.answer <= example.upper, example.id


def test_the_command_line_writes_and_counts(tmp_path: Path) -> None:
    """What was left out, and why, is printed and never silent."""
    row = {"QUESTION": "Does it?", "CONTEXTS": ["a"], "final_decision": "yes"}
    source = _json(tmp_path / "ori_pqal.json", {"1": row, "2": row, "3": row})
    _json(tmp_path / "test_ground_truth.json", {"2": "yes", "3": "yes"})
    command = [sys.executable, "-m", "recipes.prepare_data", "pubmedqa", str(source), str(tmp_path / "out.jsonl")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "1 rows" in done.stdout
    assert "left out 2 rows: row of the official test split" in done.stdout
    assert len(read_examples(tmp_path / "out.jsonl")) == 1
    command[4] = str(tmp_path / "nowhere.json")
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "nowhere.json" in done.stderr
