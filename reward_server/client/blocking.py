"""The client for ordinary code."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import httpx

from reward_server.client.connections import DeadlineTransport, PerProcess
from reward_server.client.definition import Definitions
from reward_server.client.retry import REQUEST_ID, RETRIED, Patience, Replicas, describe, headers, name
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
    """Scores responses on a reward server, or on several alike; close it, or use it in a `with`.

    Thread-safe, and usable in processes that were forked after its making. All its answers are by one definition of a
    preset.

    Args:
        url: base URL, such as http://node12:8000, or several; batches go to them in turn, and so do repetitions.
        attempt_timeout_s: seconds that one HTTP request may take, to the last byte of its answer.
        total_timeout_s: seconds that one batch of a call of `score` may take, with all its retries.
        token: the server's bearer token, where it wants one.
        on_retry: called with one line before every wait, so that a trainer can say loudly that it waits.

    Raises:
        ValueError: for a URL without http(s), a time that is not positive, or a token that no header can hold.
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
        self._definitions = Definitions()
        sent = headers(token)
        self._connections = PerProcess(lambda: _Connections(sent))

    def __enter__(self) -> RewardClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._connections.get().http.close()

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
                timeout = max(0.05, min(self._replicas.attempt_timeout_s, left))
                answer = self._connections.get().send("GET", f"{url}/readyz", timeout)
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
            preset: a name of `reward_server.presets.PRESETS`.
            items: with ids unique within the call.

        Returns:
            The preset as the server defines it, and one Score an item, in the order of `items`.

        Raises:
            RewardServerUnavailable: after `total_timeout_s` of connection errors, timeouts, 429 and 5xx answers.
            RewardProtocolError: at once for any other 4xx, with the server's message, and for an answer whose ids,
                length, fields or preset are not those asked for.
            RewardDefinitionError: at once, where an answer is by another definition of the preset than one before.
            ValueError: when two items have one id.
        """
        check_ids(items)
        return join([self._post(self._replicas.patience(), preset, batch) for batch in batches(items)])

    def definition(self, preset: str) -> PresetInfo:
        """The preset as every server defines it; raises as `score` does, RewardDefinitionError where they differ."""
        first, *_ = [self._post(Patience(self._replicas, [url]), preset, [])[0] for url in self._replicas.urls]
        return first

    def _post(self, patience: Patience, preset: str, batch: Sequence[ScoreItem]) -> tuple[PresetInfo, list[Score]]:
        body, identity = batch_body(preset, batch), {REQUEST_ID: patience.identity}
        failure: httpx.Response | Exception
        while True:
            timeout, url = patience.timeout(), patience.url
            try:
                answer = self._connections.get().send("POST", f"{url}/v1/score", timeout, body, identity)
                if patience.accept(answer):
                    info, scores = read_batch(preset, batch, answer.content)
                    self._definitions.check(info, url)
                    return info, scores
                failure = answer
            except RETRIED as error:
                failure = error
            time.sleep(patience.wait_after(failure))


class _Connections:
    """The connections of one process."""

    def __init__(self, sent: Mapping[str, str]) -> None:
        self._transport = DeadlineTransport()
        # Without the environment: a cluster's HTTP_PROXY cannot reach a job's own node.
        self.http = httpx.Client(trust_env=False, headers=sent, transport=self._transport)

    def send(
        self, method: str, url: str, timeout: float, body: bytes = b"", sent: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """One request, over within `timeout` seconds."""
        self._transport.limit(timeout)
        return self.http.request(method, url, content=body, headers=sent, timeout=timeout)
