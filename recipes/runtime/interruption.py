"""SIGUSR1 asks a run to save and stop: what Slurm sends ahead of a time limit (`#SBATCH --signal=USR1@300`).

SIGTERM and SIGINT end a run at once, as a rank whose sibling failed must; it goes on from its last checkpoint.
"""

from __future__ import annotations

import os
import signal
from types import FrameType

import psutil

# What a run that was asked to stop exits with: sysexits' EX_TEMPFAIL, try again later.
EXIT_STOPPED = 75

_asked = False


class Stopped(SystemExit):
    """The run was asked to stop and has saved; every rank raises it, and the process ends with `EXIT_STOPPED`."""

    def __init__(self) -> None:
        super().__init__(EXIT_STOPPED)


def listen() -> None:
    """From now on SIGUSR1 is a request to this rank."""

    def note(_: int, __: FrameType | None) -> None:
        global _asked
        _asked = True

    signal.signal(signal.SIGUSR1, note)


def forward_to_ranks() -> None:
    """From now on this launcher hands SIGUSR1 on to the ranks that it has started."""

    def hand_on(number: int, _: FrameType | None) -> None:
        for child in psutil.Process().children():
            # Other children than ranks listen to no signal, and would die of one.
            if "RANK" in child.environ():
                os.kill(child.pid, number)

    signal.signal(signal.SIGUSR1, hand_on)


def stop_asked() -> bool:
    """Whether this rank was asked to stop; others may not have been."""
    return _asked
