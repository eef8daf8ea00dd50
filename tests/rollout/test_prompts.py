"""Which prompts are made, and in what order training draws them."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing

from recipes.data.errors import ExampleError
from recipes.data.example import Example, Task, write_examples
from recipes.data.prompts import Form, trace_response
from recipes.data.styles import read_style
from recipes.rollout.prompts import DataError, Prompt, PromptOrder, make_prompts, trace_ids
from recipes.rollout.rows import check_best, prompt_order, taught, training_rows
from recipes.runtime.config import DataConfig, TrainerConfig
from reward_server.verifiers.format import parse
from tests.rollout.samples import prompt

KINDS: dict[Task, int] = {"choice": 7, "number": 5, "text": 3}


def _pool() -> list[Prompt]:
    return [prompt(f"{task}/{n}", task, skill=f"{n}") for task, count in KINDS.items() for n in range(count)]


def _order(mix: dict[str, float] | None = None, *, adaptive: bool = False, seed: int = 0) -> PromptOrder:
    return PromptOrder(_pool(), mix=mix or {}, adaptive=adaptive, seed=seed)


def _ids(prompts: list[Prompt]) -> list[str]:
    return [p.example.id for p in prompts]


def test_every_step_has_the_kinds_in_proportion() -> None:
    """Weights 2 : 1 : 1 on 8 prompts are 4, 2 and 2 in every step, not only on average."""
    order = _order({"choice": 2, "calculation": 1, "text": 1})
    for _ in range(20):
        assert Counter(p.example.group for p in order.next(8)) == {"choice": 4, "calculation": 2, "text": 2}


def test_proportions_that_do_not_divide_are_owed() -> None:
    """5 prompts over three equal kinds: no step can be exact, but what is missing is made up for."""
    order = _order({"choice": 1, "calculation": 1, "text": 1})
    totals: Counter[str] = Counter()
    for step in range(1, 31):
        totals.update(p.example.group for p in order.next(5))
        assert all(abs(totals[group] - 5 * step / 3) <= 1 + 1e-9 for group in ("choice", "calculation", "text"))


def test_a_weight_of_zero_draws_nothing() -> None:
    assert {p.example.group for p in _order({"choice": 1, "text": 0}).next(30)} == {"choice"}


def test_without_a_mix_every_row_counts_alike() -> None:
    drawn = _ids(_order().next(15))
    assert sorted(drawn) == sorted(_ids(_pool()))


def test_an_epoch_covers_every_row_once_and_the_next_is_shuffled_anew() -> None:
    order = _order({"choice": 1})
    epochs = [_ids(order.next(7)) for _ in range(6)]
    assert all(sorted(epoch) == sorted(f"choice/{n}" for n in range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


@pytest.mark.parametrize("mix", [{}, {"choice": 1, "text": 1}])
def test_without_shuffling_rows_come_as_they_stand_in_the_files(mix: dict[str, float]) -> None:
    """Each kind of task for itself, epoch after epoch; also after a resume."""
    order = PromptOrder(_pool(), mix=mix, adaptive=False, seed=0, shuffle=False)
    drawn = _ids(order.next(11))
    state = json.loads(json.dumps(order.state()))
    resumed = PromptOrder(_pool(), mix=mix, adaptive=False, seed=0, shuffle=False)
    resumed.restore(state)
    drawn += _ids(resumed.next(19))
    if not mix:
        assert drawn == _ids(_pool()) * 2
    for kind in ("choice", "text") if mix else ():
        own = [identity for identity in drawn if identity.startswith(kind)]
        assert own == ([f"{kind}/{n}" for n in range(KINDS[kind])] * 5)[:15]


def test_one_example_fills_every_step() -> None:
    """1-shot RLVR: the same prompt as often as a step has prompts."""
    order = PromptOrder([prompt("only", "choice")], mix={}, adaptive=True, seed=0)
    for _ in range(3):
        drawn = order.next(8)
        assert _ids(drawn) == ["only"] * 8
        order.observe(drawn, [False] * 8)


def test_sft_learns_traces_or_labels_alone() -> None:
    """A label alone has the form that is rewarded; a trace that is there, right or wrong, is not learnt then."""
    bare = prompt("bare", "choice").example
    told = dataclasses.replace(bare, id="told", meta={"trace": {"think": "I guess", "answer": "B"}})
    assert taught([bare, told], "worked") == [told]
    responses = [trace_response(row) for row in taught([bare, told], "answer")]
    assert responses == [f"<think></think><answer>{bare.gold()}</answer>"] * 2
    assert parse(responses[0]).strict
    assert bare.gold() != "B"


def test_epochs_are_covered_whatever_the_steps() -> None:
    order = _order({"choice": 1})
    drawn = [identity for count in (3, 5, 1, 5, 7) for identity in _ids(order.next(count))]
    assert Counter(drawn) == {f"choice/{n}": 3 for n in range(7)}


def test_the_seed_fixes_the_order() -> None:
    assert _ids(_order(seed=4).next(15)) == _ids(_order(seed=4).next(15))
    assert _ids(_order(seed=4).next(15)) != _ids(_order(seed=5).next(15))


@pytest.mark.parametrize("mix", [{}, {"choice": 3, "calculation": 1, "text": 1.5}])
@pytest.mark.parametrize("adaptive", [True, False])
def test_a_restored_order_goes_on_with_the_same_prompts(mix: dict[str, float], adaptive: bool) -> None:
    """A resumed run must not see other prompts than the one that was never stopped."""
    order = _order(mix, adaptive=adaptive)

    def step(which: PromptOrder, number: int) -> list[str]:
        drawn = which.next(6)
        which.observe(drawn, [hash_ % 2 == number % 2 for hash_ in range(6)])
        return _ids(drawn)

    for number in range(5):
        step(order, number)
    state = order.state()
    written = json.dumps(state)
    expected = [step(order, number) for number in range(5, 15)]
    assert json.dumps(state) == written, "the saved state changed while the run went on"
    resumed = _order(mix, adaptive=adaptive)
    resumed.restore(json.loads(written))
    assert [step(resumed, number) for number in range(5, 15)] == expected


def test_adaptive_passes_over_what_teaches_nothing() -> None:
    """A skill whose groups never differ is drawn with a chance of one in five, the others as before."""
    order = _order({"choice": 1}, adaptive=True)
    dull = {"choice/0", "choice/1"}
    counts: Counter[str] = Counter()
    for step in range(600):
        drawn = order.next(7)
        order.observe(drawn, [p.example.id not in dull for p in drawn])
        if step >= 50:
            counts.update(_ids(drawn))
    busy = sum(counts[f"choice/{n}"] for n in range(2, 7)) / 5
    for name in dull:
        # About 720 draws of a busy one: a fifth is 144, its standard deviation about 11.
        assert counts[name] / busy == pytest.approx(0.2, abs=0.07)


def test_adaptive_comes_back_when_a_skill_teaches_again() -> None:
    order = _order({"text": 1}, adaptive=True)
    drawn = order.next(30)
    order.observe(drawn, [False] * 30)
    for _ in range(20):
        drawn = order.next(3)
        order.observe(drawn, [True] * 3)
    assert order.state()["interest"] == pytest.approx({p.example.meta["skill"]: 1.0 for p in drawn}, abs=0.05)


def test_a_kind_without_rows_is_named() -> None:
    rows = [prompt("1", "choice")]
    with pytest.raises(DataError, match=r"data\.mix asks for calculation, text, of which the training files hold no"):
        PromptOrder(rows, mix={"choice": 1, "calculation": 1, "text": 1}, adaptive=False, seed=0)


def test_a_best_checkpoint_goes_by_what_is_trained_on() -> None:
    rows = [prompt("1", "choice"), prompt("2", "text")]
    for best, mix, told in (
        ("accuracy/mean", {}, None),
        ("reward/text/answer", {}, None),
        (
            "accuracy/calculation",
            {},
            "no calculation question .*; take one of choice, text, or the mean",
        ),
        ("reward/text", {"choice": 1.0, "text": 0.0}, "trainer.best=reward/text: no text question"),
    ):
        config: Any = SimpleNamespace(data=DataConfig(mix=mix), trainer=TrainerConfig(best=best))
        with pytest.raises(DataError, match=told) if told else nullcontext():
            check_best(rows, config)


def test_rows_that_leave_a_kind_without_any_are_named_with_the_setting_that_chose_them() -> None:
    config = SimpleNamespace(data=DataConfig(only=["1"], mix={"choice": 1, "text": 1}), seed=0)
    with pytest.raises(DataError, match=r"asks for text, .*: data\.only leaves 1 of their rows; leave data\.mix out"):
        prompt_order([prompt("1", "choice")], config)


def test_rows_are_held_against_validation_as_against_the_test(tmp_path: Path) -> None:
    for name, asked in (("train", "Why?"), ("test", "Who?"), ("validation", "why ?")):
        write_examples(tmp_path / name, [Example("1", "s", "text", asked, "x")])
    files = {name: [str(tmp_path / name)] for name in ("train", "test", "validation")}
    with pytest.raises(ExampleError, match=r"1 rows are questions of data\.test or data\.validation, .*normalised 1"):
        training_rows(DataConfig(**files))
    assert len(training_rows(DataConfig(**{**files, "validation": []}))) == 1


# --- making prompts ------------------------------------------------------------------------------------------------


def _examples() -> list[Example]:
    question = "Which deficiency causes scurvy? "
    return [Example(f"{n}", "s", "text", question * n, "vitamin C") for n in (1, 40, 2, 60, 3)]


def _make(tokenizer: Any, max_tokens: int) -> tuple[list[Prompt], int]:
    return make_prompts(_examples(), tokenizer, Form(read_style("plain")), max_tokens=max_tokens)


def test_long_prompts_are_dropped_and_counted_and_none_is_cut(tokenizer: Any) -> None:
    everything, none_dropped = _make(tokenizer, 100_000)
    assert none_dropped == 0
    kept, dropped = _make(tokenizer, 60)
    assert [p.example.id for p in kept] == ["1", "2", "3"]
    assert dropped == 2
    whole = {p.example.id: p for p in everything}
    assert all(whole[p.example.id] == p for p in kept)
    assert tokenizer.decode(kept[0].ids) == kept[0].text
    assert kept[0].text.endswith("<|im_start|>assistant\n")
    assert kept[0].text.count("<|im_end|>") == 1


def test_the_limit_is_inclusive(tokenizer: Any) -> None:
    longest = max(len(p.ids) for p in _make(tokenizer, 100_000)[0])
    assert _make(tokenizer, longest)[1] == 0
    assert _make(tokenizer, longest - 1)[1] == 1


def test_when_none_fits_the_error_gives_the_numbers(tokenizer: Any) -> None:
    shortest = min(len(p.ids) for p in _make(tokenizer, 100_000)[0])
    expected = rf"none of the 5 prompts fits into 4 tokens \(the shortest has {shortest}\); raise model\.max_length"
    with pytest.raises(DataError, match=expected):
        _make(tokenizer, 4)


def test_no_rows_at_all_names_the_setting(tokenizer: Any) -> None:
    with pytest.raises(DataError, match=r"data\.train=\[FILE"):
        make_prompts([], tokenizer, Form(read_style("plain")), max_tokens=10)


def test_a_tokenizer_without_chat_template_takes_plain_text(tokenizer: Any) -> None:
    """Llama's begins every text with a token, and so does a prompt; the response is a trace that ends as chats do."""
    bare = copy.deepcopy(tokenizer)
    bare.chat_template = None
    with pytest.raises(DataError, match=r"no chat template, .* set data\.template=base for plain text"):
        _make(bare, 100)
    trace = {"think": "scurvy", "answer": "vitamin C"}
    asked = Example("q", "s", "text", "Which deficiency causes scurvy?", "vitamin C", meta={"trace": trace})
    [prompt], _ = make_prompts([asked], bare, Form(read_style("med_rlvr"), template="base"), max_tokens=1000)
    assert prompt.text.startswith("You are a medical expert sitting a licensing examination.")
    assert prompt.text.endswith(
        "</answer>.\n\nQuestion: Which deficiency causes scurvy?\nGive a short text within the <answer> tags."
        "\nAnswer:\n"
    )
    assert bare.decode(prompt.ids + trace_ids(prompt, bare)) == (
        f"{prompt.text}<think>scurvy</think><answer>vitamin C</answer>{bare.eos_token}"
    )
    bare.bos_token = "<|endoftext|>"
    begin = ("<|endoftext|>", bare.bos_token_id)
    bare._tokenizer.post_processor = TemplateProcessing(single=f"{begin[0]} $A", special_tokens=[begin])
    [begun], _ = make_prompts([asked], bare, Form(read_style("med_rlvr"), template="base"), max_tokens=1000)
    assert begun.ids == (bare.bos_token_id, *prompt.ids)


def test_worked_examples_stand_before_a_question_and_are_never_the_question(tokenizer: Any) -> None:
    """The first of its task; one in other letters is the question itself, and one without a trace has no reasoning."""
    trace = {"think": "scurvy", "answer": "vitamin C"}
    shown = [
        Example("own", "s", "text", "WHICH deficiency  causes scurvy?", "vitamin C"),
        Example("number", "s", "number", "How many?", 3, lower=3, upper=3),
        Example("a", "s", "text", "Which vitamin is C?", "vitamin C", meta={"trace": trace}),
        Example("b", "s", "text", "Which is D?", "vitamin D"),
    ]
    form = Form(read_style("plain"), shots=2, few_shot=shown)
    asked = Example("q", "s", "text", "Which deficiency causes scurvy?", "vitamin C")
    [prompt], _ = make_prompts([asked], tokenizer, form, max_tokens=1000)
    assert (
        "Question: Which vitamin is C?\nAnswer:\n<think>scurvy</think><answer>vitamin C</answer>\n\n"
        "Question: Which is D?\nAnswer:\n<answer>vitamin D</answer>\n\n"
        "Question: Which deficiency causes scurvy?<|im_end|>"
    ) in prompt.text
    with pytest.raises(ExampleError, match=r"2 worked examples of task text for the question 'q', and data\.shots=3"):
        make_prompts([asked], tokenizer, dataclasses.replace(form, shots=3), max_tokens=1000)
