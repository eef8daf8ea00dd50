"""The one schema of a question: `Example`, read from and written to JSONL, one object a line.

What the answer side may be is said in `reward_server.reference`, for the server too: a row that is read here can be
scored there, and its trace has the form that is rewarded.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args

from recipes.data.errors import ExampleError, UniqueIds
from recipes.data.text_files import NOTHING, TextFile, parse_json
from reward_server.reference import form_fault, is_blank, reference_fault

Task = Literal["choice", "number", "date", "duration", "text"]
TASKS: tuple[str, ...] = get_args(Task)

# The three kinds of task that results are reported for (Med-U1's), and which schema tasks each takes in.
REPORT_GROUPS: dict[str, tuple[str, ...]] = {
    "choice": ("choice",),
    "calculation": ("number", "date", "duration"),
    "text": ("text",),
}
GROUP_OF_TASK: dict[str, str] = {task: group for group, tasks in REPORT_GROUPS.items() for task in tasks}


@dataclasses.dataclass(frozen=True)
class Example:
    """A question with a verifiable answer.

    Attributes:
        id: unique in all files that are read together.
        source: the data set it comes from.
        task: how the answer is graded.
        question: the question; `context` (a note, an abstract) comes before it in the prompt.
        answer: a letter of `options`, a finite number, MM/DD/YYYY, {"weeks": w, "days": d}, or text.
        options: letter (A to N) to option text, for choice only.
        lower, upper: inclusive limits of a right number; `rounding` = "integer" compares after rounding instead.
        aliases: other right texts.
        license: licence of the row's source.
        meta: anything else; `skill` groups rows that need the same knowledge, `trace` is {"think", "answer"}, two texts
            without the tags around them.
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
        if isinstance(self.answer, str):
            return self.answer
        # Six digits, or as many as a right answer needs.
        lower, upper = (self.answer if limit is None else limit for limit in (self.lower, self.upper))
        short = f"{self.answer:g}"
        return short if "e" not in short and lower <= float(short) <= upper else f"{self.answer:.15g}"

    def to_json(self) -> str:
        """One line of JSON without the fields that are unset."""
        row = {k: v for k, v in dataclasses.asdict(self).items() if v not in (None, (), {})}
        return json.dumps(row, ensure_ascii=False)


_FIELDS = {field.name for field in dataclasses.fields(Example)}
_REQUIRED = ("id", "source", "task", "question", "answer")
_OPTIONAL: dict[str, tuple[type | tuple[type, ...], str]] = {
    "context": (str, "a text"),
    "options": (dict, "an object of at least two letters and their texts"),
    "aliases": (list, "a list of texts"),
    "unit": (str, "a text"),
    "license": (str, "a text"),
    "meta": (dict, "an object"),
}
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
_SHOWN_CHARS = 200


def question_words(example: Example) -> str:
    """What makes two rows one question, whatever their ids and options: its words and its context's."""
    return " ".join(f"{example.context or ''} {example.question}".casefold().split())


def worked_response(think: str, answer: str) -> str:
    """A reasoning and its answer in the form that SFT teaches and the reward server asks for."""
    return f"<think>{think}</think><answer>{answer}</answer>"


def example_from_row(row: Any, where: str) -> Example:
    """Checks one JSON value and makes an Example of it.

    Args:
        row: the parsed JSON; null in an optional field, for an option or within `meta` leaves it unset.
        where: file and line, for the message.

    Raises:
        ExampleError: naming `where`, the field, what was expected and what was found.
    """
    if not isinstance(row, dict):
        raise ExampleError(f"{where}: expected a JSON object, found {_kind(row)}")
    for field in _REQUIRED:
        if field not in row:
            raise ExampleError(f"{where}: field '{field}' is missing; an Example needs {', '.join(_REQUIRED)}")
    unknown = sorted(set(row) - _FIELDS)
    if unknown:
        raise ExampleError(f"{where}: field '{unknown[0]}' is not of an Example; put extra data under 'meta'")
    row = {name: value for name, value in row.items() if value is not None or name in _REQUIRED}
    for field in ("options", "meta"):
        if isinstance(row.get(field), dict):
            row[field] = {key: value for key, value in row[field].items() if value is not None}
    for field, value, expected in _faults(row):
        raise ExampleError(f"{where}: field '{field}': expected {expected}, found {_shown(value)}")
    return Example(**{**row, "aliases": tuple(row.get("aliases", ()))})


def _faults(row: dict[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """Field, value and what was expected; lazily, as later checks rely on earlier ones."""
    for field in ("id", "source", "question"):
        if not isinstance(row[field], str) or is_blank(row[field]):
            yield field, row[field], "a text that is not empty"
    for field in ("question", "context"):
        if str(row.get(field)).strip() in NOTHING:
            yield field, row[field], "a text, not what pandas writes for none"
    if row["task"] not in TASKS:
        yield "task", row["task"], f"one of {', '.join(TASKS)}"
    for field, (kind, expected) in _OPTIONAL.items():
        if field in row and not isinstance(row[field], kind):
            yield field, row[field], expected
    if "options" in row and row["task"] != "choice":
        yield "options", row["options"], f"none, since task is {row['task']}"
    if fault := reference_fault(row["task"], row):
        field, expected = fault
        yield field, row.get(field), expected
    if row["task"] == "choice":
        yield from _option_faults(row["options"], row["answer"])
    lower, upper = row.get("lower"), row.get("upper")
    if row["task"] == "number" and None not in (lower, upper) and not lower <= row["answer"] <= upper:
        yield "answer", row["answer"], f"a number from lower = {lower} to upper = {upper}"
    if "trace" in row.get("meta", {}):
        yield from _trace_faults(row["meta"]["trace"])
    yield from _unwritable(row, "")


def _option_faults(options: dict[str, str], answer: str) -> Iterator[tuple[str, Any, str]]:
    for letter, text in options.items():
        if is_blank(text):
            yield "options", options, f"a text for {letter}; without one, leave the letter out"
        if letter != answer and text.split() == options[answer].split():
            yield "options", options, f"a text of its own for the right option {answer}, not that of {letter}"


def _trace_faults(trace: Any) -> Iterator[tuple[str, Any, str]]:
    think, answer = (trace.get("think"), trace.get("answer")) if isinstance(trace, dict) else (None, None)
    if not isinstance(think, str) or not isinstance(answer, str):
        yield "meta.trace", trace, 'an object {"think": text, "answer": text}, or none'
    elif issue := form_fault(worked_response(think, answer)):
        yield "meta.trace", trace, f"a reasoning and an answer without tags in them ({issue})"


def _unwritable(value: Any, name: str) -> Iterator[tuple[str, Any, str]]:
    """What JSON or a tokenizer cannot take, anywhere in a row."""
    if isinstance(value, str):
        if "\0" in value or (not value.isascii() and _HALF_CHARACTER.search(value)):
            yield name, value, "text without NUL and half characters (lone surrogates)"
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _unwritable(key, name or str(key))
            yield from _unwritable(part, f"{name}.{key}" if name else key)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _unwritable(part, name)
    elif isinstance(value, float) and not math.isfinite(value):
        yield name, value, "a finite number"


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def _shown(value: Any) -> str:
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}... ({len(text)} characters)"


def read_examples(*paths: str | Path) -> list[Example]:
    """Reads JSONL files of Examples, whole, with ids that are unique in all of them.

    Raises:
        ExampleError: for the first bad line, naming file, line and field.
        FileNotFoundError: naming the path.
    """
    return list(iterate_examples(*paths))


def iterate_examples(*paths: str | Path) -> Iterator[Example]:
    """The rows of JSONL files one by one, as `read_examples` reads them."""
    ids = UniqueIds()
    for number, path in enumerate(map(Path, paths)):
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}: no such data file; write one with `python -m recipes.prepare_data --help`"
            )
        if any(path.samefile(earlier) for earlier in paths[:number]):
            raise ExampleError(f"{path}: named twice among the files of a run; name it once")
        empty = True
        with TextFile(path) as file:
            for line in file.lines():
                if line.isspace():
                    continue
                where = f"{path}:{file.line}"
                if line.lstrip().startswith("["):
                    raise ExampleError(f"{where}: expected a JSON object, found list; write one object a line")
                example = example_from_row(parse_json(line, where), where)
                ids.add(example.id, path, file.line, where)
                empty = False
                yield example
        if empty:
            raise ExampleError(f"{path}: holds no rows; expected one JSON object a line")


def write_examples(path: str | Path, examples: Iterable[Example]) -> int:
    """Writes Examples as JSONL, row by row, by one atomic rename; returns how many.

    Raises:
        ExampleError: when there are none, or the file cannot be written; what was there before stays as it was.
    """
    target = Path(os.path.realpath(path))  # what a link points to is replaced, not the link
    partial = target.with_name(f".{os.getpid()}.partial")
    count = 0
    try:
        if target.exists() and not target.is_file():
            raise ExampleError(f"{path}: is no regular file and cannot be replaced; name a file to write")
        target.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            for example in examples:
                file.write(example.to_json() + "\n")
                count += 1
            file.flush()
            os.fsync(file.fileno())
        if not count:
            raise ExampleError(f"{path}: there are no rows to write")
        partial.replace(target)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and error.filename is None:
            raise  # in words: the rows' own source is missing
        raise ExampleError(
            f"{path}: cannot be written ({error.strerror}); free space there, or name a file in a folder of yours"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    return count
