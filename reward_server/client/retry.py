"""When to ask again, for how long, and whom: what the two clients share about failing requests."""

from __future__ import annotations

import itertools
import random
import time
import uuid
from collections.abc import Callable, Sequence

import httpx

from reward_server.client.wire import RewardProtocolError, RewardServerUnavailable
from reward_server.token import read_token

REQUEST_ID = "X-Request-Id"
_FIRST_BACKOFF_S = 0.25
_MAX_BACKOFF_S = 10.0
_MAX_RETRY_AFTER_S = 60.0
# Connecting, sending, receiving, timing out (the last one as asyncio has it), a server that dies within an answer, and
# an answer to somebody else's request.
RETRIED = (httpx.NetworkError, httpx.TimeoutException, httpx.RemoteProtocolError, TimeoutError)


class Replicas:
    """Whom to ask, and how patiently: the settings of both clients. Thread-safe.

    Args:
        url, attempt_timeout_s, total_timeout_s, on_retry: as `RewardClient`'s.

    Raises:
        ValueError: for no URL, one without http(s), or a time that is not positive.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        attempt_timeout_s: float,
        total_timeout_s: float,
        on_retry: Callable[[str], None] | None,
    ) -> None:
        urls = [each.strip() for each in ([url] if isinstance(url, str) else url)]
        if not urls or not all(url.startswith(("http://", "https://")) for url in urls):
            raise ValueError(
                f"reward server url: expected http://host:port, got {', '.join(map(repr, urls)) or 'none'}"
            )
        if attempt_timeout_s <= 0 or total_timeout_s <= 0:
            raise ValueError("attempt_timeout_s and total_timeout_s: expected seconds above 0")
        self.urls = [url.rstrip("/") for url in urls]
        self.attempt_timeout_s, self.total_timeout_s = attempt_timeout_s, total_timeout_s
        self.on_retry = on_retry
        self._turn = itertools.count()

    def patience(self) -> Patience:
        """For the next batch; it begins with the replica after that of the batch before."""
        return Patience(self, self.urls, next(self._turn))


class Patience:
    """The attempts of one batch: its deadline, its waits, its id, and whom of `urls` to ask next, from `first` on."""

    def __init__(self, replicas: Replicas, urls: Sequence[str], first: int = 0) -> None:
        self._replicas, self._urls, self._next = replicas, urls, first
        # One id for all attempts: a server that has answered already gives the same answer again.
        self.identity = uuid.uuid4().hex
        self._start = time.monotonic()
        self._tries = 0
        self._last_error = "the deadline passed before the first attempt"

    @property
    def url(self) -> str:
        """The replica to ask now."""
        return self._urls[self._next % len(self._urls)]

    def timeout(self) -> float:
        """Seconds for the next attempt.

        Raises:
            RewardServerUnavailable: the deadline has passed.
        """
        waited = time.monotonic() - self._start
        left = self._replicas.total_timeout_s - waited
        if left <= 0:
            raise RewardServerUnavailable(" or ".join(self._urls), waited, self._last_error)
        return min(self._replicas.attempt_timeout_s, left)

    def accept(self, answer: httpx.Response) -> bool:
        """Whether an answer is the end of it; False means to wait and ask again.

        Raises:
            RewardProtocolError: for what no repetition mends, any 4xx but 408 and 429.
            httpx.RemoteProtocolError: the answer says that it is another request's.
        """
        if answer.headers.get(REQUEST_ID, self.identity) != self.identity:
            raise httpx.RemoteProtocolError("the answer is to another request; who shares this connection?")
        if answer.status_code == 200:
            return True
        if answer.status_code not in (408, 429) and answer.status_code < 500:
            raise RewardProtocolError(f"POST {answer.request.url}: {describe(answer)}")
        return False

    def wait_after(self, failure: httpx.Response | Exception) -> float:
        """Seconds to wait before the next attempt, which goes to the next replica."""
        # Full jitter, so that the ranks of a job do not come back all at once.
        backoff = min(_MAX_BACKOFF_S, _FIRST_BACKOFF_S * 2 ** min(self._tries, 10))
        wait = random.uniform(0, backoff)
        if isinstance(failure, httpx.Response):
            self._last_error = describe(failure)
            # Whoever was refused at the same time is told the same time to come back.
            if after := retry_after(failure):
                wait = after + random.uniform(0, max(after, backoff))
        else:
            self._last_error = name(failure)
        waited = time.monotonic() - self._start
        wait = min(wait, max(0.0, self._replicas.total_timeout_s - waited))
        self._tries += 1
        if self._replicas.on_retry is not None:
            self._replicas.on_retry(
                f"reward server {self.url}: {self._last_error}; attempt {self._tries} failed, {waited:.1f} of "
                f"{self._replicas.total_timeout_s:.0f} s gone, next in {wait:.1f} s"
            )
        self._next += 1
        return wait


def headers(token: str | None) -> dict[str, str]:
    """Of every request.

    Raises:
        TokenError: the token is none.
    """
    return {"Content-Type": "application/json", **({"Authorization": f"Bearer {read_token(token)}"} if token else {})}


def describe(answer: httpx.Response) -> str:
    """Status and message of an answer that is no score."""
    try:
        message = answer.json()["error"]
    except (ValueError, KeyError, TypeError):
        message = answer.reason_phrase
    return f"HTTP {answer.status_code}: {message}"


def name(error: Exception) -> str:
    """Type and message of an error."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def retry_after(answer: httpx.Response) -> float:
    """Seconds of a Retry-After header; 0 for none, or for its date form, which needs synchronised clocks."""
    try:
        return min(_MAX_RETRY_AFTER_S, max(0.0, float(answer.headers.get("Retry-After", "0"))))
    except ValueError:
        return 0.0
