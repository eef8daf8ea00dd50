"""JSON of any length, read value by value in bounded memory: a list, an object, or one text after another."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from recipes.data.errors import ExampleError
from recipes.data.text_files import DECODER, MAX_ROW_CHARS, TextFile, json_error

_CHUNK_CHARS = 2**18
_SPACE = re.compile("[ \t\r\n\ufeff]*")
# A text that ends within a word or an escape fails this near to its end: "-Infinit", "\ud83d\ude0".
_TAIL = 16


class JsonStream:
    """JSON texts in a file, one after another.

    The methods take what comes next; which of them fits is for the caller to see from `peek`. All raise ExampleError
    with file and line for what is no JSON, and for one value of more than MAX_ROW_CHARS characters.
    """

    def __init__(self, file: TextFile) -> None:
        self._file = file
        self._text = ""
        self._at = 0
        self._line = 1
        self._ended = False

    @property
    def where(self) -> str:
        """File and line of what comes next."""
        return f"{self._file.path}:{self._line + self._text.count(chr(10), 0, self._at)}"

    def peek(self) -> str:
        """The next character that is no space; empty at the end of the file."""
        while True:
            at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]  # it matches nothing too
            if at < len(self._text):
                self._at = at
                return self._text[at]
            if not self._more():
                return ""

    def value(self) -> Any:
        """The next value, whole."""
        if not self.peek():
            raise ExampleError(f"{self.where}: not JSON: the file is cut short")
        while True:
            try:
                value, end = DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                near_end = error.msg.startswith("Unterminated") or error.pos >= len(self._text) - _TAIL
                if not (near_end and self._more()):
                    raise self._error(error) from None
            except (ValueError, RecursionError) as error:
                raise json_error(error, "", self.where) from None
            else:
                # A number may go on in what is not read yet.
                if end < len(self._text) or not self._more():
                    self._at = end
                    return value

    def items(self) -> Iterator[Any]:
        """The values of the list that comes next."""
        self._take("[")
        while self.peek() != "]":
            yield self.value()
            self._separator("]")
        self._at += 1

    def names(self) -> Iterator[str]:
        """The names in the object that comes next; the caller takes each one's value before it asks for another."""
        self._take("{")
        seen: set[str] = set()
        while self.peek() != "}":
            key = self.value()
            if not isinstance(key, str) or self.peek() != ":":
                raise ExampleError(f"{self.where}: not JSON (expected a key and a colon)")
            if key in seen:
                raise ExampleError(f"{self.where}: an object names {key!r} twice")
            seen.add(key)
            self._at += 1
            yield key
            self._separator("}")
        self._at += 1

    def _separator(self, close: str) -> None:
        if self.peek() == ",":
            self._at += 1
            if self.peek() == close:
                raise ExampleError(f"{self.where}: not JSON (a comma before {close})")
        elif self.peek() != close:
            cut = "" if self.peek() else ": the file is cut short"
            raise ExampleError(f"{self.where}: not JSON (expected a comma or {close}){cut}")

    def _take(self, opening: str) -> None:
        if self.peek() != opening:
            raise ExampleError(f"{self.where}: not JSON (expected {opening})")
        self._at += 1

    def _more(self) -> bool:
        """Reads on, dropping what was taken; twice as much each time a value does not fit."""
        if self._ended:
            return False
        held = len(self._text) - self._at
        if held > MAX_ROW_CHARS:
            raise ExampleError(f"{self.where}: a value of more than {MAX_ROW_CHARS} characters is no row")
        self._line += self._text.count("\n", 0, self._at)
        chunk = self._file.read(max(_CHUNK_CHARS, held))
        self._text, self._at = self._text[self._at :] + chunk, 0
        self._ended = not chunk
        return not self._ended

    def _error(self, error: json.JSONDecodeError) -> ExampleError:
        line = self._line + self._text.count("\n", 0, error.pos)
        cut = ": the file is cut short" if self._ended and error.pos >= len(self._text.rstrip()) else ""
        return ExampleError(f"{self._file.path}:{line}: not JSON ({error.msg}){cut}")
