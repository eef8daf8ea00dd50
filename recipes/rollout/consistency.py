"""Does the answer follow from the reasoning? A check of the last thing that the reasoning claims.

Outcome rewards do not look at the reasoning, so a policy can learn to answer against it. This check reads the claim
at its end (the last number, "text (letter)", or what follows the last colon) and compares it with the answer. It fits
reasoning that ends in its conclusion, as the embedded traces do; for free prose it is a rough sign at best.
"""

from __future__ import annotations

import re

from recipes.data.example import Example

_PARTS = re.compile(r"<think>(.*?)</think>\s*<answer>(.*?)</answer>", re.DOTALL)
_LETTER = re.compile(r"([^:=,;]+?) \(([A-Z])\)\W*$")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def contradicts(example: Example, response: str) -> bool | None:
    """Whether the answer differs from what the reasoning ends with; None when there is no such pair to compare."""
    parts = _PARTS.search(response)
    if parts is None:
        return None
    think, answer = parts[1].strip(), parts[2].strip()
    if example.task == "number":
        numbers, given = _NUMBER.findall(think), _NUMBER.findall(answer)
        return float(numbers[-1]) != float(given[-1]) if numbers and given else None
    if example.task == "choice":
        closing = _LETTER.search(think)
        if closing is None:
            return None
        named = closing[1].strip().casefold()
        letter = next((k for k, v in (example.options or {}).items() if v.casefold() == named), None)
        return answer.strip("()") != closing[2] or letter not in (None, closing[2])
    return _plain(think.rsplit(":", 1)[-1]) != _plain(answer)


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))
