"""One answer of a model at an OpenAI-compatible endpoint: asked for again while it is busy or away, up to a deadline.

Chats go to /chat/completions, text to be gone on with to /completions; `reward_server.completion` reads what comes.
Left out: streaming, several answers a request (each has a seed of its own, and is kept as it comes), and
`max_completion_tokens`, which some hosted models want in place of `max_tokens`.
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
from reward_server.completion import Completion, UnclearError, UnusableError, read_completion
from reward_server.endpoint import is_inside

KEY = "MEDATRON_ENDPOINT_KEY"
_CONNECT_S = 10.0
_LEAST_S = 0.1
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


@dataclass(frozen=True)
class Reply:
    """What the model wrote.

    Attributes:
        text: without what follows.
        reasoning: where the endpoint gives that apart.
        tokens: that both took.
        cut: whether it ran into the limit.
        stopped: the string that ended it, where the endpoint tells; it is left out of `text`.
        filtered: whether a filter of the endpoint's withheld it, or the rest of it.
        model: what the endpoint calls the model that wrote it, where it tells.
        prompt_tokens: of what was asked, where the endpoint counts them.
    """

    text: str
    reasoning: str
    tokens: int
    cut: bool
    stopped: str | None
    filtered: bool = False
    model: str | None = None
    prompt_tokens: int | None = None

    @property
    def response(self) -> str:
        """All of it, the reasoning between its tags; open where it was cut in the middle.

        Some endpoints give the reasoning apart and leave it in the text too.
        """
        if not self.reasoning or self.text.lstrip().startswith("<think>"):
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
        body = {"model": self._config.model, "messages" if chat else "prompt": prompt, "stream": False, **parameters}
        began, tries = time.monotonic(), 0
        while True:
            # A sleep may be longer than asked for; an attempt without any time would hide what the last one met.
            left = max(_LEAST_S, began + self._config.total_timeout_s - time.monotonic())
            wait = min(_MAX_BACKOFF_S, _FIRST_BACKOFF_S * 2 ** min(tries, 10)) * random.uniform(0.5, 1.0)
            try:
                async with asyncio.timeout(min(self._config.attempt_timeout_s, left)):
                    answer = await self._http.post(place, json=body)
                if answer.status_code == 200:
                    return _reply(read_completion(answer, chat=chat), int(parameters["max_tokens"]))
                self._check(place, answer)
                said, wait = self._described(answer), max(wait, retry_after(answer))
            except (TimeoutError, httpx.TimeoutException):
                said = f"no answer within {min(self._config.attempt_timeout_s, left):.0f} s"
            except (httpx.TransportError, httpx.DecodingError, UnclearError) as error:
                said = name(error) if isinstance(error, httpx.HTTPError) else str(error)
            except UnusableError as error:
                raise EndpointError(f"{place}: {error}") from None
            tries += 1
            if began + self._config.total_timeout_s - time.monotonic() <= wait:
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


def _reply(found: Completion, limit: int) -> Reply:
    """The reply of a completion.

    Raises:
        UnclearError: why it ended, it does not say.
        UnusableError: it is one of an endpoint that no evaluation can use.
    """
    if found.reason not in ("stop", "length", "content_filter"):
        raise UnclearError(f"an answer that ended by {found.reason}")
    tokens, written = found.tokens, len(found.text + found.reasoning)
    if tokens is None:
        raise UnusableError("tells no usage.completion_tokens, which an evaluation counts")
    if tokens > limit or (not tokens and written):
        raise UnusableError(
            f"counts {tokens} tokens in an answer of {written} characters, asked for with max_tokens={limit}; take an "
            "endpoint that keeps max_tokens and counts what it writes"
        )
    return Reply(
        text=found.text,
        reasoning=found.reasoning,
        tokens=tokens,
        cut=found.reason == "length",
        stopped=found.stopped,
        filtered=found.reason == "content_filter",
        model=found.model,
        prompt_tokens=found.prompt_tokens,
    )
