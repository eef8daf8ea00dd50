"""What the commands share: options, the progress bar and the last line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from conversion.command import path_argument

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "bfloat16")
Advance = Callable[[int], None]
# Called with what is being done and the bytes that it will take; the context yields what to call as bytes are done.
Progress = Callable[[str, int], AbstractContextManager[Advance]]


@contextmanager
def no_progress(_what: str, _total: int) -> Iterator[Advance]:
    """A `Progress` that shows nothing."""
    yield lambda _: None


def parser(command: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """An argument parser that keeps the line breaks of its texts."""
    return argparse.ArgumentParser(
        prog=f"python -m conversion.{command}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def conversion_parser(command: str, description: str, epilog: str, *, src: str, dst: str) -> argparse.ArgumentParser:
    """A `parser` with what every conversion of SRC into DST takes; `src` and `dst` say what these are."""
    made = parser(command, description, epilog)
    made.add_argument("src", metavar="SRC", type=path_argument, help=src)
    made.add_argument("dst", metavar="DST", type=path_argument, help=dst)
    made.add_argument("--dtype", choices=DTYPES, help="dtype of the weights in DST (default: as in SRC)")
    made.add_argument("--force", action="store_true", help="replace DST if it exists, once the new one is complete")
    return made


def dtype(name: str | None) -> torch.dtype | None:
    """The dtype that `--dtype` names, None where it was not given."""
    if name is None:
        return None
    import torch

    return getattr(torch, name)


def converted(path: Path, family: str, tensors: int, parameters: int, dtype: str) -> str:
    """The line with which a conversion ends."""
    return f"{path}: {family}, {tensors} tensors, {parameters:,} parameters, {dtype}"


@contextmanager
def progress_bar(what: str, total: int) -> Iterator[Advance]:
    """Show bytes done, speed and time left on standard error; yields the function to call with each count of bytes."""
    from rich import progress as bars
    from rich.console import Console

    columns = (bars.TextColumn("{task.description}"), bars.BarColumn(), bars.DownloadColumn())
    times = (bars.TransferSpeedColumn(), bars.TimeRemainingColumn())
    with bars.Progress(*columns, *times, console=Console(stderr=True)) as shown:
        task = shown.add_task(what, total=total)
        yield lambda count: shown.advance(task, count)


def warn_of_leftovers(dst: Path) -> None:
    """Name folders that interrupted runs left beside `dst`; they may belong to a run on another host, so they stay."""
    for leftover in sorted(dst.absolute().parent.glob(f"{dst.absolute().name}.partial-*")):
        print(f"note: {leftover} is left from an interrupted run (or one still running); delete it", file=sys.stderr)
