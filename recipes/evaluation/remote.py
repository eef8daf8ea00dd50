"""A model behind an OpenAI-compatible endpoint as the respondent: many requests under way, answers as they come.

With `data.template=chat` the endpoint's own chat template makes the prompts. Whether these are longer than the model
can read, only the endpoint knows; a question that it refuses for that is left out.

A think budget asks twice: for the reasoning, and, closed where it is still open, for the rest. Behind a chat that wants
an endpoint that goes on with an assistant's message (`continue_final_message`, as vLLM and SGLang do); one that does
not would answer to it in a turn of its own, and is found out before anything is asked.
"""

from __future__ import annotations

import asyncio
import dataclasses
import queue
import random
import sys
import threading
from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence, Set
from typing import Any

from conversion.evaluation import ENDPOINT
from recipes.data.prompts import STOPS, base_text, messages, opened
from recipes.data.variants import Asked
from recipes.evaluation.asking import Answer, Key, opens_thinking
from recipes.evaluation.endpoint import Endpoint, EndpointError, Reply, TooLongError
from recipes.rollout.prompts import DataError, prompt_form
from recipes.runtime.config import Config, EndpointConfig

_LONGEST_PORTION = 256
_LOOK_S = 0.1
_GOING_ON = {"add_generation_prompt": False, "continue_final_message": True}


class Remote:
    """See `recipes.evaluation.asking.Respondent`."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._form = prompt_form(config)
        # What the prompt has begun of the response, as far as it is ours and not the endpoint's chat template's.
        self._opened = opened(self._form.style.text("before_answer")) if config.data.template == "base" else ""
        self._asked: Sequence[Asked] = ()
        self._prompts: list[list[dict[str, str]]] = []
        self.left_out: set[int] = set()

    def about(self) -> dict[str, Any]:
        """See `Respondent.about`; an endpoint shows no weights."""
        endpoint = self._config.evaluation.endpoint
        name = f"{endpoint.model} at {str(endpoint.url).rstrip('/')}"
        return {"checkpoint": name, "weights": f"{ENDPOINT}{name}"}

    def prepare(self, asked: Sequence[Asked]) -> None:
        """See `Respondent.prepare`."""
        form = self._form
        if not asked:
            raise DataError("no data files are named; give them as data.test=[FILE,...]")
        self._asked = asked
        self._prompts = [
            messages(each.example, dataclasses.replace(form, length=each.length or form.length)) for each in asked
        ]

    def answers(self, done: Set[Key]) -> Generator[list[Answer]]:
        """See `Respondent.answers`. Left early, or by an error, it gives up what is under way."""
        samples = range(self._config.evaluation.samples)
        wanted = [key for n in range(len(self._asked)) for s in samples if (key := (n, s)) not in done]
        asking = _Asking(self._config.evaluation.endpoint, self._check_goes_on, self._ask, wanted)
        try:
            yield from asking.portions()
        finally:
            asking.close()
        if len(self.left_out) == len(self._asked):
            raise DataError("every question is longer than the endpoint's model can read; lower rollout.max_new_tokens")

    async def _check_goes_on(self, endpoint: Endpoint) -> None:
        """Refuses an endpoint that takes no notice of `continue_final_message`, where a think budget needs it.

        One that does leaves out the end of the assistant's turn and the head of the next, which are tokens of a prompt.

        Raises:
            EndpointError: its prompt has as many tokens whether it goes on or not.
        """
        if self._config.evaluation.max_think_tokens is None or self._config.data.template == "base":
            return
        chat = [{"role": "user", "content": "Count to three."}, {"role": "assistant", "content": "One, two,"}]
        one = {"max_tokens": 1, "temperature": 0.0}
        counts = [(await endpoint.ask(chat, {**one, **more})).prompt_tokens for more in (_GOING_ON, {})]
        if None in counts:
            print(
                "the endpoint does not count the tokens of prompts (usage.prompt_tokens): nothing tells whether it "
                "goes on with an answer whose think budget is spent",
                file=sys.stderr,
                flush=True,
            )
        elif counts[0] == counts[1]:
            raise EndpointError(
                f"{self._config.evaluation.endpoint.url}: takes no notice of continue_final_message, so that no answer "
                "can go on behind a think budget; leave out evaluation.max_think_tokens, take data.template=base, or "
                "serve the model with vLLM or SGLang"
            )

    async def _ask(self, endpoint: Endpoint, key: Key) -> Answer | None:
        """One answer; None where the question is too long."""
        number, sample = key
        if number in self.left_out:
            return None
        try:
            reply = await self._reply(endpoint, key)
        except TooLongError:
            self.left_out.add(number)
            return None
        text = self._opened + reply.response
        if "</think>" in text and "<think>" not in text:
            text = "<think>" + text  # the endpoint's chat template has written it
        return Answer(number, sample, text, reply.tokens, reply.cut, reply.filtered, reply.model)

    async def _reply(self, endpoint: Endpoint, key: Key) -> Reply:
        chat, budget = self._prompts[key[0]], self._config.evaluation.max_think_tokens
        limit = self._config.rollout.max_new_tokens
        base = self._config.data.template == "base"
        prompt: str | list[dict[str, str]] = base_text(chat, self._form) if base else chat
        begun = await endpoint.ask(prompt, self._parameters(key, budget or limit, "begun"))
        if budget is None or not begun.cut:
            return self._closed(begun, begun.response)
        text = begun.response
        if opens_thinking(self._opened + text):
            text += "</think>"
        parameters = self._parameters(key, max(1, limit - begun.tokens), "ended")
        if isinstance(prompt, str):
            prompt += text
        else:
            prompt = [*prompt, {"role": "assistant", "content": text}]
            parameters |= _GOING_ON
        rest = await endpoint.ask(prompt, parameters)
        whole = dataclasses.replace(rest, tokens=begun.tokens + rest.tokens)
        # A reasoning parser takes all for reasoning that has no tag behind it.
        return self._closed(whole, text + rest.reasoning + rest.text)

    def _closed(self, reply: Reply, text: str) -> Reply:
        """With the stop string that ended it, which endpoints leave out."""
        for stop in STOPS[self._config.data.template]:
            opened = text.rfind(stop.replace("/", "")) > text.rfind(stop)
            if opened and not reply.cut and reply.stopped in (None, stop):
                text += stop
        return dataclasses.replace(reply, text=text, reasoning="")

    def _parameters(self, key: Key, limit: int, part: str) -> dict[str, Any]:
        """Of a request; the seed is the answer's own."""
        evaluation, asked = self._config.evaluation, self._asked[key[0]]
        parameters: dict[str, Any] = {"max_tokens": limit, "temperature": evaluation.temperature}
        if evaluation.temperature:
            name = f"{self._config.seed}/{asked.example.id}/{asked.variant}/{key[1]}/{part}"
            parameters["seed"] = random.Random(name).getrandbits(31)
        if evaluation.top_k:
            parameters["top_k"] = evaluation.top_k
        if evaluation.top_p < 1:
            parameters["top_p"] = evaluation.top_p
        if stops := STOPS[self._config.data.template]:
            parameters["stop"] = list(stops)
        return parameters


class _Asking:
    """The requests of an evaluation on their way, in a thread of their own, from the constructor on."""

    def __init__(
        self,
        settings: EndpointConfig,
        check: Callable[[Endpoint], Awaitable[None]],
        ask: Callable[[Endpoint, Key], Awaitable[Answer | None]],
        wanted: Sequence[Key],
    ) -> None:
        self._settings, self._check, self._ask, self._wanted = settings, check, ask, wanted
        # Answers, the error that ended it, or None at its end.
        self._come: queue.SimpleQueue[Answer | Exception | None] = queue.SimpleQueue()
        self._given_up = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def portions(self) -> Iterator[list[Answer]]:
        """What has come, as soon as there is any; raises what ended it, once all that came before is handed out."""
        while True:
            portion: list[Answer] = []
            found = self._come.get()
            while isinstance(found, Answer):
                portion.append(found)
                if self._come.empty() or len(portion) == _LONGEST_PORTION:
                    break
                found = self._come.get()
            if portion:
                yield portion
            if isinstance(found, Exception):
                raise found
            if found is None:
                return

    def close(self) -> None:
        """Gives up what is not answered."""
        self._given_up.set()
        self._thread.join()

    def _work(self) -> None:
        try:
            asyncio.run(self._ask_all())
        except Exception as error:
            self._come.put(error)
        else:
            self._come.put(None)

    async def _ask_all(self) -> None:
        endpoint, left = Endpoint(self._settings), iter(self._wanted)
        count = min(self._settings.concurrency, len(self._wanted))
        workers: list[asyncio.Task[None]] = []
        try:
            if self._wanted:
                await self._check(endpoint)
            workers += [asyncio.create_task(self._ask_some(endpoint, left)) for _ in range(count)]
            while (busy := [worker for worker in workers if not worker.done()]) and not self._given_up.is_set():
                ended, _ = await asyncio.wait(busy, timeout=_LOOK_S, return_when=asyncio.FIRST_EXCEPTION)
                for worker in ended:
                    await worker
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            await endpoint.close()

    async def _ask_some(self, endpoint: Endpoint, left: Iterator[Key]) -> None:
        for key in left:
            answer = await self._ask(endpoint, key)
            if answer is not None:
                self._come.put(answer)
