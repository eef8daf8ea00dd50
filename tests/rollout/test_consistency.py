"""Whether an answer follows from its reasoning: a table of cases."""

from __future__ import annotations

import pytest

from recipes.data.example import Example
from recipes.rollout.consistency import contradicts

CHOICE = Example("1", "s", "choice", "?", "B", options={"A": "zinc", "B": "Iron", "C": "copper"})
NUMBER = Example("1", "s", "number", "?", 5.0, lower=5.0, upper=5.0)
TEXT = Example("1", "s", "text", "?", "zinc")
DATE = Example("1", "s", "date", "?", "01/02/2024")


def _response(think: str, answer: str) -> str:
    return f"<think>{think}</think><answer>{answer}</answer>"


@pytest.mark.parametrize(
    ("example", "think", "answer", "expected"),
    [
        (NUMBER, "2+3=5", "5", False),
        (NUMBER, "2+3=5", "5.0", False),
        (NUMBER, "2+3=5", "The answer is 5.", False),
        (NUMBER, "2+3=5", "6", True),
        (NUMBER, "2-5=-3", "-3", False),
        (NUMBER, "2-5=-3", "3", True),
        (NUMBER, "no figures", "6", None),
        (NUMBER, "2+3=5", "unknown", None),
        (CHOICE, "anemia: Iron (B)", "B", False),
        (CHOICE, "anemia: iron (B).", "(B)", False),
        (CHOICE, "anemia: Iron (B)", "C", True),
        (CHOICE, "anemia: Iron (A)", "A", True),  # the letter is not that of the text it claims
        (CHOICE, "first zinc (A), then copper (C)", "C", False),
        (CHOICE, "anemia: something else (A)", "A", False),
        (CHOICE, "anemia", "A", None),
        (TEXT, "loss of taste: zinc", "Zinc", False),
        (TEXT, "loss of taste: zinc", "iron", True),
        (TEXT, "zinc", "zinc.", False),
        (DATE, "12/19/2023+14 days=01/02/2024", "01/03/2024", True),
    ],
)
def test_table(example: Example, think: str, answer: str, expected: bool | None) -> None:
    assert contradicts(example, _response(think, answer)) is expected


@pytest.mark.parametrize(
    "response", ["", "5", "<answer>5</answer>", "<think>5</think>", "<answer>5</answer><think>5</think>"]
)
def test_without_both_parts_there_is_nothing_to_compare(response: str) -> None:
    assert contradicts(NUMBER, response) is None


def test_line_breaks_do_not_matter() -> None:
    assert contradicts(NUMBER, "<think>\n2+3\n=5\n</think>\n\n<answer>\n5\n</answer>") is False
