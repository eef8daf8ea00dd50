"""Rows chosen by how many sampled answers to them were right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from recipes import prepare_data
from recipes.data.errors import ExampleError
from recipes.data.example import Example, read_examples, write_examples
from recipes.data.sources import FileSource

# Right answers of four.
RIGHT = {"never": 0, "once": 1, "half": 2, "mostly": 3, "always": 4}


def _answers(identity: str, right: int, **more: Any) -> list[dict[str, Any]]:
    row = {"id": identity, "answer": "x", "variant": "plain", **more}
    return [{"status": "correct" if number < right else "no_answer", **row, "sample": number} for number in range(4)]


def _write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def train(tmp_path: Path) -> Path:
    names = ["mostly", "never", "half", "unasked", "ungraded", "always", "once", "half too"]
    write_examples(tmp_path / "train.jsonl", [Example(name, "s", "text", f"{name}?", "x") for name in names])
    return tmp_path / "train.jsonl"


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    rows = [row for name, right in RIGHT.items() for row in _answers(name, right)]
    rows += _answers("half too", 2)
    rows += [{**row, **({"status": "timeout"} if row["sample"] == 3 else {})} for row in _answers("ungraded", 2)]
    # Of another variant, and of a row that is not trained on.
    rows += _answers("once", 4, variant="short") + _answers("elsewhere", 1)
    return _write(tmp_path / "before.jsonl", rows)


def _chosen(train: Path, answers: Path, *passes: int, order: bool = False, ids: str | None = None) -> dict[str, Any]:
    out = train.with_name("out.jsonl")
    source = FileSource(train)
    manifest = prepare_data.convert("difficulty", source, out, ids, answers=answers, passes=passes, order=order)
    return {**manifest, "ids": [row.id for row in read_examples(out)]}


def test_rows_within_the_range_stay_in_their_order_or_easy_ones_first(train: Path, answers: Path) -> None:
    made = _chosen(train, answers, 1, 3)
    assert made["ids"] == ["mostly", "half", "once", "half too"]
    assert [(left["reason"], left["rows"], left["first"]) for left in made["left_out"]] == [
        ("0 of 4 answers right", 1, "'never'"),
        ("no answer in before.jsonl", 1, "'unasked'"),
        ("answers that the reward server could not grade", 1, "'ungraded'"),
        ("4 of 4 answers right", 1, "'always'"),
    ]
    assert made["options"]["passes"] == [1, 3]
    assert made["options"]["answers"]["path"] == str(answers)
    assert _chosen(train, answers, 1, 3, order=True)["ids"] == ["mostly", "half", "half too", "once"]
    assert _chosen(train, answers, 0, 1, ids="new")["ids"] == ["new/never", "new/once"]


@pytest.mark.parametrize(
    ("passes", "change", "said"),
    [
        ((3, 1), {}, r"--passes 3 1: expected two numbers, the lower one first, up to the 4 answers to each question"),
        ((1, 7), {}, r"--passes 1 7: expected"),
        ((-1, 2), {}, r"--passes -1 2: expected"),
        ((1, 3), {"sample": 0}, r"before\.jsonl: has 4 to 5 answers a question; expected equally many"),
        (
            (1, 3),
            {"answer": "y"},
            r"was graded by 'y' for 'mostly', and .*train\.jsonl has 'x' there; evaluate on this",
        ),
        ((1, 3), {"id": None}, r"before\.jsonl, row 1: field 'id': expected a text"),
        ((1, 3), {"status": "Correct"}, r"before\.jsonl, row 1: field 'status': expected one of correct, .*'Correct'"),
        ((1, 3), {"status": None}, r"before\.jsonl, row 1: field 'status': expected a text"),
    ],
)
def test_answers_that_say_nothing_of_these_rows_are_refused(
    passes: tuple[int, int], change: dict[str, Any], said: str, train: Path, answers: Path
) -> None:
    rows = [json.loads(line) for line in answers.read_text().splitlines()]
    mostly = [row for row in rows if row["id"] == "mostly"]
    rest = [row for row in rows if row["id"] != "mostly"]
    changed = [{**row, **change} for row in mostly]
    _write(answers, [*changed, *rest] if change.keys() != {"sample"} else [mostly[0], *rows])
    with pytest.raises(ExampleError, match=said):
        _chosen(train, answers, *passes)
    assert not train.with_name("out.jsonl").exists()
