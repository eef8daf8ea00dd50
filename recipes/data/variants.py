"""The same question asked otherwise: its options in another order, without its options, or at a budget of tokens.

Left out of these are options that speak of others ("all of the above", "A and C"), which mean nothing elsewhere.
"""

from __future__ import annotations

import dataclasses
import math
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from recipes.data.example import Example
from recipes.data.prompts import LengthTarget
from reward_server.reference import reference_fault

PLAIN, SHUFFLED, SHORT, BUDGET = "plain", "shuffled", "short", "budget"
_REFERS = re.compile(
    r"\b(?:all|none|any|both|neither|either|each|two|three|more|one) (?:of |than )?(?:\w+ )?"
    r"(?:above|below|these|those|them|following|preceding|others?|options?|choices?|answers?)\b"
    r"|\b(?:options?|choices?|answers?) [(\"']?[A-N]\b"
    r"|\b[A-N][)\"']?\s?(?:,|&|/|\band\b|\bor\b)\s?[(\"']?[A-N]\b"
    r"|^(?:all|both|none|neither)\W*$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Asked:
    """A question as it is asked.

    Attributes:
        example: with options, answer and task as they are asked; the id is the question's.
        variant: "plain", "shuffled 1", "shuffled 2" and so on, "short", or "budget 256" and the like.
        order: of shuffled options, the original letters as they are shown.
        length: of a budget, what is asked of the response's length.
    """

    example: Example
    variant: str = PLAIN
    order: str | None = None
    length: LengthTarget | None = None


def variants(
    examples: Sequence[Example], *, shuffles: int, short: bool, budgets: Sequence[LengthTarget] = ()
) -> Iterator[Asked]:
    """Every question plain, and then in its other variants, which are a function of the question alone.

    Args:
        examples: the questions.
        shuffles: further orders of a choice question's options, all different; two options have one other order.
        short: also without options.
        budgets: also at each of them.
    """
    for example in examples:
        yield Asked(example)
        if example.options and not any(map(_REFERS.search, example.options.values())):
            for number, order in enumerate(_orders(example, shuffles), 1):
                yield Asked(reordered(example, order), f"{SHUFFLED} {number}", order)
        if short and (asked := without_options(example)) is not None:
            yield Asked(asked, SHORT)
        for budget in budgets:
            # A copy of its own: who leaves a question out that is too long knows it by its identity.
            yield Asked(dataclasses.replace(example), f"{BUDGET} {budget.tokens}", length=budget)


def reordered(example: Example, order: str) -> Example:
    """A choice question with its options in another order: the first letter's is now that of the first in `order`."""
    assert example.options is not None
    letters = sorted(example.options)
    options = {letter: example.options[original] for letter, original in zip(letters, order, strict=True)}
    return dataclasses.replace(example, options=options, answer=letters[order.index(str(example.answer))])


def without_options(example: Example) -> Example | None:
    """A choice question as a text question, its right option the answer; None where that would be no question."""
    if not example.options:
        return None
    answer = example.options[str(example.answer)]
    if _REFERS.search(answer) or reference_fault("text", {"answer": answer}) is not None:
        return None
    return dataclasses.replace(example, task="text", options=None, answer=answer)


def _orders(example: Example, count: int) -> list[str]:
    """So many orders of the options' letters, all different and none as it was, as far as there are."""
    assert example.options is not None
    letters = sorted(example.options)
    draw, found = random.Random(example.id), {"".join(letters)}
    orders: list[str] = []
    while len(orders) < min(count, math.factorial(len(letters)) - 1):
        order = "".join(draw.sample(letters, len(letters)))
        if order not in found:
            found.add(order)
            orders.append(order)
    return orders
