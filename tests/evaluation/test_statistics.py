"""Statistics by hand, by counting all cases, and by what they must not depend on."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter

import numpy as np
import pytest

from recipes.evaluation.statistics import (
    agreement,
    interval,
    interval_of_mean,
    intervals,
    majority_at_k,
    mcnemar,
    pass_at_k,
    standard_error,
)


def test_pass_at_k_is_the_share_of_all_choices_with_a_right_answer() -> None:
    """Of 5 answers with 2 right, C(3, 2) = 3 of the C(5, 2) = 10 pairs have none: 0.7; 1 - 0.6^2 = 0.64 is biased."""
    assert pass_at_k(5, 2, 2) == pytest.approx(0.7)
    assert [pass_at_k(4, 1, k) for k in (1, 2, 4)] == pytest.approx([0.25, 0.5, 1.0])
    assert (pass_at_k(8, 0, 8), pass_at_k(8, 8, 1), pass_at_k(256, 1, 128)) == (0.0, 1.0, 0.5)
    for k in (0, 6):
        with pytest.raises(ValueError, match="expected 1 to 5"):
            pass_at_k(5, 2, k)


def _voted(answers: list[tuple[str, bool] | None], k: int) -> float:
    """The mean over all choices of k answers, one by one."""
    won = []
    for chosen in itertools.combinations(answers, k):
        votes = Counter(answer for answer in chosen if answer is not None)
        first = [answer for answer, count in votes.items() if count == max(votes.values())]
        won.append(sum(answer[1] for answer in first) / len(first) if first else 0.0)
    return sum(won) / len(won)


def test_the_majority_is_that_of_all_choices() -> None:
    """A A B: of the three pairs AA is right, both AB are a tie, (1 + 1/2 + 1/2) / 3 = 2/3."""
    assert majority_at_k([2], [1], 0, 2) == pytest.approx(2 / 3)
    assert majority_at_k([1], [], 3, 4) == 1.0, "an invalid answer has no vote"
    assert majority_at_k([], [], 2, 2) == 0.0, "where nobody votes, nothing is right"
    assert majority_at_k([40], [24], 0, 64) == 1.0
    assert majority_at_k([1], [1] * 63, 0, 64) == pytest.approx(1 / 64)
    draw = random.Random(0)
    for _ in range(30):
        right, wrong = ([draw.randint(1, 3) for _ in range(draw.randint(0, 3))] for _ in range(2))
        invalid = draw.randint(0, 2)
        if not 0 < sum(right) + sum(wrong) + invalid <= 11:
            continue
        answers: list[tuple[str, bool] | None] = [None] * invalid
        for correct, counts in ((True, right), (False, wrong)):
            answers += [(f"{index}", correct) for index, count in enumerate(counts) for _ in range(count)]
        for k in range(1, len(answers) + 1):
            assert majority_at_k(right, wrong, invalid, k) == pytest.approx(_voted(answers, k)), (right, wrong, k)


def test_agreement_is_that_of_pairs() -> None:
    """A A A B and one invalid: 3 of 10 pairs are the same."""
    assert agreement([3, 1], 5) == pytest.approx(0.3)
    assert (agreement([4], 4), agreement([], 4), agreement([1], 1)) == (1.0, 0.0, None)


def test_mcnemar_is_exact() -> None:
    """8 gained, 2 lost: 2 (1 + 10 + 45) / 1024 = 0.109; the chi-square form would say 0.058."""
    assert mcnemar(8, 2) == mcnemar(2, 8) == pytest.approx(112 / 1024)
    assert mcnemar(5, 0) == pytest.approx(2 / 32)
    assert (mcnemar(0, 0), mcnemar(3, 3)) == (1.0, 1.0)
    assert mcnemar(900, 600) < 1e-13


def test_the_standard_error_is_that_of_the_mean() -> None:
    """Three right of four: sqrt(0.75 * 0.25 / 4); four times as many questions halve it, not so the deviation."""
    assert standard_error([1, 1, 1, 0]) == pytest.approx(math.sqrt(0.75 * 0.25 / 4))
    assert standard_error([1, 1, 1, 0] * 4) == pytest.approx(math.sqrt(0.75 * 0.25 / 16))
    assert standard_error([0.5, 1.0]) == pytest.approx(0.25 / math.sqrt(2))


def test_the_bootstrap_resamples_questions() -> None:
    """Its interval is about 1.96 standard errors to each side; what answers of one question have in common stays."""
    values = [1.0] * 300 + [0.0] * 100
    low, high = interval(values)
    assert (low, high) == pytest.approx((0.75 - 1.96 * 0.02165, 0.75 + 1.96 * 0.02165), abs=0.005)
    assert interval(values) == (low, high), "the same answers have the same interval"
    # Two questions, one always right and one never, in 64 answers each: as wide as two answers, not as 128.
    assert interval([1.0, 0.0]) == (0.0, 1.0)


def test_all_right_is_no_certainty() -> None:
    """Ten of ten: 0.025^(1/10) = 0.6915 (Clopper and Pearson)."""
    assert interval([1.0] * 10) == (pytest.approx(0.6915, abs=1e-4), 1.0)
    assert interval([0.0] * 10) == (0.0, pytest.approx(0.3085, abs=1e-4))
    assert interval_of_mean([[1.0] * 10, [0.0] * 10]) == pytest.approx((0.6915 / 2, 1.3085 / 2), abs=1e-4)
    # No change in ten questions may be one for the worse as well as for the better.
    assert interval([0.0] * 10, least=-1) == pytest.approx((-0.3085, 0.3085), abs=1e-4)
    assert interval([1.0] * 10, least=-1) == (pytest.approx(1 - 2 * 0.3085, abs=1e-4), 1.0)


def test_a_task_that_is_all_right_keeps_its_width_in_the_mean_over_tasks() -> None:
    """One right answer is between 0.025 and 1, and the mean over it and another task no surer than that allows."""
    low, high = interval_of_mean([[1.0], [0.0, 1.0] * 500])
    assert (low, high) == pytest.approx((0.75 - 0.975 / 2 - 1.96 * 0.0158 / 2, 0.75 + 1.96 * 0.0158 / 2), abs=0.002)


def test_a_question_without_a_quantity_is_left_out_of_it_alone() -> None:
    values = np.array([[1.0, 1.0], [0.0, np.nan], [1.0, 0.0], [0.0, np.nan]] * 50)
    both, second = intervals(values)[0], intervals(values)[1]
    assert both == interval(values[:, 0])
    assert second == pytest.approx((0.4, 0.6), abs=0.03)


def test_the_mean_over_tasks_weighs_tasks() -> None:
    """Tasks of 400 and 100 questions at 0.5: errors 0.025 and 0.05, of the mean sqrt(0.025^2 + 0.05^2) / 2."""
    low, high = interval_of_mean([[1, 0] * 200, [1, 0] * 50])
    assert (low, high) == pytest.approx((0.5 - 1.96 * 0.02795, 0.5 + 1.96 * 0.02795), abs=0.006)


def test_the_most_answers_that_may_be_asked_for_can_be_counted() -> None:
    """Ways to choose 512 of 1,024 are just below the largest floating-point number."""
    assert majority_at_k([400], [300, 1], 323, 512) == pytest.approx(1.0, abs=1e-3)
