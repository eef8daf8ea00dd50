"""MMLU (Hendrycks et al., 2021), medical subjects: the authors' CSV files without a header, or the hub's rows.

A file of one subject is read whatever its subject. Of a folder or of rows of many subjects, the six of MultiMedQA are
read, or those that are named.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from recipes.data.choices import is_missing, letter_at
from recipes.data.errors import ExampleError
from recipes.data.example import Example
from recipes.data.readers.base import Ids, LeftOut, Reader, choice_example, text_of
from recipes.data.sources import FileSource, Source
from recipes.data.tables import Row

SUBJECTS = (
    "anatomy",
    "clinical_knowledge",
    "college_biology",
    "college_medicine",
    "medical_genetics",
    "professional_medicine",
)
_COLUMNS = ("question", "A", "B", "C", "D", "answer")
_NAME = re.compile(r"(?P<subject>[a-z_]+)_(?P<split>test|val|dev|train|validation)\.csv")


def _rows(source: Source, ids: str, *, subjects: Sequence[str] = ()) -> Iterator[Example | LeftOut]:
    named = Ids(source, ids)
    for file, subject, split in _files(source, tuple(subjects)):
        for row in file.rows(columns=_COLUMNS if subject else ()):
            about = subject or text_of(row, "subject", row["subject"])
            if not subject and about not in (subjects or SUBJECTS):
                yield LeftOut("its subject is none of those that are read", row.where)
                continue
            yield choice_example(
                _answered(row),
                id=named.of(row, about, row.number),
                source="MMLU",
                question=row["question"],
                license="MIT",
                meta={"subject": about, "split": split},
            )


def _files(source: Source, subjects: tuple[str, ...]) -> Iterator[tuple[Source, str | None, str | None]]:
    """Each file with its subject and split, or rows of many subjects."""
    if source.path is None or (source.path / "state.json").is_file():
        yield source, None, source.split
    elif source.path.is_dir():
        named = [(path, match) for path in sorted(source.path.iterdir()) if (match := _NAME.fullmatch(path.name))]
        chosen = [(path, match) for path, match in named if match["subject"] in (subjects or SUBJECTS)]
        if missing := set(subjects) - {match["subject"] for _, match in chosen}:
            raise ExampleError(f"{source.path}: holds no file of the subject {sorted(missing)[0]}")
        if not chosen:
            raise ExampleError(f"{source.path}: holds no file SUBJECT_SPLIT.csv of a medical subject; name its files")
        if len(splits := sorted({match["split"] for _, match in chosen})) > 1:
            raise ExampleError(f"{source.path}: holds several splits ({', '.join(splits)}); name a folder of one")
        for path, match in chosen:
            yield FileSource(path), match["subject"], match["split"]
    elif match := _NAME.fullmatch(source.path.name):
        yield source, match["subject"], match["split"]
    else:
        yield source, None, None


def _answered(row: Row) -> Row:
    """The hub's answers count from 0, which `choice_of` cannot know."""
    answer = row["answer"]
    if "choices" in row.values and isinstance(answer, str) and answer.strip().isdecimal():  # a table of the hub's rows
        answer = int(answer)
    if not isinstance(answer, int | float) or is_missing(answer):  # a letter, or none
        return row
    return row.having(answer=letter_at(row, "answer", answer, first=0, count=4))


READER = Reader(
    "mmlu",
    "MMLU: a file SUBJECT_SPLIT.csv, a folder of them, or the hub's rows",
    _rows,
    {"--subjects": {"nargs": "+", "default": (), "metavar": "NAME", "help": "instead of the six medical ones"}},
)
