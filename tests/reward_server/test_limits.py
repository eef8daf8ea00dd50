"""What a stranger may cost a server that has no token, and how many workers keep one limit."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
import uvicorn

from reward_server.app import create_app
from reward_server.connection import LimitedProtocol
from reward_server.load import Load
from reward_server.process import RewardServerProcess
from tests.conftest import descendants

HEAD = b"POST /v1/score HTTP/1.1\r\nHost: x\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"
REFERENCE = {"answer": "C", "options": {"A": "Aspirin", "C": "Heparin"}}


@pytest.fixture(scope="module")
def strangers() -> Iterator[RewardServerProcess]:
    with RewardServerProcess() as server:
        yield server


def connect(url: str) -> socket.socket:
    address = urlsplit(url)
    return socket.create_connection((str(address.hostname), int(address.port or 0)), timeout=60)


def resident_mb(server: RewardServerProcess) -> float:
    return sum(psutil.Process(pid).memory_info().rss for pid in (server.pid, *descendants(server.pid))) / 2**20


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (b"POST /", b"a" * 65_536),
        (HEAD + b"X-A: ", b"a" * 65_536),
        (HEAD, b"X-A: b\r\n" * 8_192),
        (CHUNKED + b"0\r\nX-A: ", b"a" * 65_536),
        (CHUNKED + b"0\r\n", b"X-A: b\r\n" * 8_192),
        (CHUNKED + b"1;", b"a" * 65_536),
    ],
    ids=["path", "one header", "many headers", "one trailer", "many trailers", "chunk extension"],
)
def test_an_endless_head_is_refused_and_costs_nothing(
    strangers: RewardServerProcess, begin: bytes, more: bytes
) -> None:
    before = resident_mb(strangers)
    sent = 0
    with connect(strangers.url) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(begin)
        while sent < 200 * 2**20:
            connection.sendall(more)
            sent += len(more)
    assert sent < 100 * 2**20
    began = time.monotonic()
    assert httpx.get(f"{strangers.url}/healthz", trust_env=False, timeout=20).status_code == 200
    assert time.monotonic() - began < 2
    assert resident_mb(strangers) - before < 20


def test_bodies_that_never_end_hold_a_bounded_memory_and_nobody_up(strangers: RewardServerProcess) -> None:
    before = resident_mb(strangers)
    connections = [connect(strangers.url) for _ in range(12)]
    try:
        answers = []
        for connection in connections:
            connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % (40 * 2**20))
            try:
                for _ in range(39):
                    connection.sendall(b" " * 2**20)
            except OSError:
                answers.append(429)
        assert resident_mb(strangers) - before < 400
        body = {"preset": "gated", "items": []}
        assert httpx.post(f"{strangers.url}/v1/score", json=body, trust_env=False, timeout=20).status_code == 200
    finally:
        for connection in connections:
            connection.close()


class Impatient(LimitedProtocol):
    request_limit_s = 1.5


def test_a_request_is_complete_in_time_or_refused() -> None:
    """Connections that trickle, and one that says nothing, side by side."""
    begins = (HEAD + b"X-A: ", HEAD + b"Content-Length: 99\r\n\r\n", b"", CHUNKED)
    heard = dict.fromkeys(range(len(begins)), b"")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(create_app(), http=Impatient, log_config=None, lifespan="on"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started:
                time.sleep(0.02)
            connections = [connect(f"http://127.0.0.1:{listener.getsockname()[1]}") for _ in begins]
            for connection, begin in zip(connections, begins, strict=True):
                connection.settimeout(0.1)
                connection.sendall(begin)
            open_ones, end = dict(enumerate(connections)), time.monotonic() + 30
            while open_ones and time.monotonic() < end:
                for number, connection in list(open_ones.items()):
                    with contextlib.suppress(TimeoutError):
                        try:
                            if begins[number]:
                                connection.sendall(b"1\r\n \r\n" if begins[number] == CHUNKED else b" ")
                            part = connection.recv(1000)
                        except ConnectionError:
                            part = b""
                        heard[number] += part
                        if not part:
                            del open_ones[number]
            assert not open_ones
        finally:
            server.should_exit = True
            thread.join()
    assert [b" 408 " in text[:20] for text in heard.values()] == [True, True, False, True]


def test_requests_of_clients_that_went_away_are_not_scored() -> None:
    items = [
        {"id": str(n), "task": "choice", "response": "x" * 20_000 + f"<answer>{n}</answer>", "reference": REFERENCE}
        for n in range(512)
    ]
    big = json.dumps({"preset": "gated", "items": items}).encode()
    small = {"preset": "gated", "items": items[:1]}
    with RewardServerProcess() as server:

        def scored() -> float:
            lines = httpx.get(f"{server.url}/metrics", trust_env=False).text.splitlines()
            return sum(float(line.split()[-1]) for line in lines if line.startswith("medatron_reward_items_total"))

        def leave() -> None:
            with connect(server.url) as connection:
                connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(big) + big)

        leavers = [threading.Thread(target=leave) for _ in range(12)]
        for leaver in leavers:
            leaver.start()
        for leaver in leavers:
            leaver.join()
        assert httpx.post(f"{server.url}/v1/score", json=small, trust_env=False, timeout=60).status_code == 200
        assert scored() < 6 * 512


def test_workers_share_one_count_that_the_dead_leave(tmp_path: Path) -> None:
    Load.make(tmp_path / "load", 2)
    own = Load(tmp_path / "load")
    script = "import sys, pathlib, reward_server.load as l; w = l.Load(pathlib.Path(sys.argv[1])); w.report(40)"
    holding = f"{script}; print(w.total(), flush=True); sys.stdin.read()"
    own.report(2)
    other = subprocess.Popen(
        [sys.executable, "-c", holding, str(tmp_path / "load")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout is not None
    assert int(other.stdout.readline()) == own.total() == 42
    other.kill()
    other.communicate()
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "load")], check=True)
    replacement = Load(tmp_path / "load")
    assert (replacement.total(), replacement.replaces, own.replaces) == (2, True, False)
    assert Load(None).total() == 0
