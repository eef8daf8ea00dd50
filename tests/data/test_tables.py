"""Published files as people's programs leave them: read as a person would, or refused with file and row."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from datasets import Dataset

from recipes.data.errors import ExampleError
from recipes.data.tables import read_rows

ROWS: list[dict[str, Any]] = [
    {"name": "sepsis – early", "dose": "5 µg", "note": 'two\nlines, "quoted"; and\ta tab'},
    {"name": "Ménière\u2028β", "dose": "1|2", "note": "plain"},
]


def _lines(rows: list[Any] = ROWS) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _csv(delimiter: str = ",", end: str = "\r\n", head: str = "") -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, list(ROWS[0]), delimiter=delimiter, lineterminator=end)
    writer.writeheader()
    writer.writerows(ROWS)
    return head + file.getvalue()


def _parquet(rows: list[dict[str, Any]] = ROWS) -> bytes:
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return file.getvalue()


def _arrow(*, stream: bool) -> bytes:
    table, file = pyarrow.Table.from_pylist(ROWS), io.BytesIO()
    with (pyarrow.ipc.new_stream if stream else pyarrow.ipc.new_file)(file, table.schema) as writer:
        writer.write_table(table)
    return file.getvalue()


def _joined(*, arrow: bool) -> bytes:
    """A table with two columns of one name, as a join leaves it."""
    table, file = pyarrow.table([["a"], ["b"]], names=["note", "note"]), io.BytesIO()
    if arrow:
        with pyarrow.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    else:
        pyarrow.parquet.write_table(table, file)
    return file.getvalue()


def _zstd(content: bytes) -> bytes:
    return bytes(pyarrow.compress(content, codec="zstd", asbytes=True))


LINES, LIST = _lines(), json.dumps(ROWS)
SOUND: dict[str, bytes] = {
    "lines.jsonl": LINES.encode(),
    "lines.json": LINES.encode(),
    "without a last line end.jsonl": LINES.rstrip("\n").encode(),
    "crlf.jsonl": LINES.replace("\n", "\r\n").encode(),
    "carriage returns alone.jsonl": LINES.replace("\n", "\r").encode(),
    "blank lines.jsonl": LINES.replace("\n", "\n\n  \n").encode(),
    "mark.jsonl": LINES.encode("utf-8-sig"),
    "joined files.jsonl": b"".join(_lines([row]).encode("utf-8-sig") for row in ROWS),
    "utf-16.jsonl": LINES.encode("utf-16"),
    "utf-16-le.jsonl": LINES.encode("utf-16-le"),
    "utf-16-be.jsonl": LINES.encode("utf-16-be"),
    "utf-32.jsonl": LINES.encode("utf-32"),
    "mark.jsonl.gz": gzip.compress(LINES.encode("utf-8-sig")),
    "gzip without the ending.jsonl": gzip.compress(LINES.encode("utf-16")),
    "members.jsonl.gz": b"".join(gzip.compress(_lines([row]).encode()) for row in ROWS),
    "lines.jsonl.bz2": bz2.compress(LINES.encode()),
    "lines.jsonl.xz": lzma.compress(LINES.encode()),
    "lines.jsonl.zst": _zstd(LINES.encode()),
    "escapes.json": json.dumps(ROWS, ensure_ascii=True).encode(),
    "list.json": LIST.encode(),
    "list.jsonl": LIST.encode(),
    "indented.json": json.dumps(ROWS, indent=2).encode(),
    "indented objects.json": "\n".join(json.dumps(row, indent=2) for row in ROWS).encode(),
    "data.json": json.dumps({"version": 1, "data": ROWS, "about": {"n": 2}}).encode(),
    "train.json": json.dumps({"train": ROWS}).encode("utf-16"),
    "commas.csv": _csv().encode(),
    "excel.csv": _csv(";").encode("utf-8-sig"),
    "hint.csv": _csv(";", head="sep=;\r\n").encode(),
    "tabs.txt": _csv("\t", "\n").encode("utf-16"),
    "bars.csv": _csv("|").encode(),
    "mark.csv.gz": gzip.compress(_csv().encode("utf-8-sig")),
    "old mac.csv": _csv(end="\r").encode(),
    "blank rows.csv": (_csv() + "\r\n,,\r\n").encode(),
    "spare commas.csv": _csv().replace("\r\n", ",,\r\n").encode(),
    "by number.json": json.dumps({str(number): row for number, row in enumerate(ROWS)}).encode(),
    "table.parquet": _parquet(),
    "parquet without the ending": _parquet(),
    "table.arrow": _arrow(stream=False),
    "cache.arrow": _arrow(stream=True),
}


@pytest.mark.parametrize("name", SOUND)
def test_one_content_in_every_container(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(SOUND[name])
    rows = [{key: value for key, value in row.values.items() if key} for row in read_rows(path)]
    assert rows == ROWS


def test_a_folder_that_datasets_saved(tmp_path: Path) -> None:
    Dataset.from_list(ROWS).select([1, 0]).save_to_disk(tmp_path / "saved")
    assert [row.values for row in read_rows(tmp_path / "saved")] == ROWS[::-1]
    next((tmp_path / "saved").glob("*.arrow")).unlink()
    with pytest.raises(ExampleError, match=r"\.arrow: missing; .*state\.json names it"):
        list(read_rows(tmp_path / "saved"))


def test_rows_that_lie_across_what_is_read_at_once(tmp_path: Path) -> None:
    """A megabyte of rows, of numbers at every place of a chunk's end, and one row longer than a chunk."""
    rows = [{"n": n, "x": -1.5e-7, "t": '\\"é😀' * (n % 97)} for n in range(4000)] + [{"n": 4000, "t": "x" * 700_000}]
    for name, text in {"a.json": json.dumps({"data": rows}), "b.json": _lines(rows)}.items():
        (tmp_path / name).write_text(text)
        assert [row.values for row in read_rows(tmp_path / name)] == rows


BROKEN: dict[str, tuple[bytes, str]] = {
    "cp1252.jsonl": (_lines().encode("cp1252", "replace"), r":1: not UTF-8 text \(byte 0x96 at 17\).* iconv -f CP1252"),
    "latin-1.csv": (_csv().replace("–", "-").encode("latin-1", "replace"), r":2: not UTF-8 text \(byte 0xb5 at 17\)"),
    "late.json": (LIST[:-1].encode() + b',\n{"name": "\xb5"}]', r":2: not UTF-8 text \(byte 0xb5 at 10\)"),
    "odd.jsonl": (LINES.encode("utf-16")[:-1], "not UTF-16 text, .*cut short or damaged"),
    "cut.jsonl": (LINES.encode()[:-9], r":2: not JSON \(Unterminated string.*: the file is cut short|:2: not JSON"),
    "cut.json": (LIST[:-1].encode(), ":1: not JSON .*: the file is cut short"),
    "cut in a word.jsonl": (LINES.encode() + b'{"a": tru', r":3: not JSON"),
    "garbage.json": (LIST.encode() + b"\n%%", ":2: not JSON"),
    "comma.json": ((LIST[:-1] + ",]").encode(), r":1: not JSON \(a comma before \]\)"),
    "no comma.json": (LIST.replace("}, {", "} {").encode(), r":1: not JSON \(expected a comma or \]\)"),
    "twice.jsonl": (b'{"a": 1, "a": 2}', ":1: an object names 'a' twice"),
    "twice within.jsonl": (b'{"o": {"a": 1, "a": 2}}', ":1: an object names 'a' twice"),
    "deep.json": (b'[{"a": ' + b"[" * 100_000, "nested too deeply"),
    "digits.json": (b'[{"a": ' + b"1" * 5000 + b"}]", "thousands of digits"),
    "null.jsonl": ((LINES + "null\n").encode(), ", row 3: expected an object of a row's fields, found null"),
    "null.json": (json.dumps([ROWS[0], None]).encode(), ", row 2: expected an object .*found null"),
    "columns.json": (b'{"data": [["a", "b"]]}', ", row 1: expected an object .*found list"),
    "splits.json": (json.dumps({"train": ROWS, "test": ROWS}).encode(), "holds both 'train' and 'test'"),
    "words.txt": (b"no table at all\n", ":1: neither JSON, nor CSV .*found 'no table at all"),
    "null first.jsonl": (b"null\n", ":1: neither JSON"),
    "short.csv": (b"a,b,c\n1,2,3\n4,5\n", ", row 2: 2 cells under 3 columns; the row is cut short"),
    "long.csv": (b"a,b\n1,2\n\n3,4,5\n", ", row 2: 3 cells under 2 columns.*',' is not quoted"),
    "quote.csv": (b'a,b\n1,2\n3,"4\n5,6\n', ", row 2, up to line 4: not CSV .*a quote is not closed"),
    "stray.csv": (b'a,b\n1,"2"3\n', ", row 1, up to line 2: not CSV"),
    "cut.jsonl.gz": (gzip.compress(LINES.encode() * 5000)[:-20], "cannot be read on .*cut short or damaged"),
    "flipped.gz": (gzip.compress(LINES.encode())[:12] + b"\xff\xff\xff" + zlib.compress(b"x"), "cut short or damaged"),
    "cut.zst": (_zstd(LINES.encode() * 50)[:-9], "cut short or damaged|not JSON"),
    "cut.parquet": (_parquet()[:-8], "not a whole parquet file"),
    "cut.arrow": (_arrow(stream=False)[:-40], "not a whole Arrow file"),
    "joined.csv": (b"note,label, note\n1,2,3\n", ": has two columns 'note'; rename or remove one"),
    "joined.parquet": (_joined(arrow=False), ": has two columns 'note'; rename or remove one"),
    "joined.arrow": (_joined(arrow=True), ": has two columns 'note'; rename or remove one"),
    "excel.csv": (b"a,b\n1," + b"x" * 32767 + b"\n", ", row 1: a cell has the 32767 characters at which Excel cuts"),
    "book.xlsx": (b"PK\x03\x04...", "is an Excel workbook or a zip archive; .*save the sheet as CSV UTF-8"),
    "rows.pkl": (b"\x80\x04\x95", "is a Python pickle"),
    "page.csv": (
        b'\n<!DOCTYPE html>\n<html lang="en"><meta content="width=1, scale=1">',
        ": is a web page, not the file",
    ),
    "rows with a list.jsonl": (
        b'{"note": "a", "data": [{"note": "b"}]}\n' * 2,
        ": its first object has a list 'data', .* call that field otherwise",
    ),
    "pointer.json": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_read_is_refused_with_its_place(name: str, tmp_path: Path) -> None:
    content, said = BROKEN[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ExampleError, match=said) as caught:
        list(read_rows(path))
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.mkdir(), "is a folder; name one file of it"),
        (
            lambda path: (path / "train").mkdir(parents=True) or (path / "dataset_dict.json").touch(),
            "one of its splits",
        ),
        (lambda path: path.mkdir() or (path / "state.json").write_text("{"), "not what `datasets` writes"),
        (lambda path: path.symlink_to("/dev/null"), "is no regular file"),
    ],
    ids=["folder", "splits", "state", "device"],
)
def test_what_is_no_file_is_refused(make: Callable[[Path], object], said: str, tmp_path: Path) -> None:
    make(tmp_path / "rows.json")
    with pytest.raises(ExampleError, match=said):
        list(read_rows(tmp_path / "rows.json"))
