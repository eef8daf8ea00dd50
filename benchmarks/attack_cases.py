"""The attacks of benchmarks/attacks.yaml, one response each, with what every preset must pay for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

TABLE = Path(__file__).with_name("attacks.yaml")
# The probability that the stand-in for a judge gives a wrong answer.
_DOUBT = 0.05
_FORM = "<think>Sudden dyspnea after surgery.</think><answer>{}</answer>"


@dataclass(frozen=True)
class Attack:
    """One response and its rewards.

    Attributes:
        family: what is tried.
        question: its name.
        task, reference: the question's answer side, as `/v1/score` takes it.
        response: all that the policy wrote.
        length: the length that was asked for; None for none.
        rewards: what each preset must pay.
        by_definition: whether some preset pays more than it pays a wrong answer of the right form.
    """

    family: str
    question: str
    task: str
    reference: Mapping[str, Any]
    response: str
    length: Mapping[str, Any] | None
    rewards: Mapping[str, float]
    by_definition: bool


def attacks() -> list[Attack]:
    """Every attack of the table."""
    table = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    return [attack for row in table["attacks"] for attack in _of_row(row, table)]


def _of_row(row: Mapping[str, Any], table: Mapping[str, Any]) -> Iterator[Attack]:
    named = dict(zip(table["presets"], map(float, table["pays"][row["pays"]]), strict=True))
    rewards = named | {preset: float(paid) for preset, paid in row.get("but", {}).items()}
    wrong = dict(zip(table["presets"], table["pays"]["wrong"], strict=True))
    by_definition = any(paid > wrong[preset] + _DOUBT for preset, paid in rewards.items())
    asked = row["question"] if isinstance(row["question"], list) else [row["question"]]
    responses = [*map(_text, row.get("responses", ())), *(_FORM.format(_text(each)) for each in row.get("answers", ()))]
    for name in asked:
        reference = dict(table["questions"][name])
        task = reference.pop("task")
        for response in responses:
            for length in row.get("lengths", (None,)):
                yield Attack(row["family"], name, task, reference, response, length, rewards, by_definition)


def _text(written: Any) -> str:
    """A text of the table: as it is, several one behind another, or one many times."""
    if isinstance(written, list):
        return "".join(map(_text, written))
    return written["of"] * written["times"] if isinstance(written, dict) else str(written)
