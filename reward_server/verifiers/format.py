"""The form of a response: `<think>...</think><answer>...</answer>`.

Left out on purpose: other tag sets (`\\boxed{}`, "## Final Response"), and any repair of broken tags. A repair would
pay the policy for breaking the format.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from reward_server.verifiers.plain import is_blank

VERSION = "3"

FormatMatch = Literal["strict", "lenient"]
FormatIssue = Literal[
    "truncated_thinking",  # thinking began and did not end: the response was cut off, or never came to a point
    "leaked_thinking",  # a think tag after thinking had ended, such as one inside the answer
    "missing_thinking",  # no think tag at all
    "missing_answer",  # thinking ended, and no complete answer block came after it
    "repeated_answer",  # several answer blocks, or an answer tag within one
    "text_outside",  # something before <think>, between the blocks or after </answer>
    "unopened_thinking",  # </think> without <think>: some chat templates put <think> into the prompt
]

_TAGS = ("<think>", "</think>", "<answer>", "</answer>")


@dataclasses.dataclass(frozen=True)
class ResponseParts:
    """What a response consists of.

    Attributes:
        strict: the response is exactly one think block and one answer block, in this order, with nothing but
            whitespace before, between and after. Stricter than Med-U1's released code, which lets text stand before
            `<think>`; Med-RLVR's phase 5 shows a policy moving its reasoning there.
        lenient: thinking ended and one answer block came after it; text may stand around them, and `<think>` may be
            missing at the start.
        answer: the stripped text of the last complete answer block after the last `</think>`; None without one, or
            when a reader would see nothing in it. Truncated thinking has no `</think>` and hence no answer.
        issue: the gravest reason why `strict` is false; None when it is true.
    """

    strict: bool
    lenient: bool
    answer: str | None
    issue: FormatIssue | None

    def accepted(self, match: FormatMatch) -> bool:
        """Whether the response has the form that is asked for."""
        return self.strict if match == "strict" else self.lenient


def parse(response: str) -> ResponseParts:
    """Reads the parts of a response; never raises."""
    issue = _issue(response)
    lenient = issue in (None, "text_outside", "unopened_thinking")
    return ResponseParts(issue is None, lenient, _answer(response), issue)


def _issue(response: str) -> FormatIssue | None:
    opened, closed, answers, ends = (response.count(tag) for tag in _TAGS)
    if not opened and not closed:
        return "missing_thinking"
    head, _, tail = response.partition("</think>")
    if not closed:
        return "truncated_thinking"
    if closed > 1 or "<think>" in tail or head.count("<think>") > 1:
        return "leaked_thinking"
    if "<answer>" not in tail or "</answer>" not in tail.partition("<answer>")[2]:
        return "missing_answer"
    if answers > 1 or ends > 1:
        return "repeated_answer"
    if not opened:
        return "unopened_thinking"
    between = tail.partition("<answer>")[0]
    outside = not head.lstrip().startswith("<think>") or between.strip() or not tail.rstrip().endswith("</answer>")
    return "text_outside" if outside else None


def _answer(response: str) -> str | None:
    _, closed, tail = response.rpartition("</think>")
    if not closed:
        return None
    before, closed, _ = tail.rpartition("</answer>")
    if not closed:
        return None
    _, opened, answer = before.rpartition("<answer>")
    return None if not opened or is_blank(answer) else answer.strip()
