"""Rows of published files in the containers that they come in: JSON lists, objects and lines, CSV, parquet, Arrow.

The content decides, not the file's name. Rows come one by one, in bounded memory. Left out: Excel workbooks and pickles
(refused with what to do), JSON of columns instead of rows, and several splits in one file.
"""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from recipes.data.errors import ExampleError
from recipes.data.json_stream import JsonStream
from recipes.data.text_files import MAX_ROW_CHARS, TextFile

# Keys under which exports put the list of rows.
_WRAPPERS = ("data", "rows", "train", "training", "validation", "valid", "dev", "test", "examples", "questions")
_DELIMITERS = ",;\t|"
_BATCH_ROWS = 256
# Excel cuts longer cells to so many characters without a word.
_EXCEL_CELL = 32767


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        where: file and row, for messages.
        number: counted from 1.
        key: what names the row, where the file is an object of rows.
        values: by column.
        of_file: what the rows of one file tell of each other, for readers to keep.
    """

    where: str
    number: int
    key: str | None
    values: dict[str, Any]
    of_file: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __getitem__(self, name: str) -> Any:
        if name not in self.values:
            found = ", ".join(sorted(self.values))
            cut = found if len(found) <= 400 else f"{found[:400]}... ({len(self.values)} fields)"
            raise ExampleError(f"{self.where}: field '{name}' is missing; found {cut}")
        return self.values[name]

    def having(self, **values: Any) -> Row:
        """The same row with other columns, or columns more."""
        return replace(self, values={**self.values, **values})

    def wrong(self, name: str, expected: str, found: object) -> ExampleError:
        """The error of a field that holds something else than expected."""
        shown = repr(found)
        cut = shown if len(shown) <= 200 else shown[:200] + "..."
        return ExampleError(f"{self.where}: field '{name}': expected {expected}, found {cut}")


def read_rows(path: Path, *, keyed_by: str | None = None, columns: Sequence[str] = ()) -> Iterator[Row]:
    """The rows of a file, or of a folder that `datasets` saved.

    Args:
        path: the file.
        keyed_by: a column by which the rows of an object of rows ({"id": row, ...}) are known.
        columns: the names of a CSV's columns where it is published without them; a line of them is no row.

    Raises:
        ExampleError: naming file and row, for what is no row or no such file.
        FileNotFoundError: naming the path.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; expected the data set as its authors publish it")
    yield from rows_of_file(_container(path, keyed_by, columns), str(path))


def rows_of_file(keyed: Iterable[tuple[str | None, Any]], name: str) -> Iterator[Row]:
    """The rows of what one file or data set of that name holds, each value with its key, if it has one.

    Raises:
        ExampleError: a value is no object.
    """
    of_file: dict[str, Any] = {}
    for number, (key, values) in enumerate(keyed, 1):
        yield _row(values, f"{name}, row {key or number}", number, key, of_file)


def _row(values: Any, where: str, number: int, key: str | None, of_file: dict[str, Any]) -> Row:
    if not isinstance(values, dict):
        kind = "null" if values is None else type(values).__name__
        raise ExampleError(f"{where}: expected an object of a row's fields, found {kind}; mend or remove the row")
    return Row(where, number, key, values, of_file)


Keyed = Iterator[tuple[str | None, Any]]


def _container(path: Path, keyed_by: str | None, columns: Sequence[str]) -> Keyed:
    if path.is_dir():
        return _saved_dataset(path)
    if not path.is_file():
        raise ExampleError(f"{path}: is no regular file; write it to one first")
    try:
        with path.open("rb") as file:
            magic = file.read(6)
    except OSError as error:
        raise ExampleError(f"{path}: cannot be read ({error.strerror})") from None
    if magic.startswith(b"PAR1"):
        return _parquet(path)
    if magic == b"ARROW1" or magic.startswith(b"\xff\xff\xff\xff"):
        return _arrow(path)
    return _text(path, keyed_by, columns)


def _text(path: Path, keyed_by: str | None, columns: Sequence[str]) -> Keyed:
    with TextFile(path) as file:
        stream = JsonStream(file)
        is_json = stream.peek() in ("[", "{", "")
        objects, around = 0, ""
        while is_json and (begins := stream.peek()):
            if begins == "{":
                around = (yield from _object(stream, keyed_by, first=not objects)) or around
                objects += 1
            elif begins == "[":
                yield from ((None, value) for value in stream.items())
            else:
                yield None, stream.value()
            if around and objects > 1:
                raise ExampleError(
                    f"{path}: its first object has a list '{around}', which is taken for the rows, and others follow "
                    "it; if each object is a row, call that field otherwise, else put the rows into one list"
                )
    if not is_json:
        yield from ((None, row) for row in _csv(path, columns))


def _object(stream: JsonStream, keyed_by: str | None, *, first: bool) -> Generator[tuple[str | None, Any], None, str]:
    """A row, an object of rows by id, or, first in a file, an object around a list of rows, whose name it returns."""
    row: dict[str, Any] = {}
    split, keyed = "", False
    for key in stream.names():
        if first and key in _WRAPPERS and stream.peek() == "[":
            if split:
                raise ExampleError(
                    f"{stream.where}: holds both '{split}' and '{key}'; write one of them to a file alone"
                )
            split = key
            yield from ((None, value) for value in stream.items())
            continue
        value = stream.value()
        # pandas' orient="index" has the numbers of rows for keys, which are no columns' names.
        by_number = key.isdecimal() and key.isascii()
        keyed = keyed or (not row and isinstance(value, dict) and (keyed_by in value or by_number))
        if keyed:
            yield key, value
        else:
            row[key] = value
    if not split and not keyed:
        yield None, row
    return split


def _csv(path: Path, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    csv.field_size_limit(MAX_ROW_CHARS)
    delimiter, hinted = (_delimiter_of(path, len(columns)), False) if columns else _delimiter(path)
    with TextFile(path, keep_ends=True) as file:
        records = csv.reader(file.lines(), delimiter=delimiter, strict=True)
        number = 0 if columns else -1 - hinted
        header = list(columns)
        while True:
            try:
                cells = next(records)
            except StopIteration:
                return
            except csv.Error as error:
                raise ExampleError(
                    f"{path}, row {max(1, number + 1)}, up to line {file.line}: not CSV ({error}); a quote is not "
                    "closed, or the file is cut short"
                ) from None
            if not any(cell.strip() for cell in cells) or [cell.strip() for cell in cells] == list(columns):
                continue
            number += 1
            if number < 0:
                continue
            if number == 0:
                header = [name.strip() for name in cells]
                _check_columns(path, header)
                continue
            if len(cells) < len(header) or any(cells[len(header) :]):
                raise ExampleError(
                    f"{path}, row {number}: {len(cells)} cells under {len(header)} columns; the row is cut short, or a "
                    f"cell that holds a {delimiter!r} is not quoted"
                )
            if any(len(cell) == _EXCEL_CELL for cell in cells):
                raise ExampleError(
                    f"{path}, row {number}: a cell has the {_EXCEL_CELL} characters at which Excel cuts; write the "
                    "table without Excel, or take the row out"
                )
            yield dict(zip(header, cells, strict=False))


def _check_columns(path: Path, names: Sequence[str]) -> None:
    """Refuses two columns of one name, as a join of tables leaves them."""
    if twice := next((name for place, name in enumerate(names) if name and name in names[:place]), None):
        raise ExampleError(f"{path}: has two columns {twice!r}; rename or remove one of them")


def _delimiter(path: Path) -> tuple[str, bool]:
    """What separates the cells of the header, and whether a line `sep=;` of Excel's comes before it."""
    with TextFile(path, keep_ends=True) as file:
        lines = (line for line in file.lines() if line.strip())
        first = next(lines, "")
    if first.startswith("sep=") and first[4:5]:
        return first[4], True
    found = _cells(path)
    best = max(found, key=lambda delimiter: found[delimiter], default="")
    if found.get(best, 0) < 2:
        raise ExampleError(
            f"{path}:1: neither JSON, nor CSV with a line of column names, nor parquet or Arrow; found {first[:80]!r}"
        )
    return best, False


def _delimiter_of(path: Path, columns: int) -> str:
    """What separates so many cells of the first row; a comma where nothing does."""
    return next((delimiter for delimiter, cells in _cells(path).items() if cells == columns), ",")


def _cells(path: Path) -> dict[str, int]:
    """How many cells the first row has by each delimiter that it can be read with."""
    found = {}
    for delimiter in _DELIMITERS:
        with TextFile(path, keep_ends=True) as file, contextlib.suppress(csv.Error):
            found[delimiter] = len(next(csv.reader(file.lines(), delimiter=delimiter, strict=True), []))
    return found


def _parquet(path: Path) -> Keyed:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _check_columns(path, file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                yield from ((None, row) for row in batch.to_pylist())
    except (pyarrow.ArrowException, OSError) as error:
        raise _damaged(path, "parquet", error) from None


def _arrow(path: Path) -> Keyed:
    import pyarrow
    import pyarrow.ipc

    try:
        with pyarrow.memory_map(str(path)) as file:
            if path.open("rb").read(6) == b"ARROW1":
                opened_file = pyarrow.ipc.open_file(file)
                batches = map(opened_file.get_batch, range(opened_file.num_record_batches))
            else:
                batches = iter(pyarrow.ipc.open_stream(file))
            for batch in batches:
                _check_columns(path, batch.schema.names)
                for start in range(0, batch.num_rows, _BATCH_ROWS):
                    yield from ((None, row) for row in batch.slice(start, _BATCH_ROWS).to_pylist())
    except (pyarrow.ArrowException, OSError) as error:
        raise _damaged(path, "Arrow", error) from None


def _damaged(path: Path, kind: str, error: Exception) -> ExampleError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return ExampleError(f"{path}: not a whole {kind} file ({reason}); fetch it again")


def _saved_dataset(path: Path) -> Keyed:
    """A folder of `Dataset.save_to_disk`: state.json names the Arrow files in order."""
    state = path / "state.json"
    if not state.is_file():
        inner = "name one of its splits" if (path / "dataset_dict.json").is_file() else "name one file of it"
        raise ExampleError(f"{path}: is a folder; {inner}")
    try:
        names = [entry["filename"] for entry in json.loads(state.read_text(encoding="utf-8"))["_data_files"]]
    except (ValueError, KeyError, TypeError, OSError):
        raise ExampleError(
            f"{state}: not what `datasets` writes beside a data set's Arrow files; save it again"
        ) from None
    for name in names:
        if not (path / name).is_file():
            raise ExampleError(f"{path / name}: missing; {state} names it; save the data set again")
        yield from _arrow(path / name)
