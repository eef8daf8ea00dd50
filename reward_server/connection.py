"""What a connection may cost before there is a request: uvicorn's HTTP/1.1 protocol with limits that it has not.

A head is bounded (431), a request has to be complete in time (408), and connections leave files for other things (429).
A request is told when its client has gone. Left out: limits for each client, which a proxy keeps.
"""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

logger = logging.getLogger(__name__)

# Bytes without a part of a body: a head, or what stands behind a body. Parsing one line of n bytes costs n^2.
MAX_HEAD_BYTES = 64 * 2**10
# Seconds from a connection's beginning, or from its last answer, to the end of its next request.
REQUEST_LIMIT_S = 30.0
# Files that connections leave to scoring processes and their replacement.
_SPARE_FILES = 12
_LOG_EVERY_S = 10.0
_CLOSE_LIMIT_S = 5.0


class LimitedProtocol(HttpToolsProtocol):
    """One connection; `request_limit_s` is REQUEST_LIMIT_S for it."""

    request_limit_s = REQUEST_LIMIT_S
    _files_at_start: int | None = None
    _logged = -_LOG_EVERY_S

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Begins to count."""
        super().connection_made(transport)
        self._tell: Callable[[], None] | None = None
        self._head_bytes = 0
        self._await_request()
        self._timer = self.loop.call_later(self.request_limit_s, self._look)
        self._one_too_many = len(self.connections) > self._most()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tells whoever works on the connection's request."""
        self._timer.cancel()
        super().connection_lost(exc)
        if self._tell is not None:
            self._tell()

    def when_gone(self, tell: Callable[[], None]) -> None:
        """Has `tell` called if the client goes before its request is answered."""
        self._tell = tell
        if self.transport.is_closing():
            tell()

    def data_received(self, data: bytes) -> None:
        """Parses what came."""
        if self._one_too_many:
            self._refuse(429, "too many connections are open; ask again in 1 s", "Retry-After: 1\r\n")
            return
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(431, f"the head of a request has at most {MAX_HEAD_BYTES} bytes")

    def on_message_begin(self) -> None:
        """Gives the request a way to hear that its client has gone."""
        super().on_message_begin()
        self._await_request()
        state: dict[str, Any] = self.scope["state"]
        state["when_gone"] = self.when_gone

    def on_headers_complete(self) -> None:
        """The head is complete."""
        self._head_bytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is complete; how long its answer takes is not the client's to say."""
        self._head_bytes = 0
        if not self.cycle.response_complete:
            self._due = float("inf")
        super().on_message_complete()
        # The end of a large body leaves it paused, and then the client could go unnoticed.
        if not self.pipeline:
            self.flow.resume_reading()

    def on_response_complete(self) -> None:
        """The next request may come."""
        self._tell = None
        self._await_request()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """The client does not read its answer."""
        self._await_request()
        super().pause_writing()

    def _await_request(self) -> None:
        self._due = self.loop.time() + self.request_limit_s

    def _look(self) -> None:
        """Ends the connection when it is due, by force when it does not go."""
        left = self._due - self.loop.time()
        if self.transport.is_closing():
            self.transport.abort()
            return
        if left <= 0:
            self._refuse(408, f"the request was not complete within {self.request_limit_s:g} s")
            left = _CLOSE_LIMIT_S
        self._timer = self.loop.call_later(min(self.request_limit_s, left), self._look)

    def _refuse(self, status: int, message: str, head: str = "") -> None:
        if self.transport.is_closing():
            return
        # Where an answer is under way, or nothing was asked, there is nobody to tell.
        asked = self._head_bytes > 0 or self._one_too_many or (self.cycle and not self.cycle.response_complete)
        if asked and not (self.cycle and self.cycle.response_started and not self.cycle.response_complete):
            body = json.dumps({"error": message, "fields": []}).encode()
            head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
            self.transport.write(STATUS_LINE[status] + head.encode() + body)
        self.transport.close()

    def _most(self) -> int:
        """Connections that this process may have."""
        cls = type(self)
        if cls._files_at_start is None:
            cls._files_at_start = len(list(Path("/dev/fd").iterdir())) - len(self.connections)
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        most = max(1, files - cls._files_at_start - _SPARE_FILES)
        now = time.monotonic()
        if len(self.connections) > most and now > cls._logged + _LOG_EVERY_S:
            cls._logged = now
            logger.error(
                "%d connections are open and %d files may be (ulimit -n); more connections are refused",
                len(self.connections),
                files,
            )
        return most
