"""Scoring processes behind the HTTP face: each item under a time limit, each process replaceable.

A pool keeps `size` processes (`scorer`) and a bounded queue. Jobs are sent ahead, so that a process never waits for
the next one. Every process notes in a shared page which item it is at; when that has not changed for `item_limit_s`,
the process is killed, the item is `timeout`, and the job goes to a fresh process for the rest. A process that dies by
itself has its jobs tried again; an item that kills two processes is `verifier_error`. Whatever keeps a process from
being replaced (no memory, files or processes left) is logged and tried again. No job is lost, none waits for longer
than REQUEST_LIMIT_S, and a job whose client has gone is not scored.

Left out: more than one machine (run several servers, the client spreads its requests) and priorities.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import mmap
import os
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from reward_server.lifetime import interrupts_kept_from_children
from reward_server.load import Load
from reward_server.schema import MAX_BATCH_ITEMS, RequestError
from reward_server.scorer import LENGTHS, NO_ITEM, PROGRESS
from reward_server.service import where

logger = logging.getLogger(__name__)

ITEM_LIMIT_S = 2.0
# OpenRLHF sends each response of a rollout by itself and all at once: 1,024 prompts with 8 responses each.
QUEUE_LIMIT = 8192
QUEUE_BYTES = 512 * 2**20
# Of bodies that are still on their way; so many bytes of each are free.
READING_BYTES = 256 * 2**20
_SMALL_BODY_BYTES = 64 * 2**10
# As long as a client waits in all, unless told otherwise.
REQUEST_LIMIT_S = 300.0
START_LIMIT_S = 60.0
# Jobs sent ahead to one process: two, or more while they have so few bytes. What was sent ahead is scored, whether or
# not its client still waits.
_AHEAD_JOBS = 16
_AHEAD_BYTES = 256 * 2**10
# A batch whose items keep killing processes gets no more of them: what is left of it times out together.
_KILLS_PER_JOB = 4
_WATCH_S = 0.05
_EXPIRY_S = 0.5
_KILL_WAIT_S = 1.0
_FIRST_BACKOFF_S = 0.1
_MAX_BACKOFF_S = 5.0
# Reading a large body may take longer than judging an item.
_READ_FACTOR = 10
_MAX_RETRY_AFTER_S = 30


class PoolError(RuntimeError):
    """The pool cannot score: its processes do not start, or fail their self-test."""


@dataclass
class Answer:
    """What a job came to: an HTTP status, a body, and what to count.

    With status 202 there is no body yet: `cases` (item index, question, right answers, candidate) want a judge first.
    """

    status: int
    body: bytes
    items: int
    counts: list[tuple[str, str, int]]
    preset: str
    cases: list[tuple[int, str, list[str], str]] = field(default_factory=list)


@dataclass(eq=False)
class _Job:
    number: int
    kind: str
    body: bytes
    future: asyncio.Future[Answer]
    given: dict[int, str | float]
    came: float = field(default_factory=time.monotonic)
    crashes: dict[int, int] = field(default_factory=dict)
    kills: int = 0

    def __post_init__(self) -> None:
        self.size = len(self.body)

    def frame(self) -> bytes:
        given = {str(index): status for index, status in self.given.items()}
        head = json.dumps({"job": self.number, "kind": self.kind, "given": given}).encode()
        return b"".join((LENGTHS.pack(len(head), len(self.body)), head, self.body))

    def abandon(self) -> None:
        """Nobody waits for the answer any more."""
        if not self.future.done():
            self.future.set_exception(RequestError(400, "the client went away before its answer was there"))


class ScorerPool:
    """`size` scoring processes; create, `start`, `score`, `close`, all in one event loop.

    Args:
        size: processes.
        verifiers: `module:ATTRIBUTE` of the verifiers by task.
        item_limit_s: seconds that one item may take.
        queue_limit: jobs that may wait or run at a time, as long as their bodies have at most QUEUE_BYTES.
        log_level: of the processes.
        load: the jobs of all workers of the server, where they share one limit.
        request_limit_s: seconds after which a job that has no answer yet gets 503.

    Attributes:
        restarts: processes replaced so far, by reason: `timeout` or `died`.
        failures: what the self-test of the newest process found.
    """

    def __init__(
        self,
        size: int,
        *,
        verifiers: str = "reward_server.service:VERIFIERS",
        item_limit_s: float = ITEM_LIMIT_S,
        queue_limit: int = QUEUE_LIMIT,
        log_level: str = "info",
        load: Load | None = None,
        request_limit_s: float = REQUEST_LIMIT_S,
    ) -> None:
        self._size, self._verifiers, self._item_limit_s = size, verifiers, item_limit_s
        self._queue_limit, self._log_level, self._request_limit_s = queue_limit, log_level, request_limit_s
        self._load = load or Load(None)
        self._waiting: deque[_Job] = deque()
        # By their numbers, the oldest first.
        self._open: dict[int, _Job] = {}
        self._open_bytes = self._reading_bytes = 0
        self._number = 0
        self._work = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._scorers: list[_Scorer | None] = []
        # Why no new process could be started, as long as none could.
        self._trouble = ""
        self._definitions: dict[str, str] = {}
        self.restarts = {"timeout": 0, "died": 0}
        self.failures: list[str] = []

    @property
    def depth(self) -> int:
        """Jobs that wait or run."""
        return len(self._open)

    @property
    def pids(self) -> list[int]:
        """Process ids of the scorers."""
        return [scorer.process.pid for scorer in self._scorers if scorer is not None]

    @property
    def fault(self) -> str:
        """Why nothing can be scored; empty when all is well."""
        if self.failures:
            return f"self-test failed on: {', '.join(self.failures)}; this build must not score a run"
        if not self.pids and self._trouble:
            return f"no scoring process runs ({self._trouble}); the server goes on trying to start one"
        return ""

    async def start(self) -> None:
        """Starts the processes; returns when each has passed or failed its self-test.

        Raises:
            PoolError: one did not start within START_LIMIT_S.
        """
        # A new worker that gave up would take the others with it: uvicorn's supervisor then ends the server.
        patience = math.inf if self._load.replaces else START_LIMIT_S
        end = time.monotonic() + patience
        while len(self._scorers) < self._size:
            self._scorers.append(await self._replacement(end))
        self._trouble = ""
        self._tasks = [asyncio.create_task(self._run(place)) for place in range(self._size)]
        self._tasks.append(asyncio.create_task(self._expire()))

    async def close(self) -> None:
        """Ends the processes; jobs still open get 503."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for scorer in self._scorers:
            if scorer is not None:
                scorer.end()
        for job in self._open.values():
            _resolve(job, 503, "the server is shutting down; ask another one, or again later")
        self._load.report(0)

    @contextlib.contextmanager
    def reading(self) -> Iterator[Callable[[int], None]]:
        """Inside, the function that it gives takes note of how many bytes of a body have come so far.

        Raises:
            RequestError: 429 when bodies that are not complete hold READING_BYTES; small ones always may.
        """
        held = 0

        def read(size: int) -> None:
            nonlocal held
            if size > _SMALL_BODY_BYTES:
                self._reading_bytes, held = self._reading_bytes + size - held, size
                if self._reading_bytes > READING_BYTES:
                    raise self.refusal()

        try:
            yield read
        finally:
            self._reading_bytes -= held

    async def score(
        self,
        kind: str,
        body: bytes,
        given: Mapping[int, str | float] | None = None,
        when_gone: Callable[[Callable[[], None]], None] = lambda _: None,
    ) -> Answer:
        """The answer to one body.

        Args:
            kind: of the body, one of `adapters.ADAPTERS`.
            body: what was sent.
            given: statuses of items that are decided already, or a judge's probabilities of them being correct.
            when_gone: is told whom to tell that the client has gone.

        Raises:
            RequestError: 429 when the queue is full, with the seconds after which to ask again; 503 when nothing can be
                scored; 400 when the client has gone.
        """
        if fault := self.fault:
            raise RequestError(503, fault, retry_after_s=1)
        size = len(body)
        # A worker that has none takes one, however many the others have: somebody must get on.
        if self._open and (self._load.total() >= self._queue_limit or self._open_bytes + size > QUEUE_BYTES):
            raise self.refusal()
        self._number += 1
        job = _Job(self._number, kind, body, asyncio.get_running_loop().create_future(), dict(given or {}))
        when_gone(job.abandon)
        self._open[job.number] = job
        self._open_bytes += size
        self._load.report(len(self._open))
        self._waiting.append(job)
        self._work.set()
        try:
            return await job.future
        finally:
            del self._open[job.number]
            self._open_bytes -= size
            # It may stand in a line for long yet, where nobody waits for it.
            job.body = b""
            self._load.report(len(self._open))

    def refusal(self) -> RequestError:
        """What one request too many gets: 429, with whole seconds by how long the oldest open job has been here."""
        oldest = next(iter(self._open.values())).came if self._open else time.monotonic()
        wait = max(1, min(_MAX_RETRY_AFTER_S, math.ceil(time.monotonic() - oldest)))
        message = f"{self._load.total()} requests are waiting already; ask again in {wait} s"
        return RequestError(429, message, retry_after_s=wait)

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(_EXPIRY_S)
            before = time.monotonic() - self._request_limit_s
            for job in self._open.values():
                if job.came > before:
                    break
                _resolve(job, 503, f"the request was not scored within {self._request_limit_s:g} s; ask again")

    async def _launch(self) -> _Scorer:
        """A process that has passed or failed its self-test.

        Raises:
            PoolError: it did not say so in time.
            OSError: there was no memory, no file or no process left for it.
        """
        scorer = _Scorer(self._verifiers, self._log_level)
        try:
            await asyncio.wait_for(scorer.connect(), START_LIMIT_S)
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError) as error:
            raise PoolError(f"it ended or was silent at its start ({type(error).__name__}); see the log") from error
        finally:
            if not scorer.ready:
                scorer.end()
        self._definitions = self._definitions or scorer.definitions
        self.failures = scorer.failures
        if scorer.definitions != self._definitions:
            self.failures = [*scorer.failures, "the presets, which are others on disk than when the server started"]
        return scorer

    async def _run(self, place: int) -> None:
        """Serves the jobs of one place; a process that is killed or dies is replaced, and its jobs go on."""
        while True:
            scorer = self._scorers[place]
            assert scorer is not None, "a place has its process again before it goes on"
            try:
                reason = await self._serve(scorer)
            except Exception as error:
                logger.error("serving a scoring process raised %s; it is replaced", where(error))
                reason = "died"
            self._scorers[place] = None
            scorer.end()
            self.restarts[reason] += 1
            self._blame(scorer, reason)
            self._waiting.extendleft(reversed(scorer.sent))
            scorer.sent.clear()
            self._work.set()
            self._scorers[place] = await self._replacement()
            self._trouble = ""

    async def _replacement(self, end: float = math.inf) -> _Scorer:
        """A new process, however often it has to be tried until `end`: whatever is in the way may go away by itself."""
        backoff = _FIRST_BACKOFF_S
        while True:
            try:
                return await self._launch()
            except Exception as error:
                known = isinstance(error, PoolError | OSError)
                self._trouble = str(error) if known else where(error)
                if time.monotonic() + backoff > end:
                    raise PoolError(f"no scoring process could be started: {self._trouble}") from error
                logger.error("a scoring process could not be started: %s; trying again", self._trouble)
            await asyncio.sleep(backoff)
            backoff = min(_MAX_BACKOFF_S, 2 * backoff)

    def _blame(self, scorer: _Scorer, reason: str) -> None:
        """Notes at which item a process ended, so that its job can go on without it."""
        number, index = scorer.progress()
        job = next((job for job in scorer.sent if job.number == number), None)
        logger.error("scoring process %d ended (%s) at item %s of a request", scorer.process.pid, reason, index)
        if job is None or index is None:
            # Killed while it read a body, or between jobs: whatever was first in line must not do it for ever.
            job = scorer.sent[0] if scorer.sent else None
            if job is not None:
                job.kills += 1
                if job.kills >= _KILLS_PER_JOB:
                    scorer.sent.remove(job)
                    _resolve(job, 500, "reading this request ended the scoring process several times")
            return
        job.kills += 1
        if reason == "timeout":
            job.given[index] = "timeout"
        else:
            job.crashes[index] = job.crashes.get(index, 0) + 1
            if job.crashes[index] > 1:
                job.given[index] = "verifier_error"
        if job.kills >= _KILLS_PER_JOB:
            job.given.update(dict.fromkeys(range(index, MAX_BATCH_ITEMS), "timeout"))

    async def _serve(self, scorer: _Scorer) -> str:
        """Feeds a process until it has to be replaced; returns why."""
        reader = asyncio.create_task(scorer.read_answers())
        feeder = asyncio.create_task(self._feed(scorer))
        watcher = asyncio.create_task(scorer.watch(self._item_limit_s))
        try:
            done, _ = await asyncio.wait((reader, feeder, watcher), return_when=asyncio.FIRST_COMPLETED)
            return "timeout" if watcher in done else "died"
        finally:
            for task in (reader, feeder, watcher):
                task.cancel()
            await asyncio.gather(reader, feeder, watcher, return_exceptions=True)

    async def _feed(self, scorer: _Scorer) -> None:
        while True:
            while self._waiting and scorer.has_room():
                job = self._waiting.popleft()
                if not job.future.done():
                    await scorer.send(job)
            if self._waiting:
                await scorer.room.wait()
                continue
            self._work.clear()
            await self._work.wait()


class _Scorer:
    """One process, its socket and its page."""

    def __init__(self, verifiers: str, log_level: str) -> None:
        with contextlib.ExitStack() as stack:
            ours, theirs = socket.socketpair()
            opened = contextlib.ExitStack()
            stack.callback(theirs.close)
            opened.callback(ours.close)
            stack.push(opened)
            page = os.memfd_create("progress")
            stack.callback(os.close, page)
            os.ftruncate(page, mmap.PAGESIZE)
            self._page = mmap.mmap(page, mmap.PAGESIZE)
            inherited = (theirs.fileno(), page)
            command = [sys.executable, "-m", "reward_server.scorer", *map(str, inherited), verifiers, log_level]
            with interrupts_kept_from_children():
                self.process = subprocess.Popen(command, pass_fds=inherited, stdin=subprocess.DEVNULL)
            opened.pop_all()
        self._socket = ours
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self.sent: deque[_Job] = deque()
        self._sent_bytes = 0
        self.room = asyncio.Event()
        self.ready = False
        self.failures: list[str] = []
        self.definitions: dict[str, str] = {}

    async def connect(self) -> None:
        """Waits for the process to say that it is up, with what its self-test found."""
        self._reader, self._writer = await asyncio.open_connection(sock=self._socket, limit=2**20)
        head, _ = await self._read_frame()
        self.failures, self.definitions, self.ready = head["failures"], head["definitions"], True

    def has_room(self) -> bool:
        """Whether one more job may be sent ahead."""
        room = len(self.sent) < 2 or (len(self.sent) < _AHEAD_JOBS and self._sent_bytes < _AHEAD_BYTES)
        if not room:
            self.room.clear()
        return room

    async def send(self, job: _Job) -> None:
        """Sends a job."""
        self.sent.append(job)
        self._sent_bytes += job.size
        self._writer.write(job.frame())
        await self._writer.drain()

    async def read_answers(self) -> None:
        """Hands answers to their jobs, until the process is gone."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head, body = await self._read_frame()
                job = self.sent.popleft()
                assert job.number == head["job"], "the scoring process answers in order"
                self._sent_bytes -= job.size
                self.room.set()
                if not job.future.done():
                    counts = [(verifier, status, count) for verifier, status, count in head["counts"]]
                    answer = Answer(head["status"], body, head["items"], counts, head["preset"], head["cases"])
                    job.future.set_result(answer)

    async def watch(self, limit_s: float) -> None:
        """Returns when the process has been at one item for `limit_s`, or idle with work waiting for ten times that."""
        seen, since = self.progress(), time.monotonic()
        first: _Job | None = None
        while True:
            await asyncio.sleep(_WATCH_S)
            now = self.progress()
            head = self.sent[0] if self.sent else None
            if now != seen or head is not first or head is None:
                seen, since, first = now, time.monotonic(), head
            elif time.monotonic() - since > limit_s * (_READ_FACTOR if now[1] is None else 1):
                return

    def progress(self) -> tuple[int, int | None]:
        """The job and item that the process is at; None for the item between items."""
        job, index = PROGRESS.unpack_from(self._page, 0)
        return job, None if index == NO_ITEM else index

    def end(self) -> None:
        """Kills the process and closes what leads to it; raises nothing."""
        with contextlib.suppress(OSError):
            self.process.kill()
        # One that the kernel holds in a system call ends later, and is waited for by `subprocess` then.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_KILL_WAIT_S)
        with contextlib.suppress(OSError):
            if hasattr(self, "_writer"):
                self._writer.close()
            else:
                self._socket.close()

    async def _read_frame(self) -> tuple[dict[str, Any], bytes]:
        head_length, body_length = LENGTHS.unpack(await self._reader.readexactly(LENGTHS.size))
        head: dict[str, Any] = json.loads(await self._reader.readexactly(head_length))
        return head, await self._reader.readexactly(body_length)


def _resolve(job: _Job, status: int, message: str) -> None:
    if not job.future.done():
        body = json.dumps({"error": message, "fields": []}).encode()
        job.future.set_result(Answer(status, body, 0, [], ""))
