"""Scoring processes behind the HTTP face: each item under a time limit, each process replaceable.

A pool keeps `size` processes (`scorer`) and a bounded queue. Jobs are sent ahead, so that a process never waits for
the next one. Every process notes in a shared page which item it is at; when that has not changed for `item_limit_s`,
the process is killed, the item is `timeout`, and the job goes to a fresh process for the rest. A process that dies by
itself has its jobs tried again; an item that kills two processes is `verifier_error`. No job is lost, and none waits
for ever.

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
from dataclasses import dataclass, field
from typing import Any

from reward_server.schema import MAX_BATCH_ITEMS, RequestError
from reward_server.scorer import LENGTHS, NO_ITEM, PROGRESS

logger = logging.getLogger(__name__)

ITEM_LIMIT_S = 2.0
# OpenRLHF sends each response of a rollout by itself and all at once: 1,024 prompts with 8 responses each.
QUEUE_LIMIT = 8192
QUEUE_BYTES = 512 * 2**20
START_LIMIT_S = 60.0
# Jobs sent ahead to one process, at most so many bytes of them.
_AHEAD_JOBS = 16
_AHEAD_BYTES = 8 * 2**20
# A batch whose items keep killing processes gets no more of them: what is left of it times out together.
_KILLS_PER_JOB = 4
_WATCH_S = 0.05
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
    given: dict[int, str] = field(default_factory=dict)
    crashes: dict[int, int] = field(default_factory=dict)
    kills: int = 0

    def frame(self) -> bytes:
        given = {str(index): status for index, status in self.given.items()}
        head = json.dumps({"job": self.number, "kind": self.kind, "given": given}).encode()
        return b"".join((LENGTHS.pack(len(head), len(self.body)), head, self.body))


class ScorerPool:
    """`size` scoring processes; create, `start`, `score`, `close`, all in one event loop.

    Args:
        size: processes.
        verifiers: `module:ATTRIBUTE` of the verifiers by task.
        item_limit_s: seconds that one item may take.
        queue_limit: jobs that may wait or run at a time, as long as their bodies have at most QUEUE_BYTES.
        log_level: of the processes.

    Attributes:
        restarts: processes replaced so far, by reason: `timeout` or `died`.
    """

    def __init__(
        self,
        size: int,
        *,
        verifiers: str = "reward_server.service:VERIFIERS",
        item_limit_s: float = ITEM_LIMIT_S,
        queue_limit: int = QUEUE_LIMIT,
        log_level: str = "info",
    ) -> None:
        self._size, self._verifiers, self._item_limit_s = size, verifiers, item_limit_s
        self._queue_limit, self._log_level = queue_limit, log_level
        self._waiting: deque[_Job] = deque()
        # When each open job came, by its number, the oldest first.
        self._open: dict[int, float] = {}
        self._open_bytes = 0
        self._number = 0
        self._work = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._scorers: list[_Scorer] = []
        self.restarts = {"timeout": 0, "died": 0}
        self.failures: list[str] = []

    @property
    def depth(self) -> int:
        """Jobs that wait or run."""
        return len(self._open)

    @property
    def pids(self) -> list[int]:
        """Process ids of the scorers."""
        return [scorer.process.pid for scorer in self._scorers]

    async def start(self) -> None:
        """Starts the processes; returns when each has passed or failed its self-test.

        Raises:
            PoolError: one did not start.
        """
        self._scorers = [await self._launch() for _ in range(self._size)]
        self._tasks = [asyncio.create_task(self._run(place)) for place in range(self._size)]

    async def close(self) -> None:
        """Ends the processes; jobs still open get 503."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for scorer in self._scorers:
            scorer.end()
        for job in (*self._waiting, *(job for scorer in self._scorers for job in scorer.sent)):
            _resolve(job, 503, "the server is shutting down; ask another one, or again later")

    async def score(self, kind: str, body: bytes, given: dict[int, str] | None = None) -> Answer:
        """The answer to one body; `given` are statuses of items that are decided already.

        Raises:
            RequestError: 429 when the queue is full, with the seconds after which to ask again.
        """
        size = len(body)
        if len(self._open) >= self._queue_limit or (self._open and self._open_bytes + size > QUEUE_BYTES):
            wait = self._seconds_to_drain()
            message = f"{len(self._open)} requests are waiting already; ask again in {wait} s"
            raise RequestError(429, message, retry_after_s=wait)
        self._number += 1
        job = _Job(self._number, kind, body, asyncio.get_running_loop().create_future(), dict(given or {}))
        self._open[job.number] = time.monotonic()
        self._open_bytes += size
        self._waiting.append(job)
        self._work.set()
        try:
            return await job.future
        finally:
            del self._open[job.number]
            self._open_bytes -= size

    def _seconds_to_drain(self) -> int:
        """Whole seconds in which a full queue is through, by how long the oldest open job has been in it."""
        oldest = next(iter(self._open.values()))
        return max(1, min(_MAX_RETRY_AFTER_S, math.ceil(time.monotonic() - oldest)))

    async def _launch(self) -> _Scorer:
        scorer = _Scorer(self._verifiers, self._log_level)
        try:
            await asyncio.wait_for(scorer.connect(), START_LIMIT_S)
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError) as error:
            scorer.end()
            raise PoolError(
                f"a scoring process did not start within {START_LIMIT_S:.0f} s ({type(error).__name__}); see the log"
            ) from error
        self.failures = scorer.failures
        return scorer

    async def _run(self, place: int) -> None:
        """Serves the jobs of one place; a process that is killed or dies is replaced, and its jobs go on."""
        while True:
            scorer = self._scorers[place]
            reason = await self._serve(scorer)
            scorer.end()
            self.restarts[reason] += 1
            self._blame(scorer, reason)
            self._waiting.extendleft(reversed(scorer.sent))
            scorer.sent.clear()
            self._work.set()
            while True:
                try:
                    self._scorers[place] = await self._launch()
                    break
                except PoolError as error:
                    logger.error("%s; trying again", error)
                    await asyncio.sleep(1)

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
                if job.future.cancelled():
                    continue
                await scorer.send(job)
            if self._waiting:
                await scorer.room.wait()
                continue
            self._work.clear()
            await self._work.wait()


class _Scorer:
    """One process, its socket and its page."""

    def __init__(self, verifiers: str, log_level: str) -> None:
        ours, theirs = socket.socketpair()
        page = os.memfd_create("progress")
        os.ftruncate(page, mmap.PAGESIZE)
        self._page = mmap.mmap(page, mmap.PAGESIZE)
        command = [sys.executable, "-m", "reward_server.scorer", str(theirs.fileno()), str(page), verifiers, log_level]
        self.process = subprocess.Popen(command, pass_fds=(theirs.fileno(), page), stdin=subprocess.DEVNULL)
        theirs.close()
        os.close(page)
        self._socket = ours
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self.sent: deque[_Job] = deque()
        self._sent_bytes = 0
        self.room = asyncio.Event()
        self.failures: list[str] = []

    async def connect(self) -> None:
        """Waits for the process to say that it is up, with what its self-test found."""
        self._reader, self._writer = await asyncio.open_connection(sock=self._socket, limit=2**20)
        head, _ = await self._read_frame()
        self.failures = head["failures"]

    def has_room(self) -> bool:
        """Whether one more job may be sent ahead."""
        room = not self.sent or (len(self.sent) < _AHEAD_JOBS and self._sent_bytes < _AHEAD_BYTES)
        if not room:
            self.room.clear()
        return room

    async def send(self, job: _Job) -> None:
        """Sends a job."""
        self.sent.append(job)
        self._sent_bytes += len(job.body)
        self._writer.write(job.frame())
        await self._writer.drain()

    async def read_answers(self) -> None:
        """Hands answers to their jobs, until the process is gone."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head, body = await self._read_frame()
                job = self.sent.popleft()
                assert job.number == head["job"], "the scoring process answers in order"
                self._sent_bytes -= len(job.body)
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
        """Kills the process and closes what leads to it."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
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
