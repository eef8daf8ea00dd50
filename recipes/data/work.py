"""Arithmetic that writes down its steps: the worked part of a calculation's reasoning trace."""

from __future__ import annotations

import math
from collections.abc import Sequence


def format_number(value: float, digits: int = 2) -> str:
    """`value` rounded to `digits` decimals, without trailing zeros and without a negative zero."""
    text = f"{value:.{digits}f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


class Work:
    """Carries out arithmetic and keeps its steps as text, as a person would on paper.

    Args:
        digits: every intermediate result is rounded to so many decimals before it is used again; None keeps full
            precision, which is how exact labels are computed from the same procedure.
    """

    def __init__(self, digits: int | None = 2) -> None:
        self.digits = digits
        self.steps: list[str] = []

    def _step(self, left: str, value: float, digits: int = 2) -> float:
        if self.digits is not None:
            value = round(value, max(self.digits, digits))
        self.steps.append(f"{left}={format_number(value, digits)}")
        return value

    def add(self, a: float, b: float) -> float:
        """a + b."""
        return self._step(f"{format_number(a)}+{format_number(b)}", a + b)

    def sub(self, a: float, b: float) -> float:
        """a - b."""
        return self._step(f"{format_number(a)}-{format_number(b)}", a - b)

    def mul(self, a: float, b: float, digits: int = 3) -> float:
        """a * b; `digits` decimals of the factors are written out."""
        return self._step(f"{format_number(a, digits)}*{format_number(b, digits)}", a * b)

    def div(self, a: float, b: float) -> float:
        """a / b."""
        return self._step(f"{format_number(a, 3)}/{format_number(b, 3)}", a / b)

    def power(self, a: float, exponent: float) -> float:
        """a ** exponent, with the base to four decimals and the result to three: powers are often small factors."""
        return self._step(f"{format_number(a, 4)}^{format_number(exponent, 3)}", a**exponent, digits=3)

    def sqrt(self, a: float) -> float:
        """The square root of a."""
        return self._step(f"sqrt {format_number(a)}", math.sqrt(a))

    def total(self, points: Sequence[float]) -> float:
        """The running sum of a score's points, one step a point."""
        result = self._step(format_number(points[0]), points[0]) if len(points) == 1 else points[0]
        for value in points[1:]:
            result = self.add(result, value)
        return result
