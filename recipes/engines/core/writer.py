"""A process that writes for this rank while it trains on.

It is a fork: memory is in it as it was at that moment, and what the rank does afterwards changes the rank's copy alone.
It has no children, so that whatever kills it ends it whole, and it dies with its rank.

In a process that holds CUDA a fork must not call CUDA: the context does not live in the child, and its first call would
fail. What runs there (`state._write`: megatron-core's write_preloaded_data, torch.save of host tensors, fsync, SHA-256)
calls none: the rank copies its tensors to host memory before, and `state._Part.to_host` looks at each. Nothing frees
the CUDA tensors that the child inherits: what refers to them lives on, no garbage is collected, and os._exit runs no
destructors. NCCL's threads are not in it, and no collective is called. With engine=nemo_aligner megatron-core 0.10
copies to pinned memory, as it does for its own forked writer.

Left out: several processes a rank; on a node its ranks already write side by side.
"""

from __future__ import annotations

import gc
import os
import pickle
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from recipes.runtime.launch import die_with_parent

_LOOK_S = 0.02
_KILL_S = 5.0
# Exit codes: `work` raised, and the answer says what; no answer could be given.
_FAILED, _LOST = 1, 2


class WriterProcess:
    """Evaluates `work()` in a fork of this process.

    `work` must stay off the GPU and out of collective calls, and begin no threads' work of torch: after a fork only
    the calling thread exists. Call it from the main thread, whose end is what the kernel takes for the parent's.
    """

    def __init__(self, work: Callable[[], Any]) -> None:
        """Starts at once.

        Raises:
            OSError: no memory or no process for a fork.
        """
        # A file and not a pipe: it cannot fill up, and nobody waits at its other end when the process dies.
        self._answer = tempfile.TemporaryFile()  # noqa: SIM115  # outlives this function
        self._code: int | None = None
        parent, collecting = os.getpid(), gc.isenabled()
        # A collection in the fork would free the rank's CUDA tensors through a driver that it cannot use.
        gc.disable()
        try:
            self.pid = os.fork()
            if self.pid == 0:
                _work(work, self._answer, parent)
        finally:
            if collecting:
                gc.enable()

    def done(self) -> bool:
        """Whether it has ended, well or not."""
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
        return self._code is not None

    def wait(self, seconds: float) -> bool:
        """Waits for its end for at most so long; returns `done()`."""
        end = time.monotonic() + seconds
        while not self.done() and time.monotonic() < end:
            time.sleep(_LOOK_S)
        return self.done()

    def failure(self) -> str | None:
        """Why it failed; None when it has not ended or ended well."""
        if not self.done() or self._code == 0:
            return None
        assert self._code is not None
        if self._code < 0:
            return f"its writer, process {self.pid}, was killed by {signal.Signals(-self._code).name}"
        if self._code == _FAILED:
            return f"its writer, process {self.pid}, failed: {self._read()}"
        return f"its writer, process {self.pid}, ended with exit code {self._code}"

    def standing(self) -> str:
        """What the kernel says it is at, to tell a slow disk (state D, a wait of the file system) from a lock."""
        try:
            process = Path(f"/proc/{self.pid}")
            state = process.joinpath("stat").read_text().rpartition(") ")[2][:1]
            return f"in state {state}, in {process.joinpath('wchan').read_text() or 'its own code'}"
        except OSError as error:
            return f"unknown: {error.strerror}"

    def result(self) -> Any:
        """What `work` returned; only after it is done without a failure."""
        return self._read()

    def stop(self) -> None:
        """Kills it; returns within seconds even when the kernel keeps it waiting for a dead file system."""
        if not self.done():
            os.kill(self.pid, signal.SIGKILL)
            self.wait(_KILL_S)

    def _read(self) -> Any:
        self._answer.seek(0)
        return pickle.load(self._answer)


def _work(work: Callable[[], Any], answer: IO[bytes], parent: int) -> None:
    """The fork's life: it never returns into the training's code."""
    code = _LOST
    try:
        # Whoever stops the run signals the rank, which decides whether the save is still to be finished.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        die_with_parent()
        if os.getppid() != parent:
            return  # the rank died before the kernel knew of this process's wish
        try:
            ended, found = 0, pickle.dumps(work())
        except Exception as error:
            first = _first(error)
            ended, found = _FAILED, pickle.dumps(f"{type(first).__name__}: {first}")
        answer.write(found)
        answer.flush()
        code = ended
    finally:
        os._exit(code)


def _first(error: BaseException) -> BaseException:
    """Where a chain of errors began: torch.save covers a full disk with the state of its archive."""
    while (earlier := error.__cause__ or error.__context__) is not None:
        error = earlier
    return error
