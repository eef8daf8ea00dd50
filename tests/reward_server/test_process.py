"""A server as a child: ready inside the `with`, gone after it, and gone with its parent."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from reward_server.process import RewardServerProcess, RewardServerStartError
from tests.conftest import alive


def test_ready_inside_and_gone_after(tmp_path: Path) -> None:
    with RewardServerProcess(log_path=tmp_path / "reward.log") as server:
        assert server.poll() is None
        assert httpx.get(f"{server.url}/readyz", trust_env=False).status_code == 200
        pid = server.pid
    assert server.poll() == 0
    assert not alive(pid)
    assert "Application startup complete" in (tmp_path / "reward.log").read_text()


def test_a_start_that_fails_shows_the_log() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as holder,
        pytest.raises(RewardServerStartError, match=r"(?s)code 2.*is in use"),
        RewardServerProcess(port=holder.getsockname()[1]),
    ):
        pass


def test_a_start_that_takes_too_long_leaves_nothing_behind() -> None:
    process = RewardServerProcess(ready_timeout_s=0.01)
    with pytest.raises(RewardServerStartError, match="not ready after"), process:
        pass
    assert process.poll() is not None


@pytest.mark.parametrize("workers", [1, 2])
def test_a_server_dies_with_its_parent(workers: int) -> None:
    # The parent starts the server from a thread that ends at once, and is then killed without a chance to clean up.
    script = (
        "import threading, time\n"
        "from reward_server.process import RewardServerProcess\n"
        f"server = RewardServerProcess(workers={workers})\n"
        "starter = threading.Thread(target=server.__enter__)\n"
        "starter.start(); starter.join(); time.sleep(0.7)\n"
        "print(server.pid, server.poll(), server.url, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid, code, url = parent.stdout.readline().split()
    assert code == "None"
    children = Path(f"/proc/{pid}/task/{pid}/children")
    family = [int(pid), *map(int, children.read_text().split())] if children.exists() else [int(pid)]
    assert len(family) >= workers
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    deadline = time.monotonic() + 30
    while any(alive(member) for member in family) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(alive(member) for member in family)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/healthz", trust_env=False)
