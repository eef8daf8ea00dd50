"""The schema of a question: what is read is what was written, and a bad row is named by file, line and field."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from recipes.data.example import Example, ExampleError, read_examples, write_examples
from recipes.data.generator import GROUPS, PERFECT, Generator, Teacher
from reward_server.schema import ScoreRequest

CHOICE = {
    "id": "1",
    "source": "s",
    "task": "choice",
    "question": "Which?",
    "options": {"A": "one", "B": "two"},
    "answer": "B",
}
NUMBER = {"id": "1", "source": "s", "task": "number", "question": "How many?", "answer": 2, "lower": 1.9, "upper": 2.1}
INTEGER = {"id": "1", "source": "s", "task": "number", "question": "Score?", "answer": 3, "rounding": "integer"}
DATE = {"id": "1", "source": "s", "task": "date", "question": "When?", "answer": "02/29/2024"}
DURATION = {"id": "1", "source": "s", "task": "duration", "question": "Age?", "answer": {"weeks": 3, "days": 0}}
TEXT = {"id": "1", "source": "s", "task": "text", "question": "What?", "answer": "zinc", "aliases": ["Zn"]}


def _file(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def _all_kinds() -> list[Example]:
    rng = random.Random(0)
    generator = Generator("train", PERFECT, Teacher(0.4))
    drawn = {e.id: e for group in GROUPS for e in (generator.draw(rng, group) for _ in range(50))}
    full = Example(
        "x", "s", "text", "Ω?\n\t\u2028 next", "β-blocker", context="a\nb", aliases=("x", "y"), unit="mg", license="MIT"
    )
    return [
        *drawn.values(),
        full,
        Example("n", "s", "number", "?", -0.5, lower=-1.0, upper=0.0),
        Example("d", "s", "duration", "?", {"weeks": 0, "days": 0}),
    ]


def test_round_trip(tmp_path: Path) -> None:
    """Line separators within a text, zeros and tuples are what serialisation loses first."""
    examples = _all_kinds()
    assert write_examples(tmp_path / "new" / "rows.jsonl", examples) == len(examples)
    assert read_examples(tmp_path / "new" / "rows.jsonl") == examples
    assert not list(tmp_path.rglob("*.partial"))


def test_blank_lines_and_nulls_are_no_rows_and_no_values(tmp_path: Path) -> None:
    path = _file(tmp_path / "rows.jsonl", "", {**TEXT, "context": None, "meta": None, "unit": None}, "   ")
    [example] = read_examples(path)
    assert (example.context, example.meta, example.unit) == (None, {}, None)


@pytest.mark.parametrize(
    ("row", "field", "said"),
    [
        ({k: v for k, v in CHOICE.items() if k != "answer"}, "answer", "is missing"),
        ({k: v for k, v in CHOICE.items() if k != "id"}, "id", "is missing"),
        ({**CHOICE, "id": 7}, "id", "expected a text that is not empty, found 7"),
        ({**CHOICE, "question": "  "}, "question", "not empty"),
        ({**CHOICE, "source": None}, "source", "not empty"),
        ({**CHOICE, "task": "essay"}, "task", "expected one of choice, number, date, duration, text, found 'essay'"),
        ({**CHOICE, "task": ["choice"]}, "task", "expected one of"),
        ({**CHOICE, "ansewr": "B"}, "ansewr", "not of an Example"),
        ({**CHOICE, "answer": "C"}, "answer", "expected one of the letters A, B, found 'C'"),
        ({**CHOICE, "answer": ["B"]}, "answer", "expected one of the letters A, B"),
        ({**CHOICE, "answer": {"B": 1}}, "answer", "expected one of the letters A, B"),
        ({**CHOICE, "options": None}, "options", "at least two letters"),
        ({**CHOICE, "options": {"B": "two"}}, "options", "at least two letters"),
        ({**CHOICE, "options": ["one", "two"]}, "options", "at least two letters"),
        ({**CHOICE, "options": {"A": 1, "B": 2}}, "options", "letters and their texts"),
        ({**CHOICE, "options": {"1": "one", "B": "two"}}, "options", "letters from A to N"),
        ({**CHOICE, "context": 5}, "context", "expected a text, found 5"),
        ({**CHOICE, "meta": "x"}, "meta", "expected an object, found 'x'"),
        ({**CHOICE, "license": ["MIT"]}, "license", "expected a text"),
        ({**NUMBER, "unit": 3}, "unit", "expected a text"),
        ({**NUMBER, "answer": "2"}, "answer", "expected a finite number, found '2'"),
        ({**NUMBER, "answer": True}, "answer", "finite number"),
        ({**NUMBER, "answer": None}, "answer", "finite number"),
        ({**NUMBER, "answer": math.nan}, "answer", "finite number, found nan"),
        ({**NUMBER, "upper": math.inf}, "upper", "finite number, found inf"),
        ({**NUMBER, "lower": 3}, "lower", "a limit not above upper = 2.1, found 3"),
        ({k: v for k, v in NUMBER.items() if k != "lower"}, "lower", "a limit"),
        ({**NUMBER, "upper": None}, "upper", "a limit"),
        ({**INTEGER, "rounding": "up"}, "rounding", '"integer" or nothing'),
        ({**INTEGER, "answer": 2.5}, "answer", "a whole number"),
        ({**INTEGER, "lower": "low", "upper": 4}, "lower", "finite number"),
        ({**DATE, "answer": "2024-02-29"}, "answer", "MM/DD/YYYY"),
        ({**DATE, "answer": "02/30/2024"}, "answer", "MM/DD/YYYY"),
        ({**DATE, "answer": 2024}, "answer", "MM/DD/YYYY"),
        ({**DURATION, "answer": "3 weeks"}, "answer", "weeks"),
        ({**DURATION, "answer": {"weeks": 3}}, "answer", "weeks"),
        ({**DURATION, "answer": {"weeks": "3", "days": 1}}, "answer", "whole numbers"),
        ({**DURATION, "answer": {"weeks": 3, "days": -1}}, "answer", "whole numbers"),
        ({**TEXT, "answer": ""}, "answer", "a letter or digit"),
        ({**TEXT, "answer": "..."}, "answer", "a letter or digit"),
        ({**TEXT, "answer": 5}, "answer", "a letter or digit"),
        ({**TEXT, "aliases": "Zn"}, "aliases", "a list of texts"),
        ({**TEXT, "aliases": ["Zn", 30]}, "aliases", "a list of texts"),
        ({**TEXT, "aliases": ["-"]}, "aliases", "a list of texts"),
    ],
)
def test_a_bad_row_is_named_by_file_line_and_field(row: Any, field: str, said: str, tmp_path: Path) -> None:
    """Fails if a bad row passes, or if its error sends the user searching."""
    path = _file(tmp_path / "rows.jsonl", {**TEXT, "id": "fine"}, "", row)
    with pytest.raises(ExampleError) as caught:
        read_examples(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:3: field '{field}'"), message
    assert said in message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"id": 1,\n', ":1: not JSON"),
        (b"[]\n", ":1: expected a JSON object, found list"),
        (2 * (json.dumps(TEXT).encode() + b"\n"), ":2: field 'id': '1' occurs twice"),
        (json.dumps(TEXT).encode() + b"\n\xff\xfe\n", ":2: not UTF-8"),
        (b"\n\n", ": holds no rows"),
    ],
)
def test_a_bad_file_is_named(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(ExampleError) as caught:
        read_examples(path)
    assert str(caught.value).startswith(f"{path}{said}")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jsonl: no such data file; .*prepare_data"):
        read_examples(tmp_path / "nowhere.jsonl")


def test_the_reward_server_takes_every_reference(tmp_path: Path) -> None:
    """A row that the reader accepts and the server refuses would stop a run in the middle."""
    rows = [{**row, "id": str(n)} for n, row in enumerate((CHOICE, NUMBER, INTEGER, DATE, DURATION, TEXT))]
    limits_beside = {**INTEGER, "id": "limits too", "lower": 3, "upper": 3}
    loose_date = {**DATE, "id": "loose date", "answer": "2/9/2024"}
    written = read_examples(_file(tmp_path / "rows.jsonl", *rows, limits_beside, loose_date))
    for example in [*written, *_all_kinds()]:
        item = {"id": "i", "task": example.task, "response": "x", "reference": example.reference()}
        try:
            ScoreRequest.model_validate_json(json.dumps({"preset": "gated", "items": [item]}))
        except ValidationError as error:
            pytest.fail(f"{example}: {error}")


@pytest.mark.parametrize(
    ("row", "gold"),
    [(CHOICE, "B"), (NUMBER, "2"), (DATE, "02/29/2024"), (DURATION, "3 weeks, 0 days"), (TEXT, "zinc")],
)
def test_gold_as_a_person_writes_it(row: dict[str, Any], gold: str, tmp_path: Path) -> None:
    [example] = read_examples(_file(tmp_path / "rows.jsonl", row))
    assert example.gold() == gold


def test_every_task_belongs_to_one_reported_kind(tmp_path: Path) -> None:
    groups = {}
    for row in (CHOICE, NUMBER, DATE, DURATION, TEXT):
        [example] = read_examples(_file(tmp_path / "rows.jsonl", row))
        groups[example.task] = example.group
    assert groups == {
        "choice": "choice",
        "number": "calculation",
        "date": "calculation",
        "duration": "calculation",
        "text": "text",
    }
