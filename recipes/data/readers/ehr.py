"""A table of labels on electronic health records, as a hospital exports one: a note, a label, and the classes.

Any container with a row a patient will do. Classes stand in a column (a list, or parted by ; or |) or in --classes,
which may also say what a label stands for: `--classes 0="discharged alive" 1="died in hospital"`. A label that is no
class is refused: a number could count from 0 or from 1. A note with two labels, in rows of their own, has no right
answer: all its rows are left out, and counted.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from recipes.data.choices import is_missing, parsed_cell
from recipes.data.example import Example
from recipes.data.readers.base import NO_LABEL, Ids, LeftOut, Reader, choice_example, text_of
from recipes.data.readers.medcalc import has_no_label
from recipes.data.sources import Source
from recipes.data.tables import Row
from reward_server.reference import LETTERS


def _rows(
    source: Source,
    ids: str,
    *,
    question: str,
    note_column: str = "note",
    label_column: str = "label",
    id_column: str | None = None,
    classes: Sequence[tuple[str, str]] = (),
    classes_column: str = "classes",
    license_name: str = "unknown",
) -> Iterator[Example | LeftOut]:
    named = Ids(source, ids)
    torn = _with_two_labels(source, note_column, label_column)
    for row in source.rows():
        name = named.of(row, row[id_column] if id_column else row.number)
        if is_missing(row[label_column]):
            yield LeftOut(NO_LABEL, row.where)
            continue
        if has_no_label(row[note_column]):
            yield LeftOut("has no note", row.where)
            continue
        if _digest(row[note_column]) in torn:
            yield LeftOut("its note has another label in another row", row.where)
            continue
        known = list(classes) or _classes(row, classes_column)
        letter = LETTERS[_place(row, label_column, known)]
        yield choice_example(
            Row(row.where, row.number, None, {"options": [text for _, text in known], "answer_idx": letter}),
            id=name,
            source="EHR",
            question=question,
            context=text_of(row, note_column, row[note_column]),
            license=license_name,
            meta={"split": source.split},
        )


def _with_two_labels(source: Source, note_column: str, label_column: str) -> set[bytes]:
    """Digests of the notes that rows label differently."""
    labels: dict[bytes, str] = {}
    torn: set[bytes] = set()
    for row in source.rows():
        if not is_missing(label := row[label_column]):
            said, note = _label(label), _digest(row[note_column])
            if labels.setdefault(note, said) != said:
                torn.add(note)
    return torn


def _digest(note: Any) -> bytes:
    return hashlib.blake2b(" ".join(str(note).split()).encode("utf-8", "replace"), digest_size=12).digest()


def _label(value: Any) -> str:
    # pandas writes 1 as 1.0 where a column has gaps.
    return str(value).strip().casefold().removesuffix(".0")


def _classes(row: Row, column: str) -> list[tuple[str, str]]:
    value = row[column]
    if isinstance(value, str):
        value = parsed_cell(value) if value.lstrip().startswith("[") else value.replace("|", ";").split(";")
    texts = [str(part).strip() for part in value] if isinstance(value, list | tuple) else []
    if not 2 <= len(texts) <= len(LETTERS) or not all(texts):
        raise row.wrong(column, f"2 to {len(LETTERS)} classes, parted by ; or |", row[column])
    return [(text, text) for text in texts]


def _place(row: Row, column: str, classes: Sequence[tuple[str, str]]) -> int:
    said_so = {str(row[column]).strip().casefold(), _label(row[column])}
    places = [place for place, (value, _) in enumerate(classes) if value.casefold() in said_so]
    if len(places) != 1:
        raise row.wrong(column, f"one of the classes {', '.join(value for value, _ in classes)}", row[column])
    return places[0]


def _class(text: str) -> tuple[str, str]:
    value, _, shown = text.partition("=")
    if not value.strip() or (("=" in text) and not shown.strip()):
        raise argparse.ArgumentTypeError(f"{text!r} is no class; write VALUE or VALUE=TEXT")
    return value.strip(), (shown or value).strip()


READER = Reader(
    "ehr",
    "a table of notes and labels of your own (CSV, JSON or parquet), as choice questions",
    _rows,
    {
        "--question": {"required": True, "metavar": "TEXT", "help": "what is asked of every note"},
        "--note-column": {"default": "note", "metavar": "NAME", "help": "default: %(default)s"},
        "--label-column": {"default": "label", "metavar": "NAME", "help": "default: %(default)s"},
        "--id-column": {"metavar": "NAME", "help": "of ids; without it, row numbers are"},
        "--classes": {
            "nargs": "+",
            "type": _class,
            "default": (),
            "metavar": "VALUE[=TEXT]",
            "help": "the classes, and the text that a prompt shows for each; without them, a column tells",
        },
        "--classes-column": {"default": "classes", "metavar": "NAME", "help": "default: %(default)s"},
        "--license-name": {"default": "unknown", "metavar": "NAME", "help": "of the table, for the model card"},
    },
)
