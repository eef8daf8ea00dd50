"""MedQA (Jin et al., 2020): USMLE questions with four or five options, in the forms of its authors and re-hosts."""

from __future__ import annotations

from collections.abc import Iterator

from recipes.data.choices import OPTION_FIELDS, split_options
from recipes.data.example import Example
from recipes.data.readers.base import Ids, LeftOut, Reader, choice_example, label_of, rows_of, text_of
from recipes.data.sources import Source


def _rows(source: Source, ids: str) -> Iterator[Example | LeftOut]:
    named = Ids(source, ids)
    for row in rows_of("medqa", source):
        if isinstance(row.values.get("data"), dict):  # openlifescienceai/medqa
            row = row.having(**row.values["data"])
        question = row["question" if "question" in row.values or "Question" not in row.values else "Question"]
        if isinstance(question, str) and not {"A", *OPTION_FIELDS} & set(row.values):
            question, options = split_options(question)
            row = row.having(options=options) if options else row
        yield choice_example(
            row,
            id=named.of(row, row.number),
            source="MedQA-US",
            question=question,
            context=text_of(row, "context", row.values.get("context")) or None,
            license="MIT",
            meta={
                "subject": label_of(row.values.get("subject_name")),
                "category": label_of(row.values.get("meta_info")),
                "split": source.split,
            },
        )


READER = Reader("medqa", "MedQA (US) with four or five options: JSON, JSONL, CSV or parquet", _rows)
