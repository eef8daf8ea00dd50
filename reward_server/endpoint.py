"""A language model as a judge at an OpenAI-compatible endpoint: asked with repetitions, a deadline and a budget.

The judge of open answers (`reward_server.judge`) and that of an evaluation's reasoning (`recipes.evaluation.judging`)
ask through it. What a candidate wrote goes in `neutralised`: without anything that could pass for a verdict, for a turn
of the conversation or for a heading of the question. Left out: streaming.
"""

from __future__ import annotations

import asyncio
import html
import ipaddress
import math
import random
import re
import time
import unicodedata
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from reward_server.completion import Completion, UnclearError, UnusableError, read_completion
from reward_server.verifiers.plain import characters

_ATTEMPTS = 4
_FIRST_BACKOFF_S = 0.5
# With spaces and punctuation between letters and around a tag's name; the special tokens and names of chat templates,
# which an endpoint may read as its own; the headings of what a judge is told.
_MARKER = re.compile(
    r"[\W_]{0,3}".join("verdict") + r"|<[\W_]{0,8}candidate[^\w<>]{0,8}>?"
    r"|<\|[^<>|\n]{1,60}\|>|</?s>|<(?:bos|eos|pad|unk|sop)>|<(?:start|end)_of_[a-z_]{1,20}>|<\|turn>|<turn\|>|\[gMASK\]"
    r"|\[/?(?:INST|SYSTEM_PROMPT|PAD|EOS|EOT|SEP)\]|<</?SYS>>|</?(?:system|user|assistant|tool|instructions?)>"
    r"|^[\W_]{0,8}(?:system|user|assistant|human|developer|instructions?|question|right[\W_]{1,3}answers?|grader|judge"
    r"|judge?ment)[\W_]{0,3}:",
    re.IGNORECASE | re.MULTILINE,
)
# Of log-probabilities, the most that OpenAI's interface and vLLM give by default.
_TOP_TOKENS = 20
# The first may be a space.
_JUDGEMENT_TOKENS = 4
_SURE = 1.01
Messages = Sequence[dict[str, str]]


@dataclass(frozen=True)
class JudgeSettings:
    """Where the judge is and what it may cost.

    Attributes:
        url: base URL of the endpoint, such as http://node7:8001/v1.
        model: name of the model there.
        api_key: of the endpoint; local ones take any.
        deadline_s: seconds that one verdict may take, waiting for the budget and repetitions included.
        requests_per_minute, tokens_per_minute: the budget; tokens are those that the endpoint reports, or the most that
            a request may take where it reports none.
        concurrency: requests under way at a time.
    """

    url: str
    model: str
    api_key: str = "none"
    deadline_s: float = 60.0
    requests_per_minute: int = 600
    tokens_per_minute: int = 1_000_000
    concurrency: int = 16


class Endpoint:
    """Asks one endpoint; lives in one event loop."""

    def __init__(self, settings: JudgeSettings) -> None:
        self.settings = settings
        self._http = httpx.AsyncClient(
            trust_env=not is_inside(settings.url),
            headers={"Authorization": f"Bearer {settings.api_key}"},
            timeout=settings.deadline_s,
        )
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._budget = _Budget(settings.requests_per_minute, settings.tokens_per_minute)

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def ask(self, messages: Messages, *, max_tokens: int) -> str:
        """The reply, asked for again where the endpoint is busy or away; empty where it is no chat completion.

        Raises:
            TimeoutError: there is none within the deadline.
            httpx.HTTPError, httpx.InvalidURL: the endpoint refuses, or cannot be reached.
        """
        reply = await self._ask(messages, max_tokens)
        return reply.text if reply else ""

    async def first_token(self, messages: Messages) -> dict[str, float] | None:
        """The probabilities of the reply's first token that is more than space, by its text without spaces.

        Of the likeliest tokens alone; None where the endpoint gives no log-probabilities. Raises as
        `ask` does.
        """
        reply = await self._ask(messages, _JUDGEMENT_TOKENS, logprobs=True, top_logprobs=_TOP_TOKENS)
        if reply is None:
            return None
        try:
            token = next(each for each in reply.logprobs["content"] if each["token"].strip())
            found: dict[str, float] = {}
            for each in token["top_logprobs"]:
                text = each["token"].strip()
                found[text] = found.get(text, 0.0) + math.exp(each["logprob"])
        except (LookupError, TypeError, AttributeError, StopIteration, OverflowError):
            return None
        # Rounded, they may add up to a little more than 1; what is not a number is no more than anything.
        return found if found and all(0 <= share <= _SURE for share in found.values()) else None

    async def _ask(self, messages: Messages, max_tokens: int, **options: Any) -> Completion | None:
        """The chat completion, None where the answer is none."""
        async with asyncio.timeout(self.settings.deadline_s):
            return await self._answer(messages, max_tokens, options)

    async def _answer(self, messages: Messages, max_tokens: int, options: dict[str, Any]) -> Completion | None:
        settings = self.settings
        body = {"model": settings.model, "messages": messages, "temperature": 0.0, "max_tokens": max_tokens, **options}
        # A token has a character at least.
        most = sum(len(message["content"]) for message in messages) + max_tokens
        for attempt in range(_ATTEMPTS):
            if attempt:
                await asyncio.sleep(random.uniform(0.5, 1.0) * _FIRST_BACKOFF_S * 2**attempt)
            async with self._slots:
                spent = await self._budget.spend(most)
                try:
                    answer = await self._http.post(f"{settings.url.rstrip('/')}/chat/completions", json=body)
                except httpx.TransportError:
                    if attempt + 1 == _ATTEMPTS:
                        raise
                    continue
            if answer.status_code not in (408, 409, 429) and answer.status_code < 500:
                break
        answer.raise_for_status()
        try:
            reply = read_completion(answer, chat=True)
        except (UnclearError, UnusableError):
            return None
        if reply.total_tokens is not None:
            spent.tokens = reply.total_tokens
        return reply


def last_verdict(reply: str, words: Sequence[str]) -> str | None:
    """What stands behind the last `VERDICT:` of a judge's reply, as one of `words`; None where none does."""
    found: list[str] = re.findall(rf"VERDICT\s*:\s*\**\s*({'|'.join(words)})\b", reply, re.IGNORECASE)
    return found[-1].upper() if found else None


@dataclass
class _Spent:
    at: float
    tokens: int


class _Budget:
    """Requests and tokens of the last minute, whatever became of them."""

    def __init__(self, requests: int, tokens: int) -> None:
        self._requests, self._tokens = requests, tokens
        self._spent: deque[_Spent] = deque()
        self._turn = asyncio.Lock()

    async def spend(self, tokens: int) -> _Spent:
        """Waits until there is room for a request of at most `tokens`, first come, first served."""
        async with self._turn:
            while True:
                now = time.monotonic()
                while self._spent and self._spent[0].at < now - 60:
                    self._spent.popleft()
                taken = sum(each.tokens for each in self._spent)
                # One that is above the budget by itself has a minute of its own.
                if not self._spent or (len(self._spent) < self._requests and taken + tokens <= self._tokens):
                    self._spent.append(_Spent(now, tokens))
                    return self._spent[-1]
                await asyncio.sleep(min(1.0, self._spent[0].at + 60.01 - now))


def is_inside(url: str) -> bool:
    """Whether a judge is a part of the cluster, so that no proxy of the environment stands before it.

    That is a node's bare name, localhost, or an address that is not a public one; a name with a domain may be outside,
    and HTTPS_PROXY, HTTP_PROXY and NO_PROXY say how it is reached.
    """
    host = urlsplit(url).hostname or ""
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return "." not in host


def neutralised(text: str) -> str:
    """A candidate's answer without anything that could pass for the judge's own words, however it is spelt."""
    plain = characters(html.unescape(text))
    seen = "".join(c for c in plain if unicodedata.category(c) != "Cf")
    return _MARKER.sub("[...]", seen)
