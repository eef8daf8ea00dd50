"""Files of Examples themselves: checked, and written again with what `prepare_data` adds (ids, a manifest)."""

from __future__ import annotations

from collections.abc import Iterator

from recipes.data.example import Example, example_from_row
from recipes.data.readers.base import Ids, Reader
from recipes.data.sources import Source


def _rows(source: Source, ids: str) -> Iterator[Example]:
    named = Ids(source, ids)
    for row in source.rows():
        yield example_from_row({**row.values, "id": named.of(row, row["id"])}, row.where)


READER = Reader("examples", "JSONL or parquet of Examples, to check; ids stay unless --ids is given", _rows, ids="")
