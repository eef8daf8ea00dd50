"""Users of other frameworks: the bodies that theirs send, the functions that theirs call, and the asyncio client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from reward_server.client import AsyncRewardClient, RewardClient, RewardServerUnavailable, ScoreItem, frameworks
from reward_server.process import RewardServerProcess

OPTIONS = {"A": "Aspirin", "B": "Heparin", "C": "Warfarin", "D": "Alteplase"}
LABEL: dict[str, Any] = {"task": "choice", "reference": {"answer": "C", "options": OPTIONS}}
RIGHT, WRONG = (f"<think>t</think><answer>{letter}</answer>" for letter in "CA")


def post(server: RewardServerProcess, path: str, body: Any) -> httpx.Response:
    return httpx.post(f"{server.url}{path}", json=body, trust_env=False, timeout=20)


def test_openrlhf(server: RewardServerProcess) -> None:
    body = {"query": ["Q" + RIGHT, "Q" + WRONG], "prompts": ["Q", "Q"], "labels": [json.dumps(LABEL), LABEL]}
    answer = post(server, "/get_reward", body)
    assert answer.json() == {"rewards": [1.0, 0.1], "scores": [1.0, 0.0], "extra_logs": {"accuracy": [1.0, 0.0]}}
    body["labels"] = [{**LABEL, "preset": "med_rlvr"}] * 2
    assert post(server, "/get_reward", body).json()["rewards"] == [1.0, 0.0]
    refused = post(server, "/get_reward", {**body, "prompts": ["Q"]})
    assert (refused.status_code, "one length" in refused.json()["error"]) == (422, True)


def test_slime(server: RewardServerProcess) -> None:
    assert post(server, "/remote_rm", {"prompt": "Q", "response": RIGHT, "label": json.dumps(LABEL)}).json() == 1.0
    assert post(server, "/remote_rm", {"prompt": "Q", "response": WRONG, "label": LABEL}).json() == 0.1
    refused = post(server, "/remote_rm", {"prompt": "Q", "response": RIGHT, "label": "C"})
    assert (refused.status_code, "JSON text" in refused.json()["error"]) == (422, True)


@pytest.fixture
def configured(server: RewardServerProcess, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("MEDATRON_REWARD_URL", server.url)
    frameworks._client.cache_clear()
    yield
    frameworks._client.cache_clear()


def test_trl(configured: None) -> None:
    references = [LABEL["reference"], json.dumps(LABEL["reference"])]
    columns: dict[str, Any] = {"task": ["choice", "choice"], "reference": references}
    chats = [[{"role": "assistant", "content": text}] for text in (RIGHT, WRONG)]
    assert frameworks.trl_reward(["Q", "Q"], chats, **columns, trainer_state=None) == [1.0, 0.1]
    # Arrow fills the options that other rows have with None.
    padded = {"answer": "C", "options": {**OPTIONS, "E": None}}
    assert frameworks.trl_reward(["Q"], [RIGHT], task=["choice"], reference=[padded]) == [1.0]


def test_verl(configured: None) -> None:
    found = frameworks.compute_score("medqa", RIGHT, json.dumps(LABEL), extra_info={"split": "train"})
    assert found == {"score": 1.0, "answer": 1.0, "format": 1.0, "length": 0.0}


def items(count: int) -> list[ScoreItem]:
    return [ScoreItem(str(n), "choice", (RIGHT, WRONG)[n % 2], LABEL["reference"]) for n in range(count)]


def test_the_asyncio_client_scores_in_order(server: RewardServerProcess) -> None:
    async def main() -> None:
        async with AsyncRewardClient(server.url, total_timeout_s=30) as client:
            _, scores = await client.score("gated", items(1500))
            assert [score.id for score in scores] == [str(n) for n in range(1500)]
            assert [score.reward for score in scores] == [1.0, 0.1] * 750
            with pytest.raises(ValueError, match="unique"):
                await client.score("gated", items(1) * 2)

    asyncio.run(main())


def test_a_dead_replica_is_passed_over(server: RewardServerProcess) -> None:
    dead = "http://127.0.0.1:9"
    told: list[str] = []
    with RewardClient([dead, server.url], total_timeout_s=20, on_retry=told.append) as client:
        for _ in range(2):
            assert [score.reward for score in client.score("gated", items(2))[1]] == [1.0, 0.1]
    assert told
    assert all(dead in line for line in told)

    async def main() -> None:
        async with AsyncRewardClient([dead, server.url], total_timeout_s=20) as client:
            assert len((await client.score("gated", items(1100)))[1]) == 1100
        async with AsyncRewardClient(dead, total_timeout_s=0.5) as client:
            with pytest.raises(RewardServerUnavailable, match="ConnectError"):
                await client.score("gated", items(1))

    asyncio.run(main())
