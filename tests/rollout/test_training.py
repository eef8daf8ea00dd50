"""What an update trains on: masks, advantages, and corrections, by hand."""

from __future__ import annotations

import dataclasses
import math
from typing import cast

import pytest

from recipes.engines.base import PolicyEngine, TokenSequence
from recipes.rollout.training import charged, training_sequences, weighted
from recipes.rollout.valued import valued_data
from recipes.runtime.config import AlgorithmConfig
from tests.rollout.samples import prompt, trajectory

ONE, TWO, THREE = (prompt(str(n), ids=range(1, n + 2)) for n in (1, 2, 3))
CHOICE, NUMBER = prompt("c", "choice"), prompt("n", "number")


def test_null_rewards_leave_the_loss_and_the_group() -> None:
    """A missing reward that counted as 0 would punish a response for the server's fault."""
    group = [
        trajectory(ONE, 1.0, tokens=2),
        trajectory(ONE, None, status="timeout", tokens=4),
        trajectory(ONE, 0.0, tokens=1),
    ]
    [sequences], teaches = training_sequences([group], AlgorithmConfig(advantage="grpo"))
    assert teaches == [True]
    assert [s.response_length for s in sequences] == [2, 1]
    # Mean of 1 and 0 is .5; the unbiased standard deviation sqrt((.25 + .25) / 1) = .70711; .5 / .70711 = .70711.
    assert [s.advantages[0] for s in sequences] == pytest.approx([math.sqrt(0.5), -math.sqrt(0.5)], rel=1e-5)


def test_what_a_filter_leaves_out_could_have_taught_with_a_critic_too() -> None:
    """Else a step whose responses were all cut would be put down to rewards that are all equal."""
    cut, unscored = trajectory(ONE, 1.0, finished=False), trajectory(TWO, None, status="timeout")
    data = valued_data([[cut], [unscored]], cast(PolicyEngine, None), AlgorithmConfig(overlong_filter=True), 1.0)
    assert (data.groups, data.critic, data.teaches) == ([], [], [True, False])


def test_no_groups_teach_nothing() -> None:
    """Dynamic sampling may find none that differ, and the likelihood filter may leave out all."""
    assert training_sequences([], AlgorithmConfig(tasks="components")) == ([], [])


def test_sequences_carry_prompt_response_and_the_samplers_logprobs() -> None:
    group = [trajectory(TWO, 1.0, tokens=2), trajectory(TWO, 3.0, tokens=3)]
    [[first, second]], _ = training_sequences([group], AlgorithmConfig(advantage="dr_grpo"))
    assert first.ids == (1, 2, 3, 10, 11)
    assert first.prompt_length == 3
    assert first.old_logprobs == (-0.1, -0.2)
    assert (first.advantages[0], second.advantages[0]) == (-1.0, 1.0)
    assert (first.response_length, second.response_length) == (2, 3)


def test_what_the_reward_does_not_look_at_has_no_advantage() -> None:
    """The tokens count in the loss's denominator and for the divergence, as all of a response do."""
    group = [
        dataclasses.replace(trajectory(TWO, 1.0, tokens=3), unread=(1, 2)),
        dataclasses.replace(trajectory(TWO, 3.0, tokens=2), unread=(0, 2)),
        trajectory(TWO, 5.0, tokens=2),
    ]
    [sequences], _ = training_sequences([group], AlgorithmConfig(advantage="dr_grpo"))
    assert [s.advantages for s in sequences] == [(-2.0, 0.0, -2.0), (0.0, 0.0), (2.0, 2.0)]
    assert [s.response_length for s in sequences] == [3, 2, 2]


def test_every_estimator_by_hand() -> None:
    """Rewards 1, 0, 0, 0 with 2, 1, 1, 1 tokens."""
    group = [trajectory(ONE, 1.0, tokens=2), *(trajectory(ONE, 0.0, tokens=1) for _ in range(3))]

    def advantages(estimator: str) -> list[float]:
        [sequences], _ = training_sequences([group], AlgorithmConfig(advantage=estimator))
        return [s.advantages[0] for s in sequences]

    assert advantages("dr_grpo") == [0.75, -0.25, -0.25, -0.25]
    assert advantages("grpo") == pytest.approx([1.5, -0.5, -0.5, -0.5], rel=1e-5)
    # The others' means: 0 for the first, 1/3 for the rest.
    assert advantages("rloo") == pytest.approx([1.0, -1 / 3, -1 / 3, -1 / 3])
    # Over five tokens: mean (2 * .75 - 3 * .25) / 5 = .15; deviations .6, -.4; variance (2 * .36 + 3 * .16) / 5 = .24.
    root = math.sqrt(0.24)
    assert advantages("reinforce_pp") == pytest.approx([0.6 / root, -0.4 / root, -0.4 / root, -0.4 / root])


def test_groups_that_teach_nothing_are_left_out() -> None:
    groups = [
        [trajectory(ONE, 1.0), trajectory(ONE, 1.0)],
        [trajectory(TWO, 1.0), trajectory(TWO, 0.0)],
        [trajectory(THREE, 1.0), trajectory(THREE, None, status="verifier_error")],
    ]
    sequences, teaches = training_sequences(groups, AlgorithmConfig(advantage="grpo"))
    assert [[s.ids[:3] for s in group] for group in sequences] == [[(1, 2, 3)] * 2]
    assert teaches == [False, True, False]


def test_overlong_responses_leave_the_loss_and_stay_in_the_baseline() -> None:
    """Without the third reward the mean of the others would be .5, not 1/3."""
    group = [trajectory(ONE, 1.0), trajectory(ONE, 0.0), trajectory(ONE, 0.0, finished=False)]
    [sequences], _ = training_sequences([group], AlgorithmConfig(advantage="dr_grpo", overlong_filter=True))
    assert [s.advantages[0] for s in sequences] == pytest.approx([2 / 3, -1 / 3])
    [sequences], _ = training_sequences([group], AlgorithmConfig(advantage="dr_grpo"))
    assert len(sequences) == 3
    alone = [[trajectory(ONE, 1.0, finished=False), trajectory(ONE, 0.0, finished=False)]]
    assert training_sequences(alone, AlgorithmConfig(overlong_filter=True))[0] == []


def test_a_task_with_larger_rewards_does_not_drown_the_other() -> None:
    """Choice rewards 0 and 10, calculation 0 and 1: one deviation each, sqrt(2 * 5^2 / (2 - 1)) and sqrt(2 * .5^2)."""
    groups = [
        [trajectory(CHOICE, 10.0), trajectory(CHOICE, 0.0)],
        [trajectory(NUMBER, 1.0), trajectory(NUMBER, 0.0)],
    ]

    def advantages(**settings: object) -> list[float]:
        sequences, _ = training_sequences(groups, AlgorithmConfig(**settings))  # type: ignore[arg-type]  # by name
        return [s.advantages[0] for group in sequences for s in group]

    assert advantages(advantage="dr_grpo") == [5.0, -5.0, 0.5, -0.5]
    half = 1 / math.sqrt(2)  # 5 / sqrt(50) and .5 / sqrt(.5)
    assert advantages(advantage="dr_grpo", tasks="per_task") == pytest.approx([half, -half, half, -half], rel=1e-5)
    # Around medians of 5 and .5, in scales of .25: 1 / (1 + e^-20), and 1 / (1 + e^-2) = .8808, each less its mean .5.
    centred = advantages(advantage="dr_grpo", tasks="logistic", task_medians={"choice": 5.0, "calculation": 0.5})
    assert centred == pytest.approx([0.5, -0.5, 0.3808, -0.3808], abs=1e-4)


def test_components_are_normalised_each_by_itself() -> None:
    """Answer 1, 0 and format 0, 1: summed they cancel, apart with weights 1 and 3 they do not."""
    group = [
        trajectory(ONE, 1.0, components={"answer": 1.0, "format": 0.0}),
        trajectory(ONE, 1.0, components={"answer": 0.0, "format": 1.0}),
    ]
    assert training_sequences([group], AlgorithmConfig())[1] == [False]
    algorithm = AlgorithmConfig(tasks="components", component_weights={"answer": 1.0, "format": 3.0})
    [sequences], teaches = training_sequences([group], algorithm)
    assert teaches == [True]
    # (1 - 3) / sqrt 2 and its negative, whitened: -1 and 1.
    assert [s.advantages[0] for s in sequences] == pytest.approx([-1.0, 1.0], rel=1e-5)


def _sequence(*old: float, advantage: float = 1.0) -> TokenSequence:
    return TokenSequence((1, *range(2, 2 + len(old))), 1, (advantage,) * len(old), old)


def test_weights_correct_for_the_sampler() -> None:
    """Trainer over sampler: 3 and 1 in the first response, 1/2 in the second; truncated at 2."""
    sequences = [_sequence(-2.0, -1.0), _sequence(-0.5)]
    trainer = [[-2.0 + math.log(3), -1.0], [-0.5 - math.log(2)]]
    found, metrics = weighted(sequences, trainer, AlgorithmConfig(importance="truncated"))
    assert [s.weights for s in found] == [pytest.approx((2.0, 1.0)), pytest.approx((0.5,))]
    assert [s.old_logprobs for s in found] == [pytest.approx(row) for row in trainer]
    assert metrics["mismatch/token_mult_prob_error"] == pytest.approx((3 + 1 + 2) / 3)
    assert metrics["mismatch/ratio"] == pytest.approx((3 + 1 + 0.5) / 3)
    assert metrics["mismatch/outside_share"] == pytest.approx(1 / 3)
    assert metrics["mismatch/mean_weight"] == pytest.approx(3.5 / 3)
    masked, _ = weighted(
        sequences, trainer, AlgorithmConfig(importance="masked", importance_low=0.6, importance_high=2.0)
    )
    assert [s.weights for s in masked] == [pytest.approx((0.0, 1.0)), (0.0,)]


def test_divergence_is_charged_token_by_token() -> None:
    """k1 is .5 and -.1 nats in the first response, 0 in the second; at weight 2: 1 - 1, 1 + .2, -1 - 0."""
    sequences = [_sequence(-1.0, -2.0), _sequence(-3.0, advantage=-1.0)]
    reference = [[-1.5, -1.9], [-3.0]]
    found, kl = charged(sequences, reference, AlgorithmConfig(advantage="rloo", kl_coef=2.0, kl_place="reward"))
    assert [s.advantages for s in found] == [pytest.approx((0.0, 1.2)), pytest.approx((-1.0,))]
    assert kl == pytest.approx(0.4 / 3)
    whitened, _ = charged(sequences, reference, AlgorithmConfig(advantage="reinforce_pp", kl_coef=2.0))
    values = [value for s in whitened for value in s.advantages]
    assert sum(values) == pytest.approx(0, abs=1e-6)
    assert sum(v * v for v in values) / 3 == pytest.approx(1, rel=1e-5)
