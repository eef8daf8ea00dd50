"""MediQ (Li et al., 2024): iMedQA and iCraftMD, clinical questions with their context in sentences and atomic facts.

iMedQA's questions are MedQA's, in dev and in test: contamination is to be looked for. Left out: the facts, which an
interactive doctor would ask for one by one.
"""

from __future__ import annotations

from collections.abc import Iterator

from recipes.data.example import Example
from recipes.data.readers.base import Ids, LeftOut, Reader, choice_example, label_of, rows_of, text_of
from recipes.data.sources import Source


def _rows(source: Source, ids: str) -> Iterator[Example | LeftOut]:
    named = Ids(source, ids)
    for row in rows_of("mediq", source):
        patient = row.values.get("patient")
        yield choice_example(
            row,
            id=named.of(row, row["id"]),
            source="MediQ",
            question=row["question"],
            context=text_of(row, "context", row["context"]) or None,
            license="CC-BY-4.0",
            meta={
                "subject": label_of(patient.get("gpt_specialty")) if isinstance(patient, dict) else None,
                "split": source.split,
            },
        )


READER = Reader("mediq", "MediQ (iMedQA, iCraftMD), JSONL with context and facts", _rows)
