"""Starts an entry point on its ranks, and makes sure that none of them outlives the others.

Under torchrun or srun the ranks exist already; called plainly, an entry point starts `parallel.processes` of itself
through torchrun on this machine. A rank that fails ends the run: torchrun stops the others, and the kernel kills a rank
whose torchrun is gone.
"""

from __future__ import annotations

import ctypes
import datetime
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from recipes.runtime import interruption, platform
from recipes.runtime.config import Config, ConfigError
from recipes.runtime.loading import load, world_size

_PR_SET_PDEATHSIG = 1


class MeetingError(RuntimeError):
    """The ranks of a run cannot meet; the message says where and why."""


def die_with_parent() -> None:
    """Asks Linux to kill this process when its parent dies; elsewhere it does nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def free_port() -> int:
    """A TCP port of the loopback interface that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_leader() -> bool:
    """Whether this is rank 0 of the run."""
    return int(os.environ.get("RANK", "0")) == 0


def _adopt_slurm() -> None:
    """srun names ranks its own way; torch.distributed wants RANK, WORLD_SIZE and LOCAL_RANK."""
    if "RANK" not in os.environ and "SLURM_PROCID" in os.environ and "MASTER_ADDR" in os.environ:
        names = {"RANK": "SLURM_PROCID", "WORLD_SIZE": "SLURM_NTASKS", "LOCAL_RANK": "SLURM_LOCALID"}
        os.environ.update({name: os.environ[slurm] for name, slurm in names.items()})


def _start_ranks(module: str, overrides: list[str], processes: int) -> None:
    """Runs torchrun in this process; a rank's failure has told its reason, and its exit code becomes ours."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    arguments = ["--standalone", f"--nproc-per-node={processes}", "-m", module, *overrides]
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    interruption.forward_to_ranks()
    try:
        torchrun.main(arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode == interruption.EXIT_STOPPED:
            sys.exit(interruption.EXIT_STOPPED)
        sys.exit(f"rank {rank} of {processes} ended with exit code {failure.exitcode}; all ranks were stopped")
    except SignalException as signal_error:
        sys.exit(128 + int(signal_error.sigval))


def init_process_group(config: Config) -> None:
    """Joins the process group described in the environment; every collective has `parallel.timeout_minutes`.

    Raises:
        MeetingError: the ranks cannot meet.
    """
    os.environ.setdefault("RANK", "0")
    os.environ.setdefault("WORLD_SIZE", "1")
    os.environ.setdefault("LOCAL_RANK", "0")
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", str(free_port()))
    if platform.on_gpu():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    minutes = config.parallel.timeout_minutes
    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    try:
        dist.init_process_group(platform.backend(), timeout=datetime.timedelta(minutes=minutes))
    except dist.DistNetworkError as error:
        if "EADDRINUSE" in str(error):
            raise MeetingError(f"{place} is taken by another program; set MASTER_PORT to a free port") from error
        raise MeetingError(f"cannot reach rank 0 at {place} ({str(error).splitlines()[0]})") from error
    except dist.DistStoreError as error:
        raise MeetingError(
            f"not all {os.environ['WORLD_SIZE']} ranks came to {place} in {minutes:g} minutes"
        ) from error


def _explains_itself(error: Exception) -> bool:
    """Whether a message will do where a traceback would bury it: errors of our own say what to do."""
    # __main__ is the entry point itself, by the name that `python -m` gives it.
    ours = type(error).__module__.split(".")[0] in ("recipes", "conversion", "reward_server", "__main__")
    return ours or isinstance(error, FileNotFoundError)


def run(main: Callable[[Config], None], module: str, description: str) -> None:
    """Command line of a training entry point: `python -m MODULE [GROUP=NAME ...] [key=value ...]`.

    Args:
        main: what every rank does.
        module: the entry point's name, for starting the ranks.
        description: what `--help` says.
    """
    overrides = sys.argv[1:]
    if {"-h", "--help"} & set(overrides):
        print(f"usage: python -m {module} [GROUP=NAME ...] [key=value ...]\n\n{description}")
        return
    _adopt_slurm()
    # As early as can be: until then the signal kills, and the rest of this function imports and reads for seconds.
    interruption.listen()
    try:
        config = load(overrides)
    except ConfigError as error:
        raise SystemExit(f"configuration: {error}") from None
    if world_size() is None and config.parallel.processes > 1:
        _start_ranks(module, overrides, config.parallel.processes)
        return
    if world_size() is not None:
        die_with_parent()
    try:
        init_process_group(config)
    except MeetingError as error:
        sys.exit(f"{module}, rank {os.environ['RANK']}: {error}")
    try:
        main(config)
    except interruption.Stopped:
        # srun kills the ranks that are left when one ends with an error code; none may be in the middle of something.
        dist.barrier()
        raise
    except Exception as error:
        if not _explains_itself(error):
            raise
        sys.exit(f"{module}, rank {os.environ['RANK']}: {error}")
    finally:
        dist.destroy_process_group()
