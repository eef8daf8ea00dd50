"""From an Example to the messages that a chat template turns into a prompt, or to plain text for a base model.

How a question reads is the style's affair (`recipes.data.styles`). Left out: worked examples as turns of their own;
many chat templates take the reasoning out of earlier turns, and a model would be shown answers without any.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from recipes.data.errors import ExampleError
from recipes.data.example import Example, question_words, worked_response
from recipes.data.styles import Style

# What ends a response beside the end token: a base model that has answered goes on with a next question of its own.
STOPS: dict[str, tuple[str, ...]] = {"chat": (), "base": ("</answer>",)}


@dataclass(frozen=True)
class LengthTarget:
    """How long a response should be.

    Attributes:
        mode: "max" (not longer) or "exact" (as long).
        tokens: of the whole response, without its prompt; at least 1.
        said: whether the prompt says it; otherwise it is the reward's alone.
    """

    mode: Literal["max", "exact"]
    tokens: int
    said: bool = True

    def sentence(self) -> str:
        """What says it in a prompt."""
        return length_sentence(self.mode, self.tokens)


def length_sentence(mode: str, tokens: int | str) -> str:
    """Med-U1's instruction (`scripts/data/deepscaler_dataset.py` of its released code)."""
    return f"Think for {'maximum ' if mode == 'max' else ''}{tokens} tokens."


@dataclass(frozen=True)
class Form:
    """How a run puts its questions.

    Attributes:
        style: what a question reads like.
        length: what the question asks of the response's length; worked examples, which keep to none, ask for none.
        template: "chat", or "base" for plain text without turns.
        shots: worked examples before every question.
        few_shot: to take them from: the first of the question's task, the question itself excepted.
    """

    style: Style
    length: LengthTarget | None = None
    template: str = "chat"
    shots: int = 0
    few_shot: Sequence[Example] = ()


def messages(example: Example, form: Form) -> list[dict[str, str]]:
    """Chat messages for one question; worked examples stand in front of it in the user's.

    Raises:
        ExampleError: there are too few worked examples of its task, or the style has no place for context or options.
    """
    before, answer = form.style.text("before_question"), form.style.text("before_answer")
    shown = [
        f"{before}{_asked(shot, dataclasses.replace(form, length=None))}{answer}{_worked(shot, answer)}"
        for shot in _shots(example, form)
    ]
    user = _asked(example, form)
    if shown or form.template == "base":
        user = "\n\n".join([*shown, f"{before}{user}"])
    system = form.style.text("system")
    head = [{"role": "system", "content": system}] if system else []
    return [*head, {"role": "user", "content": user}]


def base_text(chat: list[dict[str, str]], form: Form) -> str:
    """The messages as text that a model goes on with, which knows no turns."""
    return "\n\n".join(message["content"] for message in chat) + form.style.text("before_answer")


def opened(text: str) -> str:
    """What stands at the end of a prompt from a `<think>` on that is not closed: it belongs to the response."""
    _, tag, rest = text.rpartition("<think>")
    return tag + rest if tag and "</think>" not in rest else ""


def _asked(example: Example, form: Form) -> str:
    instruction = form.style.instruction.get(example.task, "")
    said = form.length.sentence() if form.length is not None and form.length.said else ""
    return form.style.asked(example, " ".join(filter(None, (instruction, said))))


def _shots(example: Example, form: Form) -> list[Example]:
    own = question_words(example)
    usable = (each for each in form.few_shot if each.task == example.task and question_words(each) != own)
    found = list(itertools.islice(usable, form.shots))
    if len(found) < form.shots:
        raise ExampleError(
            f"data.few_shot: {len(found)} worked examples of task {example.task} for the question {example.id!r}, and "
            f"data.shots={form.shots}; add some to the file, or lower data.shots"
        )
    return found


def _worked(example: Example, before: str) -> str:
    """The response that a worked example shows: its trace, or its answer alone where it has none.

    Args:
        example: the worked example.
        before: what stands before it; where that opens the reasoning, the response goes on from there.
    """
    if opened(before):
        whole = trace_response(example) if "trace" in example.meta else worked_response("", example.gold())
        return whole.removeprefix("<think>")
    return trace_response(example) if "trace" in example.meta else f"<answer>{example.gold()}</answer>"


def without_system(chat: list[dict[str, str]]) -> list[dict[str, str]]:
    """The same messages for a template that has no system role: its text stands in front of the user's."""
    if chat[0]["role"] != "system":
        return chat
    system, user, *more = chat
    return [{**user, "content": f"{system['content']}\n\n{user['content']}"}, *more]


def trace_response(example: Example) -> str:
    """The worked trace of a row as the response that a model should give.

    Raises:
        KeyError: when the row carries no trace.
    """
    trace = example.meta["trace"]
    return worked_response(trace["think"], trace["answer"])
