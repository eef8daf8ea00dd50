"""What readers of published formats share: a `Reader`, what it leaves out, and Examples made of a row's parts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipes.data.choices import NoLabelError, TwoLabelsError, choice_of, is_missing, parsed_cell
from recipes.data.errors import ExampleError, UniqueIds
from recipes.data.example import Example, example_from_row, worked_response
from recipes.data.sources import Source
from recipes.data.tables import Row
from reward_server.reference import form_fault, text_fault

NO_LABEL = "has no label"
TWO_LABELS = "its letter and its answer's text are two options"
TWIN = "another option has the right one's text"
_LIST = re.compile(r"\s*\[\s*['\"].*['\"]\s*\]\s*", re.DOTALL)


# Fields that tell a set's rows where another kind would read them too, as a set of its own source and licence.
_MARKS = {
    "examples": {"id", "source", "task", "question", "answer"},
    "mmlu-pro": {"category", "src"},
    "medxpertqa": {"medical_task", "body_system"},
    "mediq": {"facts", "context"},
    "medical-o1": {"Complex_CoT"},
    "medreason": {"reasoning", "dataset_name"},
}


@dataclass(frozen=True)
class LeftOut:
    """A row that is no Example, and why; `where` names file and row."""

    reason: str
    where: str


@dataclass(frozen=True)
class Reader:
    """One published format.

    Attributes:
        kind: its name on the command line.
        help: what it reads, in a line.
        rows: gives, row by row, what a source holds, with ids that begin with a given word, and takes the options
            below as keywords. It raises ExampleError with file and row for a row that cannot be read,
            FileNotFoundError for a missing file.
        options: arguments of its own on the command line, as argparse's `add_argument` takes them.
        ids: the word that ids begin with where none is given; empty for ids as they are in the source.
    """

    kind: str
    help: str
    rows: Callable[..., Iterator[Example | LeftOut]]
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    ids: str | None = None


def rows_of(kind: str, source: Source) -> Iterator[Row]:
    """The rows of a source. Raises ExampleError for one that another kind's fields tell."""
    for row in source.rows():
        for other, fields in _MARKS.items():
            if other != kind and fields <= row.values.keys():
                raise ExampleError(
                    f"{row.where}: is a row of kind {other}, which its fields {', '.join(sorted(fields))} tell, not of "
                    f"{kind}; name that kind, or take these columns away"
                )
        yield row


class Ids:
    """The ids of one source's rows, by the file's own names for them.

    Args:
        source: the source.
        prefix: what ids begin with.
    """

    def __init__(self, source: Source, prefix: str) -> None:
        self._source, self._prefix, self._seen = source, prefix, UniqueIds()

    def of(self, row: Row, *parts: object) -> str:
        """The id of a row. Raises ExampleError where an earlier row has it."""
        for part in parts:
            if is_missing(part) or isinstance(part, dict | list | tuple):
                raise row.wrong("id", "a text or a number", part)
        name = "/".join(str(part) for part in (self._prefix, *parts) if part != "")
        self._seen.add(name, Path(self._source.name), row.number, row.where)
        return name


def text_of(row: Row, name: str, value: Any) -> str:
    """A text, or a list of texts, also as a table's cell holds one, a line each; empty for a missing one."""
    if isinstance(value, str) and _LIST.fullmatch(value):
        if (listed := parsed_cell(value)) is None:
            raise row.wrong(name, "a list of texts in JSON's or Python's writing, with commas", value)
        value = listed
    parts = value if isinstance(value, list | tuple) else [value]
    parts = ["" if is_missing(part) else part for part in parts]
    if not all(isinstance(part, str) for part in parts):
        raise row.wrong(name, "a text or a list of texts", value)
    return "\n".join(parts).strip()


def label_of(value: Any) -> str | None:
    """A short text of a row's metadata, such as a subject; None where there is none."""
    return None if is_missing(value) else str(value).strip()


def untagged(text: str, tag: str) -> str:
    """A text without the tags that some sets publish around it."""
    return text.strip().removeprefix(f"<{tag}>").removesuffix(f"</{tag}>").strip()


def choice_example(row: Row, *, meta: Mapping[str, Any], think: str | None = None, **fields: Any) -> Example | LeftOut:
    """A choice question of the row's options and answer, as `choice_of` reads them.

    Args:
        row: the row, under the columns that `choice_of` knows.
        meta: `meta` of the Example; None values stay out.
        think: the reasoning to the right letter, for SFT, in think tags or without.
        fields: the Example's other fields, without task and answer.

    Raises:
        ExampleError: naming row and field.
    """
    try:
        options, answer = choice_of(row)
    except TwoLabelsError:
        return LeftOut(TWO_LABELS, row.where)
    except NoLabelError:
        return LeftOut(NO_LABEL, row.where)
    right = options[answer].split()
    if any(letter != answer and text.split() == right for letter, text in options.items()):
        return LeftOut(TWIN, row.where)
    return _example(row, {**fields, "task": "choice", "options": options, "answer": answer}, meta, think, answer)


def text_example(
    row: Row, *, answer: str, meta: Mapping[str, Any], think: str | None = None, **fields: Any
) -> Example | LeftOut:
    """A question with a text for its answer, as `choice_example`."""
    if not answer:
        return LeftOut(NO_LABEL, row.where)
    if fault := text_fault(answer, ()):
        return LeftOut(f"its answer is not {fault[1]}", row.where)
    return _example(row, {**fields, "task": "text", "answer": answer}, meta, think, answer)


def _example(
    row: Row, fields: dict[str, Any], meta: Mapping[str, Any], think: str | None, answer: str
) -> Example | LeftOut:
    trace = None
    if think := untagged(think or "", "think"):
        trace = {"think": think, "answer": answer}
        if form_fault(worked_response(think, answer)):
            return LeftOut("its reasoning or its answer has tags in it", row.where)
    return example_from_row({**fields, "meta": {**meta, "trace": trace}}, row.where)
