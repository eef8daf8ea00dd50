"""The HTTP contract, over a real socket."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from reward_server.app import Settings, create_app
from reward_server.client import RewardClient, RewardServerUnavailable, ScoreItem
from reward_server.presets import PRESETS
from reward_server.process import RewardServerProcess
from tests.conftest import descendants, wait_until_dead

OPTIONS = {"A": "Aspirin", "B": "Heparin", "C": "Warfarin", "D": "Alteplase"}


def item(**changes: Any) -> dict[str, Any]:
    return {
        "id": "q1/0",
        "task": "choice",
        "response": "<think>t</think><answer>C</answer>",
        "reference": {"answer": "C", "options": OPTIONS},
        **changes,
    }


def post(server: RewardServerProcess, body: Any, **options: Any) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(f"{server.url}/v1/score", content=content, trust_env=False, timeout=20, **options)


def test_the_example_of_the_design(server: RewardServerProcess) -> None:
    body = {
        "preset": "gated",
        "items": [item(match="lenient", length={"mode": "max", "target": 512, "tokens": 301})],
    }
    answer = post(server, body)
    assert answer.status_code == 200
    preset = answer.json().pop("preset")
    assert (preset["name"], preset["version"], len(preset["hash"])) == ("gated", "1", 64)
    assert answer.json()["results"] == [
        {
            "id": "q1/0",
            "reward": 1.0,
            "status": "correct",
            "extracted": "C",
            "components": {"answer": 1.0, "format": 1.0, "length": 0.0},
            "format_issue": None,
            "verifier": "choice",
            "version": "5",
        }
    ]


def test_every_task_in_one_batch_in_order(server: RewardServerProcess) -> None:
    def of(name: str, task: str, answer: str, reference: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": name,
            "task": task,
            "response": f"<think>t</think><answer>{answer}</answer>",
            "reference": reference,
        }

    items = [
        of("z", "number", "7.4", {"answer": 7.5, "lower": 7.125, "upper": 7.875}),
        of("y", "number", "4", {"answer": 3, "rounding": "integer"}),
        of("x", "date", "2/3/2020", {"answer": "02/03/2020"}),
        of("w", "duration", "8 days", {"answer": {"weeks": 1, "days": 1}}),
        of("v", "text", "an MI", {"answer": "myocardial infarction", "aliases": ["MI"]}),
        of("u", "text", "acute MI", {"answer": "old MI", "metric": "f1", "threshold": 0.6}),
        of("t", "choice", "perhaps", {"answer": "C", "options": OPTIONS}),
        item(id="s", response="<think>and on and on"),
    ]
    results = post(server, {"preset": "med_rlvr", "items": items}).json()["results"]
    assert [(r["id"], r["status"], r["reward"], r["extracted"]) for r in results] == [
        ("z", "correct", 1.0, "7.4"),
        ("y", "incorrect", 0.0, "4"),
        ("x", "correct", 1.0, "02/03/2020"),
        ("w", "correct", 1.0, "1 weeks, 1 days"),
        ("v", "correct", 1.0, "mi"),
        ("u", "incorrect", 0.0, "acute mi"),  # 2 * 1 / (2 + 2) = 0.5 < 0.6
        ("t", "malformed", 0.0, None),
        ("s", "no_answer", -1.0, None),
    ]


def test_a_preset_gives_the_default_match(server: RewardServerProcess) -> None:
    answer = {"response": "<think>t</think><answer>C. Warfarin</answer>"}

    def status(preset: str, **match: str) -> str:
        body = {"preset": preset, "items": [item(**answer, **match)]}
        return str(post(server, body).json()["results"][0]["status"])

    assert status("gated") == "correct"
    assert status("gated", match="strict") == "malformed"
    assert status("med_u1") == "malformed"
    assert status("med_u1", match="lenient") == "correct"


NUMBER = {"task": "number", "reference": {"answer": 1, "lower": 0, "upper": 2}}


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"extra": 1}, "items.0.extra"),
        ({"task": "poem"}, "items.0"),
        ({"response": None}, "items.0.response"),
        ({"id": ""}, "items.0.id"),
        ({"match": "loose"}, "items.0.match"),
        ({"reference": {"answer": "E", "options": OPTIONS}}, "items.0.reference"),
        ({"reference": {"answer": "C"}}, "items.0.reference.options"),
        ({"reference": {"answer": "C", "options": OPTIONS, "hint": "x"}}, "items.0.reference.hint"),
        ({**NUMBER, "reference": {"answer": "1", "lower": 0, "upper": 2}}, "items.0.reference.answer"),
        ({**NUMBER, "reference": {"answer": float("nan"), "lower": 0, "upper": 2}}, "items.0.reference.answer"),
        ({**NUMBER, "reference": {"answer": 1, "lower": float("-inf"), "upper": 2}}, "items.0.reference.lower"),
        ({**NUMBER, "reference": {"answer": 1, "lower": 2, "upper": 0}}, "items.0.reference"),
        ({**NUMBER, "reference": {"answer": 1, "lower": 0}}, "items.0.reference"),
        ({**NUMBER, "reference": {"answer": 1, "lower": 0, "upper": 2, "rounding": "integer"}}, "items.0.reference"),
        ({**NUMBER, "reference": {"answer": 1.5, "rounding": "integer"}}, "items.0.reference"),
        ({"task": "date", "reference": {"answer": "2020-02-30"}}, "items.0.reference.answer"),
        ({"task": "date", "reference": {"answer": "02/30/2020"}}, "items.0.reference.answer"),
        ({"task": "duration", "reference": {"answer": {"weeks": 1, "days": -1}}}, "items.0.reference.answer.days"),
        ({"task": "text", "reference": {"answer": "?"}}, "items.0.reference.answer"),
        ({"task": "text", "reference": {"answer": "MI", "metric": "f1"}}, "items.0.reference"),
        ({"length": {"mode": "max", "target": 5}}, "items.0.length"),
        ({"length": {"mode": "max", "target": 0, "tokens": 1}}, "items.0.length.target"),
        ({"length": {"mode": "max", "target": 5, "tokens": 1.5}}, "items.0.length.tokens"),
        ({"length": {"mode": "max", "target": 5, "tokens": 10**400}}, "items.0.length.tokens"),
        ({"length": {"mode": "max", "target": 10**400, "tokens": 5}}, "items.0.length.target"),
        ({"<think> MRS X": 1}, "items.0.(a name)"),
        ({"task": "<think> MRS X"}, "items.0"),
    ],
)
def test_422_names_the_field_and_repeats_no_text(
    server: RewardServerProcess, changes: dict[str, Any], path: str
) -> None:
    answer = post(server, {"preset": "gated", "items": [item(**changes)]})
    assert answer.status_code == 422
    assert answer.json()["fields"][0]["path"] == path
    assert path in answer.json()["error"]
    assert "<think>" not in answer.text
    assert "poem" not in answer.text


def test_other_refusals(server: RewardServerProcess) -> None:
    twice = post(server, {"preset": "gated", "items": [item(), item(id="q2"), item()]})
    assert (twice.status_code, twice.json()["fields"][0]["path"]) == (422, "items.2.id")
    assert "items.0.id" in twice.json()["error"]
    unknown = post(server, {"preset": "best", "items": []})
    assert (unknown.status_code, "gated" in unknown.json()["error"]) == (422, True)
    assert post(server, b"{not json").status_code == 422
    assert post(server, [1]).status_code == 422
    many = post(server, {"preset": "gated", "items": [item(id=str(n)) for n in range(513)]})
    assert (many.status_code, "512" in many.json()["error"]) == (413, True)
    assert post(server, {"preset": "gated", "items": [item(id=str(n)) for n in range(512)]}).status_code == 200
    lost = httpx.get(f"{server.url}/v1/scores", trust_env=False)
    assert (lost.status_code, "POST /v1/score" in lost.json()["error"]) == (404, True)


def test_health_readiness_and_identity(server: RewardServerProcess) -> None:
    assert httpx.get(f"{server.url}/healthz", trust_env=False).json() == {"status": "ok"}
    ready = httpx.get(f"{server.url}/readyz", trust_env=False)
    assert ready.status_code == 200
    assert ready.json()["golden_items"] >= 10
    listed = httpx.get(f"{server.url}/v1/verifiers", trust_env=False).json()
    names = {entry["name"] for entry in listed["verifiers"]}
    assert names == {"choice", "number", "date", "duration", "text", "format", "length", "judge"}
    assert {entry["name"] for entry in listed["presets"]} == set(PRESETS)
    scored = post(server, {"preset": "binary", "items": []}).json()
    assert scored["preset"] in listed["presets"]


@contextmanager
def serving(settings: Settings) -> Iterator[str]:
    """The application with other settings, on a real socket."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(create_app(settings), log_config=None, lifespan="on"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def test_a_fault_in_a_verifier_is_null_never_zero(capfd: pytest.CaptureFixture[str]) -> None:
    items = [
        ScoreItem("a", "text", "<think>t</think><answer>SECRET</answer>", {"answer": "MI"}),
        ScoreItem("b", "choice", "<think>t</think><answer>C</answer>", {"answer": "C", "options": OPTIONS}),
        ScoreItem("c", "text", "no answer block, so nothing to judge", {"answer": "MI"}),
    ]
    breakable = Settings(verifiers="tests.reward_server.faulty:BREAKABLE")
    with serving(breakable) as url, RewardClient(url, total_timeout_s=60) as client:
        _, (fault, sound, empty) = client.score("gated", items)
        assert (fault.status, fault.reward, fault.components, fault.version) == ("verifier_error", None, {}, "7")
        assert (sound.status, sound.reward) == ("correct", 1.0)
        assert (empty.status, empty.reward) == ("no_answer", 0.0)
    log = capfd.readouterr().err
    assert "ZeroDivisionError" in log
    assert "SECRET" not in log


def test_a_build_that_fails_its_self_test_scores_nothing() -> None:
    with serving(Settings(verifiers="tests.reward_server.faulty:BROKEN")) as url:
        with RewardClient(url, total_timeout_s=4) as client:
            with pytest.raises(RewardServerUnavailable, match=r"503.*text right.*must not score a run"):
                client.score("gated", [ScoreItem("b", "choice", "C", {"answer": "C", "options": OPTIONS})])
            with pytest.raises(RewardServerUnavailable, match="text right"):
                client.wait_ready(0.5)
        label = {"task": "choice", "reference": {"answer": "C", "options": OPTIONS}}
        for path, body in (
            ("/get_reward", {"query": ["QC"], "prompts": ["Q"], "labels": [label]}),
            ("/remote_rm", {"response": "C", "label": label}),
        ):
            refused = httpx.post(url + path, json=body, trust_env=False, timeout=20)
            assert (refused.status_code, "self-test" in refused.json()["error"]) == (503, True)


def test_a_full_queue_answers_429_with_a_time_to_come_back() -> None:
    crowded = Settings(verifiers="tests.reward_server.faulty:VERIFIERS", queue_limit=1, item_limit_s=2.0)
    body = {"preset": "gated", "items": [item(response="<think>t</think><answer>RUN AWAY</answer>")]}
    with serving(crowded) as url, RewardClient(url) as client:
        client.wait_ready(60)
        answers: list[httpx.Response] = []
        first = threading.Thread(
            target=lambda: answers.append(httpx.post(f"{url}/v1/score", json=body, trust_env=False, timeout=20))
        )
        first.start()
        deadline = time.monotonic() + 10
        while "medatron_reward_open_requests 1.0" not in httpx.get(f"{url}/metrics", trust_env=False).text:
            assert time.monotonic() < deadline, answers
        refused = httpx.post(f"{url}/v1/score", json=body, trust_env=False, timeout=20)
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
        first.join()
    assert answers[0].json()["results"][0]["status"] == "timeout"


@pytest.mark.parametrize("token", [b"\n", "gehé1m".encode(), b"two words", b"two\nlines", b"\x00\xff\x01"])
def test_what_is_no_token_is_refused_and_not_repeated(tmp_path: Path, token: bytes) -> None:
    (tmp_path / "token").write_bytes(token)
    done = subprocess.run(command("--port", 0, "--token-file", tmp_path / "token"), capture_output=True, timeout=20)
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
    assert b"the token" in done.stderr
    assert token.strip() == b"" or token not in done.stderr
    if token.strip():
        with pytest.raises(ValueError, match="characters that a header cannot hold"):
            RewardClient("http://127.0.0.1:9", token=token.decode("latin-1"))


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "reward_server", *map(str, arguments)]


def test_a_port_in_use_is_one_clear_line_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        started = time.monotonic()
        done = subprocess.run(command("--port", port), capture_output=True, text=True, timeout=20)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"port {port}" in done.stderr
    assert "--port" in done.stderr
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    "arguments",
    [
        ("--port", "70000"),
        ("--workers", "0"),
        ("--port-file", "/no/such/folder/port", "--port", 0),
        ("--token-file", "/no/such/token", "--port", 0),
        ("--judge-url", "http://127.0.0.1:9/v1"),
        ("--queue-limit", "0"),
        *(("--item-limit", value) for value in ("nan", "inf", "0", "-1")),
        ("--judge-url", "http://x/v1\n", "--judge-model", "m"),
        ("--judge-url", "x:8001", "--judge-model", "m"),
    ],
)
def test_wrong_arguments_exit_with_2(arguments: tuple[object, ...]) -> None:
    done = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=20)
    assert done.returncode == 2
    assert str(arguments[0]) in done.stderr


@pytest.mark.parametrize(("workers", "ready"), [(1, False), (2, False), (2, True)])
def test_ctrl_c_which_reaches_all_processes_of_a_terminal_is_no_traceback(
    workers: int, ready: bool, tmp_path: Path
) -> None:
    """While its processes still import, and when they serve."""
    log, port = tmp_path / "log", tmp_path / "port"
    with log.open("wb") as file:
        server = subprocess.Popen(
            command("--port", 0, "--workers", workers, "--port-file", port),
            stderr=file,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
    until = "startup complete" if ready else "Started parent process" if workers > 1 else "Waiting for application"
    deadline = time.monotonic() + 60
    while log.read_text().count(until) < (workers if ready else 1):
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
    time.sleep(0.1)
    family = descendants(server.pid)
    assert len(family) >= workers
    os.killpg(server.pid, signal.SIGINT)
    assert server.wait(60) == 0
    assert not wait_until_dead(family, 20)
    assert "Traceback" not in log.read_text()
    assert not port.exists()


@pytest.mark.parametrize(
    ("workers", "stop"),
    [
        *((1, stop) for stop in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)),
        *((2, stop) for stop in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)),
    ],
)
def test_a_signal_drains_and_exits_0(tmp_path: Path, workers: int, stop: signal.Signals) -> None:
    log = tmp_path / "log"
    body = json.dumps({"preset": "gated", "items": [item()]}).encode()
    with RewardServerProcess(workers=workers, log_path=log) as server:
        connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=20)
        connection.putrequest("POST", "/v1/score")
        connection.putheader("Content-Length", str(len(body)))
        connection.putheader("Expect", "100-continue")
        connection.endheaders()
        # The server is within the request when the signal comes, and gets the rest of it afterwards.
        assert connection.sock.recv(100).startswith(b"HTTP/1.1 100 Continue")
        connection.send(body[:50])
        os.kill(server.pid, stop)
        time.sleep(0.7)
        connection.send(body[50:])
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["results"][0]["reward"]) == (200, 1.0)
        deadline = time.monotonic() + 30
        while server.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert server.poll() == 0
    assert "Warfarin" not in log.read_text()
    assert "<think>" not in log.read_text()
