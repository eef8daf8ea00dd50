"""What bodies look like: the server's own `/v1/score`, and those of frameworks whose users point a URL here.

OpenRLHF's remote reward model sends {"query": [...], "prompts": [...], "labels": [...]} and reads {"rewards",
"scores", "extra_logs"}; slime's `remote_rm` sends {"prompt", "response", "label"} for one sample and reads any JSON
number. In both the label is this server's reference side of an item, as a JSON object or its text:

    {"task": "choice", "reference": {"answer": "C", "options": {...}}, "preset": "gated"}

with the optional fields of an item beside them. Left out: frameworks that call Python instead of HTTP; see `client`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from reward_server.presets import PRESETS
from reward_server.schema import PresetInfo, RequestError, Result, ScoreRequest, ScoreResponse, parse_request

DEFAULT_PRESET = "gated"


@dataclass(frozen=True)
class Adapter:
    """How one kind of body becomes a request, and how its results become an answer."""

    parse: Callable[[bytes], ScoreRequest]
    render: Callable[[PresetInfo, Sequence[Result]], bytes]


def _parse(body: bytes) -> ScoreRequest:
    request = parse_request(body)
    if request.preset not in PRESETS:
        message = f"no such preset; the presets are {', '.join(PRESETS)}"
        raise RequestError(422, f"preset: {message}", [{"path": "preset", "message": message}])
    return request


def _render(preset: PresetInfo, results: Sequence[Result]) -> bytes:
    return ScoreResponse.model_construct(preset=preset, results=list(results)).model_dump_json().encode()


def _parse_openrlhf(body: bytes) -> ScoreRequest:
    sent = _object(body)
    queries, prompts, labels = (_list(sent, name) for name in ("query", "prompts", "labels"))
    if not len(queries) == len(prompts) == len(labels):
        raise _wrong("query, prompts and labels are lists of one length")
    # OpenRLHF's query is the prompt with the response behind it.
    responses = [
        query.removeprefix(prompt) if isinstance(query, str) and isinstance(prompt, str) else query
        for query, prompt in zip(queries, prompts, strict=True)
    ]
    return _request(responses, labels)


def _render_openrlhf(_: PresetInfo, results: Sequence[Result]) -> bytes:
    rewards = _rewards(results)
    statuses = [float(result.status == "correct") for result in results]
    return json.dumps({"rewards": rewards, "scores": statuses, "extra_logs": {"accuracy": statuses}}).encode()


def _parse_slime(body: bytes) -> ScoreRequest:
    sent = _object(body)
    return _request([sent.get("response")], [sent.get("label")])


def _render_slime(_: PresetInfo, results: Sequence[Result]) -> bytes:
    return json.dumps(_rewards(results)[0]).encode()


def _rewards(results: Sequence[Result]) -> list[float]:
    """The rewards, of which these formats want every one to be a number: a fault fails the request instead."""
    faults = sorted({result.status for result in results if result.reward is None})
    if faults:
        raise RequestError(503, f"the server could not score every response ({', '.join(faults)}); ask again")
    return [result.reward for result in results if result.reward is not None]


def _request(responses: Sequence[Any], labels: Sequence[Any]) -> ScoreRequest:
    items, presets = [], set()
    for index, (response, label) in enumerate(zip(responses, labels, strict=True)):
        if isinstance(label, str):
            try:
                label = json.loads(label)
            except ValueError:
                raise _wrong(f"labels.{index} is JSON text with task and reference") from None
        if not isinstance(label, dict):
            raise _wrong(f"labels.{index} is an object, or JSON text of one, with task and reference")
        presets.add(label.pop("preset", DEFAULT_PRESET))
        items.append({"id": str(index), **label, "response": response})
    if len(presets) > 1:
        raise _wrong("all labels of a request name one preset")
    return _parse(json.dumps({"preset": presets.pop() if presets else DEFAULT_PRESET, "items": items}).encode())


def _object(body: bytes) -> dict[str, Any]:
    try:
        sent = json.loads(body)
    except (ValueError, RecursionError):
        raise _wrong("the body is a JSON object") from None
    if not isinstance(sent, dict):
        raise _wrong("the body is a JSON object")
    return sent


def _list(sent: dict[str, Any], name: str) -> list[Any]:
    value = sent.get(name)
    if not isinstance(value, list):
        raise _wrong(f"{name} is a list")
    return value


def _wrong(expected: str) -> RequestError:
    return RequestError(422, f"the request does not fit: expected that {expected}", [])


ADAPTERS = {
    "score": Adapter(_parse, _render),
    "openrlhf": Adapter(_parse_openrlhf, _render_openrlhf),
    "slime": Adapter(_parse_slime, _render_slime),
}
