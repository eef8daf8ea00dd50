"""Published sets by name through `datasets`, labels from another file, and the manifest beside what is prepared."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from recipes import prepare_data
from recipes.data.errors import ExampleError
from recipes.data.example import read_examples
from recipes.data.readers import READERS, LeftOut
from recipes.data.sources import FileSource, HubSource

ROWS = [
    {"question_id": n, "question": f"{n}?", "options": list(options), "answer": "C", "category": category}
    for n, options, category in ((1, "abcd", "health"), (2, "abcdefghij", "health"), (3, "abc", "law"))
]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.mark.usefixtures("cache")
def test_a_set_by_name_is_read_as_its_file_is(tmp_path: Path) -> None:
    """Parquet, JSON lines and CSV that `datasets` builds a set from, each with a split; and what cannot be loaded."""
    folder = tmp_path / "set"
    folder.mkdir()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), folder / "test-00000-of-00001.parquet")
    for source in (HubSource(str(folder), "test"), FileSource(folder / "test-00000-of-00001.parquet")):
        made = prepare_data.convert("mmlu-pro", source, tmp_path / "out.jsonl")
        examples = read_examples(tmp_path / "out.jsonl")
        assert [(e.id, e.answer, len(e.options or {}), e.meta.get("split")) for e in examples] == [
            ("mmlu-pro/1", "C", 4, source.split),
            ("mmlu-pro/2", "C", 10, source.split),
        ]
        assert [(left["reason"], left["first"]) for left in made["left_out"]] == [
            ("its category is not health", f"{source.name}, row 3")
        ]
    lines = tmp_path / "lines"
    lines.mkdir()
    choices = [{"question": "?", "options": {"A": "a", "B": "b", **more}, "answer": "B"} for more in ({}, {"C": "c"})]
    (lines / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in choices))
    rows = list(READERS["medqa"].rows(HubSource(str(lines), "validation"), "x"))
    assert [len(row.options or {}) for row in rows if not isinstance(row, LeftOut)] == [2, 3]
    tables = tmp_path / "tables"
    tables.mkdir()
    (tables / "test.csv").write_text("question,A,B,C,D,answer\n?,iron,zinc,NA,None,D\n?,iron,zinc,tin,,B\n")
    for source in (HubSource(str(tables), "test"), FileSource(tables / "test.csv")):
        rows = list(READERS["medqa"].rows(source, "x"))
        options = [[*(row.options or {}).values()] for row in rows if not isinstance(row, LeftOut)]
        assert options == [["iron", "zinc", "NA", "None"], ["iron", "zinc", "tin"]]
    for name, split in ((str(folder), "train"), (str(tmp_path / "nowhere"), "test"), ("owner/nowhere", "test")):
        with pytest.raises(ExampleError, match=f"{name} {split}: `datasets` cannot load it .*; check name"):
            list(HubSource(name, split).rows())
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([*ROWS, *ROWS]), folder / "test-00000-of-00001.parquet")
    with pytest.raises(ExampleError, match=r"set test, row 4: field 'id': 'x/1' occurs twice, first in .*, row 1"):
        list(READERS["mmlu-pro"].rows(HubSource(str(folder), "test"), "x"))


def test_the_manifest_says_what_a_file_was_made_of(tmp_path: Path) -> None:
    source, out = tmp_path / "rows.json", tmp_path / "out.jsonl"
    source.write_text(json.dumps(ROWS))
    manifest = prepare_data.convert("mmlu-pro", FileSource(source), out, "pro", category="health")
    assert json.loads((tmp_path / "out.jsonl.manifest.json").read_text()) == manifest
    assert manifest["source"] == {"path": str(source), "sha256": hashlib.sha256(source.read_bytes()).hexdigest()}
    assert manifest["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert {key: manifest[key] for key in ("kind", "ids", "options", "rows", "by_source", "left_out")} == {
        "kind": "mmlu-pro",
        "ids": "pro",
        "options": {"category": "health"},
        "rows": 2,
        "by_source": [{"source": "MMLU-Pro", "task": "choice", "license": "MIT", "rows": 2}],
        "left_out": [{"reason": "its category is not health", "rows": 1, "first": f"{source}, row 3"}],
    }


COLUMNS = ("Row Number", "Calculator ID", "Calculator Name", "Category", "Patient Note", "Question")
LABELS = ("Ground Truth Answer", "Lower Limit", "Upper Limit")
BENCHMARK = [
    (1, 2, "Clearance", "lab", "note  1", "?", "25.2", "24", "26"),
    (2, 69, "Age", "date", "note 2", "weeks?", "('0 weeks', '6 days')", "", ""),
    (3, 4, "Score", "risk", "note 3", "?", "3", "3", "3"),
    (4, 4, "Score", "risk", "note 4", "?", "4", "4", "4"),
    (5, 4, "Score", "risk", "note 5", "?", "", "", ""),
]
OVERRIDES = ("Unique ID", "Calculator Name", "Patient Note", *LABELS)
CORRECTED = [
    (1, "Clearance", "note 1", "30", "28.5", "31.5"),
    (2, "Age", "note 2", "17", "17", "17"),
    (3, "Score", "note 3", "N/A", "", ""),
]


def _csv(path: Path, header: tuple[str, ...], rows: list[Any]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def _corrected(tmp_path: Path, rows: list[Any], **options: Any) -> list[Any]:
    benchmark = _csv(tmp_path / "test.csv", COLUMNS + LABELS, BENCHMARK)
    labels = _csv(tmp_path / "labels.csv", OVERRIDES, rows)
    return list(READERS["medcalc"].rows(FileSource(benchmark), "x", label_overrides=labels, **options))


def test_corrected_labels_replace_labels_and_nothing_else(tmp_path: Path) -> None:
    """A day count becomes weeks and days, as the question asks; other rows keep their label or are left out."""
    found = _corrected(tmp_path, CORRECTED)
    examples = [row for row in found if not isinstance(row, LeftOut)]
    assert [(e.id, e.question, e.reference(), e.meta.get("label")) for e in examples] == [
        ("x/1", "?", {"answer": 30.0, "lower": 28.5, "upper": 31.5}, "corrected"),
        ("x/2", "weeks?", {"answer": {"weeks": 2, "days": 3}}, "corrected"),
        ("x/4", "?", {"answer": 4.0, "rounding": "integer"}, None),
    ]
    assert examples[0].meta["subject"] == examples[0].meta["category"] == "lab"
    assert [(row.reason, Path(row.where).name) for row in found if isinstance(row, LeftOut)] == [
        ("its corrected label is none", "labels.csv, row 3"),
        ("has no label", "test.csv, row 5"),
    ]
    only = _corrected(tmp_path, CORRECTED, overridden_only=True)
    assert [row.id for row in only if not isinstance(row, LeftOut)] == ["x/1", "x/2"]
    extra = _corrected(tmp_path, [*CORRECTED, (9, "Score", "note 9", "1", "1", "1")])
    assert extra[-1] == LeftOut("an override whose row is not there", f"{tmp_path / 'labels.csv'}, row 4")


def test_labels_are_not_overwritten(tmp_path: Path) -> None:
    benchmark = _csv(tmp_path / "test.csv", COLUMNS + LABELS, BENCHMARK)
    labels = _csv(tmp_path / "labels.csv", OVERRIDES, CORRECTED)
    with pytest.raises(ExampleError, match=r"labels\.csv: is a file that is read"):
        prepare_data.convert("medcalc", FileSource(benchmark), labels, label_overrides=labels)
    made = prepare_data.convert("medcalc", FileSource(benchmark), tmp_path / "out.jsonl", label_overrides=labels)
    assert made["options"]["label_overrides"]["path"] == str(labels)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([(1, "Clearance", "another", "30", "28", "31")], r"labels\.csv, row 1: field 'Patient Note': is not that of"),
        ([(1, "Score", "note 1", "30", "28", "31")], r"labels\.csv, row 1: field 'Calculator Name': is not that of"),
        ([CORRECTED[0], CORRECTED[0]], r"labels\.csv, row 2: row 1 has a label already, from .*labels\.csv, row 1"),
        ([(77, "Score", "note 9", "1", "1", "1")], r"labels\.csv: names no row of the data set"),
        ([("x", "Score", "note 1", "1", "1", "1")], r"labels\.csv, row 1: field 'Unique ID': expected a whole number"),
        (
            [(1, "Clearance", "note 1", "thirty", "28", "31")],
            r"labels\.csv, row 1: field 'Ground Truth Answer': expected a number",
        ),
    ],
)
def test_labels_for_other_rows_are_refused(rows: list[Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ExampleError, match=said):
        _corrected(tmp_path, rows)


def test_labels_that_do_not_say_for_which_note_they_are_are_refused(tmp_path: Path) -> None:
    """By its number alone a row of another release would get the label of another patient."""
    benchmark = _csv(tmp_path / "test.csv", COLUMNS + LABELS, BENCHMARK)
    labels = _csv(tmp_path / "labels.csv", ("Unique ID", "Calculator Name", *LABELS), [(1, "Clearance", 30, 28, 31)])
    with pytest.raises(ExampleError, match=r"labels\.csv, row 1: field 'Patient Note' is missing"):
        list(READERS["medcalc"].rows(FileSource(benchmark), "x", label_overrides=labels))
