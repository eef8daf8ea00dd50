"""Readers of the other published formats, on small files of the shape that their authors or re-hosts give them."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from recipes.data.errors import ExampleError
from recipes.data.example import Example
from recipes.data.readers import READERS, LeftOut
from recipes.data.sources import FileSource
from recipes.data.tables import Row
from tests.data.rows import (
    CHOICE,
    EHR,
    FOUR,
    LINES,
    LIST,
    MEDIQ,
    MEDMCQA,
    MORTALITY,
    O1,
    PRO,
    READ,
    REASON,
    TRACE,
    U1_CALC,
    XPERT,
    verl,
)


class OneRow:
    """A source of one row."""

    name, path, split = "source", None, None

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def rows(self, **_: Any) -> Iterator[Row]:
        yield Row("ROW", 1, None, self._values)


def _lines(path: Path, *rows: Any) -> Path:
    """JSON lines with a mark and Windows' line ends."""
    path.write_bytes(b"\xef\xbb\xbf" + b"".join(json.dumps(row).encode() + b"\r\n" for row in rows))
    return path


def _read(kind: str, path: Path, **options: Any) -> tuple[list[Example], list[LeftOut]]:
    rows = list(READERS[kind].rows(FileSource(path), "x", **options))
    return [r for r in rows if isinstance(r, Example)], [r for r in rows if isinstance(r, LeftOut)]


@pytest.mark.parametrize("case", READ)
def test_a_row_of_every_shape(case: str, tmp_path: Path) -> None:
    kind, row, options, expected = READ[case]
    [example], skipped = _read(kind, _lines(tmp_path / "rows.jsonl", row), **options)
    found = {name: getattr(example, name) for name in expected}
    if "meta" in expected:
        found["meta"] = {name: example.meta.get(name) for name in expected["meta"]}
    assert (found, skipped) == (expected, [])


@pytest.mark.parametrize("kind", sorted({kind for kind, *_ in READ.values()}))
def test_a_damaged_row_is_named_with_its_file(kind: str, tmp_path: Path) -> None:
    _, row, options, _ = next(case for case in READ.values() if case[0] == kind)
    broken = dict.fromkeys(row, 5) | {name: row[name] for name in ("id", "category", "Source", "label") if name in row}
    for second in (broken, None):
        path = _lines(tmp_path / "rows.jsonl", row, second)
        with pytest.raises(ExampleError, match=r"rows\.jsonl, row 2: "):
            _read(kind, path, **options)


ODD = (
    None,
    math.nan,
    math.inf,
    5,
    -1,
    10**400,
    True,
    "",
    " ",
    "A",
    "\0",
    "\ud800",
    [],
    [None],
    [[]],
    {},
    {"A": 1},
    ["x", "y"],
)


@pytest.mark.parametrize("case", READ)
def test_whatever_stands_in_a_field_is_read_or_refused_with_its_row(case: str) -> None:
    kind, row, options, _ = READ[case]
    inner = row.get("reward_model", {})
    changed = [{**row, name: odd} for name in row for odd in ODD]
    changed += [{**row, "reward_model": {**inner, name: odd}} for name in inner for odd in ODD]
    for values in changed:
        assert _outcome(kind, values, options).startswith(("ROW", "source", "{")), values


def _outcome(kind: str, values: dict[str, Any], options: dict[str, Any]) -> str:
    """The Example's line, or where the row was left out or refused."""
    try:
        [found] = READERS[kind].rows(OneRow(values), "x", **options)
    except ExampleError as error:
        return str(error)
    return found.where if isinstance(found, LeftOut) else found.to_json()


@pytest.mark.parametrize(
    ("kind", "row", "options", "reason"),
    [
        ("medmcqa", {**MEDMCQA, "cop": -1}, {}, "has no label"),
        ("medmcqa", MEDMCQA, {}, "has no label"),
        ("medmcqa", {**MEDMCQA, "opd": " zinc", "cop": "B"}, {}, "another option has the right one's text"),
        ("mmlu-pro", {**PRO, "category": "law"}, {}, "its category is not health"),
        ("mmlu", {"question": "?", "subject": "law", "choices": [], "answer": 0}, {}, "its subject is none of those"),
        ("medxpertqa", {**XPERT, "images": ["MM-1.png"]}, {}, "needs an image"),
        ("medical-o1", {**O1, "Response": "zinc " * 600}, {}, "its answer is not a text of at most 512 words"),
        ("medical-o1", {**O1, "Complex_CoT": "a </think> b"}, {}, "its reasoning or its answer has tags in it"),
        ("medreason", {**REASON, "options": LINES, "answer": "Gold."}, {}, "its answer is no option's text"),
        ("m23k", {**TRACE, "prompt": "Which?"}, {}, "its prompt does not end with options"),
        ("mmlu-pro", {**PRO, "answer": "C", "answer_index": 3}, {}, "its letter and its answer's text are two options"),
        ("m23k", {**TRACE, "answer_string": "iron"}, {}, "its letter and its answer's text are two options"),
        ("medu1", {"Source": "MedIQ", "problem": "Which?", "answer": "B"}, {}, "has no options"),
        ("medu1", {**U1_CALC, "answer": "N/A"}, {}, "has no label"),
        ("ehr", {**EHR, "label": None}, MORTALITY, "has no label"),
        *(("ehr", {**EHR, "note": note}, MORTALITY, "has no note") for note in (" ", "nan", "<NA>", "None", "NULL")),
    ],
)
def test_rows_that_are_left_out_have_a_reason(
    kind: str, row: dict[str, Any], options: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    [], [left] = _read(kind, _lines(tmp_path / "rows.jsonl", row), **options)
    assert left.reason.startswith(reason)
    assert left.where.endswith("rows.jsonl, row 1")


@pytest.mark.parametrize(
    ("kind", "rows", "options", "said"),
    [
        ("medmcqa", [{**MEDMCQA, "cop": 2}], {}, "may count from 0 or from 1; say which with --first-index"),
        (
            "medmcqa",
            [{**MEDMCQA, "cop": 4}, {**MEDMCQA, "id": "m2", "cop": 0}],
            {},
            "row 2: field 'cop': expected a number from 1 to 4, found 0",
        ),
        (
            "medmcqa",
            [{**MEDMCQA, "cop": 4}],
            {"first_index": 0},
            "row 1: field 'cop': expected a number from 0 to 3, found 4",
        ),
        ("mmlu-pro", [{**PRO, "answer": "D", "answer_index": 4}], {}, "'answer_index': expected a number from 0 to 3"),
        ("mmlu", [{"question": "?", "subject": "anatomy", "choices": LIST, "answer": 4}], {}, "from 0 to 3, found 4"),
        ("medmcqa", [{**MEDMCQA, "cop": "B"}] * 2, {}, "row 2: field 'id': 'x/m1' occurs twice"),
        ("mediq", [{**MEDIQ, "id": None}], {}, "row 1: field 'id': expected a text or a number, found None"),
        (
            "medqa",
            [{"question": "nan", **FOUR, "answer": "B"}],
            {},
            "field 'question': expected a text, not what pandas",
        ),
        (
            "medqa",
            [{"question": "?", "A": "iron", "B": "zinc", "D": "lead", "answer_idx": "C"}],
            {},
            "field 'answer': expected one of the letters A, B, D",
        ),
        # numpy prints lists so; Python would join the texts.
        (
            "mediq",
            [{**MEDIQ, "context": "['He is 3.'\n 'He coughs.']"}],
            {},
            "field 'context': expected a list of texts",
        ),
        (
            "mediq",
            [{**MEDIQ, "options": "['iron' 'zinc'\n 'tin, so' 'lead']"}],
            {},
            "field 'options': expected an object",
        ),
        (
            "pubmedqa",
            [
                {
                    "pubid": 1,
                    "question": "?",
                    "context": "{'contexts': array(['a', 'b'], dtype=object)}",
                    "final_decision": "no",
                }
            ],
            {"part": "all"},
            "field 'context': expected an object",
        ),
        (
            "medqa",
            [{"question": "?", "options": list("wxyz"), "answer_idx": number} for number in (0, 0, 4)],
            {},
            "row 3: field 'answer_idx': expected an index that counts from 0, as in",
        ),
        ("ehr", [{**EHR, "label": 2}], MORTALITY, "row 1: field 'label': expected one of the classes 0, 1, found 2"),
        ("ehr", [{**EHR, "classes": "one"}], {"question": "?"}, "field 'classes': expected 2 to 14 classes"),
        ("medu1", [{**verl("MedIQ", "?", "B"), "prompt": []}], {}, 'expected a list of {"role", "content"}'),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(
    kind: str, rows: list[dict[str, Any]], options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ExampleError) as caught:
        _read(kind, _lines(tmp_path / "rows.jsonl", *rows), **options)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "row", "said"),
    [
        (
            "medqa",
            {**CHOICE, "id": "q1", "source": "PubMedQA"},
            "is a row of kind examples, which its fields answer, id",
        ),
        ("medqa", {**PRO, "src": "stemez-x"}, "is a row of kind mmlu-pro"),
        ("medqa", {**XPERT, "medical_task": "Treatment"}, "is a row of kind medxpertqa"),
        ("medxpertqa", {**MEDIQ, "facts": []}, "is a row of kind mediq"),
        ("medmcqa", {"question": "Which?", "options": FOUR, "answer": "B"}, "field 'opa' is missing"),
    ],
)
def test_the_rows_of_another_set_are_refused(kind: str, row: dict[str, Any], said: str, tmp_path: Path) -> None:
    """Read, they would get this set's source and licence, and lose what is theirs."""
    with pytest.raises(ExampleError, match=f"row 1: {said}"):
        _read(kind, _lines(tmp_path / "rows.jsonl", row))


def test_indices_beside_texts_that_are_numbers_count_from_nowhere(tmp_path: Path) -> None:
    """An option's own text, and an option's own key, say nothing of where indices begin."""
    rows = [
        {"question": "?", "options": ["7", "8", "9"], "answer_idx": 0},
        {"question": "?", "options": ["8", "9", "3"], "answer": 3},
        {"question": "?", "options": {"1": "a", "2": "b", "3": "c"}, "answer_idx": 3},
        {"question": "?", "options": ["7", "8", "9"], "answer_idx": 0},
    ]
    assert [e.answer for e in _read("medqa", _lines(tmp_path / "rows.jsonl", *rows))[0]] == ["A", "C", "C", "A"]


def test_a_note_with_two_labels_is_left_out_and_counted(tmp_path: Path) -> None:
    notes = ["fever ", "cough", "Fever", "fever", "fever", "cough"]
    rows = [{"note": note, "label": label} for note, label in zip(notes, (0, 1, 1, 1, 1.0, 1.0), strict=True)]
    kept, left = _read("ehr", _lines(tmp_path / "rows.jsonl", *rows), **MORTALITY)
    assert [(e.context, e.answer) for e in kept] == [("cough", "B"), ("Fever", "B"), ("cough", "B")]
    assert {each.reason for each in left} == {"its note has another label in another row"}
    assert [each.where.rpartition(" ")[2] for each in left] == ["1", "4", "5"]


def test_medmcqa_says_by_its_rows_what_it_counts_from(tmp_path: Path) -> None:
    """The authors' JSON counts from 1, the hub's parquet from 0."""
    for name, cops in (("authors", (4, 1)), ("hub", (3, 0))):
        rows = [{**MEDMCQA, "id": str(n), "cop": cop} for n, cop in enumerate(cops)]
        path = tmp_path / name
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        assert [e.answer for e in _read("medmcqa", path)[0]] == ["D", "A"]


def test_mmlu_in_files_without_a_header(tmp_path: Path) -> None:
    for subject, rows in (("anatomy", 2), ("virology", 1)):
        text = io.StringIO()
        csv.writer(text).writerows([["Which,\nof these?", *FOUR.values(), "B"]] * rows)
        (tmp_path / f"{subject}_test.csv").write_text(text.getvalue())
    (tmp_path / "README").write_text("no questions")
    examples, _ = _read("mmlu", tmp_path)
    assert [(e.id, e.answer, e.meta["split"]) for e in examples] == [(f"x/anatomy/{n}", "B", "test") for n in (1, 2)]
    assert [e.meta["subject"] for e in _read("mmlu", tmp_path / "virology_test.csv")[0]] == ["virology"]
    assert len(_read("mmlu", tmp_path, subjects=["anatomy", "virology"])[0]) == 3
    # As other programs write it again.
    (tmp_path / "virology_val.csv").write_text("question;A;B;C;D;answer\nWhich, of these?;iron;zinc;tin;lead;B\n")
    [again] = _read("mmlu", tmp_path / "virology_val.csv")[0]
    assert (again.question, again.answer, again.id) == ("Which, of these?", "B", "x/virology/1")
    (tmp_path / "virology_val.csv").unlink()
    with pytest.raises(ExampleError, match="no file of the subject law"):
        _read("mmlu", tmp_path, subjects=["law"])
    (tmp_path / "anatomy_dev.csv").write_text("?,a,b,c,d,A\n")
    with pytest.raises(ExampleError, match=r"holds several splits \(dev, test\)"):
        _read("mmlu", tmp_path)
    (tmp_path / "anatomy_dev.csv").write_text("Which?,a,b,c,d,A\nWhich?,a,b,c,D\n")
    with pytest.raises(ExampleError, match=r"anatomy_dev\.csv, row 2: 5 cells under 6 columns"):
        _read("mmlu", tmp_path / "anatomy_dev.csv")
