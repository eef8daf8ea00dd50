"""What the commands share: options, the progress bar, the last line, and errors printed without a traceback."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import torch
from rich import progress as bars
from rich.console import Console

from conversion.errors import ConversionError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
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
    made.add_argument("src", metavar="SRC", type=Path, help=src)
    made.add_argument("dst", metavar="DST", type=Path, help=dst)
    made.add_argument("--dtype", choices=DTYPES, help="dtype of the weights in DST (default: as in SRC)")
    made.add_argument("--force", action="store_true", help="replace DST if it exists, once the new one is complete")
    return made


def converted(path: Path, family: str, tensors: int, parameters: int, dtype: str) -> str:
    """The line with which a conversion ends."""
    return f"{path}: {family}, {tensors} tensors, {parameters:,} parameters, {dtype}"


@contextmanager
def progress_bar(what: str, total: int) -> Iterator[Advance]:
    """Show bytes done, speed and time left on standard error; yields the function to call with each count of bytes."""
    columns = (bars.TextColumn("{task.description}"), bars.BarColumn(), bars.DownloadColumn())
    times = (bars.TransferSpeedColumn(), bars.TimeRemainingColumn())
    with bars.Progress(*columns, *times, console=Console(stderr=True)) as shown:
        task = shown.add_task(what, total=total)
        yield lambda count: shown.advance(task, count)


def warn_of_leftovers(dst: Path) -> None:
    """Name folders that interrupted runs left beside `dst`; they may belong to a run on another host, so they stay."""
    for leftover in sorted(dst.absolute().parent.glob(f"{dst.absolute().name}.partial-*")):
        print(f"note: {leftover} is left from an interrupted run (or one still running); delete it", file=sys.stderr)


def run(command: Callable[[], int]) -> int:
    """Run a command; on an error of ours or of the file system print one line and return 1, on Ctrl-C return 130."""
    try:
        return command()
    except (ConversionError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: nothing was changed", file=sys.stderr)
        return 130
