"""The schema of a question: what is read is what was written, and a bad row is named by file, line and field."""

from __future__ import annotations

import gzip
import json
import math
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from recipes.data.errors import ExampleError
from recipes.data.example import TASKS, Example, example_from_row, read_examples, write_examples
from recipes.data.generator import GROUPS, PERFECT, Generator, Teacher
from recipes.data.prompts import trace_response
from recipes.data.text_files import parse_json
from reward_server.client import ScoreItem
from reward_server.client.wire import batch_body
from reward_server.schema import ScoreRequest, parse_request
from reward_server.verifiers.format import parse

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
        ({**CHOICE, "options": {"A": "", "B": "two"}}, "options", "a text for A; without one, leave the letter out"),
        ({**CHOICE, "options": {"A": "one", "B": " \u200b"}}, "options", "a text for B"),
        ({**CHOICE, "options": {"A": "two ", "B": "two"}}, "options", "its own for the right option B, not that of A"),
        ({**CHOICE, "options": {"A": None, "B": "two"}}, "options", "at least two letters"),
        ({**CHOICE, "options": {"A": "x", "B": math.nan}}, "options", "letters and their texts"),
        ({**CHOICE, "options": dict.fromkeys("ABCDEFGHIJKLMNO", "x")}, "options", "letters from A to N"),
        ({**CHOICE, "options": {"a": "one", "b": "two"}}, "options", "letters from A to N"),
        ({**CHOICE, "options": {"A": "one \ud83d", "B": "two"}}, "options.A", "half characters"),
        ({**CHOICE, "question": "Which\0"}, "question", "without NUL"),
        ({**CHOICE, "question": "\ude00 which?"}, "question", "half characters"),
        ({**CHOICE, "question": "\u200b"}, "question", "not empty"),
        ({**CHOICE, "context": "\0"}, "context", "without NUL"),
        ({**CHOICE, "meta": {"a": [{"b": "\ud800"}]}}, "meta.a.b", "half characters"),
        ({**CHOICE, "meta": {"\ud800": 1}}, "meta", "half characters"),
        ({**CHOICE, "meta": {"score": math.nan}}, "meta.score", "a finite number, found nan"),
        ({**TEXT, "options": {"A": "x", "B": "y"}}, "options", "none, since task is text"),
        ({**TEXT, "lower": math.inf}, "lower", "a finite number"),
        ({**NUMBER, "answer": 10**400}, "answer", "a finite number, found 1000"),
        ({**NUMBER, "upper": 2**53 + 1}, "upper", "a finite number"),
        ({**NUMBER, "upper": 10**309}, "upper", "a finite number"),
        ({**NUMBER, "answer": 3}, "answer", "a number from lower = 1.9 to upper = 2.1, found 3"),
        ({**INTEGER, "answer": -(10**309)}, "answer", "a finite number"),
        ({**DATE, "answer": "\u0660\u0662/\u0660\u0669/\u0662\u0660\u0662\u0664"}, "answer", "MM/DD/YYYY"),
        ({**DATE, "answer": "02/29/2024 "}, "answer", "MM/DD/YYYY"),
        ({**DATE, "answer": "02/29/0000"}, "answer", "MM/DD/YYYY"),
        ({**DURATION, "answer": {"weeks": True, "days": 0}}, "answer", "whole numbers"),
        ({**DURATION, "answer": {"weeks": 10**6, "days": 0}}, "answer", "whole numbers from 0 to 999999"),
        ({**DURATION, "answer": {"weeks": 3.0, "days": 0}}, "answer", "whole numbers"),
        ({**TEXT, "answer": "w " * 513}, "answer", "a text of at most 512 words"),
        ({**TEXT, "answer": "w" * 20_001}, "answer", "and 20000 characters"),
        ({**TEXT, "answer": "$\\text{ }$"}, "answer", "a letter or digit"),
        ({**TEXT, "aliases": ["Zn", "w " * 513]}, "aliases", "each of at most 512 words"),
        ({**TEXT, "aliases": [None]}, "aliases", "a list of texts"),
        ({**TEXT, "meta": {"trace": "because"}}, "meta.trace", 'an object {"think": text, "answer": text}'),
        ({**TEXT, "meta": {"trace": {"answer": "x"}}}, "meta.trace", "an object"),
        ({**TEXT, "meta": {"trace": {"think": None, "answer": "x"}}}, "meta.trace", "an object"),
        ({**TEXT, "meta": {"trace": {"think": "t", "answer": 3}}}, "meta.trace", "an object"),
        (
            {**TEXT, "meta": {"trace": {"think": "t", "answer": " "}}},
            "meta.trace",
            "without tags in them (missing_answer)",
        ),
        ({**TEXT, "meta": {"trace": {"think": "</think>", "answer": "x"}}}, "meta.trace", "(leaked_thinking)"),
        ({**TEXT, "meta": {"trace": {"think": "<think>t", "answer": "x"}}}, "meta.trace", "(leaked_thinking)"),
        ({**TEXT, "meta": {"trace": {"think": "t", "answer": "<answer>x"}}}, "meta.trace", "(repeated_answer)"),
        ({**TEXT, "meta": {"trace": {"think": "t", "answer": "x</answer>y"}}}, "meta.trace", "(repeated_answer)"),
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
        (json.dumps(TEXT).encode() + b'\n{"id": "2", "sour', ":2: not JSON (Unterminated string"),
        (b'{"id": "1", "id": "2"}', ":1: an object names 'id' twice"),
        (json.dumps([TEXT], indent=1).encode(), ":1: expected a JSON object, found list; write one object a line"),
        (b'{"id": ' + b"[" * 100_000, ":1: not a row (nested too deeply)"),
        (b'{"answer": 1' + b"0" * 5000 + b"}", ":1: not a row (a number of thousands of digits)"),
        (b"null\n", ":1: expected a JSON object, found null"),
        (b"", ": holds no rows"),
        (b"PAR1", ": is a parquet file; write it as JSON lines"),
        (gzip.compress(json.dumps(TEXT).encode(), mtime=0)[:-9], ":1: cannot be read on"),
        (
            json.dumps({**TEXT, "unit": "\u00b5g"}, ensure_ascii=False).encode("cp1252"),
            ":1: not UTF-8 text (byte 0xb5 at",
        ),
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


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_rows_in_any_unicode_encoding_and_with_any_line_end(encoding: str, end: str, tmp_path: Path) -> None:
    rows = [{**TEXT, "id": f"{n}", "question": "\u00b5g\u2028\u0085 \u03b2?"} for n in range(3)]
    text = end.join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "rows.jsonl").write_bytes(text.encode(encoding))
    (tmp_path / "rows.gz").write_bytes(gzip.compress(text.encode(encoding)))
    for name in ("rows.jsonl", "rows.gz"):
        assert [(e.id, e.question) for e in read_examples(tmp_path / name)] == [(r["id"], r["question"]) for r in rows]


def test_ids_are_unique_in_all_files_of_a_run(tmp_path: Path) -> None:
    """Two rows with one id were one another's trace in SFT."""
    first = _file(tmp_path / "a.jsonl", {**TEXT, "id": "q1"}, {**TEXT, "id": "q2"})
    second = _file(tmp_path / "b.jsonl", {**TEXT, "id": "q3"}, {**CHOICE, "id": "q2"})
    third = _file(tmp_path / "c.jsonl", {**TEXT, "id": "q2 "}, {**TEXT, "id": "Q2"})
    assert [e.id for e in read_examples(first, third)] == ["q1", "q2", "q2 ", "Q2"]
    with pytest.raises(ExampleError) as caught:
        read_examples(first, third, second)
    assert str(caught.value).startswith(f"{second}:2: field 'id': 'q2' occurs twice, first in {first}, row 2; ")
    (tmp_path / "link.jsonl").symlink_to(first)
    for again in (first, str(first), tmp_path / "link.jsonl"):
        with pytest.raises(ExampleError, match="named twice"):
            read_examples(first, again)
    with pytest.raises(ExampleError, match="holds no rows"):
        read_examples(first, _file(tmp_path / "empty.jsonl"))


def test_nulls_of_other_tables_are_no_values(tmp_path: Path) -> None:
    """The `datasets` library gives every row every field of every other row, as null."""
    row = {**CHOICE, "options": {"A": "one", "B": "two", "C": None}, "lower": None, "rounding": None, "aliases": None}
    [example] = read_examples(_file(tmp_path / "rows.jsonl", {**row, "meta": {"trace": None, "skill": "x"}}))
    assert (example.options, example.meta) == ({"A": "one", "B": "two"}, {"skill": "x"})


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


_WILD_TEXT = st.text(st.characters(exclude_categories=()), max_size=12) | st.sampled_from(  # NUL, half characters
    ["$\\text{ }$", "</think>", "<answer>", "w " * 512, "w " * 513, "a", "\u2122", "\u00bd", "\u200b", "02/30/2024"]
)
_WILD_NUMBER = st.floats() | st.integers() | st.sampled_from([10**400, 2**53 + 1, -(10**308), True, 5e-324, "1", None])
_WILD_OPTIONS = st.dictionaries(st.sampled_from([*"ABCDEFGHIJKLMNOa", "", "AB"]), _WILD_TEXT | st.none(), max_size=15)
_TEXT = st.text("abc \u00b5", min_size=1, max_size=5).map(lambda text: f"{text}x")
_SANE: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "choice": st.lists(_TEXT, min_size=2, max_size=14, unique_by=str.strip).map(
        lambda texts: {"options": dict(zip("ABCDEFGHIJKLMN", texts, strict=False)), "answer": "B"}
    ),
    "number": st.tuples(st.floats(-1e300, 1e300), st.booleans()).map(
        lambda drawn: (
            {"answer": drawn[0], "lower": drawn[0] - 1, "upper": drawn[0]}
            if drawn[1]
            else {"answer": float(round(drawn[0])), "rounding": "integer"}
        )
    ),
    "date": st.dates().map(lambda day: {"answer": f"{day:%m/%d}/{day.year:04d}"}),
    "duration": st.fixed_dictionaries(
        {"answer": st.fixed_dictionaries({"weeks": st.integers(0, 60), "days": st.integers(0, 60)})}
    ),
    "text": st.fixed_dictionaries({"answer": _TEXT, "aliases": st.lists(_TEXT, max_size=3)}),
}
_WILD: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(("id", "question", "context", "unit"), _WILD_TEXT),
    **dict.fromkeys(("lower", "upper"), _WILD_NUMBER),
    "rounding": st.sampled_from(["integer", None, "up"]),
    "answer": _WILD_TEXT | _WILD_NUMBER | st.dictionaries(st.sampled_from(["weeks", "days"]), _WILD_NUMBER),
    "options": _WILD_OPTIONS,
    "aliases": st.lists(_WILD_TEXT, max_size=3),
    "meta": st.fixed_dictionaries({"x": _WILD_NUMBER, "trace": _WILD_TEXT | st.none()})
    | st.fixed_dictionaries({"trace": st.fixed_dictionaries({"think": _WILD_TEXT, "answer": _WILD_TEXT | _TEXT})}),
}


@st.composite
def _rows(draw: st.DrawFn) -> dict[str, Any]:
    """A sound row with up to two of its fields replaced by what files really hold, and worse."""
    task = draw(st.sampled_from(TASKS))
    wild = draw(st.lists(st.sampled_from(list(_WILD)), max_size=2))
    meta = {"trace": {"think": "t", "answer": draw(_TEXT)}}
    row = {"id": "1", "source": "s", "question": "?", "task": task, "meta": meta, **draw(_SANE[task])}
    return {**row, **{name: draw(_WILD[name]) for name in wild}}


def test_whatever_is_read_can_be_written_scored_and_taught() -> None:
    """Fails if one row passes here that the file, the wire, the server's schema or the rewarded form does not take."""
    read: Counter[str] = Counter()

    @settings(max_examples=600, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(_rows())
    def check(row: dict[str, Any]) -> None:
        try:
            example = example_from_row(row, "row")
        except ExampleError:
            read["refused"] += 1
            return
        read[example.task] += 1
        assert example_from_row(parse_json(example.to_json().encode().decode(), "row"), "row") == example
        item = ScoreItem("i", example.task, "<think>t</think><answer>x</answer>", example.reference())
        [sent] = parse_request(batch_body("gated", [item])).items
        back = sent.reference.model_dump(exclude_unset=True)
        assert back == example.reference()
        if "trace" in example.meta:
            read["trace"] += 1
            parts = parse(trace_response(example))
            assert (parts.issue, parts.answer) == (None, example.meta["trace"]["answer"].strip())

    check()
    assert min(read[kind] for kind in (*TASKS, "refused", "trace")) >= 10, read


@pytest.mark.parametrize(
    ("row", "gold"),
    [
        (CHOICE, "B"),
        (NUMBER, "2"),
        (NUMBER | {"answer": 22.857142857, "lower": 21.7, "upper": 24.0}, "22.8571"),
        (NUMBER | {"answer": 1234567.891, "lower": 1234567.89, "upper": 1234567.9}, "1234567.891"),
        (NUMBER | {"answer": 0.00001, "lower": 0.0, "upper": 1.0}, "1e-05"),
        (DATE, "02/29/2024"),
        (DURATION, "3 weeks, 0 days"),
        (TEXT, "zinc"),
    ],
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
