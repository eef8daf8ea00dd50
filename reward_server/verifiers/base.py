"""What every verifier returns, and the reading of text that they share."""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from typing import Literal

VerdictStatus = Literal["correct", "incorrect", "no_answer", "malformed"]

# An answer this long is an essay. The bound keeps the time of one verdict in milliseconds for every input.
MAX_ANSWER_CHARS = 20_000

_PLAIN = str.maketrans(
    {
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-"),
        **dict.fromkeys("\u2018\u2019\u02bc", "'"),
        **dict.fromkeys("\u201c\u201d", '"'),
        "\u2044": "/",
    }
)
_MARKUP = re.compile(r"\\(?:boxed|text(?:bf|rm|it)?|math(?:bf|rm|it))(?=\s*\{)|[{}$`]|\*\*|__|\\(?=%)")


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A verifier's judgement of one answer.

    Attributes:
        status: correct; incorrect (read, and wrong); no_answer (nothing there, or it leaves open which answer is
            meant); malformed (there is an answer, but not of the task's form).
        extracted: the answer as it was read, in the task's canonical writing; None unless correct or incorrect.
    """

    status: VerdictStatus
    extracted: str | None = None


NO_ANSWER = Verdict("no_answer")
MALFORMED = Verdict("malformed")


def judged(correct: bool, extracted: str) -> Verdict:
    """The verdict on an answer that could be read."""
    return Verdict("correct" if correct else "incorrect", extracted)


def clean(text: str) -> str:
    r"""NFKC, plain hyphens and quotes, no Markdown or LaTeX wrappers (`**B**`, `\boxed{B}`, `$B$`), single spaces.

    Line breaks stay, one at a time. With no long runs of whitespace left, the verifiers' patterns take linear time.
    """
    plain = _MARKUP.sub("", unicodedata.normalize("NFKC", text).translate(_PLAIN))
    return "\n".join(line for line in (" ".join(line.split()) for line in plain.splitlines()) if line)
