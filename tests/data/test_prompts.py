"""Prompt styles: what the model is told, and in what order."""

from __future__ import annotations

from typing import Any

import pytest

from recipes.data.example import Example, Task
from recipes.data.prompts import Form, LengthTarget, messages, trace_response
from recipes.data.styles import read_style

CHOICE = Example("1", "s", "choice", "Which?", "B", context="A note.", options={"A": "one", "B": "two"})


def test_the_plain_style_is_the_bare_question_with_the_length_that_is_to_be_said() -> None:
    bare = "<Context>\nA note.\n</Context>\nWhich?\nOptions: one (A), two (B)"
    for length, more in (
        (None, ""),
        (LengthTarget("max", 50, said=False), ""),
        (LengthTarget("exact", 50), "\nThink for 50 tokens."),
    ):
        assert messages(CHOICE, Form(read_style("plain"), length)) == [{"role": "user", "content": bare + more}]


@pytest.mark.parametrize("style", ["med_u1", "med_rlvr"])
def test_a_length_stands_behind_the_instruction_and_in_no_worked_example(style: str) -> None:
    shown = Example("2", "s", "choice", "What else?", "A", options={"A": "one", "B": "two"})
    form = Form(read_style(style), LengthTarget("exact", 300), shots=1, few_shot=[shown])
    user = messages(CHOICE, form)[-1]["content"]
    assert user.count("tokens.") == 1
    assert user.endswith("within the <answer> tags. Think for 300 tokens.")


def test_the_papers_styles_say_task_form_and_length() -> None:
    system, user = messages(CHOICE, Form(read_style("med_u1"), LengthTarget("max", 512)))
    assert (system["role"], user["role"]) == ("system", "user")
    for tag in ("<think>", "</think>", "<answer>", "</answer>"):
        assert tag in system["content"]
    lines = user["content"].split("\n")
    assert lines[:6] == ["<Context>", "A note.", "</Context>", "Which?", "A: one", "B: two"]
    assert "letter" in lines[6]
    assert lines[6].endswith("Think for maximum 512 tokens.")


@pytest.mark.parametrize("style", ["plain", "med_u1", "med_rlvr"])
def test_the_answer_is_not_in_the_prompt(style: str) -> None:
    example = Example("1", "s", "text", "What?", "zinc", aliases=("Zn",), meta={"trace": {"think": "t", "answer": "a"}})
    text = str(messages(example, Form(read_style(style))))
    assert "zinc" not in text
    assert "Zn" not in text


@pytest.mark.parametrize("style", ["med_u1", "med_rlvr"])
@pytest.mark.parametrize(
    ("task", "answer", "word"),
    [
        ("number", 1.0, "numerical"),
        ("date", "01/01/2024", "MM/DD/YYYY"),
        ("duration", {"weeks": 1, "days": 2}, "weeks and days"),
        ("text", "x", "short text"),
        ("choice", "A", "letter"),
    ],
)
def test_each_task_has_its_instruction(style: str, task: Task, answer: Any, word: str) -> None:
    options = {"A": "one", "B": "two"} if task == "choice" else None
    example = Example("1", "s", task, "?", answer, options=options)
    user = messages(example, Form(read_style(style)))[-1]["content"]
    assert word in user
    assert "tokens" not in user


def test_a_trace_becomes_the_response_to_learn() -> None:
    example = Example("1", "s", "text", "?", "x", meta={"trace": {"think": "because", "answer": "x"}})
    assert trace_response(example) == "<think>because</think><answer>x</answer>"
    with pytest.raises(KeyError):
        trace_response(CHOICE)
