"""medical-o1 of HuatuoGPT-o1 (Chen et al., 2024): reasoning with long answers, and verifiable short answers.

A row of medical-o1-reasoning-SFT has Question, Complex_CoT and Response; one of medical-o1-verifiable-problem has
"Open-ended Verifiable Question" and "Ground-True Answer"; the authors' demo has both, and so either can be read.
"""

from __future__ import annotations

from collections.abc import Iterator

from recipes.data.example import Example
from recipes.data.readers.base import Ids, LeftOut, Reader, text_example, text_of
from recipes.data.sources import Source

_SHORT = ("medical-o1-verifiable-problem", "Open-ended Verifiable Question", "Ground-True Answer")
_LONG = ("medical-o1-reasoning-SFT", "Question", "Response")
_REASONING = "Complex_CoT"


def _rows(source: Source, ids: str, *, answers: str | None = None) -> Iterator[Example | LeftOut]:
    named = Ids(source, ids)
    for row in source.rows():
        short = answers == "short" or (answers is None and _SHORT[2] in row.values)
        name, question, answer = _SHORT if short else _LONG
        yield text_example(
            row,
            id=named.of(row, row.number),
            source=name,
            question=text_of(row, question, row[question]),
            answer=text_of(row, answer, row[answer]),
            think=text_of(row, _REASONING, row.values.get(_REASONING)),
            license="Apache-2.0",
            meta={"split": source.split},
        )


READER = Reader(
    "medical-o1",
    "medical-o1: reasoning with long answers (SFT), or verifiable problems with short ones",
    _rows,
    {"--answers": {"choices": ("short", "long"), "help": "which, where rows have both (default: short)"}},
)
