"""Asking servers for responses: token ids in, token ids with their log-probabilities and weights' versions out.

One request a response, in whatever order servers are free. What a server leaves unanswered is asked of the others, or
of it when it is back; a response that was not written by the weights that its server was handed is none. What was
broken off on purpose keeps its tokens, which are part of the prompt when it is gone on with. A thread of its own does
the asking, while rank 0's main thread looks after servers and weights, or trains.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from recipes.engines.base import NOTHING_YET, Completion, Sampling
from recipes.sampling.base import RolloutError
from recipes.sampling.vllm.servers import Fleet, Server, State, headers

# Requests on the way to one server; it queues what it does not compute yet.
_IN_FLIGHT = 512
# An engine answers between two of its steps.
_HEALTH_EVERY_S, _HEALTH_S = 5.0, 45.0
_LOOK_S = 0.1
_CONNECT_S = 10.0
# How often one response may be given up: too little time for it would not become more.
_MOST_FAILURES = 5
# A request that was on its way to the server when others were broken off is broken off a little later.
_BREAK_OFF_AGAIN_S = 0.5


@dataclass(frozen=True)
class Request:
    """One response to ask for.

    Attributes:
        prompt: token ids.
        parameters: vLLM's sampling parameters.
        salt: requests share the cache of prompts with those of the same one.
    """

    prompt: tuple[int, ...]
    parameters: dict[str, Any]
    salt: str | None = None

    def after(self, so_far: Completion) -> Request:
        """What is left to ask for once so much of the response is there; it draws by a seed of its own."""
        if not so_far.ids:
            return self
        count, changed = len(so_far.ids), dict(self.parameters)
        changed["max_tokens"] -= count
        if "seed" in changed:
            changed["seed"] = seed_of(changed["seed"], count, 0)
        return dataclasses.replace(self, prompt=self.prompt + so_far.ids, parameters=changed)


def requests(prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[Request]:
    """One for each response, prompt by prompt."""
    made = []
    for number, prompt in enumerate(prompts):
        limit = sampling.limits[number] if sampling.limits else sampling.max_new_tokens
        for copy in range(sampling.copies):
            made.append(Request(tuple(prompt), _parameters(sampling, number, copy, limit)))
    return made


def _parameters(sampling: Sampling, number: int, copy: int, limit: int) -> dict[str, Any]:
    parameters = {
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "max_tokens": limit,
        "stop_token_ids": list(sampling.stop_ids),
        # The end token of the model's files is a stop id like the others, where it is one.
        "ignore_eos": True,
        "logprobs": 0,
        "skip_special_tokens": False,
        "detokenize": bool(sampling.stop_strings),
    }
    if sampling.temperature:
        parameters["seed"] = seed_of(sampling.seed, number, copy)
    if sampling.stop_strings:
        parameters["stop"] = list(sampling.stop_strings)
    return parameters


def seed_of(seed: int, number: int, copy: int) -> int:
    """A response's own, of 63 bits: neighbours in any of the three share nothing (splitmix64, Steele et al. 2014)."""
    mixed = 0
    for part in (seed, number, copy):
        mixed = (mixed + part + 0x9E3779B97F4A7C15) & (2**64 - 1)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = ((mixed ^ (mixed >> shift)) * factor) & (2**64 - 1)
        mixed ^= mixed >> 31
    return mixed >> 1


def cut_at(
    completion: Completion, strings: Sequence[str], decode: Callable[[list[list[int]]], list[str]]
) -> Completion:
    """Ends a response with the token that completes a stop string, as the embedded sampler does.

    vLLM waits for whole characters: after a token that ends inside one it finds the string a token later, or never.
    """
    ids, tail = list(completion.ids), max(len(string.encode()) for string in strings) + 1
    texts = decode([ids[max(0, end - tail) : end] for end in range(1, len(ids) + 1)])
    end = next((n for n, text in enumerate(texts, 1) if any(string in text for string in strings)), None)
    if end is None or end == len(ids):
        found = end is not None
        return dataclasses.replace(
            completion, finished=completion.finished or found, partial=completion.partial and not found
        )
    return completion.until(end)


class AnswerError(RuntimeError):
    """An answer that is none."""


def read_answer(body: dict[str, Any], version: int, *, partial: bool = False) -> tuple[Completion, int]:
    """The completion in vLLM's answer, and how many of the prompt's tokens came from its prefix cache.

    Args:
        body: the answer.
        version: of the weights that are to have written it.
        partial: whether it may have been broken off.

    Raises:
        AnswerError: it was broken off, or written by other weights than `version`.
    """
    (choice,) = body["choices"]
    broken_off = partial and choice["finish_reason"] == "abort"
    if broken_off and not choice["token_ids"]:
        return NOTHING_YET, 0
    if choice["finish_reason"] not in ("stop", "length") and not broken_off:
        raise AnswerError(f"a response ended by {choice['finish_reason']}")
    spans = tuple((span["version"], span["end"] - span["start"]) for span in choice["weight_versions"] or ())
    if {found for found, _ in spans} != {str(version)}:
        raise AnswerError(f"a response by weights {[found for found, _ in spans]}, expected version {version}")
    ids, content = tuple(choice["token_ids"]), choice["logprobs"]["content"]
    if [entry["token_id"] for entry in content] != list(ids) or sum(count for _, count in spans) != len(ids):
        raise AnswerError("log-probabilities or versions that do not fit the tokens")
    completion = Completion(
        ids=ids,
        logprobs=tuple(entry["logprob"] for entry in content),
        finished=choice["finish_reason"] == "stop",
        versions=tuple((int(found), count) for found, count in spans),
        partial=broken_off,
    )
    details = (body.get("usage") or {}).get("prompt_tokens_details") or {}
    return completion, int(details.get("cached_tokens") or 0)


class Batch:
    """Requests on their way, from the constructor on.

    Args:
        fleet: whose current servers are asked.
        asked: the requests.
        timeout_s: of one response.
        so_far: what is there of each response already, from the first on; nothing of those behind.
        copies: responses of a group, which stand side by side.
        enough: groups; once so many are whole the others are broken off. None for all.

    Attributes:
        began, ended: seconds of the clock; when the first request was made, and when all was done.
    """

    def __init__(
        self,
        fleet: Fleet,
        asked: Sequence[Request],
        timeout_s: float,
        *,
        so_far: Sequence[Completion] = (),
        copies: int = 1,
        enough: int | None = None,
    ) -> None:
        self._fleet, self._asked, self._timeout_s = fleet, asked, timeout_s
        self._answers = [*so_far, *[NOTHING_YET] * (len(asked) - len(so_far))]
        self._waiting = deque(n for n, answer in enumerate(self._answers) if answer.partial)
        self._failed: Counter[int] = Counter()
        self._left = len(self._waiting)
        self._copies, self._enough = copies, enough
        # Responses that are yet to come, of each group that is not whole.
        self._open = Counter(number // copies for number in self._waiting)
        self._groups = -(-len(asked) // copies)
        # Each task with the name that its server knows its request by.
        self._busy: dict[Server, dict[asyncio.Task[None], str]] = {server: {} for server in fleet.servers}
        self._names = map("{}-{}".format, itertools.repeat(uuid.uuid4().hex), itertools.count())
        self._failure: Exception | None = None
        self._given_up = False
        self._held, self._still = False, threading.Event()
        self.began = self.ended = time.monotonic()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def done(self, wait_s: float) -> bool:
        """Whether all is answered or has failed, after at most so many seconds."""
        self._thread.join(wait_s)
        return not self._thread.is_alive()

    def answers(self) -> list[Completion]:
        """All of them, in order; once there are enough, some are partial.

        Raises:
            RolloutError: a server refused a request, as all would.
        """
        if self._failure is not None:
            raise self._failure
        return list(self._answers)

    def hold(self) -> None:
        """Begins to break off what servers write; nothing is asked for until `go_on`."""
        self._still.clear()
        self._held = True

    def wait_held(self) -> None:
        """Until no server writes any of it, at most as long as a server may take to answer."""
        while self._thread.is_alive() and not self._still.wait(_LOOK_S):
            pass

    def go_on(self) -> None:
        """Asks for what is left of the responses that were broken off, and for the others."""
        self._held = False

    def close(self) -> None:
        """Gives up what is not answered."""
        self._given_up = True
        self._thread.join()

    def _work(self) -> None:
        try:
            asyncio.run(self._ask_all())
        except Exception as error:
            self._failure = error
        self.ended = time.monotonic()

    async def _ask_all(self) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        timeout = httpx.Timeout(self._timeout_s, connect=_CONNECT_S, pool=None)
        async with httpx.AsyncClient(limits=limits, timeout=timeout, headers=headers()) as client:
            watch = asyncio.create_task(self._watch(client))
            try:
                while self._goes_on():
                    if self._held:
                        await self._break_off(client)
                        self._still.set()
                    else:
                        self._hand_out(client)
                    # What was begun first goes on first, before what is begun behind an update.
                    await asyncio.sleep(_LOOK_S if self._idle() and not self._held else 0.01)
                if self._left and not self._given_up and self._failure is None:  # there are enough
                    self._held = True
                    await self._break_off(client)
            finally:
                tasks = [watch, *self._tasks()]
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    def _goes_on(self) -> bool:
        enough = self._enough is not None and self._groups - len(self._open) >= self._enough
        return bool(self._left) and not enough and not self._given_up and self._failure is None

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [task for own in self._busy.values() for task in own]

    def _idle(self) -> bool:
        return not any(self._busy.values())

    def _take_back(self) -> None:
        for server, tasks in self._busy.items():
            if server.state is not State.CURRENT:
                for task in list(tasks):
                    task.cancel()

    async def _break_off(self, client: httpx.AsyncClient) -> None:
        """Has servers answer with what they have; of one that does not answer nothing is kept."""
        until = time.monotonic() + _HEALTH_S
        while (tasks := self._tasks()) and time.monotonic() < until:
            self._take_back()
            await asyncio.gather(*(_abort(client, server, list(own.values())) for server, own in self._busy.items()))
            await asyncio.wait(tasks, timeout=_BREAK_OFF_AGAIN_S)
        for task in (left := self._tasks()):
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def _hand_out(self, client: httpx.AsyncClient) -> None:
        """Gives waiting requests to servers, one each in turn, and takes back those of servers that are lost."""
        self._take_back()
        ready = self._fleet.of(State.CURRENT)
        while self._waiting and ready:
            ready = [server for server in ready if len(self._busy[server]) < _IN_FLIGHT]
            for server in ready[: len(self._waiting)]:
                own, name = self._busy[server], next(self._names)
                task = asyncio.create_task(self._ask(client, server, self._waiting.popleft(), name))
                own[task] = name
                task.add_done_callback(own.pop)

    async def _ask(self, client: httpx.AsyncClient, server: Server, number: int, name: str) -> None:
        version, whole, so_far = server.version, self._asked[number], self._answers[number]
        try:
            async with asyncio.timeout(self._timeout_s):
                body = await ask(client, server, whole.after(so_far), name)
            found = so_far.followed_by(read_answer(body, version, partial=self._held)[0])
            if found.partial and len(found.ids) < whole.parameters["max_tokens"]:
                self._answers[number] = found
                self._waiting.appendleft(number)
            else:
                self._answers[number] = dataclasses.replace(found, partial=False)
                self._left -= 1
                self._open = self._open - Counter({number // self._copies: 1})
        except RolloutError as error:
            self._failure = error
        except BaseException as error:
            self._waiting.appendleft(number)
            if isinstance(error, asyncio.CancelledError):
                raise
            self._failed[number] += 1
            said = _described(error, self._timeout_s)
            if self._failed[number] == _MOST_FAILURES:
                self._failure = RolloutError(
                    f"response {number} of {len(self._asked)} failed {_MOST_FAILURES} times, last at {server}: {said}; "
                    "see its log, and rollout.vllm.generate_timeout_s"
                )
            if isinstance(error, httpx.TransportError) and not isinstance(error, httpx.TimeoutException):
                # A connection that was kept for too long breaks off as well.
                await self._look(client, server)
            else:
                self._fleet.lost(server, said)

    async def _watch(self, client: httpx.AsyncClient) -> None:
        """Finds servers that hang: a response may take long, an answer to this may not."""
        while True:
            await asyncio.sleep(_HEALTH_EVERY_S)
            await asyncio.gather(*(self._look(client, server) for server in self._fleet.of(State.CURRENT)))

    async def _look(self, client: httpx.AsyncClient, server: Server) -> None:
        """Asks a server's engine something, over a connection of its own; its health is its front's alone."""
        try:
            async with asyncio.timeout(_HEALTH_S):
                answer = await client.get(f"{server.url}/is_paused", headers={"Connection": "close"})
                answer.raise_for_status()
        except (httpx.HTTPError, TimeoutError) as error:
            self._fleet.lost(server, _described(error, _HEALTH_S))


def _described(error: BaseException, timeout_s: float) -> str:
    if isinstance(error, TimeoutError | httpx.TimeoutException):
        return f"no answer within {timeout_s:.0f} s"
    return str(error) or type(error).__name__


async def ask(client: httpx.AsyncClient, server: Server, request: Request, name: str | None = None) -> dict[str, Any]:
    """vLLM's answer to one request, which may be broken off by its name.

    Raises:
        RolloutError: the request is refused.
        AnswerError, httpx.HTTPError: the server failed.
    """
    body = {"token_ids": request.prompt, "sampling_params": request.parameters, "cache_salt": request.salt}
    body |= {"request_id": name} if name else {}
    answer = await client.post(f"{server.url}/inference/v1/generate", json=body)
    if answer.status_code in (400, 404, 422):
        raise RolloutError(f"{server}: refused a request of {len(request.prompt)} tokens: {answer.text[:500]}")
    answer.raise_for_status()
    with contextlib.suppress(ValueError):
        found = answer.json()
        if isinstance(found, dict):
            return found
    raise AnswerError(f"no JSON object: {answer.text[:200]}")


async def _abort(client: httpx.AsyncClient, server: Server, names: Sequence[str]) -> None:
    """Has a server end requests of these names, which it answers with what it has of them."""
    # Without a name it would end all.
    if names:
        with contextlib.suppress(httpx.HTTPError, TimeoutError):
            async with asyncio.timeout(_CONNECT_S):
                body = {"request_ids": [f"generate-tokens-{name}" for name in names]}
                await client.post(f"{server.url}/abort_requests", json=body)
