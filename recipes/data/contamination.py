"""Contamination: training rows that are questions of an evaluation, or all but.

    exact       the same question to the same context, to the letter
    normalised  the same words in the same order, whatever the case, punctuation, spaces, and division into context
                and question
    13-gram     four fifths of the shorter one's words stand in runs of 13 words that both have
    context     the same note or abstract, whole or by such runs, under another question

How it is told: `recipes.data.held_out`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from recipes.data.example import Example

Kind = Literal["exact", "normalised", "13-gram", "context"]
# The gravest first.
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Match:
    """A question of the evaluation that a training row is like."""

    kind: Kind
    question: Example
