"""What operators rely on: the token, metrics, repeated requests, bad clients, and a quiet log."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from reward_server.client import RewardClient, RewardProtocolError, ScoreItem
from reward_server.process import RewardServerProcess
from tests.conftest import children, kill

NUMBER = b'{"preset":"gated","items":[{"id":"0","task":"number","response":"","reference":{"answer":%s}}]}'
OPTIONS = {"A": "Aspirin", "B": "Heparin", "C": "Warfarin", "D": "Alteplase"}


def item(number: int, response: str = "<think>t</think><answer>C</answer>", task: str = "choice") -> dict[str, Any]:
    reference = {"choice": {"answer": "C", "options": OPTIONS}, "text": {"answer": "warfarin"}}[task]
    return {"id": str(number), "task": task, "response": response, "reference": reference}


def post(server: RewardServerProcess, body: Any, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(f"{server.url}/v1/score", content=content, headers=headers, trust_env=False, timeout=60)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RewardServerProcess]:
    token = tmp_path_factory.mktemp("token") / "token"
    token.write_text("s3cret\n")
    with RewardServerProcess(workers=2, options=["--token-file", str(token)]) as server:
        yield server


def test_a_token_is_wanted_everywhere_but_for_health(guarded: RewardServerProcess) -> None:
    body = {"preset": "gated", "items": [item(0)]}
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "s3cret"}):
        refused = post(guarded, body, **headers)
        assert (refused.status_code, refused.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert "token" in refused.json()["error"]
    assert post(guarded, body, Authorization="Bearer s3cret").status_code == 200
    get = {path: httpx.get(guarded.url + path, trust_env=False).status_code for path in ("/metrics", "/v1/verifiers")}
    assert set(get.values()) == {401}
    assert httpx.get(f"{guarded.url}/healthz", trust_env=False).status_code == 200
    choice = ScoreItem("a", "choice", "<think>t</think><answer>C</answer>", {"answer": "C", "options": OPTIONS})
    with RewardClient(guarded.url, token="s3cret") as client:
        assert client.score("gated", [choice])[1][0].reward == 1.0
    with RewardClient(guarded.url) as client, pytest.raises(RewardProtocolError, match="token"):
        client.score("gated", [choice])
    arguments = [psutil.Process(guarded.pid), *psutil.Process(guarded.pid).children(recursive=True)]
    assert not any("s3cret" in part for process in arguments for part in process.cmdline())


def test_metrics_count_over_all_workers(guarded: RewardServerProcess) -> None:
    def value(name: str) -> float:
        answer = httpx.get(f"{guarded.url}/metrics", headers={"Authorization": "Bearer s3cret"}, trust_env=False)
        lines = [line for line in answer.text.splitlines() if line.startswith(name)]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    name = 'medatron_reward_items_total{status="correct",verifier="choice"}'
    before = value(name)
    for _ in range(20):
        assert post(guarded, {"preset": "gated", "items": [item(0), item(1)]}, Authorization="Bearer s3cret").is_success
    assert value(name) == before + 40
    assert post(guarded, b"{", Authorization="Bearer s3cret").status_code == 422
    assert value('medatron_reward_requests_total{code="422",endpoint="score"}') == 1
    assert value("medatron_reward_request_seconds_count") >= 21
    assert value("medatron_reward_scorer_restarts") == 0


def test_a_repeated_request_gets_the_answer_that_was_there(server: RewardServerProcess) -> None:
    body = {"preset": "gated", "items": [item(0)]}
    first = post(server, body, **{"X-Request-Id": "a1"})
    assert post(server, body, **{"X-Request-Id": "a1"}).content == first.content
    other = {"preset": "gated", "items": [item(7)]}
    assert post(server, other, **{"X-Request-Id": "a1"}).json()["results"][0]["id"] == "7", "another body is another"


@pytest.mark.parametrize(
    ("response", "status"),
    [
        ("<think>t</think><answer>" + "a" * 1_000_000 + "</answer>", "malformed"),
        ("<think>" + "t " * 500_000 + "</think><answer>C</answer>", "correct"),
        ("<think>\x00</think><answer>C\x00</answer>", "malformed"),
        ("<think>\ud83d</think><answer>C</answer>", "correct"),
        ("<think>t</think><answer>NaN</answer>", "malformed"),
        ("</answer><answer></think>" * 10_000, "no_answer"),
        ("", "no_answer"),
    ],
    ids=["long answer", "long thinking", "NUL", "lone surrogate", "NaN", "tags", "empty"],
)
def test_whatever_a_model_writes_the_others_are_scored(server: RewardServerProcess, response: str, status: str) -> None:
    answer = post(server, {"preset": "gated", "items": [item(0), item(1, response), item(2)]})
    assert answer.status_code == 200, answer.text
    assert [r["status"] for r in answer.json()["results"]] == ["correct", status, "correct"]
    assert all(r["reward"] is not None for r in answer.json()["results"])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x00" * 100,
        b"\xff\xfe",
        b"[" * 100_000,
        *(NUMBER % value for value in (b"NaN", b"1e999")),
    ],
    ids=["empty", "NULs", "no UTF-8", "deep", "NaN", "infinity"],
)
def test_malformed_bodies_are_refused_and_the_server_stays(server: RewardServerProcess, body: bytes) -> None:
    assert post(server, body).status_code == 422
    assert post(server, {"preset": "gated", "items": [item(0)]}).json()["results"][0]["reward"] == 1.0


def test_slow_and_silent_clients_hold_nobody_up(server: RewardServerProcess) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    slow = [socket.create_connection((host, int(port))) for _ in range(100)]
    try:
        for number, connection in enumerate(slow):
            connection.sendall(
                b"POST /v1/score HTTP/1.1\r\nHost: x\r\n" + (b"Content-Length: 9\r\n\r\n{" * (number % 2))
            )
        began = time.monotonic()
        assert post(server, {"preset": "gated", "items": [item(0)]}).status_code == 200
        assert time.monotonic() - began < 5
    finally:
        for connection in slow:
            connection.close()
    assert post(server, {"preset": "gated", "items": [item(0)]}).status_code == 200


@pytest.mark.parametrize("victim", ["scorer", "worker"])
def test_killed_processes_lose_no_item_of_a_loaded_server(victim: str, tmp_path: Path) -> None:
    """A scoring process dies behind its HTTP worker's back; an HTTP worker takes its connections with it."""
    log = tmp_path / "log"
    with RewardServerProcess(workers=2, log_path=log) as server:
        stop = threading.Event()
        found: list[list[float | None]] = []

        def load() -> None:
            choice = [
                ScoreItem(str(n), "choice", f"<think>t</think><answer>{'CA'[n % 2]}</answer>", reference)
                for n in range(64)
            ]
            with RewardClient(server.url, total_timeout_s=60) as client:
                while not stop.is_set():
                    found.append([score.reward for score in client.score("gated", choice)[1]])

        reference = {"answer": "C", "options": OPTIONS}
        threads = [threading.Thread(target=load) for _ in range(8)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(6):
                time.sleep(0.4)
                families = {worker: children(worker) for worker in children(server.pid)}
                # A worker without scorers has only just begun.
                victims = [
                    p
                    for worker, scorers in families.items()
                    for p in (scorers if victim == "scorer" else [worker])
                    if scorers
                ]
                with contextlib.suppress(ProcessLookupError):  # it died with the worker that was killed last
                    if victims:
                        os.kill(victims[0], signal.SIGKILL)
            end = time.monotonic() + 60  # a slow machine has answered few until here
            while len(found) <= 10 and time.monotonic() < end:
                time.sleep(0.1)
        finally:
            stop.set()
            for thread in threads:
                thread.join(70)
        assert not any(thread.is_alive() for thread in threads)
    assert len(found) > 10
    assert all(rewards == [1.0, 0.1] * 32 for rewards in found), "every item by its own right status, none a zero"
    assert "Warfarin" not in log.read_text()


def test_a_worker_whose_scoring_process_dies_at_its_start_does_not_end_the_server() -> None:
    body = {"preset": "gated", "items": [item(0)]}
    with RewardServerProcess(workers=2) as server:
        first = next(worker for worker in children(server.pid) if children(worker))
        before = set(children(server.pid))
        os.kill(first, signal.SIGKILL)
        killed: set[int] = set()
        end = time.monotonic() + 60
        while len(killed) < 2 and time.monotonic() < end:
            begun = {scorer for worker in set(children(server.pid)) - before for scorer in children(worker)} - killed
            for scorer in begun:
                kill([scorer])
                killed.add(scorer)
        assert len(killed) == 2
        while sum(bool(children(worker)) for worker in children(server.pid)) < 2:
            assert time.monotonic() < end
            time.sleep(0.1)
        time.sleep(1)
        assert server.poll() is None
        assert post(server, body).status_code == 200


@pytest.mark.parametrize("texts", [False, True])
def test_the_log_is_json_and_has_texts_only_when_asked(tmp_path: Path, texts: bool) -> None:
    log = tmp_path / "log"
    with RewardServerProcess(log_path=log, options=["--log-texts"] if texts else []) as server:
        post(server, {"preset": "gated", "items": [item(0), item(1, "<think>MRS X</think><answer>A</answer>")]})
        post(server, b'{"preset": "gated", "items": [{"id": "MRS X"}]}')
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert all({"time", "level", "process", "logger", "message"} <= set(row) for row in rows)
    (answered,) = (row for row in rows if row["message"] == "answered score with 200")
    assert (answered["items"], answered["preset"]) == (2, "gated")
    assert answered["counts"] == {"choice/correct": 1, "choice/incorrect": 1}
    assert ("MRS X" in log.read_text()) is texts
    scored = [row["result"]["status"] for row in rows if row["message"] == "scored"]
    assert scored == (["correct", "incorrect"] if texts else [])
