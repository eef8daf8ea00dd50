"""How every command of this project begins and ends, whatever stops it: one sentence, an exit code, no traceback.

Exit codes beside a command's own: 130 after Ctrl-C, 141 when the reader of standard output has gone (`| head`), as a
shell reports them of programs that these signals kill. Imports nothing of ours but the errors, and no torch, so that
`--help` and a mistake are answered at once.

Left out: SIGTERM, which kills as it always does.
"""

from __future__ import annotations

import argparse
import errno
import io
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from conversion.errors import ConversionError

INTERRUPTED = 128 + signal.SIGINT
NO_READER = 128 + signal.SIGPIPE
# A terminal and a launcher may both pass on one Ctrl-C; a second one that is meant comes later.
_SAME_S = 1.0
_FIXES = {
    errno.ENOSPC: "free some space there, or choose a place with more",
    errno.EDQUOT: "free some of your quota there, or choose another place",
    errno.EROFS: "choose a place that can be written to",
    errno.EACCES: "ask for access to it, or choose another place",
    errno.EPERM: "ask for access to it, or choose another place",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "a file stands where a folder is needed; choose another place",
    errno.EISDIR: "a folder stands where a file is needed; choose another name",
    errno.EEXIST: "something else stands there; choose another place",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}


def run(
    command: Callable[[], int | None],
    *,
    name: str = "error",
    errors: tuple[type[Exception], ...] = (ConversionError,),
    status: int = 1,
    interrupted: str | None = "interrupted",
) -> int:
    """Run a command to its exit code, and tell in one line on standard error what stopped it.

    Args:
        command: parses its arguments and works; returns its exit code, or None for 0.
        name: stands before what is told of an error.
        errors: those whose message says all there is to say, beside the file system's.
        status: exit code after one of these.
        interrupted: what to say after Ctrl-C; None where another process says it.
    """
    told: tuple[type[Exception], ...] = (OSError, *errors)
    _open_closed_streams()
    before = signal.getsignal(signal.SIGINT)
    _listen(interrupted)
    try:
        try:
            code = command() or 0
        except SystemExit as stopped:
            code = _code(stopped)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        mute_output()
        return NO_READER
    except told as error:
        said = explain(error) if isinstance(error, OSError) else str(error)
        # A write that failed on no file in particular may have been one to standard output.
        nameless = isinstance(error, OSError) and error.errno is not None and error.filename is None
        if not _output_takes(probe=nameless):
            mute_output()
            if nameless:
                said = f"standard output: {said}"
        print(f"{name}: {said}", file=sys.stderr)
        return status
    except KeyboardInterrupt:
        _tell(interrupted)
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGINT, before)


def explain(error: OSError) -> str:
    """What went wrong with which file, and what to do about it, in one sentence."""
    if error.errno is None or error.strerror is None:
        return str(error)
    place = error.filename if error.filename2 is None else f"{error.filename} to {error.filename2}"
    fix = _FIXES.get(error.errno)
    return f"{'' if place is None else f'{place}: '}{error.strerror}{'' if fix is None else f'; {fix}'}"


def outlive_output() -> None:
    """From now on what standard output and standard error do not take is lost, and no error.

    For work of hours, which is worth more than its log: the reader of a pipe goes, the disk under a log is full. The
    first loss of standard output is told on standard error. Call it before anything is printed.
    """
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(
            io.BufferedWriter(_Outlived(number, "w", closefd=False)),
            encoding=stream.encoding,
            errors=stream.errors,
            line_buffering=bool(stream.line_buffering),
        )
        for number, stream in ((1, sys.stdout), (2, sys.stderr))
    )


class _Outlived(io.FileIO):
    """A file descriptor that takes everything, and loses what does not go on."""

    _told = False

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError as error:
            if self.fileno() == 1 and not self._told:
                self._told = True
                print(f"standard output takes no more ({error.strerror}); the work goes on", file=sys.stderr)
            return len(data)


def mute_output() -> None:
    """Sends what standard output still holds, and all that comes, to nowhere; Python would complain at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Inside, an error of the file system that names no file, as one of a full disk does not, is one of `path`."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


def path_argument(text: str) -> Path:
    """A path on a command line: not empty, as an unset variable leaves it, and `~` for the home folder."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got nothing; is a variable of the shell unset?")
    return Path(expand_home(text))


def count_argument(text: str) -> int:
    """A whole number above 0 on a command line."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number, at least 1")
    return int(text)


def expand_home(text: str) -> str:
    """A path with the home folder for its `~`, which a shell leaves behind an equals sign."""
    # Of pathlib's own, a name that is no user's raises.
    return os.path.expanduser(text)  # noqa: PTH111


def _open_closed_streams() -> None:
    """Opens standard streams that the caller closed (`>&-`) on nothing, lest a file of ours take their numbers."""
    for number, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def _listen(interrupted: str | None) -> None:
    """From now on Ctrl-C unwinds the command, or ends it at once in the middle of an import or when asked again.

    Libraries turn an exception in the middle of their import into another one, or go on without a word.
    """
    first: list[float] = []

    def stop(_: int, frame: FrameType | None) -> None:
        importing = any(f.f_code.co_filename.startswith("<frozen importlib") for f, _ in traceback.walk_stack(frame))
        if importing or (first and time.monotonic() - first[0] > _SAME_S):
            _tell(interrupted)
            os._exit(INTERRUPTED)
        if not first:
            first.append(time.monotonic())
            raise KeyboardInterrupt

    # A shell starts background jobs deaf to Ctrl-C, and deaf they stay.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, stop)


def _tell(text: str | None) -> None:
    if text is not None:
        print(text, file=sys.stderr, flush=True)


def _code(stopped: SystemExit) -> int:
    """The exit code of a `SystemExit`, its message told, as Python itself would."""
    if stopped.code is None or isinstance(stopped.code, int):
        return stopped.code or 0
    print(stopped.code, file=sys.stderr)
    return 1


def _output_takes(probe: bool) -> bool:
    """Whether what is left to print can be printed, and with `probe` an empty line as well."""
    try:
        sys.stdout.write("\n" * probe)
        sys.stdout.flush()
    except OSError:
        return False
    return True
