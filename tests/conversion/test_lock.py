"""The lock of a folder: two processes never work in one, and a dead one blocks nobody for long."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from conversion import lock
from tests.conftest import REPOSITORY

HOLD = """
import sys, time
from pathlib import Path
from conversion import lock
lock._BEAT_S = 0.2
try:
    with lock.held(Path(sys.argv[1])):
        print("held", flush=True)
        time.sleep(float(sys.argv[2]))
except lock.LockedError as error:
    sys.exit(str(error))
"""


@pytest.fixture(autouse=True)
def no_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "run.lock"


@contextlib.contextmanager
def holder(path: Path, seconds: float = 60) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock by now."""
    command = [sys.executable, "-c", HOLD, str(path), str(seconds)]
    with subprocess.Popen(
        command, cwd=REPOSITORY, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def stranger(path: Path, beats: int = 1, **values: object) -> None:
    """Leaves the record of an owner on another host."""
    record = {"pid": 17, "host": "node7", "kernel": "another", "locked": True, "job": ["", "0"], "beats": beats}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**record, "since": "yesterday", "command": "python -m recipes.grpo", **values}))


def test_a_second_process_is_refused_until_the_first_has_ended(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """However it ends, and whether the second wants to own the folder or only to read what lies there."""
    with holder(path) as first:
        for take in (lambda: lock.held(path).__enter__(), lambda: lock.check_free(path)):
            began = time.monotonic()
            with pytest.raises(lock.LockedError) as caught:
                take()
            assert time.monotonic() - began < 20
            host = os.uname().nodename
            assert re.match(
                rf"{path.parent}: in use by process {first.pid} on {host} since 20.* UTC \(", str(caught.value)
            )
            assert "from conversion import lock" in str(caught.value), "the command is not named"
        first.send_signal(signal.SIGKILL)
        first.wait()
        with lock.held(path):
            assert f"process {first.pid} on {host}" in capsys.readouterr().err
        assert path.read_bytes() == b""
    with holder(path, 0.3) as second:
        assert second.wait(20) == 0
        with lock.held(path):
            assert capsys.readouterr().err == ""


def test_of_another_host_the_heartbeat_decides(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its locks may be unknown to this kernel, and its process numbers are."""
    monkeypatch.setattr(lock, "_SILENT_S", 1.5)
    stranger(path)
    with lock.held(path):
        assert (
            "process 17 on node7 since yesterday (python -m recipes.grpo) is gone; taken over"
            in capsys.readouterr().err
        )
    monkeypatch.setattr(lock, "_SILENT_S", 60)
    stranger(path)
    beat = threading.Timer(0.5, stranger, [path, 2])
    beat.start()
    with pytest.raises(lock.LockedError, match="in use by process 17 on node7"), lock.held(path):
        pass
    beat.join()


def test_a_requeued_job_does_not_wait_for_its_earlier_life(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On another node, even where the file server still holds the lock of the dead one."""
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    stranger(path, job=["5", "0"])
    with path.open() as dead:
        fcntl.flock(dead, fcntl.LOCK_EX)
        began = time.monotonic()
        with lock.held(path):
            assert time.monotonic() - began < 1
            assert json.loads(path.read_text())["locked"] is False


def test_without_locks_in_the_file_system_the_heartbeat_decides(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    with holder(path) as first:
        monkeypatch.setattr(lock.fcntl, "flock", refuse)
        with pytest.raises(lock.LockedError, match=f"process {first.pid} on"), lock.held(path):
            pass
        monkeypatch.setattr(lock, "_SILENT_S", 1)
        stranger(path, kernel=lock._kernel(), locked=False)
    with lock.held(path):
        assert json.loads(path.read_text())["pid"] == os.getpid()


def test_an_owner_that_was_taken_over_ends_itself(path: Path) -> None:
    with holder(path) as first:
        stranger(path)
        assert first.wait(20) == -signal.SIGTERM
        assert first.stderr is not None
        assert "taken over by process 17 on node7" in first.stderr.read()
