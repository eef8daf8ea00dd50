"""What goes over the wire, as the training side sees it: items, scores, errors, and the checking of answers.

Imports neither FastAPI nor a verifier, nor any HTTP library.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

MAX_BATCH_ITEMS = 512
# Keeps a batch of long responses under the server's limit of 128 MiB, at up to six bytes of JSON a character.
MAX_BATCH_CHARS = 16_000_000

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
        shape: "preset" for the preset's own length term, or "l1", "dapo", "relative" (gated's) or "relative_all" (of
            every answer) in its place.
        buffer: tokens before the target over which DAPO's term falls; with shape "dapo" alone.
        only_correct: length counts only where the answer is correct.
    """

    mode: Literal["none", "exact", "max"]
    target: int | None = None
    tokens: int | None = None
    shape: Literal["preset", "l1", "dapo", "relative", "relative_all"] = "preset"
    buffer: int | None = None
    only_correct: bool = False


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
        format: the form that counts as right; lenient lets text stand around the blocks and a chat template open
            `<think>` in the prompt.
    """

    id: str
    task: Task
    response: str
    reference: Mapping[str, Any]
    match: Literal["strict", "lenient"] | None = None
    length: Length | None = None
    format: Literal["strict", "lenient"] = "strict"

    def to_wire(self) -> dict[str, Any]:
        """The JSON object of /v1/score."""
        # A lone surrogate (half a character from a cut byte sequence) is no Unicode text; JSON parsers refuse it.
        response = self.response.encode("utf-8", "replace").decode("utf-8")
        wire: dict[str, Any] = {"id": self.id, "task": self.task, "response": response}
        wire["reference"], wire["format"] = dict(self.reference), self.format
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
        components: answer (1.0 correct, else 0.0), format (1.0 as asked for, else 0.0), length (the term within the
            reward); empty when reward is None.
        format_issue: why the response is not of the strict form; None when it is.
        verifier: the verifier that judged.
        version: its version.
    """

    id: str
    reward: float | None
    status: Status
    extracted: str | None
    components: Mapping[str, float]
    format_issue: str | None
    verifier: str
    version: str

    @classmethod
    def from_wire(cls, wire: Any) -> Score:
        """Reads one result of /v1/score.

        Raises:
            RewardProtocolError: naming the field that breaks the contract.
        """
        expect(isinstance(wire, dict), "each result is an object", wire)
        names = {field.name for field in dataclasses.fields(cls)}
        expect(set(wire) == names, f"a result has exactly the fields {', '.join(sorted(names))}", sorted(wire))
        status, reward = wire["status"], wire["reward"]
        expect(status in STATUSES, f"status is one of {', '.join(STATUSES)}", status)
        expect(reward is None or _is_finite(reward), "reward is a finite number or null", reward)
        expect((reward is None) == (status in SERVER_FAULTS), f"reward with status {status}", reward)
        components = wire["components"]
        expect(isinstance(components, dict), "components is an object", components)
        expect(all(_is_finite(value) for value in components.values()), "components are finite", components)
        expect(reward is None or {"answer", "format", "length"} <= set(components), "all components", components)
        return cls(**{**wire, "reward": None if reward is None else float(reward)})


@dataclasses.dataclass(frozen=True)
class PresetInfo:
    """The reward definition that scored: checkpoints keep it, and a resumed run compares it."""

    name: str
    version: str
    hash: str


def batches(items: Sequence[ScoreItem]) -> Iterator[list[ScoreItem]]:
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


def batch_body(preset: str, batch: Sequence[ScoreItem]) -> bytes:
    """The body of one POST /v1/score."""
    return json.dumps({"preset": preset, "items": [item.to_wire() for item in batch]}, allow_nan=False).encode()


def check_ids(items: Sequence[ScoreItem]) -> None:
    """Raises ValueError when two items have one id."""
    if len({item.id for item in items}) != len(items):
        raise ValueError("reward items: ids must be unique within a call of score()")


def read_batch(preset: str, batch: Sequence[ScoreItem], body: bytes) -> tuple[PresetInfo, list[Score]]:
    """One answer of POST /v1/score, checked against what was asked.

    Raises:
        RewardProtocolError: naming what breaks the contract.
    """
    info, scores = _read_answer(body)
    expect(info.name == preset, f"an answer by preset {preset}", info.name)
    expect([score.id for score in scores] == [item.id for item in batch], "the ids sent, in order", len(scores))
    return info, scores


def join(parts: Sequence[tuple[PresetInfo, list[Score]]]) -> tuple[PresetInfo, list[Score]]:
    """The answers of a call's batches as one."""
    return parts[0][0], [score for _, scores in parts for score in scores]


def _read_answer(body: bytes) -> tuple[PresetInfo, list[Score]]:
    try:
        answer = json.loads(body)
    except ValueError:
        raise RewardProtocolError(
            "reward server: expected a JSON answer to POST /v1/score, got something else"
        ) from None
    expect(isinstance(answer, dict) and set(answer) == {"preset", "results"}, "an object of preset and results", answer)
    preset, results = answer["preset"], answer["results"]
    names = {field.name for field in dataclasses.fields(PresetInfo)}
    expect(isinstance(preset, dict) and set(preset) == names, "a preset of name, version and hash", preset)
    expect(isinstance(results, list), "a list of results", results)
    expect(all(isinstance(value, str) for value in preset.values()), "a preset of three strings", preset)
    return PresetInfo(**preset), [Score.from_wire(result) for result in results]


def expect(holds: bool, expected: str, found: object) -> None:
    """Raises RewardProtocolError unless the answer is as the contract has it."""
    if not holds:
        raise RewardProtocolError(
            f"reward server broke its contract: expected {expected}, found {str(found)[:200]}; run client and server "
            "from the same release"
        )


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
