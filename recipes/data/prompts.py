"""From an Example to the messages that a chat template turns into a prompt.

Styles follow the papers' released code in content, not in wording. Left out: few-shot prompts; base models that need
them are better served by the SFT warm start.
"""

from __future__ import annotations

from recipes.data.example import Example, worked_response

_SYSTEM: dict[str, str | None] = {
    "plain": None,
    "med_u1": (
        "You are a helpful medical assistant. Think the question through first, checking yourself as you go, and put "
        "that reasoning between <think> and </think>. Then give the final answer between <answer> and </answer>."
    ),
    "med_rlvr": (
        "You are a medical expert sitting a licensing examination. Write your reasoning between <think> and </think>, "
        "then only the final answer between <answer> and </answer>."
    ),
}

_INSTRUCTION: dict[str, str] = {
    "choice": "Give only the letter of the right option within the <answer> tags.",
    "number": "Give the numerical value within the <answer> tags.",
    "date": "Give the date as MM/DD/YYYY within the <answer> tags.",
    "duration": "Give the duration as weeks and days, such as 17 weeks, 6 days, within the <answer> tags.",
    "text": "Give a short text within the <answer> tags.",
}


def question_text(example: Example, style: str) -> str:
    """Context, question and options.

    Options stand one a line as `A: text`, as in Med-U1; in the plain style behind each other as `text (A)`, which costs
    a small model fewer tokens and puts the letter where it can find it.
    """
    lines = [example.question]
    if example.context:
        lines = [f"<Context>\n{example.context}\n</Context>", *lines]
    if example.options and style == "plain":
        lines.append("Options: " + ", ".join(f"{text} ({letter})" for letter, text in example.options.items()))
    elif example.options:
        lines += [f"{letter}: {text}" for letter, text in example.options.items()]
    return "\n".join(lines)


def messages(example: Example, style: str, length_target: int | None = None) -> list[dict[str, str]]:
    """Chat messages for one question.

    Args:
        example: the question.
        style: "plain" is the bare question; "med_u1" and "med_rlvr" add the papers' system prompt and instruction.
        length_target: tokens to think for at most (Med-U1's max mode); said in the prompt unless the style is plain.
    """
    user = question_text(example, style)
    if style != "plain":
        user += "\n" + _INSTRUCTION[example.task]
        if length_target is not None:
            user += f" Think for maximum {length_target} tokens."
    system = _SYSTEM[style]
    head = [{"role": "system", "content": system}] if system else []
    return [*head, {"role": "user", "content": user}]


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
