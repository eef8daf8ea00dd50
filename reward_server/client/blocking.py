"""The client for ordinary code."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence

import httpx

from reward_server.client.retry import RETRIED, Replicas, describe, headers, name
from reward_server.client.wire import (
    PresetInfo,
    RewardProtocolError,
    RewardServerUnavailable,
    Score,
    ScoreItem,
    batch_body,
    batches,
    check_ids,
    join,
    read_batch,
)

_POLL_S = 0.2


class RewardClient:
    """Scores responses on a reward server, or on several alike. Thread-safe; close it, or use it in a `with`.

    Args:
        url: base URL, such as http://node12:8000, or several; batches go to them in turn, and so do repetitions.
        attempt_timeout_s: seconds that one HTTP request may take.
        total_timeout_s: seconds that one batch of a call of `score` may take, with all its retries.
        token: the server's bearer token, where it wants one.
        on_retry: called with one line before every wait, so that a trainer can say loudly that it waits.

    Raises:
        ValueError: for a URL without http(s) or a time that is not positive.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        *,
        attempt_timeout_s: float = 30.0,
        total_timeout_s: float = 300.0,
        token: str | None = None,
        on_retry: Callable[[str], None] | None = None,
    ) -> None:
        self._replicas = Replicas(url, attempt_timeout_s, total_timeout_s, on_retry)
        # Without the environment: a cluster's HTTP_PROXY cannot reach a job's own node.
        self._http = httpx.Client(trust_env=False, headers=headers(token))

    def __enter__(self) -> RewardClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def wait_ready(self, deadline_s: float) -> None:
        """Returns once /readyz of every server answers 200.

        Raises:
            RewardServerUnavailable: when one has not within `deadline_s` seconds.
            RewardProtocolError: when something else than a reward server answers.
        """
        start = time.monotonic()
        for url in self._replicas.urls:
            self._wait_ready(url, start, deadline_s)

    def _wait_ready(self, url: str, start: float, deadline_s: float) -> None:
        while True:
            left = start + deadline_s - time.monotonic()
            try:
                answer = self._http.get(f"{url}/readyz", timeout=max(0.05, min(self._replicas.attempt_timeout_s, left)))
                if answer.status_code == 200:
                    return
                last_error = describe(answer)
                if answer.status_code < 500 and answer.status_code != 429:
                    raise RewardProtocolError(f"GET {url}/readyz: {last_error}; is this a Medatron reward server?")
            except RETRIED as error:
                last_error = name(error)
            waited = time.monotonic() - start
            if waited + _POLL_S > deadline_s:
                raise RewardServerUnavailable(url, waited, last_error)
            time.sleep(_POLL_S)

    def score(self, preset: str, items: Sequence[ScoreItem]) -> tuple[PresetInfo, list[Score]]:
        """Scores `items` in order, in batches that the server takes.

        Args:
            preset: gated, med_u1, med_rlvr or binary.
            items: with ids unique within the call.

        Returns:
            The preset as the server defines it, and one Score an item, in the order of `items`.

        Raises:
            RewardServerUnavailable: after `total_timeout_s` of connection errors, timeouts, 429 and 5xx answers.
            RewardProtocolError: at once for any other 4xx, with the server's message, and for an answer whose ids,
                length, fields or preset are not those asked for.
            ValueError: when two items have one id.
        """
        check_ids(items)
        return join([read_batch(preset, batch, self._post(batch_body(preset, batch))) for batch in batches(items)])

    def _post(self, body: bytes) -> bytes:
        patience = self._replicas.patience()
        # One id for all attempts: a server that has answered already gives the same answer again.
        identity = {"X-Request-Id": uuid.uuid4().hex}
        failure: httpx.Response | Exception
        while True:
            timeout = patience.timeout()
            try:
                answer = self._http.post(f"{patience.url}/v1/score", content=body, headers=identity, timeout=timeout)
                if patience.accept(answer):
                    return answer.content
                failure = answer
            except RETRIED as error:
                failure = error
            time.sleep(patience.wait_after(failure))
