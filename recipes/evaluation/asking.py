"""Who answers: a checkpoint by the engine and its sampler (`policy`), or a model behind an endpoint (`remote`).

Both are asked the same questions and say as they go which have been answered, so that what stops an evaluation costs
few answers. An answer is a function of question, variant, sample and seed, and of nothing that was answered before.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence, Set
from dataclasses import dataclass
from typing import Any, Protocol

from recipes.data.variants import Asked

# Place of a question among those asked, and number of the answer to it.
Key = tuple[int, int]


@dataclass(frozen=True)
class Answer:
    """One answer.

    Attributes:
        question: its place among those asked.
        sample: its number among the answers to that question.
        text: the response, as it is scored.
        tokens: that were written; a forced `</think>` is none.
        cut: whether it ran into the limit of tokens.
        filtered: whether a filter withheld it, or the rest of it.
        model: what an endpoint calls the model that wrote it, where it tells.
    """

    question: int
    sample: int
    text: str
    tokens: int
    cut: bool
    filtered: bool = False
    model: str | None = None


class Respondent(Protocol):
    """Who answers; where there are ranks, all call each method together."""

    def about(self) -> dict[str, Any]:
        """What a result says of it: `checkpoint` and `weights`; on rank 0."""
        ...

    def prepare(self, asked: Sequence[Asked]) -> None:
        """Puts the questions, before anything is asked.

        Raises:
            DataError: a question cannot be put, or none fits.
        """
        ...

    def answers(self, done: Set[Key]) -> Generator[list[Answer]]:
        """All answers but those `done`, some at a time, in whatever order they come.

        Raises:
            EngineError, EndpointError: it cannot answer.
        """
        ...

    @property
    def left_out(self) -> set[int]:
        """Places of questions that are longer than it can read; whole once all is answered."""
        ...


def opens_thinking(text: str) -> bool:
    """Whether a response is still reasoning where it ends."""
    return "<think>" in text and "</think>" not in text
