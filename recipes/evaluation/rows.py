"""The answers of an evaluation, RUN/evaluation/NAME.jsonl, as those read them who judge or count them later."""

from __future__ import annotations

from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

from recipes.data.errors import ExampleError
from recipes.data.text_files import TextFile, parse_json

_KEYS = ("id", "response", "answer", "status", "extracted")


def read_answers(path: Path) -> list[dict[str, Any]]:
    """All rows of a file.

    Raises:
        ExampleError, FileNotFoundError: naming file and row.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected the answers of `python -m recipes.evaluate`")
    rows = list(_rows(path))
    if not rows:
        raise ExampleError(f"{path}: holds no answers")
    return rows


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with TextFile(path) as file:
        for line in file.lines():
            where = f"{path}:{file.line}"
            row = parse_json(line, where)
            missing = [key for key in _KEYS if not isinstance(row, dict) or key not in row]
            if missing:
                raise ExampleError(
                    f"{where}: is no answer of this release ('{missing[0]}' is missing); run `python -m "
                    "recipes.evaluate` again"
                )
            yield row


def plain_answers(path: Path, wanted: Container[str]) -> tuple[list[dict[str, Any]], int]:
    """The answers to questions as they stand in their files, and how many are to questions that are not wanted.

    Args:
        path: NAME.jsonl.
        wanted: ids of questions.

    Raises:
        ExampleError, FileNotFoundError: see `read_answers`; and when none is left.
    """
    plain = [row for row in read_answers(path) if row.get("variant", "plain") == "plain"]
    found = [row for row in plain if row["id"] in wanted]
    if not found:
        raise ExampleError(f"{path}: answers none of the questions in the files named; name the files that were asked")
    return found, len(plain) - len(found)
