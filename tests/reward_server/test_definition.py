"""One definition of the reward for all answers of a client, one connection a process, deadlines to the last byte."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from reward_server.client import (
    AsyncRewardClient,
    RewardClient,
    RewardDefinitionError,
    RewardServerUnavailable,
    ScoreItem,
    frameworks,
)
from reward_server.client.retry import Replicas
from reward_server.process import RewardServerProcess

OPTIONS = {"A": "Aspirin", "C": "Heparin"}
ITEM = ScoreItem("0", "choice", "<think>t</think><answer>C</answer>", {"answer": "C", "options": OPTIONS})


class Server(ThreadingHTTPServer):
    """Scores everything 1.0 by the definition `hash`, or answers as `fault` says."""

    def __init__(self, hash: str) -> None:
        self.hash, self.statuses, self.foreign_id = hash, iter(()), False
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                items = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["items"]
                components = {"answer": 1.0, "format": 1.0, "length": 0.0}
                rest = {"extracted": "C", "components": components, "format_issue": None, "version": "1"}
                results = [
                    {"id": item["id"], "reward": 1.0, "status": "correct", "verifier": "choice", **rest}
                    for item in items
                ]
                preset = {"name": "gated", "version": "1", "hash": server.hash}
                body = json.dumps({"preset": preset, "results": results}).encode()
                self.send_response(next(server.statuses, 200))
                self.send_header("X-Request-Id", "other" if server.foreign_id else self.headers["X-Request-Id"])
                server.foreign_id = False
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                return

        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serving(*hashes: str) -> Iterator[list[Server]]:
    servers = [Server(hash) for hash in hashes]
    threads = [threading.Thread(target=s.serve_forever, kwargs={"poll_interval": 0.02}) for s in servers]
    for thread in threads:
        thread.start()
    try:
        yield servers
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()


def blocking(urls: list[str]) -> tuple[Callable[[], object], Callable[[], None]]:
    client = RewardClient(urls, total_timeout_s=20)
    return lambda: client.score("gated", [ITEM]), client.close


def on_asyncio(urls: list[str]) -> tuple[Callable[[], object], Callable[[], None]]:
    loop = asyncio.new_event_loop()
    client = AsyncRewardClient(urls, total_timeout_s=20)

    def close() -> None:
        loop.run_until_complete(client.close())
        loop.close()

    return lambda: loop.run_until_complete(client.score("gated", [ITEM])), close


@pytest.mark.parametrize("make", [blocking, on_asyncio])
def test_a_definition_that_changes_stops_scoring_and_a_busy_server_does_not(
    make: Callable[[list[str]], tuple[Callable[[], object], Callable[[], None]]],
) -> None:
    with serving("a" * 64, "b" * 64) as (first, second):
        score, close = make([first.url])
        score()
        first.statuses, first.foreign_id = iter((503, 500, 429)), True
        score()
        first.hash = "c" * 64
        with pytest.raises(RewardDefinitionError, match=rf"{first.url}.*{'c' * 64}.*{'a' * 64}.*allow_change"):
            score()
        close()
        first.hash = "a" * 64
        score, close = make([first.url, second.url])
        score()
        with pytest.raises(RewardDefinitionError, match=rf"{second.url}.*{'b' * 64}.*{first.url}.*{'a' * 64}"):
            score()
        close()
        with RewardClient([first.url, second.url]) as client, pytest.raises(RewardDefinitionError, match=second.url):
            client.definition("gated")


def test_a_framework_function_stops_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving("a" * 64) as (server,):
        monkeypatch.setenv("MEDATRON_REWARD_URL", server.url)
        frameworks._client.cache_clear()
        truth = {"task": "choice", "reference": {"answer": "C", "options": OPTIONS}}
        assert frameworks.compute_score("medqa", ITEM.response, truth)["score"] == 1.0
        server.hash = "b" * 64
        with pytest.raises(RewardDefinitionError):
            frameworks.compute_score("medqa", ITEM.response, truth)
        frameworks._client.cache_clear()


def test_forked_processes_have_connections_and_answers_of_their_own(server: RewardServerProcess) -> None:
    choices = [
        ScoreItem(str(n), "choice", f"<think>t</think><answer>{'CA'[n]}</answer>", ITEM.reference) for n in (0, 1)
    ]
    with RewardClient(server.url, total_timeout_s=60) as client:
        ports = {client._connections.get(): os.getpid()}
        for _ in range(5):
            client.score("gated", choices)
            children = []
            for turn in range(4):
                child = os.fork()
                if child == 0:
                    asked, right = (choices, [1.0, 0.1]) if turn % 2 else (choices[::-1], [0.1, 1.0])
                    wrong = client._connections.get() in ports
                    for _ in range(10):
                        wrong |= [score.reward for score in client.score("gated", asked)[1]] != right
                    os._exit(int(wrong))
                children.append(child)
            client.score("gated", choices)
            assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4


@pytest.mark.parametrize("part", [b"HTTP/1.1 200 OK\r\nX-A: ", b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n"])
def test_the_total_deadline_holds_against_a_server_that_trickles(part: bytes) -> None:
    stop = threading.Event()

    def trickle(listener: socket.socket) -> None:
        def answer(connection: socket.socket) -> None:
            with connection:
                try:
                    connection.sendall(part)
                    while not stop.wait(0.2):
                        connection.sendall(b"a")
                except OSError:
                    pass

        while not stop.is_set():
            try:
                threading.Thread(target=answer, args=(listener.accept()[0],)).start()
            except OSError:
                return

    async def wait(url: str) -> None:
        async with AsyncRewardClient(url, attempt_timeout_s=1, total_timeout_s=2) as client:
            await client.score("gated", [ITEM])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=trickle, args=(listener,))
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            for attempt in (1, 60):
                began = time.monotonic()
                with (
                    RewardClient(url, attempt_timeout_s=attempt, total_timeout_s=2) as client,
                    pytest.raises(RewardServerUnavailable),
                ):
                    client.score("gated", [ITEM])
                assert time.monotonic() - began < 10
            began = time.monotonic()
            with pytest.raises(RewardServerUnavailable):
                asyncio.run(wait(url))
            assert time.monotonic() - began < 10
        finally:
            stop.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_a_time_to_come_back_is_kept_and_spread() -> None:
    def wait(after: str) -> float:
        patience = Replicas("http://x", 30, 300, None).patience()
        return patience.wait_after(httpx.Response(429, headers={"Retry-After": after}))

    waits = [wait("1") for _ in range(200)]
    assert all(1 <= each <= 2 for each in waits)
    assert len({round(each, 2) for each in waits}) > 50
    assert all(wait(odd) <= 120 for odd in ("inf", "nan", "-5", "1e9", "soon"))
