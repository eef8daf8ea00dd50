"""MedRGB's scores of hand-made answers, against numbers that can be counted by eye."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from conversion.evaluation import EvaluationError
from recipes.data.example import Example, write_examples
from recipes.evaluation.context_scores import _Answer, context_scores, main
from recipes.evaluation.statistics import interval_of_values

KINDS = {
    "relevant": ("relevant", "relevant"),
    "mixed": ("unrelated", "relevant"),
    "insufficient": ("unrelated", "unrelated"),
    "false": ("relevant", "false"),
}
OPTIONS = {"A": "one", "B": "two", "C": "The passages do not suffice (insufficient information)"}


def _example(condition: str) -> Example:
    about: dict[str, Any] = {"condition": condition, "gold": "A", "refusal": "C"}
    about["passages"] = [{"id": str(n), "kind": kind} for n, kind in enumerate(KINDS[condition])]
    if condition in ("relevant", "mixed"):
        about["asked"] = [{"question": "q", "answer": "the vitamin K cycle"}, {"question": "r", "answer": "aspirin"}]
    if condition == "false":
        about["wrong"] = "B"
    gold = "C" if condition == "insufficient" else "A"
    return Example(condition, "s", "choice", "q?", gold, options=OPTIONS, meta={"context": about})


def _row(condition: str, read: str | None, response: str = "", status: str = "", **more: Any) -> dict[str, Any]:
    right = read == ("C" if condition == "insufficient" else "A")
    status = status or ("no_answer" if read is None else "correct" if right else "incorrect")
    common = {"group": "choice", "tokens": 1}
    return {**common, "id": condition, "answer": "A", "extracted": read, "response": response, "status": status, **more}


ROWS = [
    _row("relevant", "A", "Sub-answer 1: Vitamin K cycle.\nSub answer 2: none</think>"),
    _row("relevant", "B"),
    _row("relevant", "A", status="verifier_error"),
    _row("relevant", "A", variant="short"),
    # Names the unrelated one, and changed its mind about the other.
    _row("mixed", "A", "Irrelevant passages: 1, 2. Rather:\nIrrelevant passages: 1</think>Sub-answer 2: Aspirin"),
    _row("mixed", "C", "**irrelevant passage**: none\n"),
    # B is shown where C stood: the policy chose that the passages do not suffice.
    _row("insufficient", "B", "Irrelevant passages: 1 and 2", "correct", variant="shuffled 1", order="ACB"),
    _row("insufficient", "A", "The irrelevant passages are many"),
    _row("insufficient", None),
    _row("false", "B", "False passages: 1"),
    _row("false", "A", "False passages: 1, 2"),
    _row("elsewhere", "A"),
]


def test_the_four_scores() -> None:
    scores = context_scores(ROWS, [*map(_example, KINDS), Example("elsewhere", "s", "text", "q", "a")])
    intervals = [own.pop("intervals") for own in _sections(scores)]
    assert scores["standard"] == {"answers": 2, "accuracy": 0.5, "refused": 0.0}
    assert scores["sufficiency"]["mixed"] == {
        **{"answers": 2, "accuracy": 0.5, "refused": 0.5},
        **{"noise_detection": 0.5, "false_alarms": 0.0, "told": 1.0},
    }
    assert scores["sufficiency"]["insufficient"] == pytest.approx(
        {
            **{"answers": 3, "accuracy": 1 / 3, "refused": 1 / 3, "answered_right": 1 / 3},
            **{"noise_detection": 2 / 6, "false_alarms": None, "told": 1 / 3},
        }
    )
    # Of eight sub-questions two are answered exactly; "none" and silence have no word in common with what is right.
    assert scores["integration"] == {"sub_questions": 8, "exact_match": 0.25, "f1": 0.25, "told": 3 / 8}
    assert scores["robustness"] == {
        **{"answers": 2, "accuracy": 0.5, "refused": 0.0, "error_detection": 0.5, "false_alarms": 1.0, "told": 1.0},
        "misled": 0.5,
    }
    for own, ends in zip(_sections(scores), intervals, strict=True):
        assert ends.keys() == own.keys() - {"answers", "sub_questions"} - {k for k, v in own.items() if v is None}
        assert all(low <= own[key] <= high for key, (low, high) in ends.items())


def _sections(scores: dict[str, Any]) -> list[dict[str, Any]]:
    return [*(scores[key] for key in ("standard", "integration", "robustness")), *scores["sufficiency"].values()]


def test_answers_to_one_question_are_no_several_questions() -> None:
    """Ten answers to each of four questions, two all right and two all wrong, are as wide as four answers."""
    said = {"a": True, "b": True, "c": False, "d": False}
    one = interval_of_values(list(said.items()))
    assert interval_of_values([pair for pair in said.items() for _ in range(10)]) == one == (0.0, 1.0)
    # Of the passages of "a", 3 of 4, those of "b", 1 of 1: 4/5 and not the mean of 3/4 and 1.
    uneven = interval_of_values([*(("a", n > 0) for n in range(4)), ("b", True)])
    assert uneven == (0.75, 1.0)
    # All alike: the exact bound of two questions, not of ten answers.
    assert interval_of_values([(q, True) for q in "ab" for _ in range(5)]) == pytest.approx((0.025**0.5, 1))


def test_f1_counts_words() -> None:
    rows = [_row("relevant", "A", "Sub-answer 1: the cycle of vitamin K, vitamin K\nSub-answer 2: an Aspirin")]
    # vitamin, k and cycle are three of three and of six words, less the articles: 2 * 3 / (3 + 6).
    assert context_scores(rows, [_example("relevant")])["integration"]["f1"] == pytest.approx((2 * 3 / 9 + 1) / 2)


@pytest.mark.parametrize(
    ("response", "irrelevant", "false"),
    [
        ("Irrelevant passages:\nFalse passages: 2", set(), {2}),
        ("Irrelevant passages:\nSub-answer 1: 5 mg", set(), None),
        ("**Irrelevant passages:** 1, 3\n2 mg is meant", {1, 3}, None),
        ("Irrelevant passages:\n- 1\n- 2\nFalse passages:\n\n4</think>", {1, 2}, set()),
        ("Irrelevant passages: 1-3, 5\nFalse passages: 2 to 4 and 7 – 8", {1, 2, 3, 5}, {2, 3, 4, 7, 8}),
        ("Irrelevant passages: 3-1\nFalse passages: passage 2 - 81 kg", {1, 3}, {2, 81}),
        ("Irrelevant passages: none\n2. The false passage: is 3", set(), {3}),
    ],
)
def test_a_label_without_numbers_takes_none_of_the_next(
    response: str, irrelevant: set[int], false: set[int] | None
) -> None:
    answer = _Answer("q", "A", True, response, {"passages": [{"kind": "relevant"}] * 8})
    assert (answer.named("irrelevant"), answer.named("false")) == (irrelevant, false)


def test_the_command_reads_and_writes_beside_the_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers, questions = tmp_path / "after.jsonl", tmp_path / "questions.jsonl"
    answers.write_text("".join(json.dumps({**row, "sample": n}) + "\n" for n, row in enumerate(ROWS)))
    write_examples(questions, map(_example, KINDS))
    with mock.patch.object(sys, "argv", ["context_scores", str(answers), str(questions)]):
        main()
    assert "robustness: answers 2  accuracy 50.0% (" in capsys.readouterr().out
    found = json.loads((tmp_path / "context" / "after.json").read_text())
    assert found["scores"] == context_scores(ROWS, [_example(condition) for condition in KINDS])
    write_examples(questions, [Example("elsewhere", "s", "text", "q", "a")])
    with (
        mock.patch.object(sys, "argv", ["context_scores", str(answers), str(questions)]),
        pytest.raises(EvaluationError, match="answers no question with passages"),
    ):
        main()
    row = {"id": "relevant", "group": "choice", "status": "correct", "response": "", "answer": "A", "tokens": 1}
    answers.write_text(json.dumps(row) + "\n")
    with (
        mock.patch.object(sys, "argv", ["context_scores", str(answers), str(questions)]),
        pytest.raises(EvaluationError, match=r"after.jsonl: an older release wrote it"),
    ):
        main()
