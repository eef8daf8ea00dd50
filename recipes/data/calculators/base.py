"""What a calculator is, and how the modules beside this one list theirs."""

from __future__ import annotations

import datetime
import random
from collections.abc import Callable
from dataclasses import dataclass

from recipes.data.work import Work

Answer = float | datetime.date | tuple[int, int]
Solve = Callable[[Work, int], Answer]


@dataclass(frozen=True)
class Problem:
    """A question with its inputs written in, and the procedure that answers it: `solve(work, variant)`."""

    question: str
    solve: Solve


Draw = Callable[[random.Random], Problem]


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
    draw: Draw


def register(
    table: dict[str, Calculator],
    number: int,
    name: str,
    *,
    output: str = "decimal",
    variants: int = 3,
    elementary: bool = True,
) -> Callable[[Draw], Draw]:
    """A decorator that puts the function which draws a calculator's problems into `table`, as `Calculator` says."""

    def put(draw: Draw) -> Draw:
        table[name] = Calculator(number, name, output, variants, elementary, draw)
        return draw

    return put
