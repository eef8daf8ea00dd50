"""What bodies look like: the server's own `/v1/score`, and those of frameworks whose users point a URL here.

OpenRLHF's remote reward model sends {"query": [...], "prompts": [...], "labels": [...]} and reads {"rewards",
"scores", "extra_logs"}; slime's `remote_rm` sends {"prompt", "response", "label"} for one sample and reads any JSON
number. Both leave special tokens in; `foreign` finds the response. In both the label is this server's reference side of
an item, as a JSON object or its text:

    {"task": "choice", "reference": {"answer": "C", "options": {...}}, "preset": "gated"}

with the optional fields of an item beside them; its `id` plays no part, since results go by place. Left out: frameworks
that call Python instead of HTTP; see `client`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from reward_server.foreign import ResponseNotFound, response_in, response_to, without_nulls
from reward_server.presets import PRESETS
from reward_server.schema import PresetInfo, RequestError, Result, ScoreRequest, ScoreResponse, parse_request

DEFAULT_PRESET = "gated"
_LABEL = 'an object {"task", "reference"}, or JSON text of one'


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
        raise _wrong("", "query, prompts and labels of one length", f"{len(queries)}, {len(prompts)} and {len(labels)}")
    responses = [_response_in(index, *pair) for index, pair in enumerate(zip(queries, prompts, strict=True))]
    return _request(responses, labels, [f"labels.{index}" for index in range(len(labels))])


def _response_in(index: int, query: Any, prompt: Any) -> str:
    if not isinstance(query, str):
        raise _wrong(f"query.{index}", "a text, the prompt with the response behind it", _kind(query))
    if not isinstance(prompt, str) and not _is_chat(prompt):
        raise _wrong(f"prompts.{index}", "a text, or a list of messages with role and content", _kind(prompt))
    try:
        return response_in(query, prompt)
    except ResponseNotFound as error:
        raise _refused(f"query.{index}", str(error)) from None


def _is_chat(prompt: Any) -> bool:
    return isinstance(prompt, list) and bool(prompt) and all(isinstance(m, dict) and "role" in m for m in prompt)


def _render_openrlhf(_: PresetInfo, results: Sequence[Result]) -> bytes:
    rewards = _rewards(results)
    statuses = [float(result.status == "correct") for result in results]
    return json.dumps({"rewards": rewards, "scores": statuses, "extra_logs": {"accuracy": statuses}}).encode()


def _parse_slime(body: bytes) -> ScoreRequest:
    sent = _object(body)
    response = sent.get("response")
    if not isinstance(response, str):
        raise _wrong("response", "a text", _kind(response))
    return _request([response_to(sent.get("prompt"), response)], [sent.get("label")], ["label"])


def _render_slime(_: PresetInfo, results: Sequence[Result]) -> bytes:
    return json.dumps(_rewards(results)[0]).encode()


def _rewards(results: Sequence[Result]) -> list[float]:
    """The rewards, of which these formats want every one to be a number: a fault fails the request instead."""
    faults = sorted({result.status for result in results if result.reward is None})
    if faults:
        raise RequestError(503, f"the server could not score every response ({', '.join(faults)}); ask again")
    return [result.reward for result in results if result.reward is not None]


def _request(responses: Sequence[str], labels: Sequence[Any], names: Sequence[str]) -> ScoreRequest:
    """The request that `labels`, called `names` in the body, and `responses` make; results are told by place."""
    items: list[dict[str, Any]] = []
    presets: dict[str, None] = {}
    for response, sent, name in zip(responses, labels, names, strict=True):
        label = _label(sent, name)
        preset = label.pop("preset", DEFAULT_PRESET)
        if not isinstance(preset, str) or preset not in PRESETS:
            raise _wrong(f"{name}.preset", f"one of {', '.join(PRESETS)}", _kind(preset))
        presets[preset] = None
        items.append({**label, "id": str(len(items)), "response": response})
    if len(presets) > 1:
        raise _wrong("labels", "one preset for all of a request", ", ".join(presets))
    try:
        return _parse(json.dumps({"preset": next(iter(presets), DEFAULT_PRESET), "items": items}).encode())
    except RequestError as error:
        raise _renamed(error, names) from None


def _label(sent: Any, name: str) -> dict[str, Any]:
    label = sent
    if isinstance(sent, str):
        try:
            label = _json(sent)
        except ValueError:
            found = "JSON text that does not parse" if sent.strip() else "an empty text; is the column of labels set?"
            raise _wrong(name, _LABEL, found) from None
    if not isinstance(label, dict):
        raise _wrong(name, _LABEL, _kind(label) + (" in JSON text" if label is not sent else ""))
    if "response" in label:
        raise _refused(f"{name}.response", "a label has no response; it comes beside the label")
    if label.get("id") is not None and not isinstance(label["id"], str):
        raise _wrong(f"{name}.id", "a text", _kind(label["id"]))
    try:
        return without_nulls(label)
    except ValueError:
        raise _wrong(name, _LABEL, "one nested too deeply") from None


def _renamed(error: RequestError, names: Sequence[str]) -> RequestError:
    """The error with the names that the sender's body has for what is at fault."""
    fields = []
    for field in error.fields:
        head, _, rest = field["path"].partition(".")
        index, _, rest = rest.partition(".")
        known = head == "items" and index.isdigit()
        fields.append({**field, "path": f"{names[int(index)]}.{rest}".rstrip(".") if known else field["path"]})
    if not fields:
        return error
    more = f" (and {len(fields) - 1} more)" if len(fields) > 1 else ""
    message = f"the label does not fit: {fields[0]['path']}: {fields[0]['message']}{more}"
    return RequestError(error.status, message, fields)


def _object(body: bytes) -> dict[str, Any]:
    try:
        sent = _json(body)
    except ValueError:
        raise _wrong("", "a body that is a JSON object", "something else") from None
    if not isinstance(sent, dict):
        raise _wrong("", "a body that is a JSON object", _kind(sent))
    return sent


def _json(text: str | bytes) -> Any:
    """JSON as its standard has it, read; ValueError for all else."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _list(sent: dict[str, Any], name: str) -> list[Any]:
    value = sent.get(name)
    if not isinstance(value, list):
        raise _wrong(name, "a list", _kind(value) if name in sent else "no such field")
    return value


def _kind(value: Any) -> str:
    """What a value is, without the value itself, which may be a patient's text."""
    kinds = {
        str: "a text",
        bool: "true or false",
        int: "a number",
        float: "a number",
        list: "a list",
        dict: "an object",
    }
    return kinds.get(type(value), "null")


def _wrong(path: str, expected: str, found: str) -> RequestError:
    return _refused(path, f"expected {expected}, found {found}")


def _refused(path: str, message: str) -> RequestError:
    return RequestError(422, f"{path}: {message}" if path else message, [{"path": path, "message": message}])


ADAPTERS = {
    "score": Adapter(_parse, _render),
    "openrlhf": Adapter(_parse_openrlhf, _render_openrlhf),
    "slime": Adapter(_parse_slime, _render_slime),
}
