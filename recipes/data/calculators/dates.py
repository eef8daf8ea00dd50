"""Dates and durations of a pregnancy."""

from __future__ import annotations

import datetime
import random
from functools import partial

from recipes.data.calculators.base import Calculator, Problem, register
from recipes.data.work import Work

DATES: dict[str, Calculator] = {}
_calculator = partial(register, DATES)


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
