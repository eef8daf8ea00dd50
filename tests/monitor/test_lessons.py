"""Steps without a lesson: each reason from the metrics that show it, when it is told, and where."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipes.monitor.lessons import LessonWatch, reason, without_lesson
from recipes.monitor.loggers import MetricsLogger
from recipes.monitor.report import write_report
from recipes.rollout.collect import Rollout
from recipes.rollout.metrics import rollout_metrics, update_metrics
from tests.rollout.samples import prompt, trajectory

# A step of equal rewards, half the groups right; tests change what matters.
SILENT = {
    **{"policy/updates": 0.0, "groups/zero_advantage_share": 1.0, "accuracy/mean": 0.5, "format/error_share": 0.0},
    **{"groups/identical_share": 0.0, "groups/mixed_share": 0.0, "groups/null_reward_share": 0.0},
    "length/truncated_share": 0.0,
}


def test_a_critics_own_steps_are_not_without_a_lesson() -> None:
    assert reason({**SILENT, "critic/updates": 1.0}) is None


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"groups/null_reward_share": 1.0, "accuracy/mean": None}, "100% of the responses could not be scored"),
        ({"format/error_share": 0.9, "length/truncated_share": 0.9}, "cut off: raise rollout.max_new_tokens"),
        ({"format/error_share": 1.0, "format/issue/missing_thinking": 1.0}, "mostly missing_thinking: the model does"),
        ({"format/error_share": 1.0, "format/issue/missing_answer": 0.9}, "warm it up by SFT (recipes.sft)"),
        ({"format/error_share": 1.0, "format/issue/unopened_thinking": 0.8}, "set reward.format=lenient"),
        ({"format/error_share": 0.8}, "80% of the responses have the form and no answer that can be read"),
        ({"groups/identical_share": 1.0, "accuracy/mean": 0.0}, "all the same: raise rollout.temperature"),
        ({"accuracy/mean": 1.0}, "too easy for this model"),
        ({"accuracy/mean": 0.0}, "too hard for this model"),
        ({"groups/mixed_share": 0.5}, "right and wrong answers of a group get the same reward: look at reward.preset"),
        ({"groups/zero_advantage_share": 0.5}, "left out by algorithm.overlong_filter: raise rollout.max_new_tokens"),
        ({}, "each group is all right or all wrong: raise rollout.group_size"),
        # Where several hold, the form comes first: without it nothing else can be learned.
        (
            {"format/error_share": 1.0, "format/issue/missing_thinking": 1.0, "groups/identical_share": 1.0},
            "missing_thinking",
        ),
    ],
)
def test_the_likely_reason(found: dict[str, float | None], said: str) -> None:
    told = reason({**SILENT, **found})
    assert told is not None
    assert said in told
    assert "\n" not in told


@pytest.mark.parametrize("metrics", [{**SILENT, "policy/updates": 1.0}, {"policy/loss": 2.0}, {}])
def test_a_step_that_teaches_and_sft_have_none(metrics: dict[str, float | None]) -> None:
    assert reason(metrics) is None
    assert LessonWatch().look(1, metrics) is None


def _steps_told(pattern: str) -> dict[int, str]:
    """What is told of a run whose steps teach (t) or not (.)."""
    watch = LessonWatch()
    told = {
        step: watch.look(step, {**SILENT, "policy/updates": float(mark == "t")}) for step, mark in enumerate(pattern, 1)
    }
    return {step: text for step, text in told.items() if text is not None}


def test_it_is_told_from_the_first_step_and_seldom() -> None:
    told = _steps_told("." * 1000 + "tt")
    assert list(told) == [1, 10, 100, 1000, 1001]
    assert told[1].startswith("step 1: no group taught anything; each group is all right or all wrong")
    assert told[100].startswith("step 100: 100 steps without a lesson; ")
    assert told[1001] == "step 1001: groups teach again"


def test_a_run_that_has_learned_is_not_alarmed_by_one_step() -> None:
    assert list(_steps_told("t.t..t.........t")) == []
    assert list(_steps_told("t" + "." * 12 + "t.t")) == [11, 14]
    assert list(_steps_told(".t" + "." * 10)) == [1, 2, 12]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([SILENT] * 3, "3 steps, and none has changed the model; each group is all right or all wrong"),
        ([SILENT, {**SILENT, "policy/updates": 1.0}], None),
        (
            [{"policy/loss": None, "policy/skipped_updates": 1.0}] * 2,
            "2 steps, and none has changed the model; loss or",
        ),
        (
            [{**SILENT, "policy/updates": 4.0, "policy/skipped_updates": 4.0}],
            "1 steps, and none has changed the model;",
        ),
        ([{"policy/loss": None, "policy/skipped_updates": 1.0}, {"policy/skipped_updates": 0.0}], None),
        ([{**SILENT, "policy/updates": 4.0, "policy/skipped_updates": 3.0}], None),
        ([], None),
    ],
)
def test_a_run_that_ends_without_a_step_says_so(rows: list[dict[str, float | None]], said: str | None) -> None:
    """GRPO and SFT, whose groups taught nothing or whose every update was skipped."""
    watch = LessonWatch()
    for step, row in enumerate(rows, 1):
        watch.look(step, row)
    told = watch.last_words()
    assert (told or "").startswith(said or "")
    assert (told is None) == (said is None)


@pytest.mark.parametrize(("pattern", "count"), [("...", 3), ("t..", 2), ("..t", None), ("t", None), ("", None)])
def test_the_last_steps_count(pattern: str, count: int | None) -> None:
    found = without_lesson([{**SILENT, "policy/updates": float(mark == "t")} for mark in pattern])
    assert (found[0] if found else None) == count


def test_from_responses_to_the_report(tmp_path: Path) -> None:
    """A model without the form: what the trainer measures, the log says, and the page shows until it learns."""
    group = [trajectory(prompt("q"), 0.0, status="malformed", finished=True) for _ in range(2)]
    metrics = {**rollout_metrics(Rollout([group], [group], 1), [False]), **update_metrics([], 1e-6)}
    assert (metrics["groups/zero_advantage_share"], metrics["groups/identical_share"]) == (1.0, 1.0)
    (tmp_path / "config.yaml").write_text("name: run\nmodel: {path: m}\n")
    with MetricsLogger(tmp_path) as logger:
        logger.log(1, {**metrics, "format/issue/missing_thinking": 1.0}, 1.0)
        logger.log(2, {**metrics, "format/issue/missing_thinking": 1.0}, 2.0)
        page = write_report(tmp_path).read_text()
        assert "<b>The last 2 steps taught nothing.</b> Likely reason: 100% of the responses lack the form" in page
        assert "&lt;think&gt;...&lt;/think&gt;" in page
        logger.log(3, {**metrics, "policy/updates": 1.0}, 3.0)
        assert "taught nothing" not in write_report(tmp_path).read_text()


def test_no_group_at_all_teaches_nothing() -> None:
    """Dynamic sampling may leave no group; a mean over none is no number."""
    group = [trajectory(prompt("q"), 1.0) for _ in range(2)]
    assert rollout_metrics(Rollout([], [group], 3), [])["groups/zero_advantage_share"] == 1.0
