"""What every verifier returns."""

from __future__ import annotations

import dataclasses
from typing import Literal

VerdictStatus = Literal["correct", "incorrect", "no_answer", "malformed"]

# An answer this long is an essay. The bound keeps the time of one verdict in milliseconds for every input.
MAX_ANSWER_CHARS = 20_000
# Of choices, numbers, dates and durations: longer than any of them with its label and a reason.
MAX_SHORT_CHARS = 2_000


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A verifier's judgement of one answer.

    Attributes:
        status: correct; incorrect (read, and wrong); no_answer (nothing there, or it leaves open which answer is
            meant); malformed (there is an answer, but not of the task's form).
        extracted: the answer as it was read, in the task's canonical writing; None unless correct or incorrect.
        measure: how like a right answer it is, from 0 to 100, where a measure decides.
    """

    status: VerdictStatus
    extracted: str | None = None
    measure: float = 0.0


NO_ANSWER = Verdict("no_answer")
MALFORMED = Verdict("malformed")


def judged(correct: bool, extracted: str) -> Verdict:
    """The verdict on an answer that could be read."""
    return Verdict("correct" if correct else "incorrect", extracted)
