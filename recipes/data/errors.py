"""The error of a file of questions, and the ids that its rows may have."""

from __future__ import annotations

from pathlib import Path


class ExampleError(ValueError):
    """A file or a row that cannot be used: names file, line and field, what was expected and what was found."""


class UniqueIds:
    """The ids of all rows read together, each with its place (about 250 bytes a row)."""

    def __init__(self) -> None:
        self._places: dict[str, tuple[Path, int]] = {}

    def add(self, identity: str, path: Path, number: int, where: str) -> None:
        """Notes the id of row `number` of a file.

        Raises:
            ExampleError: naming `where` and the row that has the id already.
        """
        first, line = self._places.setdefault(identity, (path, number))
        if (first, line) != (path, number):
            raise ExampleError(
                f"{where}: field 'id': {identity!r} occurs twice, first in {first}, row {line}; ids are unique in all "
                "files of a run: remove one of the rows, or prepare one file anew with other ids (--ids)"
            )
