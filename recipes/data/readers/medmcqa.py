"""MedMCQA (Pal et al., 2022): questions of Indian entrance exams, `cop` the right one of `opa` to `opd`.

Its authors' JSON counts `cop` from 1, the Hugging Face hub's parquet from 0, and a row does not say which. The file
does: from the first 0 or 4 in it. `choice_type` "multi" marks questions whose wording asks for several options; they
have one right answer all the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from recipes.data.choices import is_missing, letter_at
from recipes.data.errors import ExampleError
from recipes.data.example import Example
from recipes.data.readers.base import Ids, LeftOut, Reader, choice_example, label_of
from recipes.data.sources import Source
from recipes.data.tables import Row


def _rows(source: Source, ids: str, *, first_index: int | None = None) -> Iterator[Example | LeftOut]:
    named = Ids(source, ids)
    first = first_index if first_index is not None else _first_index(source)
    for row in source.rows():
        row["opa"]  # without it, it is another set's
        cop = _index(row)
        if isinstance(cop, int):
            cop = letter_at(row, "cop", cop, first=first, count=4)
        yield choice_example(
            row.having(answer_idx=cop),
            id=named.of(row, row.values.get("id", row.number)),
            source="MedMCQA",
            question=row["question"],
            license="MIT",
            meta={
                "subject": label_of(row.values.get("subject_name")),
                "skill": label_of(row.values.get("topic_name")),
                "category": label_of(row.values.get("choice_type")),
                "split": source.split,
            },
        )


def _index(row: Row) -> Any:
    """The right option's index, what else stands there, or None where no label is (-1 in the hub's test split)."""
    value = row.values.get("cop")
    text = "" if is_missing(value) else str(value).strip().removesuffix(".0")
    if text.isascii() and text.isdigit():
        return int(text)
    return None if text in ("", "-1") else value


def _first_index(source: Source) -> int:
    labels = False
    for row in source.rows():
        index = _index(row)
        if index in (0, 4):
            return 0 if index == 0 else 1
        labels = labels or isinstance(index, int)
    if labels:
        raise ExampleError(
            f"{source.name}: field 'cop': no row has a 0 or a 4, so that it may count from 0 or from 1; say which with "
            "--first-index (the authors' JSON counts from 1, the hub's parquet from 0)"
        )
    return 1


READER = Reader(
    "medmcqa",
    "MedMCQA: the authors' JSON or the hub's parquet",
    _rows,
    {"--first-index": {"type": int, "choices": (0, 1), "help": "what `cop` calls the first option, if no row tells"}},
)
