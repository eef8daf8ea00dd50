"""Medical calculators with exact labels: questions with drawn inputs, worked steps, and the mistakes people make.

Formulas and calculator numbers are those of MedCalc-Bench (Khandekar et al. 2024); CKD-EPI uses A = 0.9 for males, as
the 2021 equation says (the benchmark's released code uses 0.7 for males with low creatinine). Limits follow its rule:
95 % to 105 % of the answer for equations, equality after rounding for the integer scores, equality for dates.

A calculator draws its inputs and returns the question with a procedure that can be carried out in several variants:
variant 0 is right, the others are usual mistakes (a forgotten factor, a wrong constant, a miscounted item), from which
an imperfect teacher's traces are made. Left out: extracting the inputs from a patient's note, which needs a real model.
"""

from __future__ import annotations

from recipes.data.calculators.base import Answer, Calculator, Problem
from recipes.data.calculators.dates import DATES
from recipes.data.calculators.laboratory import LABORATORY
from recipes.data.calculators.measures import MEASURES
from recipes.data.calculators.scores import SCORES

# By name. The order is part of the data: a seed draws calculators from it by their places.
CALCULATORS: dict[str, Calculator] = {**LABORATORY, **MEASURES, **SCORES, **DATES}

__all__ = ["CALCULATORS", "Answer", "Calculator", "Problem"]
