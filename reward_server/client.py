"""The training side's door to the reward server: one connection pool, deadlines, retries, checked answers.

Imports neither FastAPI nor a verifier. A fault of the network or the server is waited out until the total deadline and
then raised; it never becomes a reward. Left out: several servers behind one client, and asynchronous calls.
"""

from __future__ import annotations

import dataclasses
import json
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

import httpx

MAX_BATCH_ITEMS = 512
# Keeps a batch of long responses under the server's limit of 128 MiB, at up to six bytes of JSON a character.
MAX_BATCH_CHARS = 16_000_000

_FIRST_BACKOFF_S = 0.25
_MAX_BACKOFF_S = 10.0
_POLL_S = 0.2

Task = Literal["choice", "number", "date", "duration", "text"]
Status = Literal["correct", "incorrect", "no_answer", "malformed", "timeout", "verifier_error"]
STATUSES: tuple[str, ...] = get_args(Status)
SERVER_FAULTS: frozenset[str] = frozenset({"timeout", "verifier_error"})


class RewardClientError(RuntimeError):
    """Base of the client's errors."""


class RewardServerUnavailable(RewardClientError):  # noqa: N818  # the state is the name
    """The server could not be reached, or did not get well, before a deadline.

    Attributes:
        url: the server's base URL.
        waited_s: seconds spent waiting.
        last_error: what went wrong last.
    """

    def __init__(self, url: str, waited_s: float, last_error: str) -> None:
        super().__init__(
            f"reward server {url} unavailable for {waited_s:.1f} s (last error: {last_error}); see that "
            "`python -m reward_server` runs there, that this host can reach it, and what its log says"
        )
        self.url, self.waited_s, self.last_error = url, waited_s, last_error


class RewardProtocolError(RewardClientError):
    """Client and server do not understand each other: a 4xx answer, or one that breaks the contract. Never retried."""


@dataclasses.dataclass(frozen=True)
class Length:
    """A length target and the response's own length.

    Attributes:
        mode: "max" (not longer than target), "exact" (as long as target) or "none".
        target: tokens asked for, at least 1; None in mode "none".
        tokens: tokens of the whole response, without its prompt; None in mode "none".
    """

    mode: Literal["none", "exact", "max"]
    target: int | None = None
    tokens: int | None = None


@dataclasses.dataclass(frozen=True)
class ScoreItem:
    """One response to score.

    Attributes:
        id: unique within a call.
        task: which verifier judges.
        response: all that the model wrote after its prompt.
        reference: the answer side of an Example (`Example.reference()`).
        match: how a choice answer is read; None leaves it to the preset. Other tasks ignore it.
        length: None when no length was asked for.
    """

    id: str
    task: Task
    response: str
    reference: Mapping[str, Any]
    match: Literal["strict", "lenient"] | None = None
    length: Length | None = None

    def to_wire(self) -> dict[str, Any]:
        """The JSON object of /v1/score."""
        # A lone surrogate (half a character from a cut byte sequence) is no Unicode text; JSON parsers refuse it.
        response = self.response.encode("utf-8", "replace").decode("utf-8")
        wire: dict[str, Any] = {"id": self.id, "task": self.task, "response": response}
        wire["reference"] = dict(self.reference)
        if self.match is not None:
            wire["match"] = self.match
        if self.length is not None:
            wire["length"] = dataclasses.asdict(self.length)
        return wire


@dataclasses.dataclass(frozen=True)
class Score:
    """The score of one item.

    Attributes:
        id: the item's.
        reward: None exactly when the fault is the server's own (`status` in SERVER_FAULTS): mask the sample.
        status: correct, incorrect, no_answer, malformed, timeout or verifier_error.
        extracted: the answer as the server read it; None when it could read none.
        components: answer (1.0 correct, else 0.0), format (1.0 strict, else 0.0), length (the term within the
            reward); empty when reward is None.
        verifier: the verifier that judged.
        version: its version.
    """

    id: str
    reward: float | None
    status: Status
    extracted: str | None
    components: Mapping[str, float]
    verifier: str
    version: str

    @classmethod
    def from_wire(cls, wire: Any) -> Score:
        """Reads one result of /v1/score.

        Raises:
            RewardProtocolError: naming the field that breaks the contract.
        """
        _expect(isinstance(wire, dict), "each result is an object", wire)
        names = {field.name for field in dataclasses.fields(cls)}
        _expect(set(wire) == names, f"a result has exactly the fields {', '.join(sorted(names))}", sorted(wire))
        status, reward = wire["status"], wire["reward"]
        _expect(status in STATUSES, f"status is one of {', '.join(STATUSES)}", status)
        _expect(reward is None or _is_finite(reward), "reward is a finite number or null", reward)
        _expect((reward is None) == (status in SERVER_FAULTS), f"reward with status {status}", reward)
        components = wire["components"]
        _expect(isinstance(components, dict), "components is an object", components)
        _expect(all(_is_finite(value) for value in components.values()), "components are finite", components)
        _expect(reward is None or {"answer", "format", "length"} <= set(components), "all components", components)
        return cls(**{**wire, "reward": None if reward is None else float(reward)})


@dataclasses.dataclass(frozen=True)
class PresetInfo:
    """The reward definition that scored: checkpoints keep it, and a resumed run compares it."""

    name: str
    version: str
    hash: str


class RewardClient:
    """Scores responses on one reward server. Thread-safe; close it, or use it in a `with`.

    Args:
        url: base URL, such as http://node12:8000.
        attempt_timeout_s: seconds that one HTTP request may take.
        total_timeout_s: seconds that one call of `score` may take, with all its retries.
        on_retry: called with one line before every wait, so that a trainer can say loudly that it waits.

    Raises:
        ValueError: for a URL without http(s) or a time that is not positive.
    """

    def __init__(
        self,
        url: str,
        *,
        attempt_timeout_s: float = 30.0,
        total_timeout_s: float = 300.0,
        on_retry: Callable[[str], None] | None = None,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"reward server url: expected http://host:port, got {url!r}")
        if attempt_timeout_s <= 0 or total_timeout_s <= 0:
            raise ValueError("attempt_timeout_s and total_timeout_s: expected seconds above 0")
        self.url = url.rstrip("/")
        self._attempt_timeout_s = attempt_timeout_s
        self._total_timeout_s = total_timeout_s
        self._on_retry = on_retry
        # Without the environment: a cluster's HTTP_PROXY cannot reach a job's own node.
        self._http = httpx.Client(base_url=self.url, trust_env=False)

    def __enter__(self) -> RewardClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def wait_ready(self, deadline_s: float) -> None:
        """Returns once /readyz answers 200.

        Raises:
            RewardServerUnavailable: when it has not within `deadline_s` seconds.
            RewardProtocolError: when something else than a reward server answers.
        """
        start = time.monotonic()
        while True:
            left = start + deadline_s - time.monotonic()
            try:
                answer = self._http.get("/readyz", timeout=max(0.05, min(self._attempt_timeout_s, left)))
                if answer.status_code == 200:
                    return
                last_error = _describe(answer)
                if answer.status_code < 500 and answer.status_code != 429:
                    raise RewardProtocolError(f"GET {self.url}/readyz: {last_error}; is this a Medatron reward server?")
            except _RETRIED as error:
                last_error = _name(error)
            waited = time.monotonic() - start
            if waited + _POLL_S > deadline_s:
                raise RewardServerUnavailable(self.url, waited, last_error)
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
        if len({item.id for item in items}) != len(items):
            raise ValueError("reward items: ids must be unique within a call of score()")
        start = time.monotonic()
        presets: list[PresetInfo] = []
        scores: list[Score] = []
        for batch in _batches(items):
            body = {"preset": preset, "items": [item.to_wire() for item in batch]}
            info, part = _read_answer(self._post(json.dumps(body, allow_nan=False).encode(), start))
            _expect(info.name == preset, f"an answer by preset {preset}", info.name)
            _expect([score.id for score in part] == [item.id for item in batch], "the ids sent, in order", len(part))
            presets.append(info)
            scores += part
        _expect(len(set(presets)) == 1, "one definition of the preset in all batches of a call", presets)
        return presets[0], scores

    def _post(self, body: bytes, start: float) -> httpx.Response:
        deadline = start + self._total_timeout_s
        headers = {"Content-Type": "application/json"}
        tries, last_error = 0, "the deadline passed before the first attempt"
        while (left := deadline - time.monotonic()) > 0:
            asked_wait = 0.0
            try:
                timeout = min(self._attempt_timeout_s, left)
                answer = self._http.post("/v1/score", content=body, headers=headers, timeout=timeout)
            except _RETRIED as error:
                last_error = _name(error)
            else:
                if answer.status_code == 200:
                    return answer
                last_error = _describe(answer)
                if answer.status_code != 429 and answer.status_code < 500:
                    raise RewardProtocolError(f"POST {self.url}/v1/score: {last_error}")
                asked_wait = _retry_after(answer)
            # Full jitter, so that the ranks of a job do not come back all at once.
            wait = max(asked_wait, random.uniform(0, min(_MAX_BACKOFF_S, _FIRST_BACKOFF_S * 2**tries)))
            wait = min(wait, max(0.0, deadline - time.monotonic()))
            tries += 1
            if self._on_retry is not None:
                waited = time.monotonic() - start
                self._on_retry(
                    f"reward server {self.url}: {last_error}; attempt {tries} failed, {waited:.1f} of "
                    f"{self._total_timeout_s:.0f} s gone, next in {wait:.1f} s"
                )
            time.sleep(wait)
        raise RewardServerUnavailable(self.url, time.monotonic() - start, last_error)


# Connecting, sending, receiving, timing out, and a server that dies within an answer.
_RETRIED = (httpx.NetworkError, httpx.TimeoutException, httpx.RemoteProtocolError)


def _batches(items: Sequence[ScoreItem]) -> Iterator[list[ScoreItem]]:
    """Splits by number and by size. No items make one empty batch, whose answer tells the preset."""
    batch: list[ScoreItem] = []
    chars = 0
    for item in items:
        if batch and (len(batch) == MAX_BATCH_ITEMS or chars + len(item.response) > MAX_BATCH_CHARS):
            yield batch
            batch, chars = [], 0
        batch.append(item)
        chars += len(item.response)
    yield batch


def _read_answer(answer: httpx.Response) -> tuple[PresetInfo, list[Score]]:
    try:
        body = answer.json()
    except ValueError:
        raise RewardProtocolError(
            "reward server: expected a JSON answer to POST /v1/score, got something else"
        ) from None
    _expect(isinstance(body, dict) and set(body) == {"preset", "results"}, "an object of preset and results", body)
    preset, results = body["preset"], body["results"]
    names = {field.name for field in dataclasses.fields(PresetInfo)}
    _expect(isinstance(preset, dict) and set(preset) == names, "a preset of name, version and hash", preset)
    _expect(isinstance(results, list), "a list of results", results)
    _expect(all(isinstance(value, str) for value in preset.values()), "a preset of three strings", preset)
    return PresetInfo(**preset), [Score.from_wire(result) for result in results]


def _expect(holds: bool, expected: str, found: object) -> None:
    if not holds:
        raise RewardProtocolError(
            f"reward server broke its contract: expected {expected}, found {str(found)[:200]}; run client and server "
            "from the same release"
        )


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _describe(answer: httpx.Response) -> str:
    try:
        message = answer.json()["error"]
    except (ValueError, KeyError, TypeError):
        message = answer.reason_phrase
    return f"HTTP {answer.status_code}: {message}"


def _retry_after(answer: httpx.Response) -> float:
    """Seconds of a Retry-After header; 0 for none, or for its date form, which needs synchronised clocks."""
    try:
        return max(0.0, float(answer.headers.get("Retry-After", "0")))
    except ValueError:
        return 0.0


def _name(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
