"""The canary's ranks as separate processes that see different things, or of which one never comes.

Its other checks need a cluster's nodes or GPUs; tests/slurm runs it where all is well.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import finish, start

pytestmark = pytest.mark.multiprocess
_DEADLINE_S = 120


def _free_port(after: int = 0) -> int:
    """A port that nobody has, below the range of which the kernel hands out ports to whoever asks for any."""
    for port in range(max(20000 + os.getpid() % 10000, after + 1), 32768):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    raise AssertionError("no port is free")


def _rank(number: int, port: int, output: Path, log: Path, *overrides: str) -> subprocess.Popen[bytes]:
    """One of two ranks, as srun starts it."""
    place = {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2"}
    command = [sys.executable, "-m", "recipes.canary", f"output={output}", "model.path=unread", *overrides]
    return start(command, log, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), **place)


def _ends(ranks: list[subprocess.Popen[bytes]], logs: list[Path]) -> list[str]:
    """What each rank has printed when all have ended by themselves; none is left in any case."""
    try:
        return [finish(process, log, _DEADLINE_S) for process, log in zip(ranks, logs, strict=True)]
    finally:
        for process in ranks:
            process.kill()


def test_a_folder_that_is_not_shared_is_named_once(tmp_path: Path) -> None:
    port, logs = _free_port(), [tmp_path / "log0", tmp_path / "log1"]
    ranks = [_rank(number, port, tmp_path / f"run{number}", log) for number, log in enumerate(logs)]
    said = _ends(ranks, logs)
    problem = (
        f"rank 1 ({socket.gethostname()}  CPU): output={tmp_path}/run1 is not the folder that rank 0 sees; "
        "set it to one on a shared file system"
    )
    assert [process.returncode for process in ranks] == [1, 1]
    # Both have found it; whichever came first has told.
    last = [output.splitlines()[-1] for output in said if "rank 1 (" in output]
    assert last in ([f"recipes.canary, rank {number}: {problem}"] for number in (0, 1)), said
    assert "Traceback" not in "".join(said)
    assert list((tmp_path / "run0").iterdir()) == []
    assert not (tmp_path / "run1").exists()


def test_a_rank_that_never_comes_is_told_of_in_time(tmp_path: Path) -> None:
    """Two meetings, each with one rank of two: rank 0 waits for the other, rank 1 for rank 0's address to answer."""
    first = _free_port()
    ports, logs = (first, _free_port(first)), [tmp_path / "log0", tmp_path / "log1"]
    ranks = [
        _rank(number, ports[number], tmp_path / "run", log, "parallel.timeout_minutes=0.05")
        for number, log in enumerate(logs)
    ]
    said = _ends(ranks, logs)
    assert [process.returncode for process in ranks] == [1, 1]
    for number, output in enumerate(said):
        assert output.startswith(
            f"rank {number} of 2 waits at 127.0.0.1:{ports[number]} for the others, at most 0.05 min"
        )
    lines = [output.splitlines()[-1] for output in said]
    assert lines[0] == f"recipes.canary, rank 0: not all 2 ranks came to 127.0.0.1:{ports[0]} in 0.05 minutes"
    assert lines[1].startswith(f"recipes.canary, rank 1: cannot reach rank 0 at 127.0.0.1:{ports[1]} (")
    assert not any("Traceback" in output for output in said)


def test_a_taken_port_is_told_of_with_the_fix(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port, log = holder.getsockname()[1], tmp_path / "log"
        process = _rank(0, port, tmp_path / "run", log)
        output = finish(process, log, _DEADLINE_S)
    assert process.returncode == 1
    assert output.splitlines()[-1] == (
        f"recipes.canary, rank 0: 127.0.0.1:{port} is taken by another program; set MASTER_PORT to a free port"
    )
