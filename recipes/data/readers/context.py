"""Questions with passages or solved cases of a corpus in front of them; how they are chosen: `recipes.data.context`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from conversion import command
from recipes.data.context import CONDITIONS, Settings, with_passages
from recipes.data.example import Example
from recipes.data.readers.base import LeftOut, Reader
from recipes.data.readers.examples import READER as EXAMPLES
from recipes.data.retrieval import read_corpus
from recipes.data.sources import Source


def _rows(
    source: Source, ids: str, *, corpus: Path, passages: int, condition: str, share: float, seed: int
) -> Iterator[Example | LeftOut]:
    settings = Settings(condition, passages, share, seed)
    questions = [row for row in EXAMPLES.rows(source, ids) if isinstance(row, Example)]
    for question, found in with_passages(questions, read_corpus(corpus), settings):
        yield LeftOut(found, repr(question.id)) if isinstance(found, str) else found


READER = Reader(
    "context",
    "Examples with passages or solved cases in front of them (MedRGB)",
    _rows,
    {
        "--corpus": {
            "required": True,
            "type": command.path_argument,
            "metavar": "FILE",
            "help": "passages, or solved Examples",
        },
        "--passages": {"type": command.count_argument, "default": 5, "help": "how many a question (%(default)s)"},
        "--condition": {"choices": CONDITIONS, "default": CONDITIONS[0], "help": "what they are like (%(default)s)"},
        "--share": {"type": float, "default": 0.5, "help": "of unrelated or false ones (default: %(default)s)"},
        "--seed": {"type": int, "default": 0, "help": "of what is drawn (default: %(default)s)"},
    },
    ids="",
)
