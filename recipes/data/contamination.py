"""Contamination: training rows that are questions of an evaluation, or all but.

    exact       the same question to the same context, to the letter
    normalised  the same words in the same order, whatever the case, accents, punctuation, spaces, unseen characters,
                and division into context and question
    13-gram     four fifths of the shorter one's words stand in runs of 13 words that both have
    one-word    the same 8 to 25 words but for one, the same answer, and options that are the same but for one
    context     the same note or abstract, whole or by such runs, under another question

How it is told: `recipes.data.held_out`, which is imported where it is used, since numpy takes its time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from recipes.data.errors import ExampleError

if TYPE_CHECKING:
    from recipes.data.example import Example

Likeness = Literal["exact", "normalised", "13-gram", "one-word", "context"]
# The gravest first.
LIKENESSES: tuple[Likeness, ...] = get_args(Likeness)


@dataclass(frozen=True)
class Match:
    """A question of the evaluation that a training row is like."""

    likeness: Likeness
    question: Example


class Contaminated:
    """Rows that are like a question, counted by the gravest likeness, with the first of each."""

    def __init__(self) -> None:
        self._kinds: dict[Likeness, tuple[int, str]] = {}

    def add(self, row: Example, match: Match) -> None:
        """Counts a row."""
        count, first = self._kinds.get(match.likeness, (0, f"{row.id!r}, as {match.question.id!r}"))
        self._kinds[match.likeness] = (count + 1, first)

    def __len__(self) -> int:
        return sum(count for count, _ in self._kinds.values())

    def kinds(self) -> list[tuple[Likeness, int, str]]:
        """Likeness, count and first row, the gravest first."""
        return [(likeness, *self._kinds[likeness]) for likeness in LIKENESSES if likeness in self._kinds]

    def __str__(self) -> str:
        return ", ".join(f"{likeness} {count} (the first: {first})" for likeness, count, first in self.kinds())


def check_training(
    training: Iterable[Example], questions: Iterable[Example], allowed: Collection[str], held_out: str = "data.test"
) -> str | None:
    """Holds the rows of `data.train` against the questions that it must not have.

    Args:
        training, questions: the rows of either.
        allowed: kinds of likeness that may be (`data.allow_contamination`).
        held_out: the settings that name the questions' files.

    Returns:
        what is let through, in a sentence; None for nothing.

    Raises:
        ExampleError: rows are alike in another way; it counts them by kind and names the first.
    """
    from recipes.data.held_out import HeldOut

    refused, passed = Contaminated(), Contaminated()
    for row, matches in HeldOut(questions).matches(training):
        if matches:
            (passed if matches[0].likeness in allowed else refused).add(row, matches[0])
    if refused:
        kinds = ",".join(dict.fromkeys([*allowed, *(likeness for likeness, _, _ in refused.kinds())]))
        raise ExampleError(
            f"data.train: {len(refused)} rows are questions of {held_out}, or all but: {refused}; take them out with "
            "`python -m recipes.prepare_data examples FILE OUT --against TEST_FILE`, or let them pass with "
            f"data.allow_contamination=[{kinds}]"
        )
    return f"data.allow_contamination lets {len(passed)} rows that are in {held_out} pass: {passed}" if passed else None
