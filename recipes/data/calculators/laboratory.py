"""Equations on laboratory values."""

from __future__ import annotations

import random
from functools import partial

from recipes.data.calculators.base import Calculator, Problem, register
from recipes.data.work import Work

LABORATORY: dict[str, Calculator] = {}
_calculator = partial(register, LABORATORY)


def _electrolytes(rng: random.Random) -> tuple[int, int, int]:
    return rng.randint(132, 148), rng.randint(94, 108), rng.randint(8, 22)


def _gap(work: Work, na: int, cl: int, hco3: int) -> float:
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
