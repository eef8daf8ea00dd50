"""A step's figures by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from recipes.data.prompts import LengthTarget
from recipes.monitor.phases import Phase
from recipes.rollout.collect import Rollout
from recipes.rollout.metrics import rollout_metrics, rollout_records, update_metrics
from tests.rollout.samples import prompt, trajectory

CHOICE, NUMBER = prompt("c", "choice"), prompt("n", "number")


def test_how_well_lengths_are_kept_to_by_hand() -> None:
    """Each mode over its own responses, scored or not; a prompt without a target counts nowhere."""
    targets = [(LengthTarget("exact", 10), 5), (LengthTarget("exact", 20), 25), (LengthTarget("max", 8), 8)]
    targets += [(LengthTarget("max", 8), 9), (LengthTarget("max", 8), 1)]
    groups = [[trajectory(replace(CHOICE, length=target), 1.0, tokens=tokens)] for target, tokens in targets]
    groups += [[trajectory(NUMBER, None, status="timeout", tokens=40)]]
    found = rollout_metrics(Rollout(groups, groups, 1), [True] * 6)
    assert found["length/error"] == pytest.approx((5 / 10 + 5 / 20) / 2)
    assert found["length/within_share"] == pytest.approx(2 / 3)
    exact = rollout_metrics(Rollout(groups[:2], groups[:2], 1), [True] * 2)
    assert "length/error" in exact
    assert "length/within_share" not in exact


def test_rollout_metrics_by_hand() -> None:
    parts = {"answer": 1.0, "format": 1.0, "length": 0.0}
    nothing = dict.fromkeys(parts, 0.0)
    groups = [
        [
            trajectory(CHOICE, 1.0, tokens=10, components=parts),
            trajectory(CHOICE, 0.1, status="incorrect", tokens=20, components={**parts, "answer": 0.0}),
        ],
        [
            trajectory(NUMBER, 0.0, status="malformed", tokens=30, finished=False, components=nothing),
            trajectory(NUMBER, None, status="timeout", tokens=40),
        ],
    ]
    found = rollout_metrics(Rollout(groups[:1], groups, 2), [True])
    assert found == pytest.approx(
        {
            "reward/mean": 1.1 / 3,  # the unscored response is no zero
            "reward/choice": 1.1 / 2,
            "reward/calculation": 0.0,
            "accuracy/choice": 1 / 2,
            "accuracy/calculation": 0.0,
            "accuracy/mean": 1 / 4,  # mean of the kinds, (.5 + 0) / 2
            "reward/component/answer": 1 / 3,
            "reward/component/format": 2 / 3,
            "reward/component/length": 0.0,
            "length/mean": 25.0,
            "reward/choice/answer": 1 / 2,
            "reward/choice/format": 1.0,
            "reward/choice/length": 0.0,
            **dict.fromkeys(
                ("reward/calculation/answer", "reward/calculation/format", "reward/calculation/length"), 0.0
            ),
            "length/p10": 13.0,  # .1 * 3 = .3 steps from 10
            "length/p50": 25.0,
            "length/p90": 37.0,  # .9 * 3 = 2.7 steps from 10: 30 + .7 * 10
            "length/p100": 40.0,
            "length/truncated_share": 1 / 4,
            "format/error_share": 1 / 3,
            **{phase.metric: float(phase is Phase.FORMAT_FAILURE) for phase in Phase},  # of texts without tags
            "groups/zero_advantage_share": 0.0,
            "groups/identical_share": 1.0,  # samples all say the same
            "groups/mixed_share": 1 / 2,
            "groups/left_out_share": 1 / 2,
            "groups/batches": 2.0,
            "groups/null_reward_share": 1 / 4,
        }
    )


def test_update_metrics_weigh_by_tokens() -> None:
    base = {"kl": 0.0, "entropy": 0.0, "clipped": 0.0, "prob_error": 0.0}
    updates = [
        {**base, "loss": 3.0, "clipped": 1.0, "prob_error": 10.5, "tokens": 10.0, "grad_norm": 2.0, "stepped": 1.0},
        {**base, "loss": -1.0, "prob_error": 40.0, "tokens": 30.0, "grad_norm": 4.0, "stepped": 0.0},
    ]
    found = update_metrics(updates, 1e-5)
    assert found == pytest.approx(
        {
            "policy/learning_rate": 1e-5,
            "policy/updates": 2,
            "policy/loss": 2 / 40,
            "policy/kl": 0.0,
            "policy/entropy": 0.0,
            "policy/clip_share": 1 / 40,
            "mismatch/token_prob_error": 1.05,  # of the first update alone
            "policy/grad_norm": 3.0,
            "policy/skipped_updates": 1.0,
        }
    )


def test_a_step_without_anything_to_learn_has_no_figures_of_an_update() -> None:
    assert update_metrics([], 1e-5) == {"policy/learning_rate": 1e-5, "policy/updates": 0.0}


def test_a_step_without_any_score_is_nan_and_not_zero() -> None:
    groups = [[trajectory(CHOICE, None, status="timeout")]]
    found = rollout_metrics(Rollout(groups, groups, 1), [False])
    assert math.isnan(found["reward/mean"])
    assert found["groups/null_reward_share"] == 1
    assert "accuracy/choice" not in found


def test_records_for_people() -> None:
    groups = [[trajectory(NUMBER, 0.5)], [trajectory(CHOICE, None, status="timeout")]]
    first, second = rollout_records(groups, step=7)
    assert (first.step, first.task, first.answer, first.reward, first.group) == (7, "calculation", "1", 0.5, 0)
    assert (second.reward, second.status, second.group) == (None, "timeout", 1)
