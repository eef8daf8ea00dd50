"""Answers put together by question, and what each question's answers come to.

Answers are rows of NAME.jsonl (`recipes.evaluate`). Files of older releases have one answer a question and neither
sample nor variant; they are read as such.

Left out: answers that the reward server could not score (timeout, verifier_error): they count neither way.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from recipes.data.variants import PLAIN
from recipes.evaluation import statistics

Row = Mapping[str, Any]
INVALID = ("malformed", "no_answer")


@dataclass(frozen=True)
class Question:
    """One question with its scored answers, one at least, all to the same variant of it.

    Attributes:
        rows: of the answers.
    """

    rows: Sequence[Row]

    @property
    def first(self) -> Row:
        """The answer that speaks for the question's id, set and subject."""
        return self.rows[0]

    @cached_property
    def right(self) -> int:
        """How many answers are right."""
        return sum(row["status"] == "correct" for row in self.rows)

    @property
    def share(self) -> float:
        """Share of right answers."""
        return self.right / len(self.rows)

    @cached_property
    def votes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """How often each different answer was given: right ones, wrong ones; in falling order."""
        counts = Counter((answer_of(row), row["status"] == "correct") for row in self.rows if is_valid(row))
        found: dict[bool, list[int]] = {True: [], False: []}
        for (_, right), count in counts.items():
            found[right].append(count)
        return tuple(sorted(found[True], reverse=True)), tuple(sorted(found[False], reverse=True))

    def pass_at(self, k: int) -> float:
        """`statistics.pass_at_k`; NaN with less than k answers."""
        return statistics.pass_at_k(len(self.rows), self.right, k) if k <= len(self.rows) else math.nan

    def majority_at(self, k: int) -> float:
        """`statistics.majority_at_k`; NaN with less than k answers."""
        return _majority(*self.votes, len(self.rows), k) if k <= len(self.rows) else math.nan

    @property
    def agreement(self) -> float | None:
        """`statistics.agreement` of the answers."""
        return statistics.agreement([count for counts in self.votes for count in counts], len(self.rows))


@lru_cache(maxsize=65536)
def _majority(right: tuple[int, ...], wrong: tuple[int, ...], answers: int, k: int) -> float:
    return statistics.majority_at_k(right, wrong, answers - sum(right) - sum(wrong), k)


def is_scored(row: Row) -> bool:
    """Whether the reward server gave a verdict."""
    from reward_server.client import SERVER_FAULTS

    return row["status"] not in SERVER_FAULTS


def is_valid(row: Row) -> bool:
    """Whether an answer could be read, right or wrong."""
    return is_scored(row) and row["status"] not in INVALID


def variant_of(row: Row) -> str:
    """The variant that was asked."""
    return str(row.get("variant", PLAIN))


def answer_of(row: Row) -> str:
    """A valid answer as votes compare it: the letter as the question has it, whatever the order shown."""
    said = str(row.get("extracted"))
    order = row.get("order")
    if order and said in order:
        said = order[sorted(order).index(said)]
    return " ".join(said.casefold().split())


def by_question(rows: Sequence[Row], variant: str = PLAIN) -> list[Question]:
    """The questions of one variant, in the order of their first scored answers."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if variant_of(row) == variant and is_scored(row):
            found.setdefault(row["id"], []).append(row)
    return [Question(own) for own in found.values()]
