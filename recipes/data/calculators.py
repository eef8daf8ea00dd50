"""Medical calculators with exact labels: questions with drawn inputs, worked steps, and the mistakes people make.

Formulas and calculator numbers are those of MedCalc-Bench (Khandekar et al. 2024); CKD-EPI uses A = 0.9 for males, as
the 2021 equation says (the benchmark's released code uses 0.7 for males with low creatinine). Limits follow its rule:
95 % to 105 % of the answer for equations, equality after rounding for the integer scores, equality for dates.

A calculator draws its inputs and returns the question with a procedure that can be carried out in several variants:
variant 0 is right, the others are usual mistakes (a forgotten factor, a wrong constant, a miscounted item), from which
an imperfect teacher's traces are made. Left out: extracting the inputs from a patient's note, which needs a real model.
"""

from __future__ import annotations

import datetime
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from recipes.data.work import Work

Number = int | float
Answer = float | datetime.date | tuple[int, int]
Solve = Callable[[Work, int], Answer]


@dataclass(frozen=True)
class Problem:
    """A question with its inputs written in, and the procedure that answers it: `solve(work, variant)`."""

    question: str
    solve: Solve


@dataclass(frozen=True)
class Calculator:
    """One calculator of MedCalc-Bench.

    Attributes:
        number: its Calculator ID there.
        output: "decimal", "integer", "date" (MM/DD/YYYY) or "duration" (weeks, days).
        variants: how many ways `solve` knows, the right one (0) included.
        elementary: whether its steps are sums, differences and small products that a tiny model can learn.
    """

    number: int
    name: str
    output: str
    variants: int
    elementary: bool
    draw: Callable[[random.Random], Problem]


CALCULATORS: dict[str, Calculator] = {}


def _calculator(
    number: int, name: str, *, output: str = "decimal", variants: int = 3, elementary: bool = True
) -> Callable[[Callable[[random.Random], Problem]], Callable[[random.Random], Problem]]:
    def register(draw: Callable[[random.Random], Problem]) -> Callable[[random.Random], Problem]:
        CALCULATORS[name] = Calculator(number, name, output, variants, elementary, draw)
        return draw

    return register


# --- laboratory ------------------------------------------------------------------------------------------------------


def _electrolytes(rng: random.Random) -> tuple[int, int, int]:
    return rng.randint(132, 148), rng.randint(94, 108), rng.randint(8, 22)


def _gap(work: Work, na: Number, cl: Number, hco3: Number) -> float:
    return work.sub(na, work.add(cl, hco3))


@_calculator(39, "anion gap")
def _anion_gap(rng: random.Random) -> Problem:
    na, cl, hco3 = _electrolytes(rng)

    def solve(work: Work, variant: int) -> float:
        if variant == 1:
            return work.sub(na, cl)
        gap = _gap(work, na, cl, hco3)
        return work.add(gap, 4) if variant == 2 else gap

    return Problem(f"Anion gap for Na {na}, Cl {cl}, HCO3 {hco3}?", solve)


@_calculator(63, "delta gap")
def _delta_gap(rng: random.Random) -> Problem:
    na, cl, hco3 = _electrolytes(rng)

    def solve(work: Work, variant: int) -> float:
        return work.sub(_gap(work, na, cl, hco3), (12, 10, 16)[variant])

    return Problem(f"Delta gap for Na {na}, Cl {cl}, HCO3 {hco3}?", solve)


@_calculator(65, "albumin corrected anion gap")
def _albumin_gap(rng: random.Random) -> Problem:
    na, cl, hco3 = _electrolytes(rng)
    albumin = rng.randint(15, 39) / 10

    def solve(work: Work, variant: int) -> float:
        gap = _gap(work, na, cl, hco3)
        return work.add(gap, work.mul((2.5, 1.5, 0.8)[variant], work.sub(4, albumin)))

    return Problem(f"Albumin corrected anion gap for Na {na}, Cl {cl}, HCO3 {hco3}, albumin {albumin}?", solve)


@_calculator(64, "delta ratio", elementary=False)
def _delta_ratio(rng: random.Random) -> Problem:
    na, cl, hco3 = _electrolytes(rng)

    def solve(work: Work, variant: int) -> float:
        delta = work.sub(_gap(work, na, cl, hco3), (12, 10, 12)[variant])
        return work.div(delta, work.sub((24, 24, 26)[variant], hco3))

    return Problem(f"Delta ratio for Na {na}, Cl {cl}, HCO3 {hco3}?", solve)


@_calculator(7, "corrected calcium")
def _corrected_calcium(rng: random.Random) -> Problem:
    albumin, calcium = rng.randint(15, 38) / 10, rng.randint(60, 110) / 10

    def solve(work: Work, variant: int) -> float:
        correction = work.mul((0.8, 2.5, 0.2)[variant], work.sub(4, albumin))
        return work.add(correction, calcium)

    return Problem(f"Corrected calcium for calcium {calcium}, albumin {albumin}?", solve)


@_calculator(26, "corrected sodium")
def _corrected_sodium(rng: random.Random) -> Problem:
    na, glucose = rng.randint(118, 140), 50 * rng.randint(4, 20)

    def solve(work: Work, variant: int) -> float:
        if variant == 1:
            return work.sub(na, work.mul(0.024, work.sub(glucose, 100)))
        factor = 0.24 if variant == 2 else 0.024
        return work.add(na, work.mul(factor, work.sub(glucose, 100)))

    return Problem(f"Corrected sodium for Na {na}, glucose {glucose}?", solve)


@_calculator(30, "serum osmolality")
def _osmolality(rng: random.Random) -> Problem:
    na, bun, glucose = rng.randint(120, 160), 14 * rng.randint(1, 6), 18 * rng.randint(4, 20)

    def solve(work: Work, variant: int) -> float:
        if variant == 1:
            first = float(na)
        else:
            first = work.mul(2, na)
        partial = work.add(first, work.div(bun, 2.8))
        return work.add(partial, float(glucose) if variant == 2 else work.div(glucose, 18))

    return Problem(f"Serum osmolality for Na {na}, BUN {bun}, glucose {glucose}?", solve)


@_calculator(44, "LDL cholesterol")
def _ldl(rng: random.Random) -> Problem:
    total, hdl, fat = rng.randint(150, 300), rng.randint(25, 70), 5 * rng.randint(10, 60)

    def solve(work: Work, variant: int) -> float:
        rest = work.sub(total, hdl)
        return rest if variant == 1 else work.sub(rest, work.div(fat, (5, 5, 10)[variant]))

    return Problem(f"LDL cholesterol for total {total}, HDL {hdl}, triglycerides {fat}?", solve)


@_calculator(31, "HOMA-IR", elementary=False)
def _homa(rng: random.Random) -> Problem:
    insulin, glucose = rng.randint(2, 40), rng.randint(70, 250)

    def solve(work: Work, variant: int) -> float:
        return work.div(work.mul(insulin, glucose), (405, 22.5, 450)[variant])

    return Problem(f"HOMA-IR for insulin {insulin}, glucose {glucose}?", solve)


@_calculator(38, "free water deficit", elementary=False)
def _free_water(rng: random.Random) -> Problem:
    sex, weight, na = rng.choice(["man", "woman"]), rng.randint(45, 100), 7 * rng.randint(21, 25)
    fraction = 0.6 if sex == "man" else 0.5

    def solve(work: Work, variant: int) -> float:
        excess = work.sub(work.div(na, 140), 1)
        water = float(weight) if variant == 1 else work.mul(0.6 if variant == 2 else fraction, weight)
        return work.mul(water, excess)

    return Problem(f"Free water deficit for {sex}, age 40, weight {weight}, Na {na}?", solve)


@_calculator(40, "fractional sodium excretion", elementary=False)
def _fena(rng: random.Random) -> Problem:
    # From 0.1 % on, two decimals stay within the limits of 5 %.
    creatinine, urine_cr = rng.randint(15, 60) / 10, 10 * rng.randint(2, 20)
    na, urine_na = rng.randint(125, 150), rng.randint(20, 120)

    def solve(work: Work, variant: int) -> float:
        top = work.mul(creatinine, urine_na) if variant != 1 else work.mul(urine_cr, urine_na)
        bottom = work.mul(na, urine_cr) if variant != 1 else work.mul(na, creatinine)
        return work.div(work.mul(100 if variant != 2 else 10, top), bottom)

    question = f"FENa for Na {na}, creatinine {creatinine}, urine Na {urine_na}, urine creatinine {urine_cr}?"
    return Problem(question, solve)


@_calculator(2, "creatinine clearance", elementary=False)
def _cockcroft_gault(rng: random.Random) -> Problem:
    sex, age, weight = rng.choice(["man", "woman"]), rng.randint(20, 90), rng.randint(45, 100)
    creatinine = rng.randint(5, 40) / 10

    def solve(work: Work, variant: int) -> float:
        top = work.mul(work.sub(140, age), weight)
        result = work.div(top, work.mul(72 if variant != 1 else 78, creatinine))
        return work.mul(result, 0.85) if sex == "woman" and variant != 2 else result

    question = f"Creatinine clearance for {sex}, age {age}, weight {weight}, creatinine {creatinine}?"
    return Problem(question, solve)


@_calculator(3, "CKD-EPI", elementary=False)
def _ckd_epi(rng: random.Random) -> Problem:
    sex, age, creatinine = rng.choice(["man", "woman"]), rng.randint(20, 90), rng.randint(4, 50) / 10
    kappa, other, alpha = (0.9, 0.7, -0.302) if sex == "man" else (0.7, 0.9, -0.241)

    def solve(work: Work, variant: int) -> float:
        # Variant 1 takes the other sex's constant (for men as the benchmark's released code does), 2 forgets the age.
        ratio = work.div(creatinine, other if variant == 1 else kappa)
        filtered = work.mul(142, work.power(ratio, alpha if ratio <= 1 else -1.2))
        aged = filtered if variant == 2 else work.mul(filtered, work.power(0.9938, age))
        return work.mul(aged, 1.012) if sex == "woman" else aged

    return Problem(f"CKD-EPI 2021 GFR for {sex}, age {age}, creatinine {creatinine}?", solve)


# --- physical measures -----------------------------------------------------------------------------------------------


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


# --- doses -----------------------------------------------------------------------------------------------------------

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


# --- scores ----------------------------------------------------------------------------------------------------------


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


# --- dates -----------------------------------------------------------------------------------------------------------


def _day(rng: random.Random) -> datetime.date:
    return datetime.date(2018, 1, 1) + datetime.timedelta(days=rng.randrange(3000))


def _written(day: datetime.date) -> str:
    return day.strftime("%m/%d/%Y")


@_calculator(13, "estimated due date", output="date", elementary=False)
def _due_date(rng: random.Random) -> Problem:
    lmp, cycle = _day(rng), rng.randint(25, 33)

    def solve(work: Work, variant: int) -> datetime.date:
        days = 280 if variant == 1 else int(work.add(280, work.sub(cycle, 28)))
        due = lmp + datetime.timedelta(days=days if variant != 2 else days - 14)
        work.steps.append(f"{_written(lmp)}+{days} days={_written(due)}")
        return due

    return Problem(f"Due date for last period {_written(lmp)}, cycle {cycle} days?", solve)


@_calculator(68, "estimated conception date", output="date", variants=2, elementary=False)
def _conception(rng: random.Random) -> Problem:
    lmp = _day(rng)

    def solve(work: Work, variant: int) -> datetime.date:
        days = (14, 7)[variant]
        day = lmp + datetime.timedelta(days=days)
        work.steps.append(f"{_written(lmp)}+{days} days={_written(day)}")
        return day

    return Problem(f"Conception date for last period {_written(lmp)}?", solve)


@_calculator(69, "gestational age", output="duration", variants=2, elementary=False)
def _gestation(rng: random.Random) -> Problem:
    lmp = _day(rng)
    today = lmp + datetime.timedelta(days=rng.randint(20, 290))

    def solve(work: Work, variant: int) -> tuple[int, int]:
        days = (today - lmp).days - (0, 14)[variant]
        work.steps.append(f"{_written(today)}-{_written(lmp)}={days} days")
        weeks, rest = divmod(days, 7)
        work.steps.append(f"{days} days={weeks} weeks, {rest} days")
        return weeks, rest

    return Problem(f"Gestational age on {_written(today)} for last period {_written(lmp)}?", solve)
