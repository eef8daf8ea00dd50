"""Faults of other harnesses at the releases that were read, each shown not to be ours on the real verifiers and counts.

`docs/evaluation.md` lists them, also those that tests of other rooms guard.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from recipes.evaluate import summarize
from reward_server.presets import PRESETS
from reward_server.schema import parse_request
from reward_server.service import score

DRUGS = {"A": "Warfarin", "B": "Heparin", "C": "Aspirin", "D": "Clopidogrel"}


def graded(task: str, reference: dict[str, Any], *responses: str) -> list[Any]:
    items = [
        {"id": str(number), "task": task, "response": response, "reference": reference}
        for number, response in enumerate(responses)
    ]
    request = parse_request(json.dumps({"preset": "binary", "items": items}).encode())
    return score(request, PRESETS["binary"]).results


def answered(answer: str) -> str:
    return f"<think>t</think><answer>{answer}</answer>"


def choice(gold: str) -> dict[str, Any]:
    return {"answer": gold, "options": DRUGS}


def within(value: float) -> dict[str, Any]:
    lower, upper = sorted((0.95 * value, 1.05 * value))
    return {"answer": value, "lower": lower, "upper": upper}


def row(number: int, status: str, group: str = "choice") -> dict[str, Any]:
    return {
        "id": f"q{number}",
        "group": group,
        "skill": None,
        "response": "",
        "answer": "A",
        "status": status,
        "tokens": 10,
        "contradicts": None,
        "source": "MedQA-US",
        "subject": None,
        "calculator": None,
        "sample": 0,
        "variant": "plain",
        "extracted": None,
        "cut": False,
    }


@pytest.mark.parametrize(
    ("category", "task", "reference", "answer"),
    [
        ("lab test", "number", within(141.24), "141.24 mEq/L"),
        ("physical", "number", within(22.86), "22.86 kg/m^2"),
        ("dosage", "number", within(53.09), "53.09 mg"),
        ("date", "date", {"answer": "09/23/2014"}, "09/23/2014"),
        ("date", "duration", {"answer": {"weeks": 17, "days": 6}}, "17 weeks, 6 days"),
        ("risk", "number", {"answer": 4, "rounding": "integer"}, "4"),
        ("severity", "number", {"answer": 8, "rounding": "integer"}, "8 points"),
        ("diagnosis", "number", {"answer": 3, "rounding": "integer"}, "3 criteria"),
    ],
)
def test_every_category_of_medcalc_can_be_right(
    category: str, task: str, reference: dict[str, Any], answer: str
) -> None:
    """HELM #4351: rows of "lab" and "dosage", 354 of 1,000, always score 0. Here the category grades nothing."""
    (result,) = graded(task, reference, answered(answer))
    assert result.status == "correct", category


@pytest.mark.parametrize(
    ("response", "read"),
    [
        # MIRAGE: "A" where nothing can be read; MMMU: a letter at random.
        (answered("I am not sure."), None),
        (answered("None of these."), None),
        (answered("A good question."), None),
        ("", None),
        ("Warfarin", None),
        # MIRAGE's ": A" and m1's "answer is" followed by a letter, without the end of a word.
        (answered("The answer is: Aspirin"), "C"),
        (answered("The answer is Aspirin."), "C"),
        (answered("Answer: Aspirin"), "C"),
        (answered("The answer is Dabigatran"), None),
        # MedVLThinker: a form that may span lines, around an answer that may not.
        (answered("\nC\n"), "C"),
        (answered("C. Aspirin\n\nIt inhibits\nplatelets."), "C"),
        # lighteval #869: thinking that was cut off, graded by what it mentions.
        ("<think>The answer is C. Aspirin", None),
        ("<think>So <answer>C</answer> it is, or maybe", None),
        # lm-eval #3216: what counts stands behind the last end of thinking.
        ("<think>first</think><answer>A</answer> wait </think><answer>C</answer>", "C"),
        ("<think>first</think><answer>A</answer> wait </think> that is wrong", None),
    ],
)
def test_a_letter_is_read_where_one_is_given(response: str, read: str | None) -> None:
    for gold in DRUGS:
        (result,) = graded("choice", choice(gold), response)
        assert result.extracted == read
        if read is None:
            assert result.status in ("no_answer", "malformed")
        else:
            assert result.status == ("correct" if gold == read else "incorrect")


def test_text_is_never_run_and_a_per_cent_is_what_it_says(tmp_path: Path) -> None:
    """The script of MedCalc-Bench and med-lm-envs: `eval` of what a model wrote, and 8 % read as 0.08."""
    mark = tmp_path / "mark"
    code = (f"str(open({str(mark)!r}, 'w'))", f"__import__('os').mkdir({str(mark)!r})", f"[open({str(mark)!r}, 'w')]")
    statuses = {result.status for result in graded("number", within(8.0), *map(answered, code))}
    assert statuses <= {"no_answer", "malformed"}
    assert not mark.exists()
    right, also, wrong = graded("number", within(8.0), answered("8 %"), answered("8%"), answered("0.08"))
    assert (right.status, also.status, wrong.status) == ("correct", "correct", "incorrect")
    (share,) = graded("number", within(0.08), answered("8 %"))
    assert share.status == "correct"


def shares(rows: Sequence[dict[str, Any]], group: str = "choice") -> tuple[float, float]:
    task = summarize(rows)["tasks"][group]
    return task["accuracy"], task["format_error_share"]


def test_invalid_answers_earn_nothing_and_are_counted() -> None:
    """HRM-Text #24 credits an invalid answer with one over the number of options; MMMU #72 guesses."""
    rows = [row(0, "no_answer"), row(1, "malformed"), row(2, "no_answer"), row(3, "correct")]
    assert shares(rows) == (0.25, 0.75)
    assert shares(rows[:3]) == (0.0, 1.0)


def test_a_judge_changes_no_other_kind_of_task() -> None:
    """MedEvalKit #30: with a judge, the counts of right answers are set to zero and some are never set again."""
    closed = [row(0, "correct"), row(1, "correct"), row(2, "incorrect"), row(3, "correct", "calculation")]
    judged = [row(4, "correct", "text"), row(5, "incorrect", "text"), row(6, "timeout", "text")]
    for rows in (closed + judged, judged + closed):
        assert shares(rows) == shares(closed) == (pytest.approx(2 / 3), 0.0)
        assert shares(rows, "calculation") == (1.0, 0.0)
        # What the judge did not answer is neither right nor wrong.
        assert shares(rows, "text") == (0.5, 0.0)
        assert summarize(rows)["unscored"] == 1


def test_a_standard_error_is_that_of_the_mean() -> None:
    """simple-evals' HealthBench shows a bootstrap's deviation under another name, and clips the mean alone."""
    task = summarize([row(number, "correct" if number < 60 else "incorrect") for number in range(80)])["tasks"][
        "choice"
    ]
    assert task["accuracy"] == 0.75
    assert task["stderr"] == pytest.approx((0.75 * 0.25 / 80) ** 0.5)
