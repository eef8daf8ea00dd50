"""The steps of a response's reasoning, as the scores of reasoning count them.

A step is a line of the reasoning, or a sentence where it has one line. MedR-Bench has steps by a model's own marks, and
Knowledge-or-Reasoning by a language model; a rule costs nothing and cuts every policy's reasoning alike. Left out:
lists inside a sentence, and abbreviations before a capital letter, which end a sentence here.
"""

from __future__ import annotations

import itertools
import re

# Beyond, neighbours are one step: what a judge or a policy has to read grows with the square of the number.
MAX_STEPS = 24
_LINE_ENDS = re.compile(r"(?<=\n)(?=[^\n]*\S)")
_SENTENCE_ENDS = re.compile(r"(?<=[.!?;])(?=\s+[A-Z0-9(\"'])")
_ANSWER = re.compile(r"<answer>.*", re.DOTALL)


def reasoning(response: str) -> str:
    """What a response thinks: all before the last `</think>`, or before its answer; all of it where it has neither."""
    think, closed, _ = response.rpartition("</think>")
    text = think if closed else _ANSWER.sub("", response)
    return text.replace("<think>", "").replace("</think>", "")


def reasoning_steps(text: str, most: int = MAX_STEPS) -> list[str]:
    """A reasoning in steps, which joined are the text to the letter; none where it has no word.

    Args:
        text: of the reasoning.
        most: steps at most; where there are more, neighbours of like number come together.
    """
    parts = _LINE_ENDS.split(text)
    if sum(bool(part.strip()) for part in parts) < 2:
        parts = _SENTENCE_ENDS.split(text)
    steps: list[str] = []
    for part in parts:
        # What has no word belongs to the step before it, or to the first.
        if steps and not (re.search(r"\w", part) and re.search(r"\w", steps[-1])):
            steps[-1] += part
        else:
            steps.append(part)
    if not re.search(r"\w", text):
        return []
    if len(steps) <= most:
        return steps
    ends = [round(len(steps) * number / most) for number in range(most + 1)]
    return ["".join(steps[start:end]) for start, end in itertools.pairwise(ends)]
