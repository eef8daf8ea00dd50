"""The servers of a run on rank 0: started, watched, and let back in once they have the run's weights.

A server is starting, stale, unproven or current: it answers, has been handed the run's weights, and has been compared
with the trainer. It is asked for responses in the last state alone. One that fails is started again where the run
started it, or waited for where somebody else does (a Slurm step).

Left out: moving a server to another machine; whoever started it there does that.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from pathlib import Path
from typing import Any

import httpx

from recipes.runtime.config import Config
from recipes.runtime.launch import free_port
from recipes.sampling.base import RolloutError

TOKEN = "MEDATRON_ROLLOUT_TOKEN"
PYTHON = "MEDATRON_VLLM_PYTHON"
# Starts and hand-overs in a row that may fail.
_MOST_FAILURES = 4
_HEALTH_S = 10.0
_STOP_S = 10.0
_SLEEP_S = 120.0
_POLL_S = 0.5
_TAIL_BYTES = 3000


class State(Enum):
    """What a server can do."""

    STARTING = "starting"
    STALE = "without the run's weights"
    UNPROVEN = "not compared with the trainer"
    CURRENT = "current"


class ServerError(RuntimeError):
    """A server that does not do what it was asked; the message names it."""


def headers() -> dict[str, str]:
    """What every request to a server carries."""
    token = os.environ.get(TOKEN)
    return {"Authorization": f"Bearer {token}"} if token else {}


class Server:
    """One server.

    Attributes:
        number: among the run's servers, from 0.
        url: base URL; of a server of ours another one after each start.
        state: see `State`.
        version: of the weights that it was handed last.
        group_size: its workers.
        broken: it has to be started anew.
        failures: since it was brought up to date last, starts among them.
        said: why it failed last.
        since: when it began to be in this state.
    """

    def __init__(self, number: int, url: str, child: Child | None) -> None:
        self.number = number
        self.url = url
        self.child = child
        self.state = State.STARTING
        self.version = -1
        self.group_size = 1
        self.broken = False
        self.failures = 0
        self.said = ""
        self.since = time.monotonic()
        # A connection that is kept may have been closed at the other end, which would look like a server's death.
        self._client = httpx.Client(headers=headers(), limits=httpx.Limits(max_keepalive_connections=0))

    def __str__(self) -> str:
        return f"vLLM server {self.number} ({self.url})"

    def call(self, path: str, timeout_s: float, *, get: bool = False, **body: Any) -> Any:
        """What an endpoint answers, as JSON.

        Raises:
            ServerError: it answered with an error, or not in time.
        """
        try:
            if get:
                answer = self._client.get(self.url + path, timeout=timeout_s)
            else:
                answer = self._client.post(self.url + path, json=body or None, timeout=timeout_s)
        except httpx.HTTPError as error:
            kind = f"no answer within {timeout_s:.0f} s" if isinstance(error, httpx.TimeoutException) else str(error)
            raise ServerError(f"{self}: {path.split('?')[0]}: {kind or type(error).__name__}") from error
        if answer.status_code != 200:
            raise ServerError(f"{self}: {path.split('?')[0]}: status {answer.status_code}: {answer.text[:500]}")
        try:
            return answer.json() if answer.content else None
        except ValueError as error:
            raise ServerError(f"{self}: {path.split('?')[0]}: no JSON, so this is no vLLM server of a run") from error

    def healthy(self, timeout_s: float = _HEALTH_S) -> bool:
        """Whether it answers."""
        try:
            self.call("/health", timeout_s, get=True)
        except ServerError:
            return False
        return True

    def attach(self) -> None:
        """Takes over a server that answers: ends what others asked of it, and an update that they left half done.

        Raises:
            ServerError: it cannot be.
        """
        self.call("/abort_requests", _HEALTH_S, request_ids=[])
        self.call("/collective_rpc", _HEALTH_S, method="medatron_abandon")
        self.group_size = self.call("/get_world_size", _HEALTH_S, get=True)["world_size"]
        self.state = State.STALE

    def close(self) -> None:
        """Ends the connection and, where it is ours, the server."""
        self._client.close()
        if self.child is not None:
            self.child.stop()


class Child:
    """A server as a child process of rank 0, in a session of its own; it goes when rank 0 does.

    Args:
        command: without its port.
        log: where its output goes, appended.
    """

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self._command = list(command)
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> str:
        """Starts it, after the end of any before; its base URL."""
        self.stop(patience_s=0)
        port = free_port()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        root = str(Path(__file__).resolve().parents[3])
        search = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        # A launcher's variables would make vLLM's workers take themselves for ranks of the run.
        launcher = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
        inherited = {k: v for k, v in os.environ.items() if k not in launcher and not k.startswith("TORCHELASTIC_")}
        with self.log.open("ab") as log:
            try:
                self._process = subprocess.Popen(
                    [*self._command, "--port", str(port), "--parent-pid", str(os.getpid())],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={**inherited, "PYTHONPATH": search},
                    start_new_session=True,
                )
            except OSError as error:
                raise RolloutError(
                    f"rollout.vllm.python={self._command[0]}: cannot be run ({error.strerror}); give the Python that "
                    f"has vLLM, there or in {PYTHON}"
                ) from error
        return f"http://127.0.0.1:{port}"

    def code(self) -> int | None:
        """Its exit code, None while it runs."""
        return None if self._process is None else self._process.poll()

    def stop(self, patience_s: float = _STOP_S) -> None:
        """Ends it and all it started, by force after `patience_s` seconds."""
        if self._process is None:
            return
        if patience_s:
            self._signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(patience_s)
        # Its workers may outlive it, or be stopped and deaf to all else.
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._process = None

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def tail(self) -> str:
        """The end of its log."""
        try:
            data = self.log.read_bytes()[-_TAIL_BYTES:]
        except OSError:
            return "(no log)"
        return data.decode(errors="replace").strip()


class Fleet:
    """All servers of a run; on rank 0, whose main thread calls every method but `lost`.

    Args:
        config: of the run.
        model: Hugging Face folder with config.json and tokenizer.
        logs: folder for the logs of servers that are started here.
    """

    def __init__(self, config: Config, model: Path, logs: Path) -> None:
        self._config = config.rollout.vllm
        if self._config.urls:
            self.servers = [Server(n, url.rstrip("/"), None) for n, url in enumerate(self._config.urls)]
            return
        command = serve_command(config, model)
        children = [Child(command, logs / f"vllm_{n}.log") for n in range(self._config.replicas)]
        self.servers = [Server(n, "not started", child) for n, child in enumerate(children)]
        for server in self.servers:
            self._start(server)

    def of(self, state: State) -> list[Server]:
        """The servers in a state."""
        return [server for server in self.servers if server.state is state]

    def lost(self, server: Server, reason: str) -> None:
        """Nothing more is asked of a server, until it has been handed weights again; from any thread."""
        if server.state is State.STARTING:
            return
        server.broken, server.said = True, reason
        server.state, server.since = State.STARTING, time.monotonic()
        print(f"{server} is lost: {reason}", file=sys.stderr, flush=True)

    def behind(self, server: Server, reason: str) -> None:
        """A hand-over has failed: what is half done is cleared where the server answers, which else is lost."""
        server.failures, server.said = server.failures + 1, reason
        if server.failures < _MOST_FAILURES and server.healthy():
            print(f"{server}: {reason}", file=sys.stderr, flush=True)
            with contextlib.suppress(ServerError):
                server.attach()
                return
        self.lost(server, reason)

    def tend(self) -> None:
        """Looks after servers that are starting, without waiting for them; ours that ended are started again.

        Raises:
            RolloutError: none is left that has not failed too often, or stayed away too long.
        """
        for server in list(self.servers):
            if server.child is not None and (code := server.child.code()) is not None:
                self.lost(server, f"its process ended with code {code}")
                server.broken, server.said = True, f"its process ended with code {code}"
            if server.state is State.STARTING:
                self._tend(server)

    def _tend(self, server: Server) -> None:
        waited, limit = time.monotonic() - server.since, self._config.start_timeout_s
        if waited > limit:
            server.said = f"it did not answer within {limit:.0f} s (rollout.vllm.start_timeout_s)"
            server.broken, server.since = True, time.monotonic()
            if server.child is None:  # whoever starts it has had that time
                server.failures = _MOST_FAILURES
        if server.failures >= _MOST_FAILURES:
            self._give_up(server)
            return
        if server.broken and server.child is not None:
            self._start(server)
        if server.healthy(_POLL_S):
            self._take(server)

    def _take(self, server: Server) -> None:
        try:
            server.attach()
        except ServerError as error:
            if "status 401" in str(error):
                raise RolloutError(f"{error}; set {TOKEN} to the one it was started with") from error
            server.failures, server.said = server.failures + 1, str(error)

    def _give_up(self, server: Server) -> None:
        """Of a server that fails however often it is tried; the run goes on with the others."""
        log = f"; the end of {server.child.log}:\n{server.child.tail()}" if server.child is not None else ""
        said = f"{server} failed {server.failures} times in a row: {server.said}{log}"
        self.servers.remove(server)
        server.close()
        if not self.servers:
            raise RolloutError(f"{said}\nMend it, or rollout.vllm.urls or rollout.vllm.python; then resume")
        print(f"{said}\nthe run goes on without it", file=sys.stderr, flush=True)

    def _start(self, server: Server) -> None:
        assert server.child is not None
        server.url = server.child.start()
        server.broken, server.since, server.failures = False, time.monotonic(), server.failures + 1

    def wait(self, seconds: float, *, all_of_them: bool) -> bool:
        """Whether one server answers, or every one, within so many seconds.

        Raises:
            RolloutError: see `tend`.
        """
        until = time.monotonic() + seconds
        while True:
            self.tend()
            starting = len(self.of(State.STARTING))
            if not starting or (not all_of_them and starting < len(self.servers)):
                return True
            if time.monotonic() > until:
                return False
            time.sleep(_POLL_S)

    def each(self, servers: Sequence[Server], action: Any) -> list[Any]:
        """What `action(server)` returns for each at the same time, or the ServerError that it raised."""

        def safely(server: Server) -> Any:
            try:
                return action(server)
            except ServerError as error:
                return error

        if not servers:
            return []
        with ThreadPoolExecutor(len(servers)) as pool:
            return list(pool.map(safely, servers))

    def sleep(self) -> None:
        """Servers give up their GPUs' memory, weights and all, until the next hand-over."""
        current = self.of(State.CURRENT)
        for server, result in zip(
            current, self.each(current, lambda server: server.call("/sleep?level=2", _SLEEP_S)), strict=True
        ):
            if isinstance(result, ServerError):
                self.lost(server, str(result))
            else:
                server.state = State.STALE

    def close(self) -> None:
        """Stops servers of ours."""
        for server in self.servers:
            server.close()


def serve_command(config: Config, model: Path) -> list[str]:
    """`recipes.sampling.vllm.serve` for this run, without a port."""
    python = config.rollout.vllm.python or os.environ.get(PYTHON) or sys.executable
    return [python, "-m", "recipes.sampling.vllm.serve", str(model), *serve_options(config)]


def serve_options(config: Config) -> list[str]:
    """Options of `recipes.sampling.vllm.serve` that follow from a run's settings."""
    rollout = config.rollout
    raw = rollout.temperature == 1 and (rollout.top_k > 0 or rollout.top_p < 1)
    options = ["--precision", config.model.precision, "--max-length", str(config.model.max_length)]
    options += ["--tensor", str(max(1, rollout.tensor)), "--memory-share", str(rollout.vllm.memory_share)]
    options += ["--logprobs", "raw" if raw else "processed"]
    return options + ["--sleep"] * rollout.vllm.sleep + ["--eager"] * (config.model.precision == "float32")
