"""Scoring processes that hang, die or eat memory: every item gets its own status, and the next batch is served."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from reward_server.pool import ScorerPool
from reward_server.schema import RequestError
from tests.conftest import alive

OPTIONS = {"A": "Aspirin", "B": "Heparin", "C": "Warfarin", "D": "Alteplase"}
FAULTY = "tests.reward_server.faulty:VERIFIERS"


def body(*answers: str) -> bytes:
    items = [
        {
            "id": str(number),
            "task": "choice",
            "response": f"<think>t</think><answer>{answer}</answer>",
            "reference": {"answer": "C", "options": OPTIONS},
        }
        for number, answer in enumerate(answers)
    ]
    return json.dumps({"preset": "gated", "items": items}).encode()


def run(test: Callable[[ScorerPool], Awaitable[None]], **options: Any) -> None:
    """Runs a test with a pool in an event loop of its own, under a deadline, and looks that nothing is left."""

    async def guarded() -> None:
        pool = ScorerPool(**{"size": 1, "verifiers": FAULTY, "item_limit_s": 0.5, **options})
        await pool.start()
        try:
            await asyncio.wait_for(test(pool), 60)
        finally:
            pids = pool.pids
            await pool.close()
        assert not any(map(alive, pids))

    asyncio.run(guarded())


async def statuses(pool: ScorerPool, *answers: str) -> list[str]:
    answer = await pool.score("score", body(*answers))
    assert answer.status == 200, answer.body
    results = json.loads(answer.body)["results"]
    assert [result["id"] for result in results] == [str(number) for number in range(len(answers))]
    assert all((result["reward"] is None) == (result["status"] in ("timeout", "verifier_error")) for result in results)
    return [result["status"] for result in results]


def test_a_runaway_item_times_out_and_the_others_are_scored() -> None:
    async def test(pool: ScorerPool) -> None:
        (before,) = pool.pids
        began = time.monotonic()
        assert await statuses(pool, "C", "RUN AWAY", "A", "RAISE") == [
            *("correct", "timeout", "incorrect", "verifier_error"),
        ]
        assert time.monotonic() - began < 15
        assert pool.restarts == {"timeout": 1, "died": 0}
        assert pool.pids != [before]
        assert await statuses(pool, "C") == ["correct"]

    run(test)


def test_an_item_that_kills_its_process_is_a_verifiers_error() -> None:
    async def test(pool: ScorerPool) -> None:
        assert await statuses(pool, "A", "DIE", "C") == ["incorrect", "verifier_error", "correct"]
        assert pool.restarts == {"timeout": 0, "died": 2}

    run(test)


def test_an_item_that_eats_memory_harms_itself_alone() -> None:
    async def test(pool: ScorerPool) -> None:
        assert await statuses(pool, "EAT", "C") == ["verifier_error", "correct"]

    run(test)


def test_a_batch_of_runaways_costs_a_bounded_time() -> None:
    async def test(pool: ScorerPool) -> None:
        began = time.monotonic()
        assert await statuses(pool, "C", *["RUN AWAY"] * 20) == ["correct", *["timeout"] * 20]
        assert time.monotonic() - began < 30
        assert pool.restarts["timeout"] == 4

    run(test)


def test_a_process_killed_from_outside_loses_no_job() -> None:
    async def test(pool: ScorerPool) -> None:
        for killed in range(1, 4):
            jobs = [asyncio.create_task(statuses(pool, *["C", "A"] * 100)) for _ in range(20)]
            await asyncio.sleep(0.01)
            victim = pool.pids[0]
            os.kill(victim, signal.SIGKILL)
            for found in await asyncio.gather(*jobs):
                assert found == ["correct", "incorrect"] * 100
            while pool.pids[0] == victim:
                await asyncio.sleep(0.01)
            assert pool.restarts == {"timeout": 0, "died": killed}

    run(test, size=2)


def test_whatever_keeps_a_process_from_being_replaced_is_waited_out() -> None:
    """No file may be opened any more when the one process dies: 503 while that lasts, and scores afterwards."""

    async def test(pool: ScorerPool) -> None:
        files = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, files[1]))
        try:
            os.kill(pool.pids[0], signal.SIGKILL)
            while "Too many open files" not in pool.fault:
                await asyncio.sleep(0.01)
            with pytest.raises(RequestError, match="no scoring process runs") as refused:
                await pool.score("score", body("C"))
            assert (refused.value.status, refused.value.retry_after_s) == (503, 1)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, files)
        while pool.fault:
            await asyncio.sleep(0.01)
        assert await statuses(pool, "C") == ["correct"]

    run(test)


def test_a_process_of_another_release_scores_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was put in the place of the running one, as an update in place would: here a judge of another name."""

    async def test(pool: ScorerPool) -> None:
        async def replaced(judge: str) -> None:
            monkeypatch.setenv("MEDATRON_JUDGE_MODEL", judge)
            victim = pool.pids[0]
            os.kill(victim, signal.SIGKILL)
            while pool.pids in ([victim], []):
                await asyncio.sleep(0.01)

        await replaced("another")
        with pytest.raises(RequestError, match="presets, which are others on disk than when the server started") as no:
            await pool.score("score", body("C"))
        assert no.value.status == 503
        await replaced("")
        assert await statuses(pool, "C") == ["correct"]

    monkeypatch.setenv("MEDATRON_JUDGE_MODEL", "")
    run(test)


def test_no_request_waits_for_ever_and_none_is_scored_for_nobody() -> None:
    async def test(pool: ScorerPool) -> None:
        first = asyncio.create_task(pool.score("score", body("RUN AWAY")))
        await asyncio.sleep(0)
        gone: list[Callable[[], None]] = []
        abandoned = [asyncio.create_task(pool.score("score", body("RUN AWAY"), None, gone.append)) for _ in range(20)]
        waiting = asyncio.create_task(pool.score("score", body(*["RUN AWAY"] * 3)))
        await asyncio.sleep(0.1)
        for tell in gone:
            tell()
        assert {getattr(e, "status", e) for e in await asyncio.gather(*abandoned, return_exceptions=True)} == {400}
        assert pool.depth == 2
        late = await waiting
        assert (late.status, b"within 1 s" in late.body) == (503, True)
        assert (await first).status == 503 or pool.restarts["timeout"] > 0
        began = time.monotonic()
        while (await pool.score("score", body("C"))).status != 200:
            assert time.monotonic() - began < 20, "twenty abandoned runaways would take longer"

    run(test, request_limit_s=1.0, item_limit_s=2.0)


def test_a_stopped_process_is_replaced() -> None:
    """SIGSTOP stands for a process that is stuck where no item is to blame; nobody may wait for it for ever."""

    async def test(pool: ScorerPool) -> None:
        os.kill(pool.pids[0], signal.SIGSTOP)
        assert await statuses(pool, "C") == ["correct"]
        assert pool.restarts["timeout"] == 1

    run(test)


def test_a_full_queue_refuses_with_a_time_to_come_back() -> None:
    async def test(pool: ScorerPool) -> None:
        first = [asyncio.create_task(statuses(pool, "RUN AWAY")), asyncio.create_task(statuses(pool, "C"))]
        while pool.depth < 2:
            await asyncio.sleep(0)
        with pytest.raises(RequestError, match="waiting already") as refused:
            await pool.score("score", body("C"))
        assert (refused.value.status, refused.value.retry_after_s) == (429, 1)
        assert await asyncio.gather(*first) == [["timeout"], ["correct"]]
        assert await statuses(pool, "C") == ["correct"]

    run(test, queue_limit=2)


def test_what_cannot_be_read_is_refused_with_its_reason() -> None:
    async def test(pool: ScorerPool) -> None:
        for kind, sent, expected in (
            ("score", b"{", "items"),
            ("score", b"\x00\xff", "contract"),
            ("openrlhf", b"[]", "a JSON object"),
            ("slime", b'{"response": "x", "label": "no json"}', "JSON text"),
        ):
            answer = await pool.score(kind, sent)
            assert answer.status == 422, kind
            assert expected in json.loads(answer.body)["error"] or kind == "score"
        assert pool.restarts == {"timeout": 0, "died": 0}

    run(test)


def test_closing_answers_what_is_still_open() -> None:
    async def main() -> None:
        pool = ScorerPool(1, verifiers=FAULTY, item_limit_s=30)
        await pool.start()
        jobs = [asyncio.create_task(pool.score("score", body("RUN AWAY"))) for _ in range(3)]
        await asyncio.sleep(0.3)
        await pool.close()
        assert [answer.status for answer in await asyncio.wait_for(asyncio.gather(*jobs), 20)] == [503] * 3

    asyncio.run(main())
