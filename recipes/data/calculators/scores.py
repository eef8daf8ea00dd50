"""Scores whose points are whole numbers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial

from recipes.data.calculators.base import Calculator, Problem, register
from recipes.data.work import Work

SCORES: dict[str, Calculator] = {}
_calculator = partial(register, SCORES)


def _score(
    number: int,
    name: str,
    items: Sequence[tuple[str, int]],
    *,
    wrong: Sequence[dict[str, int]],
    exclusive: Sequence[set[str]] = (),
) -> None:
    """Registers a score whose points are summed over the items present; `wrong` gives each mistake's points."""
    points = dict(items)

    @_calculator(number, name, output="integer", variants=1 + len(wrong))
    def draw(rng: random.Random) -> Problem:
        present = rng.sample(sorted(points), rng.randint(1, min(5, len(points))))
        for group in exclusive:
            clash = [item for item in present if item in group]
            present = [item for item in present if item not in clash[1:]]

        def solve(work: Work, variant: int) -> float:
            table = points if variant == 0 else points | wrong[variant - 1]
            return work.total([table[item] for item in present])

        return Problem(f"{name} for {', '.join(present)}?", solve)


_score(
    4,
    "CHA2DS2-VASc",
    [
        ("heart failure", 1),
        ("hypertension", 1),
        ("age 75 or more", 2),
        ("diabetes", 1),
        ("prior stroke", 2),
        ("vascular disease", 1),
        ("age 65 to 74", 1),
        ("female sex", 1),
    ],
    wrong=[
        {"age 75 or more": 1, "prior stroke": 1, "female sex": 0},
        {"hypertension": 2, "diabetes": 2, "heart failure": 2},
    ],
    exclusive=[{"age 75 or more", "age 65 to 74"}],
)
_score(
    45,
    "CURB-65",
    [("confusion", 1), ("high urea", 1), ("rapid breathing", 1), ("low blood pressure", 1), ("age 65 or more", 1)],
    wrong=[{"confusion": 2, "age 65 or more": 2}, {"high urea": 0, "low blood pressure": 0}],
)
_score(
    20,
    "Centor",
    [
        ("fever", 1),
        ("no cough", 1),
        ("tonsillar exudate", 1),
        ("tender neck nodes", 1),
        ("age under 15", 1),
        ("age over 44", -1),
    ],
    wrong=[{"age over 44": 1, "no cough": 0}, {"fever": 2, "tonsillar exudate": 2}],
    exclusive=[{"age under 15", "age over 44"}],
)
_score(
    51,
    "SIRS",
    [("high temperature", 1), ("fast pulse", 1), ("fast breathing", 1), ("high white count", 1)],
    wrong=[{"high temperature": 2, "fast pulse": 2}, {"fast breathing": 0, "high white count": 0}],
)
_score(
    48,
    "PERC",
    [
        ("age 50 or more", 1),
        ("pulse 100 or more", 1),
        ("low oxygen", 1),
        ("leg swelling", 1),
        ("hemoptysis", 1),
        ("recent surgery", 1),
        ("prior thrombosis", 1),
        ("estrogen use", 1),
    ],
    wrong=[
        {"age 50 or more": 0, "low oxygen": 0, "estrogen use": 0, "leg swelling": 0},
        {"hemoptysis": 2, "recent surgery": 2, "prior thrombosis": 2},
    ],
)
_score(
    17,
    "RCRI",
    [
        ("high-risk surgery", 1),
        ("ischemic heart disease", 1),
        ("congestive failure", 1),
        ("stroke history", 1),
        ("insulin treatment", 1),
        ("creatinine over 2", 1),
    ],
    wrong=[
        {"high-risk surgery": 2, "congestive failure": 2, "stroke history": 2},
        {"insulin treatment": 0, "creatinine over 2": 0},
    ],
)
_score(
    25,
    "HAS-BLED",
    [
        ("uncontrolled pressure", 1),
        ("kidney disease", 1),
        ("liver disease", 1),
        ("earlier stroke", 1),
        ("bleeding history", 1),
        ("labile INR", 1),
        ("age over 65", 1),
        ("aspirin use", 1),
        ("alcohol use", 1),
    ],
    wrong=[
        {"liver disease": 0, "kidney disease": 0, "aspirin use": 0, "alcohol use": 0},
        {"bleeding history": 2, "earlier stroke": 2, "labile INR": 2},
    ],
)
_score(
    33,
    "FeverPAIN",
    [
        ("fever in 24 hours", 1),
        ("purulence", 1),
        ("attended within 3 days", 1),
        ("inflamed tonsils", 1),
        ("no cough or coryza", 1),
    ],
    wrong=[{"purulence": 2, "inflamed tonsils": 2}, {"attended within 3 days": 0, "no cough or coryza": 0}],
)
_score(
    16,
    "Wells DVT",
    [
        ("active cancer", 1),
        ("recent bedrest", 1),
        ("calf swelling", 1),
        ("collateral veins", 1),
        ("whole leg swollen", 1),
        ("vein tenderness", 1),
        ("pitting edema", 1),
        ("leg paralysis", 1),
        ("previous clot", 1),
        ("other diagnosis likely", -2),
    ],
    wrong=[
        {"other diagnosis likely": -1, "collateral veins": 0, "pitting edema": 0},
        {"active cancer": 2, "previous clot": 2, "calf swelling": 2},
    ],
)


@_calculator(21, "Glasgow coma scale", output="integer")
def _gcs(rng: random.Random) -> Problem:
    eye, verbal, motor = rng.randint(1, 4), rng.randint(1, 5), rng.randint(1, 6)

    def solve(work: Work, variant: int) -> float:
        if variant == 2:
            return work.add(verbal, motor)
        result = work.add(work.add(eye, verbal), motor)
        return work.add(result, 3) if variant == 1 else result

    return Problem(f"Glasgow coma scale for eye {eye}, verbal {verbal}, motor {motor}?", solve)
