"""The calculators: exact labels, honest worked steps, and formulas checked by hand."""

from __future__ import annotations

import datetime
import random
import re
from fractions import Fraction
from typing import Any

import pytest

from recipes.data.calculators import CALCULATORS, Calculator
from recipes.data.generator import ELEMENTARY, PERFECT, Teacher, calculation_example
from recipes.data.work import Work, format_number

DRAWS = 300


@pytest.mark.parametrize("name", CALCULATORS)
def test_a_perfect_trace_is_right_by_the_rows_own_rule(name: str) -> None:
    """Worked steps round to two decimals; a trace that leaves the limits by it would teach answers marked wrong."""
    for seed in range(DRAWS):
        example = calculation_example(random.Random(seed), CALCULATORS[name], teacher=PERFECT)
        said = example.meta["trace"]["answer"]
        if example.task == "number" and not example.rounding:
            assert example.lower is not None
            assert example.upper is not None
            assert example.lower <= float(said) <= example.upper, (example.question, example.meta["trace"])
        elif example.task == "number":
            assert isinstance(example.answer, float)
            assert float(said) == example.answer, example.question
        else:
            assert said == example.gold(), example.question


@pytest.mark.parametrize("name", CALCULATORS)
def test_limits_hold_the_answer_and_five_percent(name: str) -> None:
    for seed in range(DRAWS):
        example = calculation_example(random.Random(seed), CALCULATORS[name])
        if example.task == "number" and not example.rounding:
            assert not isinstance(example.answer, str | dict)
            expected = sorted((0.95 * example.answer, 1.05 * example.answer))
            assert [example.lower, example.upper] == pytest.approx(expected)


# One step: what is calculated, and what is said to come of it.
_NUMBER = r"-?\d+(?:\.\d+)?"
_BINARY = re.compile(rf"({_NUMBER})([-+*/^])({_NUMBER})=({_NUMBER})")
_UNARY = re.compile(rf"(sqrt )?({_NUMBER})=({_NUMBER})")


def _assert_true(step: str) -> None:
    """The right side is the left side's value, rounded to the decimals that are written."""
    binary, unary = _BINARY.fullmatch(step), _UNARY.fullmatch(step)
    if binary:
        a, sign, b, said = Fraction(binary[1]), binary[2], Fraction(binary[3]), Fraction(binary[4])
        if sign == "^":
            value = Fraction(float(a) ** float(b))
            tolerance = Fraction(1, 2000)
        else:
            value = {"+": a + b, "-": a - b, "*": a * b, "/": a / b if b else Fraction(0)}[sign]
            tolerance = Fraction(1, 200)
    else:
        assert unary, f"{step!r} is no step that can be checked"
        value = Fraction(float(unary[2]) ** 0.5) if unary[1] else Fraction(unary[2])
        said, tolerance = Fraction(unary[3]), Fraction(1, 200)
    # A tie may go either way, as binary fractions do.
    assert abs(said - value) <= tolerance + Fraction(1, 10**9), f"{step}, but it is {float(value)}"


@pytest.mark.parametrize("name", [name for name, c in CALCULATORS.items() if c.output in ("decimal", "integer")])
def test_every_worked_step_is_true(name: str) -> None:
    """Also those of usual mistakes: the teacher picks wrong formulas but does not miscalculate."""
    calculator = CALCULATORS[name]
    for seed in range(DRAWS):
        for variant in range(calculator.variants):
            problem = calculator.draw(random.Random(seed))
            work = Work()
            problem.solve(work, variant)
            for step in work.steps:
                _assert_true(step)


@pytest.mark.parametrize("name", [name for name, c in CALCULATORS.items() if c.output in ("date", "duration")])
def test_every_step_on_the_calendar_is_true(name: str) -> None:
    def day(text: str) -> datetime.date:
        return datetime.datetime.strptime(text, "%m/%d/%Y").date()

    date = r"\d\d/\d\d/\d{4}"
    for seed in range(DRAWS):
        work = Work()
        CALCULATORS[name].draw(random.Random(seed)).solve(work, 0)
        for step in work.steps:
            if m := re.fullmatch(rf"({date})\+(\d+) days=({date})", step):
                assert day(m[3]) - day(m[1]) == datetime.timedelta(days=int(m[2])), step
            elif m := re.fullmatch(rf"({date})-({date})=(\d+) days", step):
                assert day(m[1]) - day(m[2]) == datetime.timedelta(days=int(m[3])), step
            elif m := re.fullmatch(r"(\d+) days=(\d+) weeks, (\d+) days", step):
                assert int(m[1]) == 7 * int(m[2]) + int(m[3]), step
                assert int(m[3]) < 7
            else:
                _assert_true(step)


@pytest.mark.parametrize("name", CALCULATORS)
def test_the_usual_mistakes_are_mistakes(name: str) -> None:
    """A wrong variant that mostly gives the right answer would make the ignorant teacher a good one."""
    calculator = CALCULATORS[name]
    for variant in range(1, calculator.variants):
        differing = 0
        for seed in range(DRAWS):
            problem = calculator.draw(random.Random(seed))
            right, wrong = (problem.solve(Work(digits=None), v) for v in (0, variant))
            if isinstance(right, float | int) and isinstance(wrong, float | int):
                differing += abs(wrong - right) > 0.05 * abs(right)
            else:
                differing += wrong != right
        assert differing > DRAWS / 3, f"variant {variant} differs in {differing} of {DRAWS} draws"


class _Fixed(random.Random):
    """Hands out the given values in turn, so that a calculator draws the inputs of a hand calculation."""

    def __init__(self, *values: object) -> None:
        super().__init__()
        self._values = list(values)

    def randint(self, a: int, b: int) -> int:
        value = self._values.pop(0)
        assert isinstance(value, int)
        assert a <= value <= b
        return value

    def choice(self, seq: Any) -> Any:
        value = self._values.pop(0)
        assert value in seq
        return value


@pytest.mark.parametrize(
    ("name", "inputs", "question", "expected"),
    [
        # 142 * (0.8 / 0.9)^-0.302 * 0.9938^50 = 142 * 1.036211 * 0.732740 = 107.8167; with the wrong 0.7 for men,
        # 142 * (0.8 / 0.7)^-1.2 * 0.732739 = 88.64.
        ("CKD-EPI", ("man", 50, 8), "man, age 50, creatinine 0.8", 107.8167),
        # 142 * (0.6 / 0.7)^-0.241 * 0.9938^40 * 1.012 = 142 * 1.037849 * 0.779758 * 1.012 = 116.2955
        ("CKD-EPI", ("woman", 40, 6), "woman, age 40, creatinine 0.6", 116.2955),
        # 142 * (2 / 0.9)^-1.2 * 0.9938^60 = 142 * 0.383579 * 0.688556 = 37.5045
        ("CKD-EPI", ("man", 60, 20), "man, age 60, creatinine 2.0", 37.5045),
        ("anion gap", (140, 100, 20), "Na 140, Cl 100, HCO3 20", 20),  # 140 - 120
        ("delta gap", (140, 100, 20), "Na 140", 8),  # 20 - 12
        ("delta ratio", (140, 100, 20), "Na 140", 2),  # (20 - 12) / (24 - 20)
        ("albumin corrected anion gap", (140, 100, 20, 20), "albumin 2.0", 25),  # 20 + 2.5 * (4 - 2)
        ("corrected calcium", (25, 80), "calcium 8.0, albumin 2.5", 9.2),  # 0.8 * (4 - 2.5) + 8
        ("corrected sodium", (130, 10), "Na 130, glucose 500", 139.6),  # 130 + 0.024 * 400
        ("serum osmolality", (140, 1, 5), "Na 140, BUN 14, glucose 90", 290),  # 280 + 14 / 2.8 + 90 / 18
        ("LDL cholesterol", (200, 50, 30), "total 200, HDL 50, triglycerides 150", 120),  # 200 - 50 - 150 / 5
        ("HOMA-IR", (9, 90), "insulin 9, glucose 90", 2),  # 9 * 90 / 405
        ("free water deficit", ("man", 70, 23), "weight 70, Na 161", 6.3),  # .6 * 70 * (161 / 140 - 1) = 42 * .15
        # 100 * (2 * 40) / (140 * 100) = .571429 %
        ("fractional sodium excretion", (20, 10, 140, 40), "Na 140, creatinine 2.0, urine Na 40", 0.571429),
        ("creatinine clearance", ("woman", 60, 72, 10), "woman, age 60", 68),  # (140 - 60) * 72 / (72 * 1) * .85
        ("mean arterial pressure", (16, 14), "122/80", 94),  # (2 * 80 + 122) / 3
        ("body mass index", (80, 40 - 5), "1.75 m", 26.122449),  # 80 / 3.0625
        ("ideal body weight", ("woman", 65), "65 inches", 57),  # 45.5 + 2.3 * 5
        ("adjusted body weight", ("man", 70, 113), "weight 113", 89),  # 73 + .4 * (113 - 73)
        ("maintenance fluid", (8,), "weight 8", 32),  # 4 * 8
        ("maintenance fluid", (15,), "weight 15", 50),  # 40 + 2 * 5
        ("maintenance fluid", (70,), "weight 70", 110),  # 60 + 50
        ("body surface area", (80, 180), "80 kg", 2),  # sqrt(80 * 180 / 3600)
        ("Framingham QT", (40, 5), "QT 400, RR 0.5", 477),  # 400 + 154 * (1 - .5)
        ("Hodges QT", (40, 10), "heart rate 100", 470),  # 400 + 1.75 * 40
        ("Glasgow coma scale", (4, 5, 6), "motor 6", 15),
    ],
)
def test_formulas_by_hand(name: str, inputs: tuple[object, ...], question: str, expected: float) -> None:
    problem = CALCULATORS[name].draw(_Fixed(*inputs))
    assert question in problem.question
    assert problem.solve(Work(digits=None), 0) == pytest.approx(expected, rel=1e-5)


def test_scores_by_hand() -> None:
    """Points of the items that count double or less than nothing."""

    def score(name: str, *items: str) -> float:
        class Chosen(random.Random):
            def sample(self, *_: Any, **__: Any) -> list[Any]:
                return list(items)

        result = CALCULATORS[name].draw(Chosen()).solve(Work(digits=None), 0)
        assert isinstance(result, float | int)
        return result

    assert score("CHA2DS2-VASc", "age 75 or more", "prior stroke", "female sex") == 5  # 2 + 2 + 1
    assert score("CHA2DS2-VASc", "age 65 to 74", "hypertension") == 2
    assert score("CHA2DS2-VASc", "age 65 to 74", "age 75 or more") == 1  # nobody is both; the second is dropped
    assert score("Wells DVT", "active cancer", "other diagnosis likely") == -1  # 1 - 2
    assert score("Centor", "fever", "age over 44") == 0


def test_enough_calculators_for_a_tiny_model() -> None:
    assert len(ELEMENTARY) >= 20
    numbers = [c.number for c in CALCULATORS.values()]
    assert len(set(numbers)) == len(numbers), "two calculators claim one number of MedCalc-Bench"


def test_an_ignorant_teacher_errs_but_labels_do_not() -> None:
    """The label comes from the exact procedure whoever writes the trace."""
    name = "anion gap"
    ignorant = Teacher(knows=0.0)
    said = set()
    for seed in range(100):
        by_ignorant = calculation_example(random.Random(seed), CALCULATORS[name], teacher=ignorant)
        by_perfect = calculation_example(random.Random(seed), CALCULATORS[name], teacher=PERFECT)
        assert (by_ignorant.question, by_ignorant.answer) == (by_perfect.question, by_perfect.answer)
        said.add(by_ignorant.meta["trace"]["answer"] == by_perfect.meta["trace"]["answer"])
    assert said == {True, False}


@pytest.mark.parametrize(
    ("value", "text"), [(2.0, "2"), (2.5, "2.5"), (0.125, "0.12"), (-0.001, "0"), (-1.5, "-1.5"), (100.0, "100")]
)
def test_format_number(value: float, text: str) -> None:
    assert format_number(value) == text


def test_variants_are_declared() -> None:
    def check(calculator: Calculator) -> None:
        problem = calculator.draw(random.Random(0))
        for variant in range(calculator.variants):
            problem.solve(Work(), variant)

    for calculator in CALCULATORS.values():
        check(calculator)
        assert calculator.variants >= 2
