"""Answers of an evaluation on the disk as they come, so that what stops it costs at most one portion of them.

They are written to a hidden file that is named after all that defines the evaluation: its weights, data, server,
prompts and decoding. Started again, the same evaluation goes on behind the last whole line, and another one begins
anew. NAME.jsonl, in the order of the questions, is written once the result is.

Left out: two evaluations of one name at once.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from conversion.command import naming
from recipes.monitor.run_folder import replace_file


class Answers:
    """The answers so far, in the order in which they came.

    Attributes:
        rows: one JSON object an answer.
    """

    def __init__(self, target: Path, definition: Mapping[str, Any]) -> None:
        """Takes up what the same evaluation has left.

        Args:
            target: NAME.jsonl.
            definition: JSON values, equal for the same evaluation alone.

        Raises:
            OSError: the folder cannot be written.
        """
        self._target = target
        key = hashlib.sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()[:16]
        self._partial = target.with_name(f".{target.stem}.{key}.partial")
        for other in target.parent.glob(f".{glob.escape(target.stem)}.{'?' * len(key)}.partial"):
            if other != self._partial:
                if count := other.read_bytes().count(b"\n"):
                    said = "rows of the same name that were begun under other settings are deleted"
                    print(f"{target}: {count} {said}", file=sys.stderr, flush=True)
                other.unlink()
        self.rows: list[dict[str, Any]] = []
        whole = 0
        with naming(self._partial), self._partial.open("ab+") as file:
            file.seek(0)
            for line in file:
                try:
                    row = json.loads(line)
                except ValueError:
                    break
                if not line.endswith(b"\n"):
                    break
                self.rows.append(row)
                whole += len(line)
            file.truncate(whole)

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes further answers down to the disk. Raises OSError, having said that those before are kept."""
        try:
            with naming(self._partial), self._partial.open("ab") as file:
                file.write(_lines(rows))
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            kept = f"{len(self.rows)} answers are kept, and the same command goes on behind them"
            print(f"{self._target}: {kept}", file=sys.stderr, flush=True)
            raise
        self.rows += [dict(row) for row in rows]

    def publish(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes the answers in order under the file's own name; raises OSError, and those that came are kept."""
        replace_file(self._target, _lines(rows))
        self._partial.unlink()


def answers_digest(rows: Sequence[Mapping[str, Any]]) -> str:
    """SHA-256 of the file that `Answers.publish` writes of these rows."""
    return hashlib.sha256(_lines(rows)).hexdigest()


def _lines(rows: Sequence[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
