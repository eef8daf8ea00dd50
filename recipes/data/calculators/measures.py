"""Equations on physical measures, and doses."""

from __future__ import annotations

import random
from functools import partial

from recipes.data.calculators.base import Calculator, Problem, register
from recipes.data.work import Work

MEASURES: dict[str, Calculator] = {}
_calculator = partial(register, MEASURES)


@_calculator(5, "mean arterial pressure")
def _map(rng: random.Random) -> Problem:
    diastolic = 5 * rng.randint(9, 22)
    systolic = diastolic + 3 * rng.randint(7, 25)

    def solve(work: Work, variant: int) -> float:
        if variant == 1:
            return work.div(work.add(systolic, diastolic), 2)
        if variant == 2:
            return work.div(work.add(work.mul(2, systolic), diastolic), 3)
        return work.div(work.add(work.mul(2, diastolic), systolic), 3)

    return Problem(f"Mean arterial pressure for {systolic}/{diastolic}?", solve)


@_calculator(6, "body mass index", variants=2, elementary=False)
def _bmi(rng: random.Random) -> Problem:
    weight, height = rng.randint(40, 120), 5 * rng.randint(29, 39) / 100

    def solve(work: Work, variant: int) -> float:
        return work.div(weight, height if variant == 1 else work.mul(height, height))

    return Problem(f"Body mass index for weight {weight} kg, height {height} m?", solve)


def _ideal(work: Work, sex: str, inches: int) -> float:
    return work.add(50 if sex == "man" else 45.5, work.mul(2.3, work.sub(inches, 60)))


@_calculator(10, "ideal body weight")
def _ideal_weight(rng: random.Random) -> Problem:
    sex, inches = rng.choice(["man", "woman"]), rng.randint(61, 79)

    def solve(work: Work, variant: int) -> float:
        if variant == 1:
            return work.add(50 if sex == "man" else 45.5, work.sub(inches, 60))
        if variant == 2:
            return work.add(40, work.mul(2.3, work.sub(inches, 60)))
        return _ideal(work, sex, inches)

    return Problem(f"Ideal body weight for {sex}, {inches} inches?", solve)


@_calculator(62, "adjusted body weight")
def _adjusted_weight(rng: random.Random) -> Problem:
    sex, inches, weight = rng.choice(["man", "woman"]), rng.randint(61, 75), rng.randint(80, 140)

    def solve(work: Work, variant: int) -> float:
        ideal = _ideal(work, sex, inches)
        excess = work.sub(weight, ideal)
        return work.add(ideal, work.mul((0.4, 0.7, 0.1)[variant], excess))

    return Problem(f"Adjusted body weight for {sex}, {inches} inches, weight {weight}?", solve)


@_calculator(61, "target weight", variants=2, elementary=False)
def _target_weight(rng: random.Random) -> Problem:
    bmi, height = rng.randint(19, 28), 5 * rng.randint(29, 39) / 100

    def solve(work: Work, variant: int) -> float:
        return work.mul(bmi, height if variant == 1 else work.mul(height, height))

    return Problem(f"Target weight for body mass index {bmi}, height {height} m?", solve)


@_calculator(22, "maintenance fluid")
def _fluid(rng: random.Random) -> Problem:
    weight = rng.randint(3, 80)

    def solve(work: Work, variant: int) -> float:
        if variant == 1 or (weight <= 10 and variant == 0):
            return work.mul(4, weight)
        if variant == 2:
            return work.mul(2, weight)
        if weight <= 20:
            return work.add(40, work.mul(2, work.sub(weight, 10)))
        return work.add(60, work.sub(weight, 20))

    return Problem(f"Hourly maintenance fluid for weight {weight}?", solve)


@_calculator(60, "body surface area", elementary=False)
def _bsa(rng: random.Random) -> Problem:
    weight, height = rng.randint(40, 120), rng.randint(145, 195)

    def solve(work: Work, variant: int) -> float:
        product = work.mul(weight, height)
        return work.sqrt(work.div(product, (3600, 3131, 3600)[variant])) if variant != 2 else work.div(product, 3600)

    return Problem(f"Body surface area for weight {weight} kg, height {height} cm?", solve)


@_calculator(57, "Framingham QT")
def _qt_framingham(rng: random.Random) -> Problem:
    qt, rr = 10 * rng.randint(30, 50), rng.randint(5, 9) / 10

    def solve(work: Work, variant: int) -> float:
        if variant == 2:
            return work.add(qt, work.mul(154, rr))
        correction = work.mul(154, work.sub(1, rr))
        return work.sub(qt, correction) if variant == 1 else work.add(qt, correction)

    return Problem(f"Framingham QTc for QT {qt}, RR {rr}?", solve)


@_calculator(58, "Hodges QT")
def _qt_hodges(rng: random.Random) -> Problem:
    qt, rate = 10 * rng.randint(30, 50), 60 + 4 * rng.randint(6, 22)

    def solve(work: Work, variant: int) -> float:
        correction = work.mul((1.75, 0.75, 1.75)[variant], work.sub(rate, 60))
        return work.sub(qt, correction) if variant == 2 else work.add(qt, correction)

    return Problem(f"Hodges QTc for QT {qt}, heart rate {rate}?", solve)


@_calculator(11, "Bazett QT", elementary=False)
def _qt_bazett(rng: random.Random) -> Problem:
    qt, rr = 10 * rng.randint(30, 50), rng.randint(5, 12) / 10

    def solve(work: Work, variant: int) -> float:
        if variant == 2:
            return work.div(qt, rr)
        return work.div(qt, work.power(rr, 0.333) if variant == 1 else work.sqrt(rr))

    return Problem(f"Bazett QTc for QT {qt}, RR {rr}?", solve)


_MORPHINE = {"oxycodone": 1.5, "codeine": 0.15, "hydrocodone": 1.0, "oxymorphone": 3.0, "tapentadol": 0.4}
_PREDNISONE = {"hydrocortisone": 20.0, "cortisone": 25.0, "methylprednisolone": 4.0, "dexamethasone": 0.75}


@_calculator(49, "morphine equivalents")
def _mme(rng: random.Random) -> Problem:
    drug, dose, times = rng.choice(sorted(_MORPHINE)), 10 * rng.randint(1, 9), rng.randint(2, 4)

    def solve(work: Work, variant: int) -> float:
        if variant == 2:
            return work.mul(dose, times)
        daily = dose if variant == 1 else work.mul(dose, times)
        return work.mul(daily, _MORPHINE[drug])

    return Problem(f"Morphine equivalents for {drug} {dose} mg, {times} times a day?", solve)


@_calculator(24, "steroid conversion")
def _steroid(rng: random.Random) -> Problem:
    drug, units = rng.choice(sorted(_PREDNISONE)), rng.randint(2, 16)
    dose = units * _PREDNISONE[drug]

    def solve(work: Work, variant: int) -> float:
        if variant == 1:
            return work.mul(dose, 5)
        units_found = work.div(dose, _PREDNISONE[drug])
        return units_found if variant == 2 else work.mul(units_found, 5)

    return Problem(f"Prednisone dose equal to {drug} {dose:g} mg?", solve)
