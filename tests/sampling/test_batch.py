"""Servers that are lost in the middle of a batch whose weights the trainer has moved on from.

The servers are stand-ins with real sockets that answer as vLLM does.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from recipes.engines.base import Sampling
from recipes.runtime.config import Config
from recipes.sampling.vllm import client, sampler
from recipes.sampling.vllm.servers import Fleet, State
from tests.sampling.standin import Standin

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


def _batch(fleet: Fleet) -> client.Batch:
    asked = client.requests([(n + 1,) for n in range(PROMPTS)], Sampling(1, 1.0, 4, ()))
    return client.Batch(fleet, asked, timeout_s=30)


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
        assert batch.seconds > 0
    finally:
        batch.close()
        back.close()
