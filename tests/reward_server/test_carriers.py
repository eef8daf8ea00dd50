"""Every example of the tables of carriers and refusals, and the pages that are made from them."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from reward_server.verifiers import choice, date, duration, number
from reward_server.verifiers.base import Verdict
from reward_server.verifiers.carriers import (
    ALL,
    LEADS,
    REASONS,
    SUFFIXES,
    TAILS,
    Task,
)
from reward_server.verifiers.plain import MARKUP, clean
from reward_server.verifiers.refusals import REFUSALS
from reward_server.verifiers.tables import SAMPLE_OPTIONS, SAMPLES, table

DOCS = Path(__file__).resolve().parents[2] / "docs" / "reward_server.md"
CARRIED = [(markup.example.format(SAMPLES[task]), task) for markup in MARKUP if markup.example for task in ALL]
CARRIED += [
    (example.format(SAMPLES[task]), task)
    for carrier in (*LEADS, *TAILS, *SUFFIXES, *REASONS)
    for example in carrier.examples
    for task in carrier.tasks
]
REFUSED = [(answer, task) for refusal in REFUSALS for task, answers in refusal.examples.items() for answer in answers]


def judge(task: Task, answer: str, gold: str = "C") -> Verdict:
    if task == "choice":
        return choice.verify(answer, gold, SAMPLE_OPTIONS)
    if task == "number":
        return number.verify_range(answer, 5.2, 5.2)
    return date.verify(answer, datetime.date(2014, 9, 3)) if task == "date" else duration.verify(answer, 17, 6)


@pytest.mark.parametrize(("answer", "task"), CARRIED)
def test_a_carried_answer_is_read(answer: str, task: Task) -> None:
    assert judge(task, answer).status == "correct"


@pytest.mark.parametrize(("answer", "task"), REFUSED)
def test_what_cannot_be_accounted_for_is_never_paid(answer: str, task: Task) -> None:
    # "B" is the option with a dose.
    assert "correct" not in {judge(task, answer, gold).status for gold in "BC"}


@pytest.mark.parametrize(("answer", "task"), [row for row in CARRIED if row[1] == "choice"])
def test_a_carried_letter_is_that_letter_for_every_gold(answer: str, task: Task) -> None:
    assert [judge(task, answer, gold).status for gold in "ABD"] == ["incorrect"] * 3


def test_the_docs_hold_the_tables() -> None:
    assert "\n".join(table()) in DOCS.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("written", "paper"),
    [
        *(("C\u200b", "C"), ("\u200fC\u200e", "C"), ("Hep\u00ad\u2060arin", "Heparin"), ("22\ufeff9", "229")),
        *(
            ("\uff23\u3002", "C."),
            ("\u0421", "C"),
            ("H\u0435parin", "Heparin"),
            ("\u041e\u0442\u0432\u0435\u0442", "Ответ"),
        ),
        *(("3\u00bd", "3 1/2"), ("2\u2154 tablets", "2 2/3 tablets"), ("5\u2460", "5 1"), ("10\u00b3", "10^3")),
        *(
            ("36\u207a\u2076", "36^+6"),
            ("CHA\u2082DS\u2082", "CHA2DS2"),
            ("5\u2082", "5_2"),
            ("\u0665\u066b\u0662", "5.2"),
        ),
        *(("\\boxed{\\text{C}}", "C"), ("$2\\frac{1}{2}$", "2 1/2"), ("\\dfrac12", "1/2"), ("1{,}234", "1,234")),
        *(("1.2 \\times 10^{-3}", "1.2 * 10^-3"), ("37^{\\circ}C", "37\u00b0C"), ("-\\,5.2", "- 5.2")),
        *(("10**3", "10**3"), ("**C** text", "C text"), ("2*3*4", "2*3*4"), ("*C*", "C"), ("- C", "C"), ("- 5", "- 5")),
        *(
            ("<b>C</b>", "C"),
            ("10<sup>3</sup>", "10^3"),
            ("a &lt; b", "a < b"),
            ("\\(x\\)", "x"),
            ("\\sqrt{16}", "\\sqrt16"),
        ),
        *(
            ("a\u2014b", "a \u2014 b"),
            ("a\u2212b", "a-b"),
            ("x\u2062y", "x y"),
            ("a\x00b", "a\ufffdb"),
            ("a\r\n\n b", "a\nb"),
        ),
    ],
)
def test_what_stands_on_paper(written: str, paper: str) -> None:
    assert clean(written) == paper
