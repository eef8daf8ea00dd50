"""A reward server as a child process, for runs on one machine and for tests.

Left out: restarting a server that died. The client's deadline then says so, with the log beside it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from reward_server.client import RewardClient, RewardServerUnavailable

STOP_S = 10.0
_TAIL_BYTES = 4000


class RewardServerStartError(RuntimeError):
    """The child died or did not get ready in time; the message ends with the tail of its log."""


class RewardServerProcess:
    """Context manager: `python -m reward_server` on a free port, ready inside the `with`, gone after it.

    The child also stops by itself within a second of this process's end, however that comes.

    Args:
        host: address to listen on.
        port: 0 picks a free one.
        workers: HTTP processes, each with a scoring process.
        log_path: where the child's log goes, appended; None keeps it in a temporary file.
        ready_timeout_s: seconds until the child must be ready.
        options: further options of the command.

    Attributes:
        url: base URL, once started.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        workers: int = 1,
        log_path: Path | None = None,
        ready_timeout_s: float = 60.0,
        options: Sequence[str] = (),
    ) -> None:
        self._options = options
        self._host, self._port, self._workers = host, port, workers
        self._log_path, self._ready_timeout_s = log_path, ready_timeout_s
        self._child: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self.url = ""

    def __enter__(self) -> RewardServerProcess:
        self._log = self._log_path.open("a+b") if self._log_path else tempfile.TemporaryFile()
        try:
            with tempfile.TemporaryDirectory(prefix="medatron-reward-") as folder:
                self._start(Path(folder) / "port")
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The child's process id."""
        if self._child is None:
            raise RuntimeError("the reward server is not started: use it in a `with`")
        return self._child.pid

    def poll(self) -> int | None:
        """The child's exit code, or None while it runs."""
        return None if self._child is None else self._child.poll()

    def stop(self) -> None:
        """Asks the child to drain (SIGTERM), and kills it after STOP_S seconds."""
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()
            try:
                self._child.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()
        if self._log is not None:
            self._log.close()
            self._log = None

    def _start(self, port_file: Path) -> None:
        deadline = time.monotonic() + self._ready_timeout_s
        package_root = str(Path(__file__).resolve().parents[1])
        search_path = os.pathsep.join(filter(None, (package_root, os.environ.get("PYTHONPATH"))))
        settings = {"host": self._host, "port": self._port, "workers": self._workers}
        settings |= {"port-file": port_file, "parent-pid": os.getpid()}
        arguments = [*(f"--{name}={value}" for name, value in settings.items()), *self._options]
        self._child = subprocess.Popen(
            [sys.executable, "-m", "reward_server", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env={**os.environ, "PYTHONPATH": search_path},
            # Of its own session: Ctrl-C at the terminal reaches the trainer, which still scores while it drains.
            start_new_session=True,
        )
        while not port_file.exists():
            self._check_alive(deadline, "it has no port yet")
            time.sleep(0.02)
        self.url = "http://" + port_file.read_text(encoding="utf-8").strip()
        with RewardClient(self.url) as client:
            while True:
                try:
                    return client.wait_ready(0.5)
                except RewardServerUnavailable as error:
                    self._check_alive(deadline, error.last_error)

    def _check_alive(self, deadline: float, last_error: str) -> None:
        code = self.poll()
        if code is not None:
            raise RewardServerStartError(
                f"the reward server exited with code {code} at its start; its log:\n{self._tail()}"
            )
        if time.monotonic() > deadline:
            raise RewardServerStartError(
                f"the reward server was not ready after {self._ready_timeout_s:.0f} s ({last_error}); its log:\n"
                f"{self._tail()}"
            )

    def _tail(self) -> str:
        if self._log is None:
            return "(none)"
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - _TAIL_BYTES))
        return self._log.read().decode("utf-8", "replace").strip() or "(empty)"
