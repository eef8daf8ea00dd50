"""What a multiple-choice answer commits to; each trap was seen in a peer framework's grader or in medical text."""

from __future__ import annotations

import time

import pytest

from reward_server.verifiers import choice

OPTIONS = {
    "A": "Aspirin",
    "B": "Aspirin and clopidogrel",
    "C": "Hepatitis B vaccine",
    "D": "Vitamin C",
    "E": "Do not treat",
}


def read(answer: str, options: dict[str, str] | None = None) -> str:
    """The letter read, or the status when none was."""
    options = options or OPTIONS
    verdict = choice.verify(answer, next(iter(options)), options)
    return verdict.extracted or verdict.status


@pytest.mark.parametrize(
    "answer",
    [
        *("B", "b", "(B)", "[B]", "B.", "B)", "**B**", "\\boxed{B}", "$B$", "\uff22", "\u24b7", "\u0412", "(\u0392)"),
        *("B. Aspirin and clopidogrel", "B.Aspirin and clopidogrel", "B) aspirin  and clopidogrel", "B: dual therapy"),
        *(
            "B - Aspirin and clopidogrel",
            "B\nAspirin and clopidogrel",
            "Aspirin and clopidogrel (B)",
            "B, because A fails",
        ),
        *("aspirin and clopidogrel", "Aspirin and clopidogrel.", "Give aspirin and clopidogrel now"),
        *(
            "The answer is B",
            "The correct answer is: (B)",
            "Answer: B. Aspirin and clopidogrel",
            "Option B",
            "I choose B",
        ),
        *("I think the answer is B", "B is correct", "B is the best answer", "so the final answer is B."),
    ],
)
def test_one_option_is_meant(answer: str) -> None:
    assert read(answer) == "B"


@pytest.mark.parametrize(
    "answer",
    [
        *("A or B", "A, B", "A/B", "A and B", "(A) or (B)", "A B", "Both A and B", "A; also B", "AB"),
        *("ABCDE", "A, B, C, D, E", "All of the above", "any of them"),
        *("Aspirin or vitamin C", "A or aspirin and clopidogrel", "Aspirin (B)", "A. Vitamin C", "B. Aspirin"),
        *("B) Aspirin, D) Vitamin C", "The answer is A or B"),
        *("not B", "B is not the answer", "Anything except A", "Neither A nor B", "It isn't B", "A is wrong", ""),
    ],
)
def test_an_answer_that_leaves_it_open_is_no_answer(answer: str) -> None:
    assert read(answer) == "no_answer"


@pytest.mark.parametrize(
    "answer",
    [
        *(
            "E. coli",
            "C. difficile",
            "C. Difficile",
            "B. cereus",
            "A. fumigatus",
            "E. coli is likely",
            "The answer is E. coli",
        ),
        *("hepatitis B", "type A", "group B streptococcus", "factor (B)", "A patient with pain", "A+", "B cells"),
        *("stage II", "II", "IV", "class I", "I", "F", "G.", "\u0414", "?"),
    ],
)
def test_a_letter_inside_a_name_is_no_choice(answer: str) -> None:
    assert read(answer) == "malformed"


def test_names_that_end_in_a_letter_choose_their_own_option() -> None:
    assert read("vitamin C") == "D"
    assert read("D. vitamin C.") == "D"
    assert read("Hepatitis B vaccine") == "C"
    organisms = {"A": "C. difficile", "B": "S. aureus", "C": "Norovirus", "D": "B. cereus", "E": "E. coli"}
    assert [read(text, organisms) for text in organisms.values()] == list(organisms)
    assert read("C. difficile is the cause", organisms) == "A"


def test_an_options_own_negation_is_not_the_answers() -> None:
    assert read("Do not treat") == "E"
    assert read("E. Do not treat") == "E"


def test_with_ten_options_i_is_a_letter_and_roman_numerals_are_not() -> None:
    ten = {letter: f"finding {number}" for number, letter in enumerate("ABCDEFGHIJ")}
    assert [read(text, ten) for text in ("I", "(I)", "II", "type I", "I think so")] == [
        *("I", "I", "malformed", "malformed", "malformed"),
    ]
    fourteen = {letter: f"finding {number}" for number, letter in enumerate("ABCDEFGHIJKLMN")}
    assert read("N", fourteen) == "N"


def test_a_bare_letter_is_the_label_even_when_options_are_letters() -> None:
    # MedQA has such questions, about panels of a figure.
    assert read("B", {"A": "B", "B": "C", "C": "D", "D": "E"}) == "B"


def test_numbers_as_options_match_whole_numbers_only() -> None:
    options = {"A": "0.5", "B": "5%", "C": "50%", "D": "25"}
    assert [read(text, options) for text in ("0.5", "5%", "50%", "25", "25%", "250", "5")] == [
        *("A", "B", "C", "D", "malformed", "malformed", "malformed"),
    ]


def test_twin_options_are_told_apart_by_letter_only() -> None:
    twins = {"A": "Rest", "B": "Ice", "C": "rest"}
    assert read("Rest", twins) == "no_answer"
    assert read("C. Rest", twins) == "C"


def test_strict_takes_the_letter_alone() -> None:
    verdicts = {text: choice.verify(text, "B", OPTIONS, "strict").status for text in ("B", " B ", "A", "B.", "b", "AB")}
    assert verdicts == {
        **{"B": "correct", " B ": "correct", "A": "incorrect"},
        **{"B.": "malformed", "b": "malformed", "AB": "malformed"},
    }


@pytest.mark.parametrize(
    "unit", ["A ", "a", "(", "aspirin ", "not ", "A, ", "\n", " ", "B.\n", "and A ", "**", "option "]
)
def test_a_long_answer_takes_bounded_time(unit: str) -> None:
    # A pattern that backtracks would need hours for 100,000 characters and minutes for 4,000.
    started = time.perf_counter()
    for length in (4_000, 100_000):
        choice.verify((unit * length)[:length], "B", OPTIONS)
    assert time.perf_counter() - started < 5
