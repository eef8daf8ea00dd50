"""Where a response begins and ends in what frameworks send, with the templates and tokens of the families."""

from __future__ import annotations

from typing import Any

import pytest

from reward_server.foreign import ResponseNotFound, response_in, response_to, without_end, without_nulls

SYSTEM = "Put the reasoning between <think> and </think>, then the answer between <answer> and </answer>."
QUESTION = "Which drug is given?\nA. Aspirin\nC. Heparin, a naïve choice"
RESPONSE = "<think>It is C.</think><answer>C</answer>"
CHAT = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": QUESTION}]

# Prompt as the family's chat template writes it, and the tokens that may stand before and behind.
FAMILIES = {
    "qwen": (
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n",
        "<|endoftext|>" * 3,
        "<|im_end|>\n<|endoftext|><|endoftext|>",
    ),
    "llama 3": (
        f"<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n{SYSTEM}<|eot_id|><|start_header_id|>user"
        f"<|end_header_id|>\n\n{QUESTION}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        "<|finetune_right_pad_id|><|begin_of_text|>",
        "<|eot_id|><|end_of_text|><|reserved_special_token_0|>",
    ),
    "mistral": (f"<s>[INST] {SYSTEM}\n\n{QUESTION} [/INST]", "</s></s><s> ", "</s>"),
    "gemma": (
        f"<bos><start_of_turn>user\n{SYSTEM}\n\n{QUESTION}<end_of_turn>\n<start_of_turn>model\n",
        "<pad><pad>",
        "<end_of_turn>\n<eos><pad>",
    ),
    "deepseek": (
        f"<｜begin▁of▁sentence｜>{SYSTEM}<｜User｜>{QUESTION}<｜Assistant｜>",
        "<｜▁pad▁｜><｜begin▁of▁sentence｜>",
        "<｜end▁of▁sentence｜>",
    ),
    "phi": (
        f"<|system|>\n{SYSTEM}<|end|>\n<|user|>\n{QUESTION}<|end|>\n<|assistant|>\n",
        "<unk>",
        "<|end|><|endoftext|>",
    ),
    "glm": (f"[gMASK]<sop><|system|>\n{SYSTEM}<|user|>\n{QUESTION}<|assistant|>", "[gMASK]<sop>", "<|user|>"),
    "command r": (
        f"<BOS_TOKEN><|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>{SYSTEM}<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|>"
        f"<|USER_TOKEN|>{QUESTION}<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
        "<pad>",
        "<|END_OF_TURN_TOKEN|>",
    ),
    "zephyr": (f"<|system|>\n{SYSTEM}</s>\n<|user|>\n{QUESTION}</s>\n<|assistant|>\n", "<s>", "</s></s>"),
    "plain text": (f"{SYSTEM}\n\nUser: {QUESTION}\nAssistant: ", "<unk>", "[PAD][PAD]"),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_response_is_found_in_every_family(name: str) -> None:
    prompt, front, end = FAMILIES[name]
    cut = prompt[len(prompt) // 3 :]
    queries = {
        "plain": prompt + RESPONSE,
        "ended": prompt + RESPONSE + end,
        "padded": front + prompt + RESPONSE + end * 50,
        "without its own beginning": prompt.removeprefix("<|begin_of_text|>").removeprefix("<s>") + RESPONSE + end,
        "stripped": prompt.strip() + "\n" + RESPONSE,
        "spaces gone": prompt.replace(" ", "") + RESPONSE + end,
        "spaces added": "<s> " + prompt.replace(">", "> ") + RESPONSE,
        "cut": cut + RESPONSE + end,
        "cut within a character": "\ufffd\ufffd" + cut + RESPONSE,
        "padded and cut": front + cut + RESPONSE,
        "decomposed": prompt.replace("ï", "i\u0308") + RESPONSE + end,
    }
    for kind, query in queries.items():
        assert response_in(query, prompt).strip() == RESPONSE, kind
    if name != "deepseek":  # its template puts the system text before everything
        assert response_in(front + prompt + RESPONSE + end, CHAT).strip() == RESPONSE
    # A prompt's tags are never the response's, whatever the response lacks.
    assert response_in(front + prompt + "<answer>C</answer>" + end, prompt).strip() == "<answer>C</answer>"
    assert response_in(prompt + end, prompt).strip() == ""


def test_a_prompt_that_opens_thinking_is_continued() -> None:
    prompt = FAMILIES["deepseek"][0] + "<think>\n"
    inside = RESPONSE.removeprefix("<think>")
    for query in (prompt + inside, prompt[40:] + inside + "<｜end▁of▁sentence｜>"):
        assert response_in(query, prompt).replace("\n", "") == RESPONSE
    assert response_to(prompt, inside + "<｜end▁of▁sentence｜>") == RESPONSE
    # The full text is what counts: opened by the template and again by the response.
    assert response_in(prompt + RESPONSE, prompt).replace("\n", "") == "<think>" + RESPONSE
    assert response_in(prompt + inside, [{"role": "user", "content": QUESTION}]).replace("\n", "") == RESPONSE


@pytest.mark.parametrize(
    ("query", "prompt", "reason"),
    [
        (RESPONSE, FAMILIES["qwen"][0], "neither with its prompt"),
        ("Another prompt altogether.\n" + RESPONSE, FAMILIES["qwen"][0], "neither with its prompt"),
        ("I say: " + FAMILIES["qwen"][0] + RESPONSE, FAMILIES["qwen"][0], "neither with its prompt"),
        # Too little is left of the prompt to be sure: a response, too, may begin with "question?".
        ("question?" + RESPONSE, "A very long question?", "neither with its prompt"),
        (RESPONSE, "", "prompt is empty"),
        (RESPONSE, " <s>", "prompt is empty"),
        # Cut within a repetition: one or two of the three are the prompt's.
        ("Repeat after me: yes. " * 2 + RESPONSE, "Repeat after me: yes. " * 3, "more than once"),
        (FAMILIES["qwen"][0] + RESPONSE, [{"role": "user", "content": "Who?"}], "are not in it"),
        (QUESTION + RESPONSE, [{"role": "user", "content": QUESTION}], "are not in it"),
        (FAMILIES["qwen"][0] + RESPONSE, [*CHAT, {"role": "assistant", "content": "<think>"}], "of the assistant"),
        (FAMILIES["qwen"][0] + RESPONSE, [{"role": "user", "content": None}], "are empty"),
        (FAMILIES["qwen"][0] + "<think>\n\n</think>\n\n" + RESPONSE, CHAT, "empty block"),
        (FAMILIES["qwen"][0] + RESPONSE, [{"role": "user", "content": 3}], "content of a message"),
    ],
)
def test_what_cannot_be_told_is_refused_without_repeating_it(query: str, prompt: Any, reason: str) -> None:
    with pytest.raises(ResponseNotFound, match=reason) as refused:
        response_in(query, prompt)
    assert "Heparin" not in str(refused.value)


def test_messages_are_found_in_their_order() -> None:
    turns = ["Hello", "Hi", "Hello"]
    query = "".join(
        f"<|im_start|>{'user' if n % 2 == 0 else 'assistant'}\n{t}<|im_end|>\n" for n, t in enumerate(turns)
    )
    query += "<|im_start|>assistant\n"
    chat = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(turns)]
    # The response says the whole chat again; where it begins is not moved by that.
    assert response_in(query + query + RESPONSE, chat).strip() == query + RESPONSE
    parts = [*chat[:2], {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Hello"}]}]
    assert response_in(query + RESPONSE, parts).strip() == RESPONSE


@pytest.mark.parametrize(
    ("response", "kept"),
    [
        (RESPONSE, RESPONSE),
        (RESPONSE + "\n", RESPONSE + "\n"),
        (RESPONSE + " </s>\n</s>", RESPONSE),
        (RESPONSE + "<|im_start|>user\nMore?<|im_end|>", RESPONSE + "<|im_start|>user\nMore?"),
        (RESPONSE + "<|im_start|>", RESPONSE + "<|im_start|>"),
        (RESPONSE + "<b>", RESPONSE + "<b>"),
        (RESPONSE + " and more", RESPONSE + " and more"),
        ("<think>a<|im_end|>b</think>", "<think>a<|im_end|>b</think>"),
        ("<|endoftext|>", ""),
        ("", ""),
    ],
)
def test_only_what_ends_a_response_is_taken_off(response: str, kept: str) -> None:
    assert without_end(response) == kept


def test_nulls_of_a_column_are_no_fields() -> None:
    sent = {"task": "text", "reference": {"answer": "a", "aliases": ["b"], "options": None}, "match": None}
    assert without_nulls(sent) == {"task": "text", "reference": {"answer": "a", "aliases": ["b"]}}
