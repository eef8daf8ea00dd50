"""Chat templates and tokenizers of published models: what is adapted, and the rows that are refused by id."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from conversion.errors import TokenizerError
from recipes.data.example import Example
from recipes.data.prompts import Form
from recipes.data.styles import StyleError, read_style
from recipes.engines.base import Completion
from recipes.rollout.prompts import Prompt, RowError, prompt_form, render_prompts, trace_ids
from recipes.rollout.scoring import score
from recipes.rollout.server import reward_client
from recipes.runtime.config import RewardConfig
from recipes.runtime.loading import load
from recipes.runtime.rules import Stage
from recipes.runtime.tokenizer import training_tokenizer

TRACE = {"think": "scurvy lacks C", "answer": "vitamin C"}
SCURVY = Example("scurvy", "s", "text", "Which deficiency causes scurvy?", "vitamin C", meta={"trace": TRACE})
TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
CHATML = TURNS + "<|im_start|>assistant{{ '\n' }}"
INSTRUCT = "{{ bos_token }}{% for m in messages %}[INST] {{ m.content }} [/INST]{% endfor %}"
ALTERNATING = "{% if messages[0].role != 'user' %}{{ raise_exception('roles must alternate') }}{% endif %}" + INSTRUCT
USER_ALONE = "{% for m in messages if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% endfor %}"


def _with(tokenizer: Any, template: str) -> Any:
    changed = copy.deepcopy(tokenizer)
    changed.chat_template = template
    return changed


def _beginning(text: str) -> str:
    """A template that begins the response; written as an expression, since Jinja takes a last line's end away."""
    return CHATML + "{{ " + repr(text) + " }}"


def _render(tokenizer: Any, *examples: Example, style: str = "med_u1") -> list[Prompt]:
    return render_prompts(examples, tokenizer, Form(read_style(style)))


@pytest.mark.parametrize("template", [ALTERNATING, USER_ALONE], ids=["refuses a system message", "leaves it out"])
def test_without_a_system_role_its_text_goes_in_front_of_the_users(template: str, tokenizer: Any) -> None:
    [prompt] = _render(_with(tokenizer, template), SCURVY)
    assert prompt.text.startswith("[INST] You are a helpful medical assistant.")
    assert prompt.text.count("[INST]") == 1
    assert "</answer>.\n\nWhich deficiency causes scurvy?\nGive a short text" in prompt.text
    [plain] = _render(_with(tokenizer, template), SCURVY, style="plain")
    assert plain.text == "[INST] Which deficiency causes scurvy? [/INST]"


def test_a_template_with_a_system_role_keeps_it(tokenizer: Any) -> None:
    [prompt] = _render(_with(tokenizer, CHATML), SCURVY)
    assert prompt.text.startswith("<|im_start|>system\nYou are a helpful medical assistant.")
    assert prompt.opened == ""


@pytest.mark.parametrize(
    ("beginning", "opened"),
    [
        ("", ""),
        ("<think>\n", "<think>\n"),  # DeepSeek R1 and what is distilled from it
        ("<think>", "<think>"),
        ("<think>\nOkay, ", "<think>\nOkay, "),
        ("<think>\n\n</think>\n\n", ""),  # Qwen3 with thinking turned off: the response thinks anew
        ("</think>", ""),
    ],
)
@pytest.mark.parametrize("style", ["plain", "med_u1", "med_rlvr"])
def test_what_the_template_opens(beginning: str, opened: str, style: str, tokenizer: Any) -> None:
    """Read from the assistant's turn alone: the styles' own words name the tags, too."""
    asked = Example("tags", "s", "text", "What does <think> mean in HTML?", "nothing")
    for prompt in _render(_with(tokenizer, _beginning(beginning)), SCURVY, asked, style=style):
        assert prompt.opened == opened
        assert prompt.text.endswith(beginning)


def test_an_opened_think_is_part_of_what_is_scored_and_of_no_trace(process_group: None, tokenizer: Any) -> None:
    """Under the strict form: the same words are worth the same, whoever writes the tag, and a second tag is none."""
    closed, opened = (_with(tokenizer, _beginning(text)) for text in ("", "<think>\n"))
    [whole], [rest] = _render(closed, SCURVY), _render(opened, SCURVY)
    written = "scurvy lacks C</think><answer>vitamin C</answer>"
    assert closed.decode(trace_ids(whole, closed)) == f"<think>{written}<|im_end|>"
    assert opened.decode(trace_ids(rest, opened)) == f"{written}<|im_end|>"

    def completions(*texts: str) -> Sequence[Completion]:
        ids = [tuple(tokenizer(text, add_special_tokens=False).input_ids) for text in texts]
        return [Completion(each, (0.0,) * len(each), True) for each in ids]

    asked = [completions(f"<think>{written}", written), completions(written, f"<think>{written}")]
    with reward_client(RewardConfig()) as client:
        groups = score([whole, rest], asked, tokenizer=tokenizer, client=client, config=RewardConfig(format="strict"))
    assert [[t.score.components["format"] for t in group] for group in groups] == [[1.0, 0.0]] * 2
    assert [[t.score.reward for t in group] for group in groups] == [[1.0, 0.0]] * 2
    assert groups[1][0].text == f"<think>\n{written}"


def test_a_beginning_of_the_text_comes_once(tokenizer: Any) -> None:
    """The template writes it, and a tokenizer that would put one before every text is not asked to."""
    from tokenizers.processors import TemplateProcessing

    doubling = _with(tokenizer, INSTRUCT)
    doubling.bos_token = "<|endoftext|>"
    begin = ("<|endoftext|>", doubling.bos_token_id)
    doubling._tokenizer.post_processor = TemplateProcessing(single=f"{begin[0]} $A", special_tokens=[begin])
    assert doubling("x").input_ids[0] == doubling.bos_token_id
    [prompt] = _render(doubling, SCURVY, style="plain")
    assert prompt.ids.count(doubling.bos_token_id) == 1
    assert doubling.bos_token_id not in trace_ids(prompt, doubling)


@pytest.mark.parametrize(
    ("row", "template", "said"),
    [
        (
            Example("odd", "s", "text", "Is <b>it</b> so?", "yes"),
            "{% for m in messages %}{{ m.content | striptags }}{% endfor %}",
            "the row with id 'odd': its question does not come through the chat template unchanged",
        ),
        (
            Example("none", "s", "text", "What is 1 / 0?", "no number"),
            "{% for m in messages %}{% if '1 / 0' in m.content %}{{ 1 / 0 }}{% endif %}{{ m.content }}{% endfor %}",
            r"the row with id 'none': .*chat template fails for the roles user \(division by zero\)",
        ),
    ],
)
def test_a_row_that_the_template_cannot_take(row: Example, template: str, said: str, tokenizer: Any) -> None:
    with pytest.raises(RowError, match=said):
        _render(_with(tokenizer, template), SCURVY, row, style="plain")


@pytest.fixture(scope="module")
def narrow(tokenizer: Any) -> Any:
    """ASCII alone, in Unicode's compatible forms: other characters are unknown or become others."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    letters = {chr(32 + i): i for i in range(95)} | {"\n": 95, "<unk>": 96, "</s>": 97}
    ascii_alone = Tokenizer(models.BPE(letters, [], unk_token="<unk>"))
    ascii_alone.normalizer = normalizers.NFKC()
    ascii_alone.decoder = decoders.Fuse()
    made = PreTrainedTokenizerFast(tokenizer_object=ascii_alone, unk_token="<unk>", eos_token="</s>")
    made.chat_template = CHATML
    return made


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (Example("beta", "s", "text", "Which β-blocker?", "atenolol"), "loses the characters β; write the row without"),
        (Example("square", "s", "text", "Is it 70 kg/m²?", "no"), "loses the characters ²;"),
        (Example("gold", "s", "text", "Which hormone?", "α-MSH"), r"loses the characters α; .* \(in its answer\)"),
        (
            Example("o", "s", "choice", "Which?", "A", options={"A": "≥ 5", "B": "< 5"}),
            "the row with id 'o': the checkpoint's tokenizer loses the characters ≥",
        ),
    ],
    ids=lambda value: value.id if isinstance(value, Example) else "",
)
def test_a_row_whose_text_the_tokenizer_loses(row: Example, said: str, narrow: Any, tokenizer: Any) -> None:
    with pytest.raises(RowError, match=said):
        _render(narrow, SCURVY, row, style="plain")
    _render(tokenizer, SCURVY, row, style="plain")


def test_how_many_rows_are_lost_and_a_trace(narrow: Any) -> None:
    rows = [Example(f"{n}", "s", "text", f"{n} µg?", "yes") for n in range(5)]
    with pytest.raises(RowError, match=r"id '0': .*loses the characters .*; so do 4 of the other 5 rows"):
        _render(narrow, *rows, SCURVY, style="plain")
    traced = Example("t", "s", "text", "Which?", "x", meta={"trace": {"think": "a → b", "answer": "x"}})
    [prompt] = _render(narrow, traced, style="plain")
    with pytest.raises(RowError, match=r"id 't': .*loses the characters → ?; .* \(in its trace\)"):
        trace_ids(prompt, narrow)


def test_tags_that_no_response_could_show_are_refused(tokenizer: Any, tmp_path: Any) -> None:
    """Added as special tokens, as many fine-tunes do, they vanish from every response before it is scored."""
    hiding = copy.deepcopy(tokenizer)
    hiding.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    hiding.save_pretrained(tmp_path)
    with pytest.raises(
        TokenizerError, match=r"none could have the form that is paid; <think>, </think> must be ordinary"
    ):
        training_tokenizer(tmp_path, len(hiding))


def test_a_prompt_file_goes_through_every_template(tokenizer: Any, tmp_path: Path) -> None:
    """With a system role, without one, and as plain text whose words open the reasoning."""
    file = tmp_path / "own.yaml"
    file.write_text("system: Be brief.\nquestion: '{{Q}} {question}'\nbefore_answer: ' A: <think>'\n")
    form = Form(read_style(str(file)))
    [chat] = render_prompts([SCURVY], _with(tokenizer, CHATML), form)
    asked = "{Q} Which deficiency causes scurvy?"
    assert (
        chat.text
        == f"<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n"
    )
    [without] = render_prompts([SCURVY], _with(tokenizer, USER_ALONE), form)
    assert without.text == f"[INST] Be brief.\n\n{asked} [/INST]"
    [base] = render_prompts([SCURVY], tokenizer, dataclasses.replace(form, template="base"))
    assert (base.text, base.opened, chat.opened) == (f"Be brief.\n\n{asked} A: <think>", "<think>", "")
    written = tokenizer.decode(trace_ids(base, tokenizer))
    assert written.startswith("scurvy lacks C</think><answer>vitamin C</answer>")


def test_options_without_letters_are_refused_where_letters_alone_are_right() -> None:
    """Every answer by an option's text would count as wrong."""
    with pytest.raises(StyleError, match=r"data\.style=pubmedqa: .* answers under reward\.match=strict go by letters"):
        prompt_form(load(["output=o", "model.path=m", "data.style=pubmedqa", "reward.match=strict"], Stage.EVALUATE))
    asked = prompt_form(load(["output=o", "model.path=m", "data.style=pubmedqa"], Stage.EVALUATE))
    assert asked.style.name == "pubmedqa"


def test_words_that_the_tokenizer_loses_are_told_by_file_and_key(tmp_path: Path) -> None:
    """And not by a row, which holds none of them; those of the system text are in no row at all."""
    letters = ["\n", *map(chr, range(32, 127)), "<unk>"]
    small = Tokenizer(BPE({each: number for number, each in enumerate(letters)}, [], unk_token="<unk>"))
    small.decoder = Fuse()
    tokenizer = _with(PreTrainedTokenizerFast(tokenizer_object=small), CHATML)
    for key, text in (
        ("system", "system: 请选择"),
        ("instruction.text", "instruction: {text: 请选择}"),
        ("before_answer", "before_answer: 请选择"),
    ):
        file = tmp_path / f"{key}.yaml"
        file.write_text(f"question: '{{question}}'\n{text}\n")
        form = Form(read_style(str(file)), template="base")
        with pytest.raises(StyleError, match=rf"yaml: {key}: the .* loses the characters .*; write the prompt without"):
            render_prompts([SCURVY], tokenizer, form)
    # Which is not said in a chat.
    assert render_prompts([SCURVY], tokenizer, dataclasses.replace(form, template="chat"))
