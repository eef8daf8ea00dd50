"""Batches that servers are lost in, whose weights the trainer has moved on from, and that are broken off.

The servers are stand-ins with real sockets that answer as vLLM does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from recipes.engines.base import NOTHING_YET, Completion, Sampling
from recipes.runtime.config import Config
from recipes.sampling.vllm import client, sampler
from recipes.sampling.vllm.servers import Fleet, State
from tests.sampling.standin import PARTIAL, Standin

PROMPTS, WORDS_S = 6, 20.0


def _fleet(*servers: Standin) -> Fleet:
    config = Config()
    config.rollout.vllm.urls = [f"http://127.0.0.1:{server.port}" for server in servers]
    fleet = Fleet(config, None, None)  # type: ignore[arg-type]  # of servers that it starts
    for server, standin in zip(fleet.servers, servers, strict=True):
        server.state, server.version = State.CURRENT, standin.version
    return fleet


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WORDS_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def _batch(fleet: Fleet, copies: int = 1, **more: Any) -> client.Batch:
    asked = client.requests([(n + 1,) for n in range(PROMPTS // copies)], Sampling(copies, 1.0, 4, ()))
    return client.Batch(fleet, asked, timeout_s=30, copies=copies, **more)


def test_the_others_answer_by_the_batchs_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is back is left alone while another one holds these."""
    monkeypatch.setattr(sampler, "_WORD_S", 0.5)
    lost, other = Standin(3, most=1), Standin(3, most=2)
    fleet = _fleet(lost, other)
    batch = _batch(fleet)
    try:
        _until(lambda: batch._left == PROMPTS - 3)
        lost.close()
        _until(lambda: fleet.servers[0].state is State.STARTING)
        back = Standin(0, most=PROMPTS, port=lost.port)
        while not fleet.of(State.STALE):
            assert sampler._next_word(fleet, batch, same=False) == "wait"
        assert sampler._next_word(fleet, batch, same=False) == "wait"
        other.left.release(PROMPTS)
        assert sampler._next_word(fleet, batch, same=False) == "done"
        assert [answer.ids for answer in batch.answers()] == [(n + 1,) for n in range(PROMPTS)]
        assert {answer.versions for answer in batch.answers()} == {((3, 1),)}
        assert back.left._value == PROMPTS
    finally:
        batch.close()
        other.close()
        back.close()


@pytest.mark.parametrize("said", [4, 3])
def test_with_none_left_the_new_weights_write_the_rest(said: int) -> None:
    """And nothing counts but what they wrote: of a server that says another version than it was handed none does."""
    lost = Standin(3, most=2)
    fleet = _fleet(lost)
    batch = _batch(fleet)
    try:
        _until(lambda: batch._left == PROMPTS - 2)
        lost.close()
        [server] = fleet.servers
        _until(lambda: server.state is State.STARTING)
        back = Standin(said, most=PROMPTS, port=lost.port)
        assert sampler._next_word(fleet, batch, same=False) == "weights"
        assert server.state is State.STALE
        # As a hand-over does.
        server.version, server.state = 4, State.CURRENT
        if said == 3:
            _until(lambda: server.state is State.STARTING)
            assert server.said == "a response by weights ['3'], expected version 4"
            return
        assert sampler._next_word(fleet, batch, same=True) == "done"
        assert sorted(answer.versions for answer in batch.answers()) == [((3, 1),)] * 2 + [((4, 1),)] * (PROMPTS - 2)
        assert [answer.ids for answer in batch.answers()] == [(n + 1,) for n in range(PROMPTS)]
        assert batch.ended > batch.began
    finally:
        batch.close()
        back.close()


def test_new_weights_go_on_with_what_was_broken_off() -> None:
    """Its tokens are part of what is asked, within the limit of the whole; nothing is asked in between."""
    standin = Standin(3, most=2)
    fleet = _fleet(standin)
    batch = _batch(fleet)
    [server] = fleet.servers
    try:
        _until(lambda: batch._left == PROMPTS - 2 and len(standin.asked) == PROMPTS)
        batch.hold()
        batch.wait_held()
        assert not batch._tasks()
        assert [(c.ids, c.versions, c.partial) for c in batch.answers()].count(((PARTIAL,), ((3, 1),), True)) == 4
        standin.version, server.version = 4, 4
        standin.left.release(PROMPTS)
        assert len(standin.asked) == PROMPTS
        batch.go_on()
        _until(lambda: batch.done(0.1))
        for number, answer in enumerate(batch.answers(), 1):
            later = answer.versions == ((3, 1), (4, 2))
            assert later or answer.versions == ((3, 1),)
            assert answer.ids == ((PARTIAL, number, PARTIAL) if later else (number,))
            assert len(answer.logprobs) == len(answer.ids)
            assert (answer.finished, answer.partial) == (True, False)
        again = standin.asked[PROMPTS:]
        assert all(body["token_ids"][1:] == [PARTIAL] for body in again)
        assert [body["sampling_params"]["max_tokens"] for body in again] == [3] * 4
        assert len({body["sampling_params"]["seed"] for body in standin.asked}) == PROMPTS + 4
    finally:
        batch.close()
        standin.close()


def test_with_enough_whole_groups_the_rest_is_broken_off_and_may_be_gone_on_with() -> None:
    """Of the group that waits one response was there; it is not asked for again."""
    standin = Standin(3, most=PROMPTS)
    standin.slow = {1}
    fleet = _fleet(standin)
    there = Completion((9, 9), (-1.0, -1.0), True, ((2, 2),))
    batch = _batch(fleet, copies=2, so_far=[NOTHING_YET, there], enough=2)
    try:
        _until(lambda: batch.done(0.1))
        answers = batch.answers()
        assert [(c.ids, c.partial) for c in answers] == [
            *(((PARTIAL,), True), ((9, 9), False)),
            *(((n,), False) for n in (2, 2, 3, 3)),
        ]
        assert len(standin.asked) == PROMPTS - 1
        standin.slow = set()
        rest = _batch(fleet, copies=2, so_far=answers)
        _until(lambda: rest.done(0.1))
        assert [c.ids for c in rest.answers()[:2]] == [(PARTIAL, 1, PARTIAL), there.ids]
        assert len(standin.asked) == PROMPTS
    finally:
        batch.close()
        standin.close()


def test_a_server_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of what it wrote is kept."""
    monkeypatch.setattr(client, "_HEALTH_S", 0.3)
    standin = Standin(3, most=0, refuses={"/abort_requests": (500, "")})
    batch = _batch(_fleet(standin))
    try:
        _until(lambda: len(standin.asked) == PROMPTS)
        batch.hold()
        batch.wait_held()
        assert batch.answers() == [NOTHING_YET] * PROMPTS
        standin.left.release(2 * PROMPTS)
        batch.go_on()
        _until(lambda: batch.done(0.1))
        assert [answer.ids for answer in batch.answers()] == [(n + 1,) for n in range(PROMPTS)]
    finally:
        batch.close()
        standin.close()
