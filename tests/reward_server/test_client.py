"""The client against real servers: retries, deadlines, and answers that break the contract."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from reward_server.client import (
    Length,
    RewardClient,
    RewardProtocolError,
    RewardServerUnavailable,
    ScoreItem,
)
from reward_server.process import RewardServerProcess

OPTIONS = {"A": "Aspirin", "B": "Heparin"}


def items(count: int, answer: str = "B") -> list[ScoreItem]:
    response = f"<think>t</think><answer>{answer}</answer>"
    return [ScoreItem(f"q/{n}", "choice", response, {"answer": "B", "options": OPTIONS}) for n in range(count)]


def test_many_items_come_back_in_order_over_several_batches(client: RewardClient) -> None:
    asked = [item for pair in zip(items(600), items(600, "A"), strict=True) for item in pair]
    asked = [ScoreItem(f"q/{n}", "choice", item.response, item.reference) for n, item in enumerate(asked)]
    preset, scores = client.score("gated", asked)
    assert (preset.name, preset.version) == ("gated", "1")
    assert [score.id for score in scores] == [item.id for item in asked]
    assert [score.reward for score in scores] == [1.0, 0.1] * 600


def test_every_field_travels(client: RewardClient) -> None:
    # A lone surrogate, as decoding half a character leaves one, and a NUL must not stop a run.
    response = "<think>\ud83d \x00 \u00e9</think><answer>(B)</answer>"
    reference = {"answer": "B", "options": OPTIONS}
    asked = [
        ScoreItem("a", "choice", response, reference, match="strict"),
        ScoreItem("b", "choice", response, reference, match="lenient", length=Length("max", target=100, tokens=150)),
        ScoreItem("c", "choice", response, reference, length=Length("none")),
    ]
    _, scores = client.score("gated", asked)
    # 1 - 0.2 * (150 - 100) / 100 = 0.9
    assert [score.reward for score in scores] == [0.0, pytest.approx(0.9), 1.0]
    assert scores[1].components == {"answer": 1.0, "format": 1.0, "length": pytest.approx(-0.1)}
    assert scores[0].status == "malformed"


def test_no_items_still_tell_the_preset(client: RewardClient) -> None:
    preset, scores = client.score("med_u1", [])
    assert (preset.name, scores) == ("med_u1", [])


def test_a_4xx_is_an_error_at_once_with_the_servers_message(server: RewardServerProcess) -> None:
    waits: list[str] = []
    with RewardClient(server.url, on_retry=waits.append) as client:
        with pytest.raises(RewardProtocolError, match=r"422.*items\.0\.reference\.answer.*MM/DD/YYYY"):
            client.score("gated", [ScoreItem("a", "date", "r", {"answer": "tomorrow"})])
        with pytest.raises(RewardProtocolError, match="no such preset"):
            client.score("best", items(1))
        with pytest.raises(ValueError, match="unique"):
            client.score("gated", items(1) + items(1))
    assert waits == []


def test_a_server_that_is_not_there() -> None:
    waits: list[str] = []
    with RewardClient("http://127.0.0.1:9", total_timeout_s=0.6, on_retry=waits.append) as client:
        with pytest.raises(RewardServerUnavailable, match=r"http://127\.0\.0\.1:9 .*python -m reward_server") as caught:
            client.score("gated", items(1))
        with pytest.raises(RewardServerUnavailable):
            client.wait_ready(0.3)
    assert caught.value.url == "http://127.0.0.1:9"
    assert 0.5 < caught.value.waited_s < 5
    assert "ConnectError" in caught.value.last_error
    assert waits
    assert "next in" in waits[0]
    with pytest.raises(ValueError, match="http://host:port"):
        RewardClient("node12:8000")


def test_a_server_killed_and_restarted_on_its_port_costs_a_wait_and_no_reward() -> None:
    waits: list[str] = []
    waiting = threading.Event()

    def note(line: str) -> None:
        waits.append(line)
        waiting.set()

    with RewardServerProcess() as first:
        port = int(first.url.rsplit(":", 1)[1])
        with RewardClient(first.url, total_timeout_s=60, on_retry=note) as client:
            before = client.score("gated", items(3))
            os.kill(first.pid, signal.SIGKILL)
            while first.poll() is None:
                time.sleep(0.01)
            answers: list[Any] = []
            caller = threading.Thread(target=lambda: answers.append(client.score("gated", items(3))))
            caller.start()
            assert waiting.wait(30)
            with RewardServerProcess(port=port):
                caller.join()
    assert answers == [before]
    assert waits


Handler = Callable[[int], tuple[int, dict[str, str], str]]


@contextmanager
def answering(respond: Handler) -> Iterator[str]:
    """A server on a real socket that answers its n-th POST with `respond(n)`: status, headers, body."""
    calls = iter(range(1_000))

    class Stub(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            status, headers, body = respond(next(calls))
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Stub) as stub:
        thread = threading.Thread(target=stub.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{stub.server_port}"
        finally:
            stub.shutdown()
            thread.join()


RESULT = {
    **{"id": "q/0", "reward": 1.0, "status": "correct", "extracted": "B"},
    **{"components": {"answer": 1.0, "format": 1.0, "length": 0.0}, "format_issue": None},
    **{"verifier": "choice", "version": "1"},
}
PRESET = {"name": "gated", "version": "1", "hash": "h"}


def body(*results: dict[str, Any], preset: dict[str, str] = PRESET) -> str:
    return json.dumps({"preset": preset, "results": results})


def test_busy_and_failing_answers_are_retried_and_retry_after_is_honoured() -> None:
    plan = [(429, {"Retry-After": "0.5"}, ""), (503, {}, "{}"), (500, {}, '{"error": "x"}'), (200, {}, body(RESULT))]
    waits: list[str] = []
    started = time.monotonic()
    with answering(lambda call: plan[call]) as url, RewardClient(url, on_retry=waits.append) as client:
        _, (score,) = client.score("gated", items(1))
    assert score.reward == 1.0
    assert len(waits) == 3
    assert "HTTP 429" in waits[0]
    assert time.monotonic() - started > 0.5


def test_a_slow_answer_times_out_and_the_total_deadline_holds() -> None:
    given_up = threading.Event()

    def slowly(_: int) -> tuple[int, dict[str, str], str]:
        given_up.wait(60)
        return 200, {}, body(RESULT)

    with answering(slowly) as url, RewardClient(url, attempt_timeout_s=0.1, total_timeout_s=0.7) as client:
        with pytest.raises(RewardServerUnavailable, match="ReadTimeout"):
            client.score("gated", items(1))
        given_up.set()


@pytest.mark.parametrize(
    "answer",
    [
        body(),
        body(RESULT, {**RESULT, "id": "q/1"}),
        body({**RESULT, "id": "other"}),
        body({**RESULT, "reward": None}),
        body({**RESULT, "status": "verifier_error"}),
        body({**RESULT, "status": "fine"}),
        body({**RESULT, "reward": float("nan")}),
        body({**RESULT, "reward": True}),
        body({**RESULT, "components": {}}),
        body({**RESULT, "latency": 3}),
        body(RESULT, preset={**PRESET, "name": "binary"}),
        body(RESULT, preset={"name": "gated"}),
        "[]",
        "<html>",
    ],
)
def test_an_answer_that_breaks_the_contract_is_refused(answer: str) -> None:
    with (
        answering(lambda _: (200, {}, answer)) as url,
        RewardClient(url) as client,
        pytest.raises(RewardProtocolError),
    ):
        client.score("gated", items(1))


def test_a_preset_that_changes_within_a_call_is_refused() -> None:
    def changing(call: int) -> tuple[int, dict[str, str], str]:
        results = [{**RESULT, "id": f"q/{n}"} for n in (range(512) if call == 0 else range(512, 513))]
        return 200, {}, body(*results, preset={**PRESET, "hash": f"h{call}"})

    with (
        answering(changing) as url,
        RewardClient(url) as client,
        pytest.raises(RewardProtocolError, match="one definition"),
    ):
        client.score("gated", items(513))


def test_the_training_side_imports_no_server() -> None:
    probe = (
        "import sys, reward_server.client, reward_server.process; "
        "print([m for m in sys.modules if m.split('.')[0] in ('fastapi', 'pydantic', 'uvicorn', 'torch') "
        "or m.startswith('reward_server.verifiers')])"
    )
    assert subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True).stdout.strip() == "[]"


def test_the_server_imports_no_torch() -> None:
    probe = "import sys, reward_server.app, reward_server.__main__; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True).stdout.strip() == "False"
