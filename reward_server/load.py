"""How many requests are open in all workers of a server together.

Workers take connections from one socket, and take them unevenly: a limit of each for itself would send some away while
another worker is idle. Each writes its own number into its place of a shared file and reads the sum; a sum that is a
moment old does no harm.
"""

from __future__ import annotations

import array
import fcntl
import mmap
import os
from pathlib import Path

# A place holds a process id and its open requests.
_PLACE = 2
_LEFT = -1


class Load:
    """One worker's place in the file at `path`; without a file it counts for itself alone.

    Attributes:
        replaces: whether this worker came after one that is gone.
    """

    def __init__(self, path: Path | None) -> None:
        self._places = memoryview(array.array("q", [0] * _PLACE))
        self._own, self.replaces = 0, False
        if path is not None:
            with path.open("r+b") as file:
                self._places = memoryview(mmap.mmap(file.fileno(), 0)).cast("q")
                # The mapping keeps the file open, and with it a lock that nobody lets go.
                fcntl.flock(file, fcntl.LOCK_EX)
                self._own = self._claim()
                fcntl.flock(file, fcntl.LOCK_UN)

    @staticmethod
    def make(path: Path, workers: int) -> None:
        """Makes the file, with room for a new worker beside each that is on its way out."""
        path.write_bytes(array.array("q", [0] * (2 * workers * _PLACE)).tobytes())

    def report(self, count: int) -> None:
        """Takes note of this worker's open requests."""
        self._places[self._own + 1] = count

    def total(self) -> int:
        """Open requests of all workers."""
        return sum(self._places[1::_PLACE])

    def _claim(self) -> int:
        """Clears the places of workers that are gone, and takes the first that is free."""
        for place in range(0, len(self._places), _PLACE):
            if self._places[place] > 0 and not _lives(self._places[place]):
                self._places[place], self._places[place + 1] = _LEFT, 0
        # Places that were left come before those that never were taken.
        own = next(place for place in range(0, len(self._places), _PLACE) if self._places[place] <= 0)
        self.replaces = self._places[own] == _LEFT
        self._places[own] = os.getpid()
        return own


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
