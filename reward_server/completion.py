"""What a completion of an OpenAI-compatible endpoint says, of a chat or of a text that it goes on with.

The clients of the protocol read with it: the judge's (`reward_server.endpoint`) and an evaluation's
(`recipes.evaluation.endpoint`). How long they wait and how often they ask again is their own. Left out: streams,
several choices and calls of tools, none of which they ask for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

_SHOWN = 200
# Kinds of parts of a content that is a list, by what they hold: OpenAI's and Mistral's names.
_TEXT_PARTS, _REASONING_PARTS = ("text", "output_text"), ("thinking", "reasoning")


class UnclearError(RuntimeError):
    """No completion, as gateways give for a model that failed behind them; it may be one when asked for again."""


class UnusableError(RuntimeError):
    """A completion that holds something else than what was asked for, and would again; the message says what to do."""


@dataclass(frozen=True)
class Completion:
    """A completion.

    Attributes:
        text: what was written, without what follows.
        reasoning: where the endpoint gives that apart.
        reason: why it ended, such as stop, length or content_filter, where the endpoint tells.
        stopped: the string that ended it, where the endpoint tells; it is left out of `text`.
        model: what the endpoint calls the model that wrote it, where it tells.
        tokens, prompt_tokens, total_tokens: as the endpoint counts, where it does.
        logprobs: of the tokens, as the endpoint gives them where it was asked for them.
    """

    text: str
    reasoning: str
    reason: str | None
    stopped: str | None
    model: str | None
    tokens: int | None
    prompt_tokens: int | None
    total_tokens: int | None
    logprobs: Any


def read_completion(answer: httpx.Response, *, chat: bool) -> Completion:
    """The completion in an answer of status 200.

    Raises:
        UnclearError, UnusableError: see there.
    """
    if answer.text.lstrip().startswith(("data:", "event:", ": ")):
        raise UnusableError("streams its answer, which was not asked for; switch that off there")
    try:
        body = answer.json()
        choices = body["choices"]
        choice = choices[0]
        said = choice["message"] if chat else choice
        reason = choice.get("finish_reason")
        parts = _parts(said.get("content" if chat else "text"))
        apart = next((value for key in ("reasoning_content", "reasoning") if (value := said.get(key))), "")
        calls = said.get("tool_calls") or said.get("function_call")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise UnclearError("an answer that is no completion in JSON") from None
    if len(choices) > 1:
        raise UnusableError(f"gives {len(choices)} choices where one was asked for; take an endpoint that gives one")
    if calls or reason in ("tool_calls", "function_call"):
        raise UnusableError(
            "answers with a call of a tool, though none was offered, so that its text is not all that the model wrote; "
            "start the server without its tool parser"
        )
    if not isinstance(apart, str):
        raise UnclearError("an answer whose reasoning is no text")
    stopped, model, usage = choice.get("stop_reason"), body.get("model"), body.get("usage")
    return Completion(
        text=_plain(parts[0]),
        reasoning=_plain(apart or parts[1]),
        reason=reason[:_SHOWN] if isinstance(reason, str) else None,
        stopped=stopped if isinstance(stopped, str) else None,
        model=model if isinstance(model, str) and model else None,
        tokens=_count(usage, "completion_tokens"),
        prompt_tokens=_count(usage, "prompt_tokens"),
        total_tokens=_count(usage, "total_tokens"),
        logprobs=choice.get("logprobs"),
    )


def _parts(content: Any) -> tuple[str, str]:
    """Text and reasoning of a content: a text, none, or a list of parts."""
    if content is None or isinstance(content, str):
        return content or "", ""
    if not isinstance(content, list):
        raise UnclearError("an answer whose content is no text")
    text = reasoning = ""
    for part in content:
        kind = part["type"]
        if kind in _TEXT_PARTS:
            text += part["text"]
        elif kind in _REASONING_PARTS:
            inner = part[kind] if kind in part else part["text"]
            reasoning += inner if isinstance(inner, str) else _parts(inner)[0]
        else:
            raise UnusableError(f"answers with a part of type {str(kind)[:_SHOWN]}, where text was asked for")
    return text, reasoning


def _plain(text: str) -> str:
    """A text that a file can hold: half characters become question marks."""
    return text.encode("utf-8", "replace").decode()


def _count(usage: Any, name: str) -> int | None:
    value = usage.get(name) if isinstance(usage, Mapping) else None
    return value if type(value) is int and value >= 0 else None
