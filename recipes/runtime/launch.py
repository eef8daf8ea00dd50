"""Starts an entry point on its ranks, and makes sure that none of them outlives the others.

Under torchrun or srun the ranks exist already; called plainly, an entry point starts `parallel.processes` of itself
through torchrun on this machine. A rank that fails ends the run: torchrun stops the others, and the kernel kills a rank
whose torchrun is gone. Of ranks that fail, the first says why, and the others end without a word.

Whatever needs torch imports it where it is used, so that `--help` and a mistake in a setting are answered at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from conversion import command, lock
from recipes.runtime import interruption
from recipes.runtime.config import Config, ConfigError
from recipes.runtime.loading import load, world_size
from recipes.runtime.rules import Stage

# Of the time that ranks wait for one another, what rank 0 may spend on a server, so that it can still say what failed.
SHARE_OF_WAIT = 0.8
_PR_SET_PDEATHSIG = 1
# How long rank 0, whose store tells who failed first, waits for the others to ask.
_LAST_WORDS_S = 5.0
# How long a rank that a launcher started waits for the others without a word.
_PATIENCE_S = 60.0


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
    return os.environ.get("RANK", "0") == "0"


def _adopt_slurm() -> None:
    """srun names ranks its own way; torch.distributed wants RANK, WORLD_SIZE and LOCAL_RANK, NeMo's trainer more."""
    if "RANK" not in os.environ and "SLURM_PROCID" in os.environ and "MASTER_ADDR" in os.environ:
        names = {"RANK": "SLURM_PROCID", "WORLD_SIZE": "SLURM_NTASKS", "LOCAL_RANK": "SLURM_LOCALID"}
        os.environ.update({name: os.environ[slurm] for name, slurm in names.items()})
        counts = os.environ.get("SLURM_STEP_TASKS_PER_NODE") or os.environ.get("SLURM_NTASKS_PER_NODE")
        if counts:
            os.environ["LOCAL_WORLD_SIZE"] = str(_tasks_on(int(os.environ.get("SLURM_NODEID", "0")), counts))


def _tasks_on(node: int, counts: str) -> int:
    """Tasks of a step's node by its number, from Slurm's list: `8(x2),4` are two nodes of 8 and one of 4.

    A single number, as in SLURM_NTASKS_PER_NODE, is every node's.
    """
    nodes = [
        int(tasks)
        for part in counts.split(",")
        for tasks, _, times in [part.rstrip(")").partition("(x")]
        for _ in range(int(times or 1))
    ]
    return nodes[min(node, len(nodes) - 1)]


def _check_launcher() -> None:
    """Ends where the environment names a rank as no launcher does, as a variable left in a shell would."""
    rank, size = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if (rank, size) in ((None, None), (None, "1")):
        return
    numbers = [int(value) for value in (rank, size) if value and value.isdecimal()]
    if len(numbers) < 2 or numbers[0] >= numbers[1]:
        found = ", ".join(f"{name}={os.environ[name]}" for name in ("RANK", "WORLD_SIZE") if name in os.environ)
        raise SystemExit(
            f"{found} in the environment: expected both or none, the rank (from 0) and the number of ranks, as a "
            "launcher sets them (torchrun, srun); without one unset them"
        )


def _check_devices(ranks: int, where: str) -> None:
    """Refuses more ranks on this machine than it has GPUs: each needs one of its own.

    Raises:
        MeetingError: with the way out; `where` says what asks for so many.
    """
    import torch

    from recipes.runtime import platform

    if platform.on_gpu() and ranks > (there := torch.cuda.device_count()):
        raise MeetingError(
            f"{where}: {ranks} ranks on this machine need a GPU each, and torch sees {there}; start fewer "
            "(parallel.processes, with parallel.tensor and parallel.pipeline), or set MEDATRON_DEVICE=cpu to compute "
            "on its CPU"
        )


@contextlib.contextmanager
def _telling_of_a_wait(place: str, minutes: float) -> Iterator[None]:
    """Inside, this rank waits for others: it says so at once where no launcher that we know started it, else later."""

    def tell() -> None:
        print(
            f"rank {os.environ['RANK']} of {os.environ['WORLD_SIZE']} waits at {place} for the others, at most "
            f"{minutes:g} minutes. A launcher (torchrun, srun) starts them; without one unset RANK and WORLD_SIZE",
            file=sys.stderr,
            flush=True,
        )

    launched = any(name in os.environ for name in ("TORCHELASTIC_RUN_ID", "SLURM_PROCID"))
    timer = threading.Timer(_PATIENCE_S if launched else 0.0, tell)
    timer.daemon = True
    if os.environ["WORLD_SIZE"] != "1":
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _start_ranks(module: str, overrides: list[str], processes: int) -> int:
    """Runs torchrun in this process; returns the exit code of the rank that failed first, or 0.

    A rank that ended by itself has told why; of one that was killed, nobody else can.
    """
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    arguments = ["--standalone", f"--nproc-per-node={processes}", "-m", module, *overrides]
    for name in logging.Logger.manager.loggerDict:
        # Each has a level of its own; what they say, the ranks or this launcher say better.
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    interruption.forward_to_ranks()
    try:
        torchrun.main(arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode > 0:
            return failure.exitcode
        killer = signal.Signals(-failure.exitcode).name
        sys.exit(
            f"{module}: rank {rank} of {processes} was killed by {killer}; all ranks were stopped. Where nobody sent "
            "it, look for a host out of memory (dmesg)"
        )
    except SignalException as signal_error:
        if signal_error.sigval == signal.SIGINT:
            raise KeyboardInterrupt from None
        return 128 + int(signal_error.sigval)
    return 0


def init_process_group(config: Config) -> None:
    """Joins the process group described in the environment; every collective has `parallel.timeout_minutes`.

    Raises:
        MeetingError: the ranks cannot meet, or are more than there are GPUs.
    """
    import torch
    import torch.distributed as dist

    from recipes.runtime import platform

    os.environ.setdefault("RANK", "0")
    os.environ.setdefault("WORLD_SIZE", "1")
    os.environ.setdefault("LOCAL_RANK", "0")
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", str(free_port()))
    if platform.on_gpu():
        local = int(os.environ["LOCAL_RANK"])
        # Where the launcher tells how many there are, all of them refuse, and none waits for the others.
        _check_devices(int(os.environ.get("LOCAL_WORLD_SIZE", local + 1)), "the launcher")
        torch.cuda.set_device(local)
    else:
        platform.keep_freed_memory()
    minutes = config.parallel.timeout_minutes
    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    try:
        with _telling_of_a_wait(place, minutes):
            dist.init_process_group(platform.backend(), timeout=datetime.timedelta(minutes=minutes))
    except ValueError as error:
        names = ", ".join(f"{name}={os.environ[name]}" for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
        raise MeetingError(f"{error}; the environment says {names}, which a launcher sets: unset or mend it") from error
    except dist.DistNetworkError as error:
        if "EADDRINUSE" in str(error):
            raise MeetingError(f"{place} is taken by another program; set MASTER_PORT to a free port") from error
        raise MeetingError(f"cannot reach rank 0 at {place} ({str(error).splitlines()[0]})") from error
    except dist.DistStoreError as error:
        raise MeetingError(
            f"not all {os.environ['WORLD_SIZE']} ranks came to {place} in {minutes:g} minutes"
        ) from error


def _tells_meeting_error() -> bool:
    """Whether this rank says that the ranks did not meet: rank 0, or where that cannot be reached one on each node."""
    return is_leader() or os.environ["LOCAL_RANK"] == "0" or os.environ["RANK"] == "1"


def _fails_first() -> bool:
    """Whether no other rank has failed before; of all ranks that ask, one is told so.

    A rank that cannot ask since rank 0 is gone is not the first.
    """
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import _get_default_store

    ranks, rank = dist.get_world_size(), str(dist.get_rank())
    if ranks == 1:
        return True
    store = _get_default_store()
    try:
        first = store.compare_set("failed first", "", rank).decode() == rank
        ended, deadline = store.add("failed", 1), time.monotonic() + _LAST_WORDS_S
        while is_leader() and "TORCHELASTIC_RUN_ID" not in os.environ and ended < ranks and time.monotonic() < deadline:
            time.sleep(0.05)
            ended = store.add("failed", 0)
    except (dist.DistNetworkError, dist.DistStoreError) as error:
        if "TORCHELASTIC_RUN_ID" not in os.environ and os.environ["LOCAL_RANK"] == "0":
            # torchrun tells which rank it has lost; srun gives a number at most.
            said = str(error).splitlines()[0]
            print(f"rank {rank}: rank 0 is gone, and with it what stopped the run ({said})", file=sys.stderr)
        return False
    return first


def _explains_itself(error: Exception) -> bool:
    """Whether a message will do where a traceback would bury it: errors of our own say what to do."""
    # __main__ is the entry point itself, by the name that `python -m` gives it.
    ours = type(error).__module__.split(".")[0] in ("recipes", "conversion", "reward_server", "__main__")
    return ours or isinstance(error, OSError)


def _told(error: Exception, config: Config) -> str:
    """The message of an error that explains itself, with the setting that named the place it is about."""
    said = command.explain(error) if isinstance(error, OSError) else str(error)
    settings = [("output", config.output), ("model.path", config.model.path)]
    settings += [(f"data.{key}", each) for key in ("train", "validation", "test") for each in getattr(config.data, key)]
    settings += [("data.few_shot", config.data.few_shot or "")]
    for key, value in settings:
        if not value:
            continue
        if said.startswith(f"{value}: "):
            return f"{key}={said}"
        if said.startswith(f"{value.rstrip('/')}/"):
            return f"{key}={value}: {said}"
    return said


def run(
    main: Callable[[Config], None],
    module: str,
    description: str,
    stage: Stage,
    owns: Callable[[Config], Path] | None = None,
    alone: Callable[[Config], bool] = lambda _: False,
) -> None:
    """Command line of a training entry point: `python -m MODULE [GROUP=NAME ...] [key=value ...]`.

    Args:
        main: what every rank does; it imports what it needs, so that `--help` does not.
        module: the entry point's name, for starting the ranks.
        description: what `--help` says.
        stage: which settings it uses.
        owns: the lock file that the run holds while it works, see `conversion.lock`; None for none.
        alone: whether it computes nothing, and so needs no ranks that meet.
    """
    _adopt_slurm()
    # torchrun says of itself and of all ranks that it was interrupted.
    speaks = is_leader() and "TORCHELASTIC_RUN_ID" not in os.environ
    sys.exit(
        command.run(
            lambda: _command(main, module, description, stage, owns, alone),
            name=module,
            interrupted=f"{module}: interrupted; the same command starts it again" if speaks else None,
        )
    )


def _command(
    main: Callable[[Config], None],
    module: str,
    description: str,
    stage: Stage,
    owns: Callable[[Config], Path] | None,
    alone: Callable[[Config], bool],
) -> int:
    overrides = sys.argv[1:]
    if {"-h", "--help"} & set(overrides):
        print(f"usage: python -m {module} [GROUP=NAME ...] [key=value ...]\n\n{description}")
        return 0
    # As early as can be: until then the signal kills, and what follows imports and reads for seconds.
    interruption.listen()
    _check_launcher()
    try:
        config = load(overrides, stage)
    except ConfigError as error:
        # Every rank has read the same settings.
        raise SystemExit(f"configuration: {error}" if is_leader() else 1) from None
    command.outlive_output()
    if alone(config):
        return _work(main, config, module, owns, lambda: True)
    if world_size() is None and config.parallel.processes > 1:
        try:
            _check_devices(config.parallel.processes, f"parallel.processes={config.parallel.processes}")
        except MeetingError as error:
            sys.exit(f"{module}: {error}")
        return _start_ranks(module, overrides, config.parallel.processes)
    if world_size() is not None:
        die_with_parent()
    try:
        init_process_group(config)
    except MeetingError as error:
        sys.exit(f"{module}, rank {os.environ['RANK']}: {error}" if _tells_meeting_error() else 1)
    import torch.distributed as dist

    try:
        return _work(main, config, f"{module}, rank {os.environ['RANK']}", owns, _fails_first)
    except interruption.Stopped:
        # srun kills the ranks that are left when one ends with an error code; none may be in the middle of something.
        dist.barrier()
        raise
    finally:
        dist.destroy_process_group()


def _work(
    main: Callable[[Config], None],
    config: Config,
    name: str,
    owns: Callable[[Config], Path] | None,
    fails_first: Callable[[], bool],
) -> int:
    """Does the work under its lock; an error that explains itself ends it as one line that `name` says."""
    try:
        with lock.held(owns(config)) if owns and is_leader() else contextlib.nullcontext():
            main(config)
    except Exception as error:
        if not fails_first():
            return 1
        # Which file it was, if it was one, whoever runs this command knows better.
        nameless = isinstance(error, OSError) and error.errno is not None and error.filename is None
        if nameless or not _explains_itself(error):
            raise
        sys.exit(f"{name}: {_told(error, config)}")
    return 0
