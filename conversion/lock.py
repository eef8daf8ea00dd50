"""One owner a folder: a lock file that names who works there, and that a second start runs into.

Two witnesses say whether the owner lives. The kernel's `flock` ends with its process, however that ends, so that on one
host a killed owner blocks nobody. Hosts of a shared file system may each have locks of their own, or none; so the owner
also rewrites its record every few seconds, and one that has been silent for long is taken over. An owner that was taken
over, as one that had been suspended, ends itself. A job that Slurm requeues takes over from its earlier life at once.

Left out: a lock that strangers must obey, and deleting the file, which would let two processes hold two of a name.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import shlex
import signal
import socket
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conversion.command import naming
from conversion.errors import ConversionError

# The lock file in a run's folder, of whoever trains there.
RUN_LOCK = "run.lock"
# How often the owner rewrites its record, and after how long a silence it is taken for dead, in seconds.
_BEAT_S = 5.0
_SILENT_S = 30.0
# How long a killed process may take to end, and a file server to forget the locks of a dead host.
_DYING_S = 5.0
_LEASE_S = 120.0
_LOOK_S = 0.2


class LockedError(ConversionError):
    """Another process works there; the message names it, its host, since when, and what to do."""


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Inside, this process owns the folder of the lock file `path`; the folder is created.

    Raises:
        LockedError: a living process owns it.
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming(path):
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        locked, dead = _wait_until_free(path, file, fcntl.LOCK_EX)
        owner = _Owner(path, file, locked)
        if dead:
            print(f"{path}: {_named(dead)} is gone; taken over", file=sys.stderr, flush=True)
        try:
            yield
        finally:
            owner.release()
    finally:
        os.close(file)


def check_free(path: Path) -> None:
    """Raises LockedError where a living process holds the lock file; takes nothing, and needs no right to write."""
    if not path.exists():
        return
    file = os.open(path, os.O_RDONLY)
    try:
        _wait_until_free(path, file, fcntl.LOCK_SH)
    finally:
        os.close(file)


class _Owner:
    """This process's record in the file, rewritten by a thread until `release`."""

    def __init__(self, path: Path, file: int, locked: bool) -> None:
        self._path, self._file, self._beats = path, file, 0
        self._record = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "kernel": _kernel(),
            "locked": locked,
            "since": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
            "command": textwrap.shorten(shlex.join(sys.orig_argv), 200, placeholder=" ..."),
            "job": _job(),
        }
        with naming(path):
            # Until the new record is longer, a reader may see the end of the old one: none, and so a change.
            self._write()
            os.ftruncate(file, len(self._written))
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"owner of {path}", daemon=True)
        self._thread.start()

    def release(self) -> None:
        self._released.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            if self._owns():
                os.ftruncate(self._file, 0)

    def _write(self) -> None:
        # It only grows, so that a reader never sees the end of an older one.
        self._beats += 1
        self._written = json.dumps({**self._record, "beats": self._beats}).encode()
        os.pwrite(self._file, self._written, 0)
        os.fsync(self._file)

    def _owns(self) -> bool:
        return _read(self._path) == self._written

    def _keep(self) -> None:
        while not self._released.wait(_BEAT_S):
            # A file system that is full or away for a while is no reason to end.
            with contextlib.suppress(OSError):
                if self._owns():
                    self._write()
                elif (other := _parsed(_read(self._path))).get("pid") is not None:
                    print(
                        f"{self._path}: taken over by {_named(other)}; this process ends", file=sys.stderr, flush=True
                    )
                    os.kill(os.getpid(), signal.SIGTERM)
                    return


def _wait_until_free(path: Path, file: int, kind: int) -> tuple[bool, dict[str, Any]]:
    """Returns once no living process holds the lock.

    Returns:
        whether the kernel has given the lock to this process, and the record of an owner that did not release it.

    Raises:
        LockedError: a living process holds it.
    """
    began, told = time.monotonic(), False
    seen: bytes | None = None
    while True:
        given = _ask_kernel(file, kind)
        record, waited = _read(path), time.monotonic() - began
        owner = _parsed(record)
        here, requeued = owner.get("kernel") == _kernel(), _earlier_life(owner)
        if given is False:
            # The kernel of a dead host cannot release what a file server still holds for it.
            free, patience = requeued and not here, _DYING_S if here else _LEASE_S
        else:
            # Of an owner that had the lock from this kernel, the kernel would know.
            free, patience = not record or (given and here and owner.get("locked") is True) or requeued, _SILENT_S
        if free or (given is not False and waited >= patience):
            return given is True, owner
        if waited >= patience or (record and seen is not None and record != seen):
            sure = "" if here else f". If you are sure that it is gone, delete {path}"
            raise LockedError(f"{path.parent}: in use by {_named(owner)}; wait for its end, or stop it first{sure}")
        if not told and waited >= 1:
            print(f"{path}: waiting to see whether {_named(owner)} lives", file=sys.stderr, flush=True)
            told = True
        seen = record
        time.sleep(_LOOK_S)


def _ask_kernel(file: int, kind: int) -> bool | None:
    """Whether the kernel gives the lock to this process; None where the file system has no locks."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _read(path: Path) -> bytes:
    """The record, asked of the file server, which only opening a file does; nothing where it was deleted."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _parsed(record: bytes) -> dict[str, Any]:
    """Its values; none where it is no record, or half of one."""
    try:
        values = json.loads(record)
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}


def _named(owner: dict[str, Any]) -> str:
    if "pid" not in owner:
        return "an unknown process"
    return f"process {owner['pid']} on {owner.get('host')} since {owner.get('since')} ({owner.get('command')})"


def _kernel() -> str:
    """What tells this running kernel from every other: host names may be alike, and a host may have been restarted."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()


def _job() -> list[str]:
    """Slurm's number of this job, and of its life: how often it was requeued."""
    return [os.environ.get("SLURM_JOB_ID", ""), os.environ.get("SLURM_RESTART_COUNT", "0")]


def _earlier_life(owner: dict[str, Any]) -> bool:
    """Whether it was this very job before Slurm requeued it; Slurm ends one life before the next begins."""
    theirs, ours = owner.get("job"), _job()
    return isinstance(theirs, list) and bool(ours[0]) and theirs[:1] == ours[:1] and theirs != ours
