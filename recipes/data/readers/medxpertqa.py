"""MedXpertQA (Zuo et al., 2025), text questions with ten options.

The authors' files repeat the options at the end of the question ("Answer Choices: (A) ... (J) ..."), where they are
taken off: a prompt shows options once. Left out: the questions of MedXpertQA-MM, which need an image.
"""

from __future__ import annotations

from collections.abc import Iterator

from recipes.data.example import Example
from recipes.data.readers.base import Ids, LeftOut, Reader, choice_example, label_of, rows_of, text_of
from recipes.data.sources import Source

_REPEATED = "\nAnswer Choices:"


def _rows(source: Source, ids: str) -> Iterator[Example | LeftOut]:
    named = Ids(source, ids)
    for row in rows_of("medxpertqa", source):
        if row.values.get("images") or row.values.get("image"):
            yield LeftOut("needs an image", row.where)
            continue
        yield choice_example(
            row,
            id=named.of(row, row["id"]),
            source="MedXpertQA",
            question=text_of(row, "question", row["question"]).partition(_REPEATED)[0].strip(),
            license="MIT",
            meta={
                "subject": label_of(row.values.get("body_system")),
                "category": label_of(row.values.get("medical_task")),
                "question_type": label_of(row.values.get("question_type")),
                "split": source.split,
            },
        )


READER = Reader("medxpertqa", "MedXpertQA Text, JSONL of the authors, of MedReason or of the hub", _rows)
