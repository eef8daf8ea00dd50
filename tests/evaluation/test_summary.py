"""What answers come to, counted by hand; faults and invalid answers never pass for right or wrong ones."""

from __future__ import annotations

from typing import Any

import pytest

from conversion.evaluation import _sets_fault
from conversion.evaluation_tables import set_rows
from recipes.evaluation.questions import by_question
from recipes.evaluation.summary import aligned, described, summarize


def row(
    identity: str,
    extracted: str | None,
    gold: str = "A",
    *,
    group: str = "choice",
    status: str | None = None,
    sample: int = 0,
    **more: Any,
) -> dict[str, Any]:
    """One line of NAME.jsonl; `extracted` None is an answer that could not be read."""
    graded = "no_answer" if extracted is None else "correct" if extracted == gold else "incorrect"
    return {
        **{"id": identity, "group": group, "skill": None, "response": f"<answer>{extracted}</answer>", "answer": gold},
        **{"status": status or graded, "tokens": 10, "contradicts": None, "source": "MedQA", "subject": None},
        **{"calculator": None, "sample": sample, "variant": "plain", "extracted": extracted, "cut": False, **more},
    }


def test_invalid_answers_are_wrong_and_faults_count_neither_way() -> None:
    """q1 right, q2 wrong, q3 unreadable (no letter is made up for it), q4 malformed, q5 and q6 not scored."""
    rows = [row("q1", "A"), row("q2", "B"), row("q3", None, cut=True), row("q4", None, status="malformed")]
    rows += [row("q5", None, status="timeout"), row("q6", None, status="verifier_error")]
    result = summarize(rows)
    choice = result["tasks"]["choice"]
    assert (choice["questions"], choice["accuracy"], choice["format_error_share"]) == (4, 0.25, 0.5)
    assert (choice["no_answer"], choice["malformed"], choice["cut_share"]) == (1, 1, 0.25)
    assert (result["questions"], result["answers"], result["unscored"]) == (6, 6, 2)
    assert choice["stderr"] == pytest.approx((0.25 * 0.75 / 4) ** 0.5)
    assert (choice["curve"], choice["agreement"], result["order"], result["transfer"]) == ([], None, None, None)
    # A gold of A is no better off than another.
    shifted = [{**each, "answer": "B", "extracted": each["extracted"] and "B"} for each in rows]
    assert summarize(shifted)["tasks"]["choice"]["format_error_share"] == 0.5


def test_budgets_by_hand() -> None:
    """Errors are means over questions; what is not scored, and what was asked without a budget, counts nowhere."""
    rows = [row("q1", "A", tokens=500)]
    for budget, first, second, third in ((20, 10, 30, 25), (100, 100, 50, 150)):
        asked = {"variant": f"budget {budget}", "budget": budget, "budget_mode": "exact"}
        rows += [row("q1", "A", tokens=first, **asked), row("q1", "B", tokens=second, sample=1, **asked)]
        rows += [row("q2", "A", tokens=third, cut=True, **asked)]
        rows += [row("q3", None, status="timeout", tokens=9999, **asked)]
    result = summarize(rows)
    found = result["budgets"]
    assert found["mode"] == "exact"
    small, large = found["points"]
    assert (small["budget"], small["questions"], small["answers"], small["accuracy"]) == (20, 2, 3, 0.75)
    assert small["error"] == pytest.approx(((0.5 + 0.5) / 2 + 0.25) / 2)
    assert small["within_share"] == pytest.approx((0.5 + 0) / 2)
    assert (small["mean_tokens"], small["cut_share"]) == (22.5, 0.5)
    assert large["error"] == pytest.approx(((0 + 0.5) / 2 + 0.5) / 2)
    assert large["within_share"] == pytest.approx(0.5)
    assert large["spread"] == pytest.approx((60, 140))
    said = described({"name": "a", "dropped": 0, "seen": {"questions": 0, "unread": []}, **result}).splitlines()
    begin = said.index("asked to think for N tokens:")
    assert said[begin + 2].split()[:3] == ["20", "2", "75.0%"]
    assert summarize(rows[:1])["budgets"] is None


def test_sets_weigh_questions_and_the_mean_weighs_tasks() -> None:
    """Three of four choices and none of one calculation: 3/5 of all questions, a mean of (0.75 + 0) / 2 over tasks."""
    rows = [row(f"c{n}", "A" if n else "B", subject="Anatomy" if n < 2 else "Surgery") for n in range(4)]
    rows.append(row("m", "7", "8", group="calculation", source="MedCalc-Bench", calculator=2, subject="lab"))
    result = summarize(rows)
    assert (result["mean"], result["all"]["accuracy"]) == (0.375, 0.6)
    assert {name: part["accuracy"] for name, part in result["sets"].items()} == {"MedCalc-Bench": 0.0, "MedQA": 0.75}
    subjects = result["sets"]["MedQA"]["subjects"]
    assert {name: (part["questions"], part["accuracy"]) for name, part in subjects.items()} == {
        "Anatomy": (2, 0.5),
        "Surgery": (2, 1.0),
    }
    assert result["sets"]["MedCalc-Bench"]["calculators"]["2"]["questions"] == 1
    assert result["interval"][0] < 0.375 < result["interval"][1]
    assert summarize(rows) == result, "the same answers come to the same numbers"
    shown = described({"name": "after", "dropped": 0, "seen": {"questions": 0, "unread": []}, **result}).split("\n")
    assert shown[0] == "after: choice 75.0%  calculation 0.0%  mean 37.5% (standard error 10.8%)"
    names = ["MedCalc-Bench", "lab", "MedQA", "Anatomy", "Surgery", "all"]
    assert [line.split()[0] for line in shown[2:]] == names
    assert shown[4].split() == ["MedQA", "4", "75.0%", "25.0%", "to", "100.0%", "0.0%", "0.0%", "10"]


def test_sets_in_and_out_of_distribution_stand_apart() -> None:
    """By what the questions say; one that says nothing is in neither."""
    where = ("in distribution", "out of distribution", "out of distribution")
    rows = [row(f"q{n}", said, distribution=each) for n, (said, each) in enumerate(zip("AAB", where, strict=True))]
    result = summarize([*rows, row("q9", "B")])
    shares = {name: (own["questions"], own["accuracy"]) for name, own in result["distributions"].items()}
    assert shares == {"in distribution": (1, 1.0), "out of distribution": (2, 0.5)}
    about = {"name": "after", "dropped": 0, "seen": {"questions": 0, "contexts": 0, "unread": []}}
    assert [line.split()[0] for line in described({**about, **result}).splitlines()[2:]] == [
        "MedQA",
        "in",
        "out",
        "all",
    ]
    assert [line[0] for line in set_rows({**result, "sets": result["sets"] | {"MMLU": result["all"]}})] == [
        *("MedQA", "MMLU", *shares, "all questions")
    ]
    assert _sets_fault({**result, "distributions": {"in distribution": {}}}) is not None


def test_several_answers_a_question() -> None:
    """q1: A A B and one unreadable, gold A; q2: B B B and a fault.

    pass@1 is (2/4 + 0) / 2, pass@2 of q1 1 - C(2,2)/C(4,2) = 5/6. With four answers q1 alone counts at k = 4; the vote
    of its four is A. Agreement: q1 one pair AA of 6, q2 all of 3.
    """
    rows = [row("q1", said, sample=n) for n, said in enumerate(("A", "A", "B", None))]
    rows += [row("q2", "B", sample=n, status=None if n < 3 else "timeout") for n in range(4)]
    found = summarize(rows)["all"]
    assert (found["questions"], found["answers"], found["accuracy"]) == (2, 7, 0.25)
    curve = {point["k"]: (point["questions"], point["pass"], point["majority"]) for point in found["curve"]}
    # At k = 2 the pairs of q1 are AA, 2 AB (half right each), A? twice (right), B?: (1 + 1 + 2) / 6.
    assert curve == {
        1: (2, 0.25, 0.25),
        2: (2, pytest.approx(5 / 12), pytest.approx((1 + 2 * 0.5 + 2) / 6 / 2)),
        4: (1, 1.0, 1.0),
    }
    assert found["agreement"] == pytest.approx((1 / 6 + 1) / 2)
    assert found["format_error_share"] == 0.125, "a quarter of q1's answers, none of q2's"
    # Errors are over the two questions, not over seven answers: sqrt(((1/4)^2 + (1/4)^2) / 2 / 2).
    assert found["stderr"] == pytest.approx(0.25 / 2**0.5)


def test_options_in_another_order() -> None:
    """q1 and q4 follow their option C around; q2 says A wherever it stands; q3 was asked in one order alone."""
    rows = [row(name, "C", "C") for name in ("q1", "q4")]
    rows += [row(name, "B", "B", variant="shuffled 1", order="DCBA") for name in ("q1", "q4")]
    rows += [row("q2", "A", "A"), row("q2", "A", "D", variant="shuffled 1", order="DCBA")]
    rows += [row("q3", "A", "A")]
    order = summarize(rows)["order"]
    assert (order["questions"], order["accuracy"]) == (3, {"plain": 1.0, "shuffled 1": pytest.approx(2 / 3)})
    assert order["spread"] == pytest.approx(1 / 3)
    assert (order["same_choice"], order["right_in_all"]) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert order["positions"]["A"] == {"chosen": pytest.approx(2 / 6), "right": pytest.approx(1 / 6)}
    assert order["positions"]["D"] == {"chosen": 0.0, "right": pytest.approx(1 / 6)}
    assert summarize(rows)["tasks"]["choice"]["questions"] == 4, "only the plain form counts for the score"


def test_without_options() -> None:
    """Both right, right with options alone, right without alone: 2/3 and 2/3, one of two right ones kept."""
    rows = [row("q1", "A"), row("q2", "A"), row("q3", "B")]
    short = (("q1", "aspirin"), ("q2", "heparin"), ("q3", "aspirin"))
    rows += [row(name, said, "aspirin", group="text", variant="short") for name, said in short]
    result = summarize(rows)
    found = result["transfer"]
    assert (found["choice"], found["short"]) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert (found["change"], found["kept"], found["questions"]) == (0.0, 0.5, 3)
    assert list(result["tasks"]) == ["choice"]


def test_answers_of_an_older_release_are_read() -> None:
    old = {"id": "q1", "group": "text", "status": "correct", "tokens": 5, "contradicts": True, "response": "x"}
    result = summarize([old, {**old, "id": "q2", "status": "incorrect", "contradicts": False}])
    assert (result["tasks"]["text"]["accuracy"], result["tasks"]["text"]["contradiction_share"]) == (0.5, 0.5)
    assert (result["sets"], result["tasks"]["text"]["cut_share"]) == ({}, None)
    assert by_question([old], "short") == []
    assert summarize([])["all"] is None


def test_subjects_of_any_kind_and_a_question_of_which_only_a_variant_fitted() -> None:
    """Subjects are what a file of questions has; of q6 the plain form was too long, so that it is in `dropped`."""
    rows = [row(f"q{n}", "A", subject=subject) for n, subject in enumerate([10, "x", ["y"], {"z": 1}, 9, None])]
    result = summarize([*rows, row("q6", "A", group="text", variant="short")])
    assert list(result["sets"]["MedQA"]["subjects"]) == ["9", "10", "['y']", "x", "{'z': 1}"]
    assert result["questions"] == 6
    assert aligned([["a\nb", "1"], ["c", "2"]]) == ["a b  1", "c    2"]
