"""The form of a response: `<think>...</think><answer>...</answer>`.

Left out on purpose: other tag sets (`\\boxed{}`, "## Final Response"), and any repair of broken tags. A repair would
pay the policy for breaking the format.
"""

from __future__ import annotations

import dataclasses

VERSION = "1"

_TAGS = ("<think>", "</think>", "<answer>", "</answer>")


@dataclasses.dataclass(frozen=True)
class ResponseParts:
    """What a response consists of.

    Attributes:
        strict: the response is exactly one think block and one answer block, in this order, with nothing but
            whitespace before, between and after. Stricter than Med-U1's released code, which lets text stand before
            `<think>`; Med-RLVR's phase 5 shows a policy moving its reasoning there.
        answer: the stripped text of the last complete answer block after the last `</think>`; None without one, or
            when it is empty. Truncated thinking has no `</think>` and hence no answer.
    """

    strict: bool
    answer: str | None


def parse(response: str) -> ResponseParts:
    """Reads the parts of a response; never raises."""
    return ResponseParts(strict=_is_strict(response), answer=_answer(response))


def _is_strict(response: str) -> bool:
    body = response.strip()
    if any(body.count(tag) != 1 for tag in _TAGS):
        return False
    # Each tag is there once, so that text that starts and ends right has its four tags in the only order left.
    think_end, answer_start = body.index("</think>"), body.index("<answer>")
    between = body[think_end + len("</think>") : answer_start]
    return (
        body.startswith("<think>") and body.endswith("</answer>") and think_end < answer_start and not between.strip()
    )


def _answer(response: str) -> str | None:
    _, closed, tail = response.rpartition("</think>")
    if not closed:
        return None
    before, closed, _ = tail.rpartition("</answer>")
    if not closed:
        return None
    _, opened, answer = before.rpartition("<answer>")
    return (answer.strip() or None) if opened else None
