"""m1's traces (Huang et al., 2025): m23k and m1k, R1's reasoning for choice questions, for SFT before RL.

The prompt holds question and options; the answer to learn is the letter, not `distilled_answer_string`, R1's own words
for it. Its card names no licence.
"""

from __future__ import annotations

from collections.abc import Iterator

from recipes.data.choices import split_options
from recipes.data.example import Example
from recipes.data.readers.base import Ids, LeftOut, Reader, choice_example, label_of, text_of
from recipes.data.sources import Source


def _rows(source: Source, ids: str) -> Iterator[Example | LeftOut]:
    named = Ids(source, ids)
    for row in source.rows():
        question, options = split_options(text_of(row, "prompt", row["prompt"]))
        if not options:
            yield LeftOut("its prompt does not end with options", row.where)
            continue
        labels = {"answer_idx": row["answer_letter"], "answer": row.values.get("answer_string")}
        yield choice_example(
            row.having(options=options, **labels),
            id=named.of(row, row.number),
            source="m23k",
            question=question,
            think=text_of(row, "reasoning", row["reasoning"]),
            license="unknown",
            meta={"category": label_of(row.values.get("source")), "split": source.split},
        )


READER = Reader("m23k", "m1's m23k and m1k: choice questions with R1's reasoning, for SFT", _rows)
