"""Text as other programs leave it on a disk: compressed or not, in any Unicode encoding, with any line ends.

A file is read from front to back a piece at a time, so it may be longer than memory. Left out: guessing an 8-bit
encoding, because a wrong guess changes words without an error; such a file is refused with the command that converts.
"""

from __future__ import annotations

import bz2
import codecs
import contextlib
import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from recipes.data.errors import ExampleError

# Longer rows are not questions but a file without line ends, or a quote that never closes.
MAX_ROW_CHARS = 2**25
# What pandas makes of a cell without a value where it writes text.
NOTHING = ("nan", "NaN", "NaT", "<NA>")

_SAMPLE_BYTES = 4096
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# JSON and CSV begin with two ASCII characters, which these encodings write with zeros between.
_UNMARKED = (
    (b"[^\0]\0\0\0", "utf-32-le"),
    (b"\0\0\0[^\0]", "utf-32-be"),
    (b"[^\0]\0[^\0]\0", "utf-16-le"),
    (b"\0[^\0]\0[^\0]", "utf-16-be"),
)
_NO_TEXT = {
    b"PK\x03\x04": "is an Excel workbook or a zip archive; unpack it, or save the sheet as CSV UTF-8",
    b"\x80\x04": "is a Python pickle, which is not opened, as it may run code; write it as JSON lines",
    b"\x80\x05": "is a Python pickle, which is not opened, as it may run code; write it as JSON lines",
    b"PAR1": "is a parquet file; write it as JSON lines, or convert it with `python -m recipes.prepare_data`",
    b"version https://git-lfs": "is Git LFS's pointer to a file, not the file; fetch it with `git lfs pull`",
}
_PAGE = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype html|html)\b", re.IGNORECASE)
_DAMAGED = (EOFError, zlib.error, lzma.LZMAError, OSError)
_ESCAPED = re.compile("[\udc80-\udcff]")


def opened(path: Path) -> BinaryIO:
    """The bytes of a file, unpacked where it is gzip, bzip2, xz or zstd, whatever its name ends with."""
    with path.open("rb") as file:
        head = file.read(6)
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        import pyarrow

        return io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd"))
    packed: dict[bytes, Callable[[Path], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
    unpack = next((function for magic, function in packed.items() if head.startswith(magic)), None)
    return unpack(path) if unpack else path.open("rb")


class TextFile:
    """A text file, read once.

    Args:
        path: the file.
        keep_ends: gives line ends as they are (for CSV, where they may stand within quotes) instead of as line feeds.

    Raises:
        ExampleError: here or while reading, naming file and line, when it is no Unicode text or is damaged.
    """

    def __init__(self, path: Path, *, keep_ends: bool = False) -> None:
        self.path = path
        self.line = 0
        with self._naming_damage(), opened(path) as file:
            sample = file.read(_SAMPLE_BYTES)
        for magic, problem in _NO_TEXT.items():
            if sample.startswith(magic):
                raise ExampleError(f"{path}: {problem}")
        if _PAGE.match(sample):
            raise ExampleError(f"{path}: is a web page, not the file that it shows; fetch the file itself (raw)")
        self.encoding = _encoding(sample)
        # UTF-8 keeps what it cannot decode as lone surrogates, so that the line at fault can be told.
        errors = "surrogateescape" if self.encoding.startswith("utf-8") else "strict"
        self._text = io.TextIOWrapper(opened(path), self.encoding, errors, newline="" if keep_ends else None)

    def __enter__(self) -> TextFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._text.close()

    def lines(self) -> Iterator[str]:
        """Every line with its end; `line` is the number of the one last given."""
        while line := self._next_line():
            self.line += 1
            if len(line) >= MAX_ROW_CHARS:
                raise ExampleError(f"{self.path}:{self.line}: longer than {MAX_ROW_CHARS} characters; no line is a row")
            # Between files that were joined, a mark may stand at any line.
            yield line.removeprefix("\ufeff")

    def _next_line(self) -> str:
        with self._naming_damage():
            line = self._text.readline(MAX_ROW_CHARS)
        if not line.isascii() and (bad := _ESCAPED.search(line)):
            raise self._not_utf8(self.line + 1, line, bad)
        return line

    def read(self, size: int) -> str:
        """The next `size` characters, fewer at the end of the file; `line` is the number of the last line in them."""
        with self._naming_damage():
            text = self._text.read(size)
        self.line = self.line or 1
        if not text.isascii() and (bad := _ESCAPED.search(text)):
            raise self._not_utf8(self.line + text.count("\n", 0, bad.start()), text, bad)
        self.line += text.count("\n")
        return text

    def _not_utf8(self, line: int, text: str, bad: re.Match[str]) -> ExampleError:
        place = len(text[text.rfind("\n", 0, bad.start()) + 1 : bad.start()].encode("utf-8", "surrogateescape"))
        return ExampleError(
            f"{self.path}:{line}: not UTF-8 text (byte 0x{ord(bad[0]) - 0xDC00:02x} at {place}); if it was written in "
            f"Windows' encoding, convert it: iconv -f CP1252 -t UTF-8 {self.path.name} > NEW"
        )

    @contextlib.contextmanager
    def _naming_damage(self) -> Iterator[None]:
        """Turns what a codec or a decompressor raises into an error that names file and line."""
        where = f"{self.path}:{self.line + 1}"
        try:
            yield
        except UnicodeDecodeError as error:
            raise ExampleError(
                f"{where}: not {self.encoding.upper()} text, which its first bytes are ({error.reason}); the file is "
                "cut short or damaged: fetch it again"
            ) from None
        except PermissionError as error:
            raise ExampleError(f"{self.path}: cannot be read ({error.strerror}); allow this user to read it") from None
        except _DAMAGED as error:
            raise ExampleError(
                f"{where}: cannot be read on ({error}); the file is cut short or damaged: fetch it again"
            ) from None


def _encoding(sample: bytes) -> str:
    for mark, encoding in _BOMS:
        if sample.startswith(mark):
            return encoding
    return next((name for pattern, name in _UNMARKED if re.match(pattern, sample, re.DOTALL)), "utf-8")


def parse_json(text: str, where: str) -> Any:
    """One JSON text.

    Raises:
        ExampleError: naming `where`, for what is no JSON, and for an object that names a key twice.
    """
    try:
        return DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise json_error(error, text, where) from None


def json_error(error: Exception, text: str, where: str) -> ExampleError:
    """The error of a JSON text that does not decode."""
    if isinstance(error, ExampleError):
        return ExampleError(f"{where}: {error}")
    if isinstance(error, RecursionError):
        return ExampleError(f"{where}: not a row (nested too deeply)")
    if not isinstance(error, json.JSONDecodeError):
        return ExampleError(f"{where}: not a row (a number of thousands of digits)")
    cut = error.msg.startswith("Unterminated string") or error.pos >= len(text.rstrip())
    why = ": the row is cut short" if cut else ""
    return ExampleError(f"{where}: not JSON ({error.msg} at column {error.colno}){why}")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ExampleError(f"an object names {twice!r} twice")
    return found


DECODER = json.JSONDecoder(object_pairs_hook=_object)
