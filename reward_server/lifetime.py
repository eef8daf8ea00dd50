"""Ends a server whose parent is gone, so that no orphan keeps a port and a core; keeps Ctrl-C to one of its processes.

By looking at the parent's id, not by Linux's PR_SET_PDEATHSIG: that signal comes when the parent's *thread* ends, and a
trainer may well start its server from a short-lived one. It also works on macOS.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from collections.abc import Iterator

POLL_S = 0.5


@contextlib.contextmanager
def interrupts_kept_from_children() -> Iterator[None]:
    """Processes that are started inside never hear Ctrl-C, which a terminal sends to all of a group, nor do theirs.

    They are ended by who started them; on their own they would fall out of whatever they are importing.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def stop_with_parent(pid: int) -> None:
    """Sends this process SIGTERM within about POLL_S seconds of the end of its parent process `pid`."""

    def watch() -> None:
        while os.getppid() == pid:
            time.sleep(POLL_S)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def stop_with_supervisor() -> None:
    """In a worker process, sends SIGTERM to itself when its supervisor ends; elsewhere does nothing."""
    supervisor = multiprocessing.parent_process()
    if supervisor is None:
        return

    def watch() -> None:
        multiprocessing.connection.wait([supervisor.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="supervisor-watch", daemon=True).start()
