"""One answer of a model at an OpenAI-compatible endpoint: asked for again while it is busy or away, up to a deadline.

Chats go to /chat/completions, text to be gone on with to /completions. Left out: streaming, several answers a request
(each has a seed of its own, and is kept as it comes), and `max_completion_tokens`, which some hosted models want in
place of `max_tokens`.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from recipes.runtime.config import EndpointConfig
from reward_server.client.retry import name, retry_after
from reward_server.endpoint import is_inside

KEY = "MEDATRON_ENDPOINT_KEY"
_CONNECT_S = 10.0
_FIRST_BACKOFF_S, _MAX_BACKOFF_S = 0.5, 30.0
_BUSY = (408, 409, 425, 429)
# How often it is said that an answer is waited for, whatever the number of requests under way.
_TELL_EVERY_S = 10.0
_SHOWN = 300
# As OpenAI, vLLM, SGLang and llama.cpp say it.
_TOO_LONG = re.compile(r"context[_ ](?:length|size|window)", re.IGNORECASE)


class EndpointError(RuntimeError):
    """The endpoint cannot be asked, or gave no answer within its deadline; the message says what it said."""


class TooLongError(EndpointError):
    """The prompt and its answer are longer than the endpoint's model can read."""


class _UnclearError(RuntimeError):
    """An answer that is none, and may be one when asked for again."""


@dataclass(frozen=True)
class Reply:
    """What the model wrote.

    Attributes:
        text: without what follows.
        reasoning: where the endpoint gives that apart.
        tokens: that both took.
        cut: whether it ran into the limit.
        stopped: the string that ended it, where the endpoint tells; it is left out of `text`.
    """

    text: str
    reasoning: str
    tokens: int
    cut: bool
    stopped: str | None

    @property
    def response(self) -> str:
        """All of it, the reasoning between its tags; open where it was cut in the middle."""
        if not self.reasoning:
            return self.text
        open_ended = self.cut and not self.text
        return f"<think>{self.reasoning}" + ("" if open_ended else f"</think>{self.text}")


class Endpoint:
    """Asks one endpoint; lives in one event loop.

    Raises:
        EndpointError: the key is none that a header can hold.
    """

    def __init__(self, config: EndpointConfig) -> None:
        self._url, self._config = str(config.url).strip().rstrip("/"), config
        self._key = os.environ.get(KEY, "")
        if not (self._key.isascii() and self._key.isprintable()) or self._key != self._key.strip():
            raise EndpointError(f"{KEY}: holds characters that no header can; is a line end or a quote in it?")
        self._http = httpx.AsyncClient(
            trust_env=not is_inside(self._url),
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=httpx.Timeout(config.attempt_timeout_s, connect=min(_CONNECT_S, config.attempt_timeout_s)),
            limits=httpx.Limits(max_connections=config.concurrency, max_keepalive_connections=config.concurrency),
        )
        self._told = -_TELL_EVERY_S

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def ask(self, prompt: str | list[dict[str, str]], parameters: Mapping[str, Any]) -> Reply:
        """The model's answer to a chat, or what it goes on with behind a text.

        Args:
            prompt: messages, or text.
            parameters: of the request beside model and prompt, `max_tokens` among them.

        Raises:
            TooLongError: see there.
            EndpointError: it refuses the request, or gave no answer within `total_timeout_s`.
        """
        chat = not isinstance(prompt, str)
        place = f"{self._url}/{'chat/completions' if chat else 'completions'}"
        body = {"model": self._config.model, "messages" if chat else "prompt": prompt, **parameters}
        began, tries = time.monotonic(), 0
        while True:
            left = began + self._config.total_timeout_s - time.monotonic()
            wait = min(_MAX_BACKOFF_S, _FIRST_BACKOFF_S * 2 ** min(tries, 10)) * random.uniform(0.5, 1.0)
            try:
                async with asyncio.timeout(min(self._config.attempt_timeout_s, left)):
                    answer = await self._http.post(place, json=body)
                if answer.status_code == 200:
                    return _read(answer, chat, int(parameters["max_tokens"]))
                self._check(place, answer)
                said, wait = self._described(answer), max(wait, retry_after(answer))
            except (TimeoutError, httpx.TimeoutException):
                said = f"no answer within {min(self._config.attempt_timeout_s, left):.0f} s"
            except (httpx.TransportError, httpx.DecodingError, _UnclearError) as error:
                said = name(error) if isinstance(error, httpx.HTTPError) else str(error)
            tries += 1
            left = began + self._config.total_timeout_s - time.monotonic()
            if left <= wait:
                raise EndpointError(
                    f"{place}: no answer in {tries} attempts and {time.monotonic() - began:.0f} s, at last: {said}; "
                    "see its log, and evaluation.endpoint.total_timeout_s"
                )
            self._tell(f"waiting for {place}: {said}; attempt {tries} failed, next in {wait:.1f} s")
            await asyncio.sleep(wait)

    def _check(self, place: str, answer: httpx.Response) -> None:
        """Raises EndpointError where asking again would not help."""
        status = answer.status_code
        if status in _BUSY or status >= 500:
            return
        said = self._described(answer)
        if status in (400, 413, 422) and _TOO_LONG.search(answer.text):
            raise TooLongError(f"{place}: {said}")
        fixes = {
            401: f"set {KEY} to the endpoint's key",
            403: f"set {KEY} to a key that may use the model",
            404: "look at evaluation.endpoint.url, which often ends in /v1, and evaluation.endpoint.model",
        }
        raise EndpointError(f"{place}: {said}; {fixes.get(status, 'mend what it refuses and start again')}")

    def _described(self, answer: httpx.Response) -> str:
        """Status and message; an endpoint may repeat the key that it was sent."""
        try:
            found = answer.json()
            error = found.get("error", found)
            said = error.get("message", error) if isinstance(error, dict) else error
        except (ValueError, AttributeError, RecursionError):
            said = answer.text or answer.reason_phrase
        said = " ".join(str(said).split())
        if self._key:
            said = said.replace(self._key, "***")
        return f"HTTP {answer.status_code}: {said[:_SHOWN]}"

    def _tell(self, line: str) -> None:
        if time.monotonic() - self._told >= _TELL_EVERY_S:
            self._told = time.monotonic()
            print(line, file=sys.stderr, flush=True)


def _read(answer: httpx.Response, chat: bool, limit: int) -> Reply:
    """The reply in an answer of status 200.

    Raises:
        _UnclearError: it is none, as gateways give for a model that failed behind them.
        EndpointError: it is one of an endpoint that no evaluation can use.
    """
    try:
        body = answer.json()
        choice = body["choices"][0]
        said = choice["message"] if chat else choice
        text, reasoning = _text(said, "content" if chat else "text"), _text(said, "reasoning_content", "reasoning")
        reason = choice["finish_reason"]
        if reason not in ("stop", "length", "content_filter", "tool_calls"):
            raise _UnclearError(f"an answer that ended by {str(reason)[:_SHOWN]}")
    except (ValueError, LookupError, TypeError, RecursionError):
        raise _UnclearError("an answer that is no completion in JSON") from None
    usage = body.get("usage")
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    if type(tokens) is not int or tokens < 0:
        raise EndpointError(f"{answer.request.url}: tells no usage.completion_tokens, which an evaluation counts")
    if tokens > limit or (not tokens and (text or reasoning)):
        raise EndpointError(
            f"{answer.request.url}: counts {tokens} tokens in an answer of {len(text + reasoning)} characters, asked "
            f"for with max_tokens={limit}; take an endpoint that keeps max_tokens and counts what it writes"
        )
    stopped = choice.get("stop_reason")
    return Reply(text, reasoning, tokens, reason == "length", stopped if isinstance(stopped, str) else None)


def _text(message: Mapping[str, Any], *names: str) -> str:
    """The first of these that is there, as a text that a file can hold: half characters become question marks.

    What a reasoning parser takes out of the text has two names.
    """
    found = next((value for key in names if (value := message.get(key))), "")
    if not isinstance(found, str):
        raise _UnclearError(f"an answer whose {names[0]} is no text")
    return found.encode("utf-8", "replace").decode()
