"""The command that starts a server: what it refuses, and that none of its processes stays."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from recipes.sampling.vllm import serve
from recipes.sampling.vllm.guard import Guard
from tests.conftest import REPOSITORY, alive, descendants

# A server with an engine of its own that is deaf to SIGTERM, as one in the middle of a kernel is.
_SERVER = "import signal, subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', ENGINE]); time.sleep(600)"
_ENGINE = (
    "import pathlib, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "pathlib.Path('/proc/self/comm').write_text('VLLM::EngineCore'); time.sleep(600)"
)
_SUPERVISOR = (
    "import sys; from recipes.sampling.vllm import serve; serve._STOP_S = 1\n"
    "sys.exit(serve.supervise([sys.executable, '-c', sys.argv[1]], {}, None))"
)


def _run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "recipes.sampling.vllm.serve", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["/nowhere"], "has no config.json"),
        (["MODEL", "--host", "0.0.0.0"], "MEDATRON_ROLLOUT_TOKEN"),
        (["MODEL", "--precision", "float16"], "invalid choice"),
    ],
)
def test_what_cannot_be_served_is_refused_in_a_sentence(tmp_path: Path, arguments: list[str], said: str) -> None:
    """Before vLLM is looked for, and without a traceback."""
    (tmp_path / "config.json").write_text("{}")
    done = _run(*[str(tmp_path) if part == "MODEL" else part for part in arguments], MEDATRON_ROLLOUT_TOKEN="")
    assert done.returncode
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_nothing_but_the_standard_library_is_imported() -> None:
    """It runs with the Python of vLLM, where this project is not installed."""
    code = "import sys; sys.path.insert(0, '.'); import recipes.sampling.vllm.serve, recipes.sampling.vllm.guard"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], cwd=REPOSITORY, timeout=60, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("killed", "number", "code"),
    [("server", signal.SIGKILL, 128 + signal.SIGKILL), ("engine", signal.SIGKILL, 1), ("watcher", signal.SIGTERM, 143)],
)
def test_no_process_of_a_server_stays(killed: str, number: signal.Signals, code: int) -> None:
    """vLLM's engine outlives its server, which then could not start again on the same GPU, and a server its engine,
    without answering."""
    server = _SERVER.replace("ENGINE", repr(_ENGINE))
    command = [sys.executable, "-c", _SUPERVISOR, server]
    watcher = subprocess.Popen(command, cwd=REPOSITORY, start_new_session=True)
    until = time.monotonic() + 30
    while len(found := descendants(watcher.pid)) < 2 or not serve._is_engine(found[1]):
        assert time.monotonic() < until
        time.sleep(0.05)
    time.sleep(2 * serve._LOOK_S)
    os.kill({"watcher": watcher.pid, "server": found[0], "engine": found[1]}[killed], number)
    assert watcher.wait(30) == code
    until = time.monotonic() + 10
    while any(map(alive, found)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(alive, found))


def test_the_command_line_is_vllms() -> None:
    """Options that vLLM has to hear of, by its names."""
    options = serve.parser().parse_args(["folder", "--port", "7", "--tensor", "2", "--sleep", "--logprobs", "raw"])
    line = serve.command(options, "python")
    pairs = dict(itertools.pairwise(line))
    assert pairs["--tensor-parallel-size"] == "2"
    assert pairs["--logprobs-mode"] == "raw_logprobs"
    assert pairs["--load-format"] == "dummy"
    assert "--enable-sleep-mode" in line
    assert "--max-model-len" not in line


@pytest.mark.parametrize(
    ("token", "path", "given", "status"),
    [
        ("secret", "/update_weights", b"Bearer secret", 200),
        ("secret", "/update_weights", b"Bearer secre", 401),
        ("secret", "/update_weights", b"", 401),
        ("secret", "/health", b"", 200),
        ("", "/update_weights", b"", 200),
    ],
)
def test_the_guard(monkeypatch: pytest.MonkeyPatch, token: str, path: str, given: bytes, status: int) -> None:
    """Every path but health wants the token, where there is one."""
    monkeypatch.setenv("MEDATRON_ROLLOUT_TOKEN", token)
    sent: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = [(b"authorization", given)] if given else []
    asyncio.run(Guard(app)({"type": "http", "path": path, "headers": headers}, None, send))
    assert sent[0]["status"] == status
