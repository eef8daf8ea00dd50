"""MedCalc-Bench's own verdict on an answer, for scores that can be set beside published ones.

The rule of the released script (github.com/ncbi-nlp/MedCalc-Bench, evaluation/run.py `extract_answer` and
evaluate.py `check_correctness`, of the releases 1.0 to 1.2), with what it misreads: the last number of a text is the
answer, so that "22.9 kg/m^2" is 2. The verdict that a model is trained on is the reward server's; where and why the two
differ stands in docs/evaluation.md.

Left out: the script's `eval` of what a model wrote as `str(...)`. A number there is read, an expression is no answer.
"""

from __future__ import annotations

import ast
import re
from datetime import datetime

from recipes.data.example import Example

_BLOCK = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_JSON_ANSWER = re.compile(r"[Aa]nswer\":\s*(.*?)\}")
_UNFILLED = (
    "str(short_and_direct_answer_of_the_question)",
    "str(value which is the answer to the question)",
    "X.XX",
)
_DATE = re.compile(r"(0?[1-9]|1[0-2])/(0?[1-9]|[12]\d|3[01])/(\d{4})")
_WEEKS_DAYS = re.compile(r"(\d+)\s*(?:weeks?)?[\"']?,?\s*[\"']?(\d+)")
_OUT_OF = re.compile(r"(\d+) out of")
_LISTED = re.compile(r"-?\d+(?:, ?-?\d+)+")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_CLEARANCE = re.compile(rf"({_NUMBER.pattern})\s*mL/min/1\.73")
_PERCENT = re.compile(rf"({_NUMBER.pattern})%")
_CALL = re.compile(r"str\((.*)\)")


def is_correct(response: str, example: Example) -> bool:
    """Whether the script would count a response to a question of MedCalc-Bench as right.

    Args:
        response: what the model wrote: an `<answer>` block, or the benchmark's JSON with an "answer".
        example: the question; its task stands for the calculator's type of output.
    """
    answer = extracted(response, example)
    if answer is None:
        return False
    try:
        return _agrees(answer, example)
    except (SyntaxError, ValueError, OverflowError):
        return False  # the script counts what raises in it as wrong: 05, 02/30/2020


def extracted(response: str, example: Example) -> str | None:
    """What the script takes for the answer, as text; None where it finds none."""
    text = _answer_text(response)
    if text is None:
        return None
    if example.task == "date":
        found = _DATE.match(text)
        return found and found[0]
    if example.task == "duration":
        found = _WEEKS_DAYS.search(text)
        return found and f"({found[1]}, {found[2]})"
    return _score(text) if example.rounding else _decimal(text)


def _answer_text(response: str) -> str | None:
    if blocks := _BLOCK.findall(response):
        text: str = blocks[-1].strip()
    elif found := _JSON_ANSWER.findall(response):
        text = found[-1].strip().strip('"')
    else:
        return None
    return None if text in _UNFILLED else text


def _score(text: str) -> str | None:
    if found := _OUT_OF.search(text):
        return found[1]
    if found := _LISTED.search(text):
        return str(found[0].count(",") + 1)
    numbers = _NUMBER.findall(text)
    return numbers[-1] if numbers else None


def _decimal(text: str) -> str | None:
    if found := _CALL.search(text):
        return found[1] if _NUMBER.fullmatch(found[1]) else None
    if found := _CLEARANCE.search(text):
        return found[1]
    if shares := _PERCENT.findall(text):
        return f"{shares[-1]}%"
    numbers = _NUMBER.findall(text)
    return numbers[-1] if numbers else None


def _agrees(answer: str, example: Example) -> bool:
    if isinstance(example.answer, str):
        return datetime.strptime(answer, "%m/%d/%Y") == datetime.strptime(example.answer, "%m/%d/%Y")
    if isinstance(example.answer, dict):
        return bool(ast.literal_eval(answer) == (example.answer["weeks"], example.answer["days"]))
    value = ast.literal_eval(answer.removesuffix("%"))
    if answer.endswith("%"):
        value /= 100
    if example.lower is None or example.upper is None:
        return bool(round(value) == example.answer)
    return bool(example.lower <= value <= example.upper)
