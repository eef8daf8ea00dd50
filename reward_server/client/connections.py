"""HTTP connections that hold a deadline for the whole of an answer, and that no two processes share.

httpx limits the time of each read, so that a server which sends a byte now and then would never be given up. And a
connection that a fork shares mixes up the answers of both processes.
"""

from __future__ import annotations

import os
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

import httpcore
import httpx

T = TypeVar("T")


class PerProcess(Generic[T]):
    """Something that each process makes for itself, also one that was forked."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: tuple[int, T] | None = None

    def get(self) -> T:
        """This process's own."""
        made = self._made
        if made is None or made[0] != os.getpid():
            made = self._made = os.getpid(), self._make()
        return made[1]


class DeadlineTransport(httpx.HTTPTransport):
    """A transport whose every request ends within the seconds given to `limit`. Thread-safe."""

    def __init__(self) -> None:
        super().__init__(trust_env=False)
        self._attempt = _Attempt()
        # httpx has no parameter for it.
        self._pool = httpcore.ConnectionPool(
            ssl_context=httpx.create_ssl_context(trust_env=False),
            max_connections=100,
            max_keepalive_connections=20,
            keepalive_expiry=5.0,
            network_backend=_Backend(self._attempt),
        )

    def limit(self, seconds: float) -> None:
        """Lets the next requests of this thread be over in `seconds` from now."""
        self._attempt.end = time.monotonic() + seconds


class _Attempt(threading.local):
    end = float("inf")

    def left(self, timeout: float | None, error: type[Exception]) -> float:
        """Seconds for the next operation."""
        left = self.end - time.monotonic()
        if left <= 0:
            raise error("the answer was not complete in time")
        return left if timeout is None else min(timeout, left)


class _Backend(httpcore.SyncBackend):
    def __init__(self, attempt: _Attempt) -> None:
        self._attempt = attempt

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        left = self._attempt.left(timeout, httpcore.ConnectTimeout)
        return _Stream(super().connect_tcp(host, port, left, local_address, socket_options), self._attempt)


class _Stream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream, attempt: _Attempt) -> None:
        self._inner, self._attempt = inner, attempt

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, self._attempt.left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, self._attempt.left(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = self._attempt.left(timeout, httpcore.ConnectTimeout)
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, left), self._attempt)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
