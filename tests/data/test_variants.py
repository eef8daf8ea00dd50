"""The same question with its options in another order, and without options."""

from __future__ import annotations

import json
from itertools import permutations

import pytest

from recipes.data.example import Example, example_from_row
from recipes.data.variants import reordered, variants, without_options

OPTIONS = {"A": "zinc", "B": "iron", "C": "copper"}
ASKED = Example("q", "s", "choice", "Which?", "B", options=OPTIONS, meta={"subject": "metals"})


def test_every_order_is_another_and_the_right_option_stays_right() -> None:
    """Five of the six orders of three options are left, however many are asked for; each run draws the same."""
    found = list(variants([ASKED], shuffles=9, short=False))
    assert [each.variant for each in found] == ["plain", *(f"shuffled {n}" for n in range(1, 6))]
    assert {each.order for each in found[1:]} == {"".join(order) for order in permutations("ABC")} - {"ABC"}
    for each in found[1:]:
        options, order = each.example.options, each.order
        assert options is not None
        assert order is not None
        assert options[str(each.example.answer)] == "iron"
        assert {letter: OPTIONS[original] for letter, original in zip("ABC", order, strict=True)} == options
        assert order["ABC".index(str(each.example.answer))] == "B"
        assert example_from_row(json.loads(each.example.to_json()), "q").meta == {"subject": "metals"}
    assert found[:3] == list(variants([ASKED], shuffles=2, short=False))


def test_letters_that_leave_gaps_stay_the_letters() -> None:
    gaps = Example("g", "s", "choice", "Which?", "D", options={"A": "zinc", "D": "iron"})
    assert reordered(gaps, "DA").options == {"A": "iron", "D": "zinc"}
    assert reordered(gaps, "DA").answer == "A"


@pytest.mark.parametrize(
    ("text", "refers"),
    [
        *((text, True) for text in ("All of the above", "None of these", "Both A and C", "A, B", "Options B and D")),
        *((text, True) for text in ("Neither", "More than one of the above", "Two of the options", "A & B only")),
        *((text, False) for text in ("Hepatitis B", "Factor V or X", "Both kidneys", "All patients", "Give a dose")),
        *((text, False) for text in ("Increase in B cells and a decrease in T cells", "one of the coronary arteries")),
    ],
)
def test_options_that_speak_of_others_are_not_moved(text: str, refers: bool) -> None:
    row = Example("q", "s", "choice", "Which?", "A", options={"A": text, "B": "iron", "C": "copper"})
    assert len(list(variants([row], shuffles=1, short=False))) == (1 if refers else 2)
    assert (without_options(row) is None) == refers


def test_without_options_the_right_text_is_the_answer() -> None:
    asked = list(variants([ASKED], shuffles=0, short=True))[1]
    assert (asked.variant, asked.example.task, asked.example.options) == ("short", "text", None)
    assert (asked.example.id, asked.example.answer, asked.example.group) == ("q", "iron", "text")
    unreadable = Example("q", "s", "choice", "Which?", "A", options={"A": "+++", "B": "--"})
    assert without_options(unreadable) is None, "a text without a word in it cannot be graded"
