"""What a prepared file was made of, beside it as OUT.manifest.json: source and digest, rows, licences, what is missing.

    {"version": "0.1.0", "kind": "medcalc", "ids": "medcalc", "source": {"path": "/data/test.csv", "sha256": "..."},
     "options": {"label_overrides": {"path": "/data/corrected.csv", "sha256": "..."}},
     "rows": 987, "sha256": that of OUT,
     "by_source": [{"source": "MedCalc-Bench", "task": "number", "license": "CC-BY-SA-4.0", "rows": 921}],
     "left_out": [{"reason": "...", "rows": 60, "first": "/data/corrected.csv, row 12"}],
     "let_through": [{"likeness": "context", "rows": 57, "first": "'medcalc/3', as 'test/9'"}],
     "misread": {"rows": 2, "first": "'medcalc/7': MÃ©niÃ¨re"}}

`let_through` counts rows that are like a question of the files of `--against` in a way that `--allow-contamination`
names, `misread` rows of OUT with text that was read in a wrong encoding (`recipes.data.mojibake`).

OUT appears first: a manifest whose `sha256` is not that of the file beside it is of an earlier one.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections import Counter
from pathlib import Path
from typing import Any, Protocol

from conversion.digests import file_digest
from recipes.data.contamination import Contaminated
from recipes.data.example import Example
from recipes.data.mojibake import misread
from recipes.data.readers import LeftOut
from recipes.data.sources import FileSource
from recipes.monitor.run_folder import replace_file


class Origin(Protocol):
    """Where rows come from: its name in messages, and what the manifest says of it."""

    @property
    def name(self) -> str:
        """A path or a data set's name."""

    def origin(self) -> dict[str, Any]:
        """What it is, by content."""


class Tally:
    """Counts what a reader gives, as it is written."""

    def __init__(self) -> None:
        self.rows: Counter[tuple[str, str, str]] = Counter()
        self.left_out: dict[str, list[Any]] = {}
        self.let_through = Contaminated()
        self.misread = 0
        self.first_misread = ""

    def add(self, row: Example | LeftOut) -> None:
        """Counts one row, by source, task and licence, or by the reason why it is left out."""
        if isinstance(row, LeftOut):
            self.left_out.setdefault(row.reason, [0, row.where])[0] += 1
        else:
            self.rows[row.source, row.task, row.license] += 1
            if found := misread(row):
                self.misread += 1
                self.first_misread = self.first_misread or f"{row.id!r}: {found}"


def manifest_path(out: Path) -> Path:
    """Where the manifest of a prepared file lies."""
    return out.with_name(f"{out.name}.manifest.json")


def write_manifest(
    out: Path, tally: Tally, *, kind: str, ids: str, source: Origin, options: dict[str, Any]
) -> dict[str, Any]:
    """Writes the manifest of OUT, which is there already, and returns it. Raises OSError."""
    manifest = {
        "version": _version(),
        "kind": kind,
        "ids": ids,
        "source": source.origin(),
        "options": {name: _option(value) for name, value in options.items() if value not in (None, (), False)},
        "rows": tally.rows.total(),
        "sha256": file_digest(out),
        "by_source": [
            {"source": name, "task": task, "license": license_name, "rows": count}
            for (name, task, license_name), count in sorted(tally.rows.items())
        ],
        "left_out": [
            {"reason": reason, "rows": count, "first": first} for reason, (count, first) in tally.left_out.items()
        ],
        "let_through": [
            {"likeness": likeness, "rows": count, "first": first}
            for likeness, count, first in tally.let_through.kinds()
        ],
        "misread": {"rows": tally.misread, "first": tally.first_misread},
    }
    replace_file(manifest_path(out), (json.dumps(manifest, ensure_ascii=False, indent=2) + "\n").encode())
    return manifest


def _option(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_option(each) for each in value]
    return FileSource(value).origin() if isinstance(value, Path) else value


def _version() -> str:
    try:
        return importlib.metadata.version("medatron")
    except importlib.metadata.PackageNotFoundError:  # run from a checkout
        return "unknown"
