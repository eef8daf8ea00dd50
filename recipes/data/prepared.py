"""Rows of published files on their way to a file of Examples and its manifest: compared, counted, written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from recipes.data.errors import ExampleError
from recipes.data.example import Example, iterate_examples, write_examples
from recipes.data.manifest import Origin, Tally, write_manifest
from recipes.data.readers import LeftOut


def write_prepared(
    out: Path,
    rows: Iterable[Example | LeftOut],
    *,
    kind: str,
    ids: str,
    source: Origin,
    options: dict[str, Any],
    against: Sequence[Path] = (),
    allow_contamination: Sequence[str] = (),
) -> dict[str, Any]:
    """Writes rows as Examples, and the manifest that it returns.

    Args:
        out: the file to write; `out`.manifest.json goes beside it.
        rows: what a reader gives.
        kind, ids, source, options: for the manifest.
        against: files of Examples to evaluate on; rows that are like one of their questions are left out.
        allow_contamination: of these the ways of being alike in which a row stays (`recipes.data.contamination`).

    Raises:
        ExampleError, FileNotFoundError: naming file and row; `out` is as it was before.
    """
    tally = Tally()
    write_examples(out, _examples(_compared(rows, against, allow_contamination, tally), source, tally))
    return write_manifest(out, tally, kind=kind, ids=ids, source=source, options=options)


def _compared(
    rows: Iterable[Example | LeftOut], against: Sequence[Path], allowed: Sequence[str], tally: Tally
) -> Iterator[Example | LeftOut]:
    """Leaves out what is like a question of other files; counts what may stay, and of `rows` what is left out."""
    if not against:
        yield from rows
        return
    # Brings numpy, which the other kinds and --help do without.
    from recipes.data.held_out import HeldOut

    held_out = HeldOut(chain.from_iterable(iterate_examples(file) for file in against))
    for row, matches in held_out.matches(_without_left_out(rows, tally)):
        if not matches:
            yield row
        elif matches[0].likeness in allowed:
            tally.let_through.add(row, matches[0])
            yield row
        else:
            place = f"{row.id!r}, as {matches[0].question.id!r}"
            yield LeftOut(f"like a held-out question: {matches[0].likeness}", place)


def _without_left_out(rows: Iterable[Example | LeftOut], tally: Tally) -> Iterator[Example]:
    for row in rows:
        if isinstance(row, Example):
            yield row
        else:
            tally.add(row)


def _examples(rows: Iterable[Example | LeftOut], source: Origin, tally: Tally) -> Iterator[Example]:
    for row in rows:
        tally.add(row)
        if isinstance(row, Example):
            yield row
    if not tally.rows:
        why = ", ".join(f"{count} left out: {reason}" for reason, (count, _) in tally.left_out.items())
        raise ExampleError(f"{source.name}: holds no rows to write" + (f" ({why})" if why else ""))
