"""From completions to scored trajectories, and the reward server's faults."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import pytest

from recipes.data.prompts import LengthTarget
from recipes.engines.base import Completion
from recipes.rollout.prompts import RowError
from recipes.rollout.scoring import RewardError, check_rows, check_unscored, reward_table, score
from recipes.rollout.server import reward_client
from recipes.runtime.config import RewardConfig
from reward_server.client import RewardClient, RewardServerUnavailable, Score
from reward_server.process import RewardServerProcess
from tests.rollout.samples import prompt, trajectory

ONE, TWO, THREE = (prompt(str(n), ids=range(1, n + 2)) for n in (1, 2, 3))


def test_reward_table() -> None:
    rewards, valid = reward_table([[trajectory(ONE, -3.0), trajectory(ONE, None, status="timeout")]])
    assert rewards.tolist() == [[-3.0, 0.0]]
    assert valid.tolist() == [[True, False]]


# --- over a real server ----------------------------------------------------------------------------------------------


def _completion(tokenizer: Any, text: str) -> Completion:
    ids = tuple(tokenizer(text, add_special_tokens=False).input_ids)
    return Completion(ids, (-0.5,) * len(ids), finished=True)


def test_scores_come_back_in_place(process_group: None, tokenizer: Any) -> None:
    """Two prompts with two responses each: each verdict belongs to its own response."""
    choice, text = prompt("c", "choice"), prompt("t", "text")
    said = [("A", "B"), ("y", "x")]
    responses = [[f"<think>t</think><answer>{a}</answer><|im_end|>" for a in pair] for pair in said]
    completions = [[_completion(tokenizer, r) for r in group] for group in responses]
    with RewardServerProcess() as server, RewardClient(server.url) as client:
        groups = score(
            [choice, text], completions, tokenizer=tokenizer, client=client, config=RewardConfig(preset="binary")
        )
    assert [[t.score.reward for t in group] for group in groups] == [[1.0, 0.0], [0.0, 1.0]]
    assert [[t.score.status for t in group] for group in groups] == [["correct", "incorrect"], ["incorrect", "correct"]]
    assert [[t.group for t in group] for group in groups] == [[0, 0], [1, 1]]
    assert groups[0][0].text == "<think>t</think><answer>A</answer>"
    assert groups[1][1].prompt is text
    assert groups[1][0].completion is completions[1][0]


def test_length_targets_and_a_measure_of_open_answers_reach_the_server(process_group: None, tokenizer: Any) -> None:
    """Tokens counted are those of the response: beyond the target, Med-U1's reward must fall."""
    response = _completion(tokenizer, "<think>" + "t " * 200 + "</think><answer>A</answer>")
    written = len(response.ids)
    targets = [
        *(LengthTarget("max", 10_000), LengthTarget("max", 8), LengthTarget("exact", written + 75)),
        *(LengthTarget("exact", written), None),
    ]
    prompts = [dataclasses.replace(prompt(f"{n}", "choice"), length=target) for n, target in enumerate(targets)]
    with RewardServerProcess() as server, RewardClient(server.url) as client:
        groups = score(
            prompts,
            [[response] for _ in prompts],
            tokenizer=tokenizer,
            client=client,
            config=RewardConfig(preset="med_u1", length_mode="mixed", length_draw="uniform"),
        )
        # How open answers are graded is said by the configuration, too: "x y" is half of EMS's precision.
        half = [[_completion(tokenizer, "<think>t</think><answer>x y</answer>")]]
        statuses = []
        for metric, threshold in (("exact", None), ("ems", 45.0), ("ems", 55.0)):
            wanted = RewardConfig(preset="binary", text_metric=metric, text_threshold=threshold)
            [[found]] = score([prompt("t", "text")], half, tokenizer=tokenizer, client=client, config=wanted)
            statuses.append(found.score.status)
        wanted = RewardConfig(preset="med_u1", text_metric="ems", text_threshold=45.0, text_continuous=True)
        [[found]] = score([prompt("t", "text")], half, tokenizer=tokenizer, client=client, config=wanted)
    assert found.score.reward == 1.5
    terms = [t.score.components["length"] for [t] in groups]
    assert terms == pytest.approx([1.0, (8 - written) / 500, 1 - 75 / 1500, 1.0, 0.0])
    assert statuses == ["incorrect", "correct", "incorrect"]


def test_a_server_that_is_gone_is_an_error_and_never_a_zero(process_group: None, tokenizer: Any) -> None:
    with RewardServerProcess() as server:
        url = server.url
    with (
        RewardClient(url, attempt_timeout_s=0.2, total_timeout_s=0.5) as client,
        pytest.raises(RewardError, match=f"scoring failed: reward server {url} unavailable"),
    ):
        score(
            [prompt("c", "choice")],
            [[_completion(tokenizer, "x")]],
            tokenizer=tokenizer,
            client=client,
            config=RewardConfig(),
        )


def test_a_server_is_given_up_before_the_other_ranks_stop_waiting_for_rank_0() -> None:
    """Whatever the settings say: otherwise they would end the run, with nothing about the server."""
    with RewardServerProcess() as server:
        patient = RewardConfig(url=server.url, total_timeout_s=300)
        with reward_client(patient, ranks_wait_s=2) as client:
            assert client is not None
            server.stop()
            with pytest.raises(RewardServerUnavailable, match=r"unavailable for 1\.[6-9] s"):
                client.score("gated", [])


def test_a_refused_request_says_why(process_group: None, tokenizer: Any) -> None:
    with RewardServerProcess() as server, RewardClient(server.url) as client:
        with pytest.raises(RewardError, match=r"scoring failed: .*HTTP 422: preset: no such preset; the presets are"):
            score(
                [prompt("c", "choice")],
                [[_completion(tokenizer, "x")]],
                tokenizer=tokenizer,
                client=client,
                config=RewardConfig(preset="no_such_preset"),
            )
        # One open answer shows before the first step that there is no judge.
        rows = [prompt(name, "choice" if name == "c" else "text").example for name in "ctu"]
        with pytest.raises(RowError, match=r"the reward server refuses it: .*this server has no judge"):
            check_rows(rows, client, RewardConfig(text_metric="judge"))
        assert check_rows(rows, client, RewardConfig(text_metric="rouge_l", text_threshold=99)) == []


@pytest.mark.parametrize(("count", "stops"), [(1, True), (19, True), (20, False), (256, False)])
def test_too_many_that_could_not_be_scored_end_it(count: int, stops: bool) -> None:
    """One of 20 is a share of 0.05, which the default allows."""
    fault = Score("0", None, "verifier_error", None, {}, None, "text", "1")
    said = rf"could not score 1 of {count} responses \(verifier_error\), more than reward\.max_null_share=0\.05"
    with pytest.raises(RewardError, match=said) if stops else contextlib.nullcontext():
        check_unscored([fault], count, RewardConfig())
    check_unscored([], 0, RewardConfig())
