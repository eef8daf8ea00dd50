"""Scored responses to two questions, whose right answers their reasoning may make likelier; imports no engine."""

from __future__ import annotations

import dataclasses
from typing import Any

from recipes.data.example import Example
from recipes.engines.base import Completion
from recipes.rollout.prompts import Prompt
from recipes.rollout.scoring import Trajectory
from reward_server.client import Status
from tests.rollout.samples import trajectory

# Of a question: its text, the right answer, what the chat template opened, and responses with their verdicts.
QUESTIONS: tuple[tuple[str, str, str, tuple[tuple[str, Status], ...]], ...] = (
    (
        "Which vitamin is given with isoniazid?",
        "pyridoxine",
        "",
        (
            ("<think>isoniazid depletes pyridoxine</think><answer>B6</answer>", "incorrect"),
            ("<think>scurvy</think><answer>vitamin C</answer>", "incorrect"),
            ("pyridoxine", "malformed"),
            ("<think></think><answer>pyridoxine</answer>", "timeout"),
            # With the right answer behind it longer than the model reads.
            (f"<think>{'isoniazid depletes it. ' * 40}</think><answer>B6</answer>", "incorrect"),
        ),
    ),
    (
        "What causes scurvy? Name it.",
        "lack of vitamin C",
        "<think>",
        (
            ("<think>gums bleed, so lack of vitamin C</think><answer>vitamin C</answer>", "correct"),
            ("<think>gout</think><answer>gout</answer>", "incorrect"),
        ),
    ),
)
LENGTH = -0.125


def scored_groups(tokenizer: Any) -> list[list[Trajectory]]:
    found = []
    for number, (question, answer, opened, responses) in enumerate(QUESTIONS):
        ids = tuple(tokenizer(question + opened, add_special_tokens=False).input_ids)
        asked = Prompt(Example(f"q{number}", "s", "text", question, answer), question, ids, opened)
        group = []
        for response, status in responses:
            reward = None if status == "timeout" else 0.0
            form = float(status != "malformed")
            made = trajectory(asked, reward, status=status, components={"format": form, "length": LENGTH})
            group.append(
                dataclasses.replace(
                    made, text=response, completion=_completion(tokenizer, response.removeprefix(opened))
                )
            )
        found.append(group)
    return found


def _completion(tokenizer: Any, response: str) -> Completion:
    ids = tuple(tokenizer(response, add_special_tokens=False).input_ids)
    return Completion(ids, (-1.0,) * len(ids), True)
