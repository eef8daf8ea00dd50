"""Options and answers in the shapes of the hub's data sets: one meaning, or a refusal."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from recipes.data.choices import TwoLabelsError, choice_of, split_options
from recipes.data.errors import ExampleError
from recipes.data.readers import READERS
from recipes.data.sources import FileSource
from recipes.data.tables import Row

TEXTS = {"A": "Aspirin", "B": "Heparin", "C": "Warfarin"}
LIST = list(TEXTS.values())


def _row(options: Any, **labels: Any) -> Row:
    return Row("FILE, row 7", 7, None, {"question": "Which?", "options": options, **labels})


OPTIONS: dict[str, Any] = {
    "letters": TEXTS,
    "small letters": {"a": "Aspirin", "b": "Heparin", "c": "Warfarin"},
    "letters with points": {"A.": "Aspirin", "B.": "Heparin", "C.": "Warfarin"},
    "bracketed letters": {"(A)": "Aspirin", "(B)": "Heparin", "(C)": "Warfarin"},
    "numbers from 0": {"0": "Aspirin", "1": "Heparin", "2": "Warfarin"},
    "numbers from 1": {"1": "Aspirin", "2": "Heparin", "3": "Warfarin"},
    "a fifth of another row": {**TEXTS, "D": None, "E": ""},
    "a fifth of pandas": {**TEXTS, "D": math.nan},
    "a fifth of pandas, as text": {**TEXTS, "D": "nan"},
    "texts": LIST,
    "labelled texts": ["A. Aspirin", "B. Heparin", "C. Warfarin"],
    "labels in brackets": ["(A) Aspirin", "(B) Heparin", "(C) Warfarin"],
    "bigbio": [{"key": k, "value": v} for k, v in TEXTS.items()],
    "MedXpertQA": [{"letter": k, "content": v} for k, v in TEXTS.items()],
    "labels and texts": [{"label": k, "text": v} for k, v in TEXTS.items()],
    "columns": {"label": list("ABC"), "text": LIST},
    "pairs": list(TEXTS.items()),
    "JSON in a cell": json.dumps(TEXTS),
    "Python in a cell": repr(TEXTS),
    "a list in a cell": repr(LIST),
}


@pytest.mark.parametrize("shape", OPTIONS)
@pytest.mark.parametrize("label", [{"answer_idx": "B"}, {"answer": "Heparin"}], ids=["letter", "text"])
def test_shapes_of_options(shape: str, label: dict[str, Any]) -> None:
    assert choice_of(_row(OPTIONS[shape], **label)) == (TEXTS, "B")


NUMBERED = {"0": "Aspirin", "1": "Heparin", "2": "Warfarin"}
BLOOD = {"A": "O", "B": "A", "C": "AB"}


@pytest.mark.parametrize(
    ("options", "labels", "letter"),
    [
        (TEXTS, {"answer": "b"}, "B"),
        (TEXTS, {"answer": " B "}, "B"),
        (TEXTS, {"answer": "(B)"}, "B"),
        (TEXTS, {"answer": "B. Heparin"}, "B"),
        (TEXTS, {"answer": "heparin "}, "B"),
        (TEXTS, {"answer": ["Heparin"]}, "B"),
        (TEXTS, {"label": ["B"]}, "B"),
        (TEXTS, {"answer_idx": math.nan, "answer": "Heparin"}, "B"),
        (TEXTS, {"answer_idx": "", "answer": "B"}, "B"),
        (TEXTS, {"answer_idx": "B", "answer": None}, "B"),
        (TEXTS, {"answer_idx": "B", "answer": "Heparine"}, "B"),
        (TEXTS, {"answer_idx": 1, "answer": "Heparin"}, "B"),
        (TEXTS, {"answer_idx": 2.0, "answer": "Heparin"}, "B"),
        (TEXTS, {"answer_index": 1, "answer": "B"}, "B"),
        (TEXTS, {"answer": 0}, "A"),
        (TEXTS, {"label": 3}, "C"),
        (NUMBERED, {"answer": 1}, "B"),
        (NUMBERED, {"answer": "1"}, "B"),
        (NUMBERED, {"label": 1.0}, "B"),
        ({"1": "Aspirin", "2": "Heparin"}, {"answer": "2"}, "B"),
        (["1", "2", "4"], {"answer": "2"}, "B"),
        (["E. coli", "S. aureus"], {"answer": "E. coli"}, "A"),
        (BLOOD, {"answer_idx": "A", "answer": "O"}, "A"),
        (BLOOD, {"answer": "AB"}, "C"),
        ({"A": "Aa", "B": "AA"}, {"answer": "AA"}, "B"),
        ({"A": "Heparin", "B": "Heparin", "C": "Iron"}, {"answer": "Iron"}, "C"),
    ],
)
def test_answers_that_mean_one_option(options: Any, labels: dict[str, Any], letter: str) -> None:
    assert choice_of(_row(options, **labels))[1] == letter


@pytest.mark.parametrize(
    ("options", "labels", "said"),
    [
        (TEXTS, {"answer": 1}, "means one option, not A or B; give the letter"),
        (TEXTS, {"answer_idx": "2"}, "not B or C"),
        (LIST, {"label": 2.0}, "not B or C"),
        (["1", "2", "4"], {"answer_idx": "2"}, "not B or C"),
        (BLOOD, {"answer": "A"}, "not A or B"),
        ({"A": "Heparin", "B": "Heparin", "C": "Iron"}, {"answer": "Heparin"}, "not A or B"),
        (TEXTS, {"answer": "Iron"}, "one of the letters A, B, C, or an option's text, found 'Iron'"),
        (TEXTS, {"answer_idx": "F", "answer": "Heparin"}, "one of the letters A, B, C, .*found 'F'"),
        (TEXTS, {"answer": ["A", "B"]}, "one of the letters"),
        (TEXTS, {"answer": True}, "one of the letters"),
        (TEXTS, {"answer": 4}, "one of the letters"),
        (TEXTS, {"answer": -1}, "one of the letters"),
        (TEXTS, {"answer": 1.5}, "one of the letters"),
        (TEXTS, {"answer": math.nan}, "one of the letters A, B, C, found nan"),
        (TEXTS, {}, "field 'answer' is missing"),
        ({**TEXTS, "D": None}, {"answer": "D"}, "one of the letters A, B, C, "),
        ({"A": "", "B": "Heparin"}, {"answer": "B"}, "a text for option A, found ''"),
        ({"A": None, "B": "Heparin"}, {"answer": "B"}, "a text for option A, found None"),
        ({"A": 1, "B": 2}, {"answer": "B"}, "a text for option A, found 1"),
        ({"a": "x", "A": "y"}, {"answer": "A"}, "letters from A, or numbers"),
        ({"1": "x", "3": "y"}, {"answer": "x"}, "letters from A, or numbers"),
        ({"first": "x", "second": "y"}, {"answer": "x"}, "letters from A, or numbers"),
        ([str(n) for n in range(15)], {"answer": "3"}, "a list of texts"),
        ([{"a": "x"}, {"a": "y"}], {"answer": "x"}, "a list of texts"),
        ("Aspirin, Heparin", {"answer": "Heparin"}, "a list of texts"),
        (["B. Aspirin", "A. Heparin"], {"answer": "A"}, "a list of texts"),
        (None, {"answer": "Heparin"}, "a list of texts"),
        ([], {"answer": "A"}, "a list of texts"),
        (5, {"answer": "A"}, "a list of texts"),
    ],
)
def test_what_can_be_read_in_two_ways_or_none_is_refused(options: Any, labels: dict[str, Any], said: str) -> None:
    with pytest.raises(ExampleError, match=said) as caught:
        choice_of(_row(options, **labels))
    assert str(caught.value).startswith("FILE, row 7: field '")


def test_labels_that_contradict_each_other() -> None:
    """Also by an answer that is none of the options, as where a table's columns were sorted or joined apart."""
    apart = ({"answer_idx": "B", "answer": "Digoxin"}, {"answer_idx": "A", "answer": "Heparine"})
    for labels in ({"answer_idx": "A", "answer": "Heparin"}, {"answer_idx": 2, "answer": "Aspirin"}, *apart):
        with pytest.raises(TwoLabelsError, match="row 7: the labels contradict each other"):
            choice_of(_row(TEXTS, **labels))


def test_parquet_of_the_hub_with_four_and_five_options(tmp_path: Path) -> None:
    """Structs have one schema for all rows: a row of four options has a null fifth."""
    rows = [
        {"question": "1?", "options": {**TEXTS, "D": "Iron"}, "answer_idx": "D"},
        {"question": "2?", "options": {**TEXTS, "D": "Zinc", "E": "Iron"}, "answer_idx": "E"},
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows[::-1]), tmp_path / "rows.parquet")
    found = list(READERS["medqa"].rows(FileSource(tmp_path / "rows.parquet"), "medqa"))
    assert [(list(e.options or {}), e.answer, e.id) for e in found if hasattr(e, "options")] == [
        (list("ABCDE"), "E", "medqa/1"),
        (list("ABCD"), "D", "medqa/2"),
    ]


@pytest.mark.parametrize(
    ("text", "stem", "options"),
    [
        ("Which?\nA. iron\nB. zinc", "Which?", ["iron", "zinc"]),
        ("Which?\r\n(A) iron\r\n (B) zinc", "Which?", ["iron", "zinc"]),
        ("Which?\nOptions:\n[A] iron\n[B] zinc\nand tin", "Which?", ["iron", "zinc\nand tin"]),
        ("Which? Answer Choices: (A) iron (B) zinc", "Which? Answer Choices:", ["iron", "zinc"]),
        ("Which?\nAnswer Choices: (A) iron (B) zinc", "Which?", ["iron", "zinc"]),
        ("A. fumigatus grows.\nWhy?\nA. iron\nB. zinc", "A. fumigatus grows.\nWhy?", ["iron", "zinc"]),
        ("Which? (A) iron (B) zinc (C) both (A) and (B) are", "Which?", ["iron", "zinc", "both (A) and (B) are"]),
        ("Which?\nA. E. coli\nB. S. aureus", "Which?", ["E. coli", "S. aureus"]),
        ("Which?\nA. iron\nB. zinc\nD. tin", "Which?\nA. iron\nB. zinc\nD. tin", []),
        ("Which?\nA. iron", "Which?\nA. iron", []),
        ("Vitamin A or B?", "Vitamin A or B?", []),
        ("", "", []),
    ],
)
def test_options_at_the_end_of_a_text(text: str, stem: str, options: list[str]) -> None:
    assert split_options(text) == (stem, dict(zip("ABC", options, strict=False)))
