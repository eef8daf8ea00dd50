"""Users of other frameworks: the bodies that theirs send, the functions that theirs call, and the asyncio client."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
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


@pytest.mark.parametrize(
    ("label", "path", "reason"),
    [
        (None, "labels.0", "found null"),
        ("", "labels.0", "is the column of labels set?"),
        (3, "labels.0", "found a number"),
        (True, "labels.0", "found true or false"),
        ([LABEL], "labels.0", "found a list"),
        ("C", "labels.0", "does not parse"),
        ("[" * 100_000, "labels.0", "does not parse"),
        (json.loads('{"a":' * 900 + "1" + "}" * 900), "labels.0", "nested too deeply"),
        ('{"task": NaN}', "labels.0", "does not parse"),
        ('"C"', "labels.0", "found a text in JSON text"),
        (json.dumps([LABEL]), "labels.0", "found a list in JSON text"),
        ({}, "labels.0", "task"),
        ({"task": "choice"}, "labels.0.reference", "required"),
        ({**LABEL, "preset": ["gated"]}, "labels.0.preset", "found a list"),
        ({**LABEL, "preset": "poem"}, "labels.0.preset", "gated, med_u1"),
        ({**LABEL, "id": 7}, "labels.0.id", "expected a text"),
        ({**LABEL, "response": RIGHT}, "labels.0.response", "beside the label"),
        ({**LABEL, "reference": "C"}, "labels.0.reference", "be an object"),
        ({**LABEL, "reference": {"answer": 3, "options": OPTIONS}}, "labels.0.reference.answer", "valid string"),
        ({**LABEL, "format": "loose"}, "labels.0.format", "strict"),
        ({"task": "number", "reference": {"answer": 10**400, "rounding": "integer"}}, "labels.0.reference", ""),
    ],
)
def test_a_label_of_a_wrong_kind_is_named(server: RewardServerProcess, label: Any, path: str, reason: str) -> None:
    bodies = {
        "/get_reward": ({"query": ["Q" + RIGHT], "prompts": ["Q"], "labels": [label]}, path),
        "/remote_rm": ({"prompt": "Q", "response": RIGHT, "label": label}, path.replace("labels.0", "label")),
    }
    for url, (body, named) in bodies.items():
        refused = post(server, url, body)
        assert refused.status_code == 422, refused.text
        assert refused.json()["fields"][0]["path"].startswith(named)
        assert named in refused.json()["error"]
        assert reason in refused.json()["error"]
        assert "items." not in refused.text


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"labels": None}, "labels"),
        ({"query": "Q" + RIGHT}, "query"),
        ({"query": [None]}, "query.0"),
        ({"query": [["Q", RIGHT]]}, "query.0"),
        ({"query": [RIGHT]}, "query.0"),
        ({"prompts": [None]}, "prompts.0"),
        ({"prompts": [[]]}, "prompts.0"),
        ({"prompts": [[{"content": "Q"}]]}, "prompts.0"),
        ({"prompts": [""]}, "query.0"),
        ({"prompts": ["Q", "Q"]}, ""),
    ],
)
def test_openrlhf_bodies_of_a_wrong_kind_are_named(
    server: RewardServerProcess, changes: dict[str, Any], path: str
) -> None:
    body = {"query": ["Q" + RIGHT], "prompts": ["Q"], "labels": [LABEL]}
    refused = post(server, "/get_reward", {**body, **changes})
    assert (refused.status_code, refused.json()["fields"][0]["path"]) == (422, path)
    assert post(server, "/get_reward", [body]).status_code == 422


def test_tokens_left_in_change_no_reward_under_the_default_preset(server: RewardServerProcess) -> None:
    prompt = "<|im_start|>user\nThink between <think> and </think>.<|im_end|>\n<|im_start|>assistant\n"
    # Eight copies of one label, its id included, as a group has them.
    queries = [
        prompt + RIGHT + "<|im_end|>",
        "<|endoftext|><|endoftext|>" + prompt + RIGHT,
        prompt[25:] + RIGHT + "<|im_end|><|endoftext|>",
        prompt + WRONG + "<|im_end|>",
        prompt + RIGHT + "<|im_end|>\n<|im_start|>user",
        prompt + "<answer>C</answer><|im_end|>",
        prompt + "<|im_end|>",
        prompt + "So: " + RIGHT,
    ]
    labels = [{**LABEL, "id": "q1", "reference": {"answer": "C", "options": {**OPTIONS, "E": None}}}] * 8
    answer = post(server, "/get_reward", {"query": queries, "prompts": [prompt] * 8, "labels": labels})
    assert answer.json()["rewards"] == [1.0, 1.0, 1.0, 0.1, 0.0, 0.0, 0.0, 0.0]
    for response, prompt, reward in (
        (RIGHT + "<|eot_id|>", "Q", 1.0),
        (RIGHT[7:] + "<|im_end|>", "Q<think>\n", 1.0),
        (RIGHT[7:], "Q", 0.0),
        (WRONG + "</s></s>", [{"role": "user", "content": "Q"}], 0.1),
        (RIGHT + " I am sure.<|im_end|>", "Q", 0.0),
        ("", "Q", 0.0),
        (RIGHT, None, 1.0),
    ):
        body = {"prompt": prompt, "response": response, "label": LABEL}
        assert post(server, "/remote_rm", body).json() == reward
    for response in (None, [RIGHT], 3):
        refused = post(server, "/remote_rm", {"prompt": "Q", "response": response, "label": LABEL})
        assert (refused.status_code, refused.json()["fields"][0]["path"]) == (422, "response")


@pytest.mark.parametrize(
    ("name", "rewards"),
    [
        # Whole, wrong, four times cut on the left, opened by the prompt (once cut), without thinking.
        ("openrlhf", [1.0, 0.1, 1.0, 1.0, 1.0, 1.0, 1.0, 0.1, 0.0]),
        # verl hands no prompt over, so that a template's <think> has to be told in the ground truth.
        ("verl", [1.0, 0.1, 0.0, 1.0]),
        # Means of a right and a wrong answer to messages, and of a right and none where the text opens <think>.
        ("trl", [0.55, 0.5]),
    ],
)
def test_the_frameworks_own_code(server: RewardServerProcess, name: str, rewards: list[float]) -> None:
    folder = Path(sys.prefix) / "frameworks"
    if not folder.is_dir():
        pytest.skip(f"no other frameworks in {folder}; `make install-dev` installs them")
    script = Path(__file__).with_name("framework_clients.py")
    proxy = dict.fromkeys(("http_proxy", "HTTPS_PROXY", "ALL_PROXY"), "http://127.0.0.1:9")
    environment = {
        **os.environ,
        **proxy,
        "PYTHONPATH": f"{script.parents[2]}:{folder}",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, str(script), name, server.url]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.rpartition("rewards:")[2]) == pytest.approx(rewards)


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


def test_trl_completions_of_every_kind(configured: None) -> None:
    said = "<answer>C</answer>"
    tool = [{"role": "assistant", "content": RIGHT}, {"role": "tool", "content": RIGHT}]
    kinds: list[tuple[Any, Any, float]] = [
        ("Q", RIGHT, 1.0),
        ("Q<think>", RIGHT[7:], 1.0),
        ("Q", RIGHT + "<|im_end|>", 1.0),
        ([{"role": "user", "content": "Q"}], [{"role": "assistant", "content": RIGHT + "<|eot_id|>"}], 1.0),
        # TRL parses thinking out of a completion where the tokenizer has a template for responses.
        ("Q", [{"role": "assistant", "content": said, "reasoning_content": "t"}], 1.0),
        ("Q", [{"role": "assistant", "content": said, "thinking": "t"}], 1.0),
        ("Q", [{"role": "assistant", "content": said}], 0.0),
        ("Q", [{"role": "assistant", "content": None, "tool_calls": []}], 0.0),
        ("Q", [{"role": "assistant", "content": [{"type": "text", "text": RIGHT}]}], 1.0),
        ("Q", [*tool, {"role": "assistant", "content": WRONG}], 0.1),
        # It was stopped after the tool's turn: what the tool says is not its answer.
        ("Q", tool, 0.0),
        ("Q", [], 0.0),
    ]
    prompts, completions, rewards = zip(*kinds, strict=True)
    columns: dict[str, Any] = {"task": ["choice"] * len(kinds), "reference": [LABEL["reference"]] * len(kinds)}
    assert frameworks.trl_reward(prompts, completions, **columns, completion_ids=[]) == list(rewards)
    lenient = {"format": ["lenient"], "match": [None]}
    row: dict[str, Any] = {"task": ["choice"], "reference": [LABEL["reference"]]}
    assert frameworks.trl_reward(["Q"], ["So: " + RIGHT], **row, **lenient) == [1.0]
    for changes, named in (
        ({"reference": [None]}, "row 0: no reference"),
        ({"reference": ["C"]}, "row 0: reference: expected a mapping"),
        ({"reference": [3]}, "row 0: reference: expected a mapping"),
        ({"task": [None]}, "row 0: no task"),
    ):
        with pytest.raises(ValueError, match=named):
            frameworks.trl_reward(["Q"], [RIGHT], **{**row, **changes})
    with pytest.raises(ValueError, match="completions, row 0"):
        frameworks.trl_reward(["Q"], [None], **row)


def test_verl_ground_truths_of_every_kind(configured: None) -> None:
    text = {"task": "text", "reference": {"answer": "MI", "aliases": np.array(["infarct"]), "threshold": None}}
    said = "<think>t</think><answer>infarct</answer>"
    options = {"answer": "C", "options": {**OPTIONS, "E": None}}
    opened = {**LABEL, "format": "lenient"}
    for solution, truth, reward in (
        (RIGHT, LABEL, 1.0),
        (WRONG, LABEL, 0.1),
        (RIGHT + "<|im_end|>", LABEL, 1.0),
        (RIGHT, {"task": "choice", "reference": json.dumps(options)}, 1.0),
        (RIGHT, {**LABEL, "reference": options}, 1.0),
        (said, text, 1.0),
        (RIGHT[7:], LABEL, 0.0),
        (RIGHT[7:], opened, 1.0),
        (RIGHT[7:], json.dumps(opened), 1.0),
        ("", LABEL, 0.0),
    ):
        assert frameworks.compute_score("medqa", solution, truth, reward_router_address=None)["score"] == reward
    for truth, named in ((None, "medqa: expected"), ("C", "no JSON"), ([LABEL], "got list"), ({}, "no reference")):
        with pytest.raises(ValueError, match=named):
            frameworks.compute_score("medqa", RIGHT, truth)
    with pytest.raises(ValueError, match="expected a text"):
        frameworks.compute_score("medqa", None, LABEL)  # type: ignore[arg-type]  # that is the mistake


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
