"""The one schema of a question: `Example`, read from and written to JSONL, one object a line."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args

Task = Literal["choice", "number", "date", "duration", "text"]
TASKS: tuple[str, ...] = get_args(Task)

# The three kinds of task that results are reported for (Med-U1's), and which schema tasks each takes in.
REPORT_GROUPS: dict[str, tuple[str, ...]] = {
    "choice": ("choice",),
    "calculation": ("number", "date", "duration"),
    "text": ("text",),
}
GROUP_OF_TASK: dict[str, str] = {task: group for group, tasks in REPORT_GROUPS.items() for task in tasks}


class ExampleError(ValueError):
    """A row that is not an Example: the message names file, line and field, what was expected and what was found."""


@dataclasses.dataclass(frozen=True)
class Example:
    """A question with a verifiable answer.

    Attributes:
        id: unique within its file.
        source: the data set it comes from.
        task: how the answer is graded.
        question: the question; `context` (a note, an abstract) comes before it in the prompt.
        answer: a letter of `options`, a finite number, MM/DD/YYYY, {"weeks": w, "days": d}, or text.
        options: letter (A to N) to option text, for choice only.
        lower, upper: inclusive limits of a right number; `rounding` = "integer" compares after rounding instead.
        aliases: other right texts.
        license: licence of the row's source.
        meta: anything else; `skill` groups rows that need the same knowledge, `trace` is {"think", "answer"}.
    """

    id: str
    source: str
    task: Task
    question: str
    answer: str | float | dict[str, int]
    context: str | None = None
    options: dict[str, str] | None = None
    lower: float | None = None
    upper: float | None = None
    rounding: Literal["integer"] | None = None
    aliases: tuple[str, ...] = ()
    unit: str | None = None
    license: str = "unknown"
    meta: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def group(self) -> str:
        """The kind of task that results are reported for: choice, calculation or text."""
        return GROUP_OF_TASK[self.task]

    def reference(self) -> dict[str, Any]:
        """The answer side, as the reward server takes it."""
        if self.task == "choice":
            return {"answer": self.answer, "options": self.options}
        if self.task == "number":
            if self.rounding:
                return {"answer": self.answer, "rounding": self.rounding}
            return {"answer": self.answer, "lower": self.lower, "upper": self.upper}
        if self.task == "text" and self.aliases:
            return {"answer": self.answer, "aliases": list(self.aliases)}
        return {"answer": self.answer}

    def gold(self) -> str:
        """The answer as a person would write it."""
        if isinstance(self.answer, dict):
            return f"{self.answer['weeks']} weeks, {self.answer['days']} days"
        return f"{self.answer:g}" if isinstance(self.answer, float | int) else self.answer

    def to_json(self) -> str:
        """One line of JSON without the fields that are unset."""
        row = {k: v for k, v in dataclasses.asdict(self).items() if v not in (None, (), {})}
        return json.dumps(row, ensure_ascii=False)


_FIELDS = {field.name for field in dataclasses.fields(Example)}
_REQUIRED = ("id", "source", "task", "question", "answer")
_LETTERS = "ABCDEFGHIJKLMN"
_OPTIONAL: dict[str, tuple[type, str]] = {
    "context": (str, "a text"),
    "aliases": (list, "a list of texts"),
    "unit": (str, "a text"),
    "license": (str, "a text"),
    "meta": (dict, "an object"),
}


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and any(character.isalnum() for character in value)


def _check_answer(row: dict[str, Any], where: str) -> None:
    def fail(field: str, expected: str) -> None:
        raise ExampleError(f"{where}: field '{field}': expected {expected}, found {row.get(field)!r}")

    task, answer = row["task"], row["answer"]
    if task == "choice":
        options = row.get("options")
        if not isinstance(options, dict) or len(options) < 2 or not all(isinstance(v, str) for v in options.values()):
            fail("options", "an object of at least two letters and their texts")
        elif not set(options) <= set(_LETTERS):
            fail("options", f"letters from {_LETTERS[0]} to {_LETTERS[-1]}")
        elif not isinstance(answer, str) or answer not in options:
            fail("answer", f"one of the letters {', '.join(options)}")
    elif task == "number":
        for field in ("answer", "lower", "upper"):
            if field in row and not _is_finite(row[field]):
                fail(field, "a finite number")
        if row.get("rounding") not in (None, "integer"):
            fail("rounding", '"integer" or nothing')
        if row.get("rounding") and row["answer"] != int(row["answer"]):
            fail("answer", 'a whole number, since rounding is "integer"')
        if not row.get("rounding") and (row.get("lower") is None or row.get("upper") is None):
            fail("lower" if row.get("lower") is None else "upper", 'a limit (or "rounding": "integer")')
        if row.get("lower") is not None and row.get("upper") is not None and row["lower"] > row["upper"]:
            fail("lower", f"a limit not above upper = {row['upper']}")
    elif task == "date":
        try:
            datetime.datetime.strptime(str(answer), "%m/%d/%Y")
        except ValueError:
            fail("answer", "a date as MM/DD/YYYY")
    elif task == "duration":
        if (
            not isinstance(answer, dict)
            or set(answer) != {"weeks", "days"}
            or not all(type(value) is int and value >= 0 for value in answer.values())
        ):
            fail("answer", 'an object {"weeks": number, "days": number} of whole numbers')
    elif not _is_text(answer):
        fail("answer", "a text with a letter or digit")


def example_from_row(row: Any, where: str) -> Example:
    """Checks one JSON value and makes an Example of it.

    Args:
        row: the parsed JSON; null in an optional field leaves it unset.
        where: file and line, for the message.

    Raises:
        ExampleError: naming `where`, the field, what was expected and what was found.
    """
    if not isinstance(row, dict):
        raise ExampleError(f"{where}: expected a JSON object, found {type(row).__name__}")
    for field in _REQUIRED:
        if field not in row:
            raise ExampleError(f"{where}: field '{field}' is missing; an Example needs {', '.join(_REQUIRED)}")
    unknown = sorted(set(row) - _FIELDS)
    if unknown:
        raise ExampleError(f"{where}: field '{unknown[0]}' is not of an Example; put extra data under 'meta'")
    for field in ("id", "source", "question"):
        if not isinstance(row[field], str) or not row[field].strip():
            raise ExampleError(f"{where}: field '{field}': expected a text that is not empty, found {row[field]!r}")
    if row["task"] not in TASKS:
        raise ExampleError(f"{where}: field 'task': expected one of {', '.join(TASKS)}, found {row['task']!r}")
    row = {name: value for name, value in row.items() if value is not None or name in _REQUIRED}
    for field, (kind, expected) in _OPTIONAL.items():
        value = row.get(field)
        if value is not None and not isinstance(value, kind):
            raise ExampleError(f"{where}: field '{field}': expected {expected}, found {value!r}")
    if not all(_is_text(alias) for alias in row.get("aliases", ())):
        raise ExampleError(
            f"{where}: field 'aliases': expected a list of texts with a letter or digit, found {row['aliases']!r}"
        )
    _check_answer(row, where)
    return Example(**{**row, "aliases": tuple(row.get("aliases", ()))})


def read_examples(path: str | Path) -> list[Example]:
    """Reads a JSONL file of Examples, whole, with unique ids.

    Raises:
        ExampleError: for the first bad line, naming file, line and field.
        FileNotFoundError: naming the path.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such data file; write one with `python -m recipes.prepare_data --help`")
    examples: list[Example] = []
    seen: set[str] = set()
    for number, line in _lines(path):
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ExampleError(f"{where}: not JSON ({error.msg} at column {error.colno})") from None
        example = example_from_row(row, where)
        if example.id in seen:
            raise ExampleError(f"{where}: field 'id': {example.id!r} occurs twice; ids are unique within a file")
        seen.add(example.id)
        examples.append(example)
    if not examples:
        raise ExampleError(f"{path}: holds no rows; expected one JSON object a line")
    return examples


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            try:
                line = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise ExampleError(f"{path}:{number}: not UTF-8 text ({error.reason} at byte {error.start})") from None
            if line.strip():
                yield number, line


def write_examples(path: str | Path, examples: Iterable[Example]) -> int:
    """Writes Examples as JSONL by one atomic rename; returns how many."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    count = 0
    with partial.open("w", encoding="utf-8") as file:
        for example in examples:
            file.write(example.to_json() + "\n")
            count += 1
    partial.replace(path)
    return count
