"""The targets of a step's prompts: what is drawn, and that prompts say it."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest

from recipes.data.prompts import LengthTarget
from recipes.rollout.lengths import Targets, draw_target, least_target, taught_prompts, training_form
from recipes.rollout.prompts import make_prompts, prompt_form, trace_ids
from recipes.runtime.config import Config
from tests.rollout.samples import prompt

EXAMPLES = [prompt(f"{n}", task).example for n, task in enumerate(("choice", "number", "text"))]


def _config(**reward: Any) -> Config:
    config = Config()
    config.seed, config.rollout.prompts = 3, 8
    for key, value in reward.items():
        setattr(config.reward, f"length_{key}", value)
    return config


def _drawn(config: Config, count: int = 4000) -> list[LengthTarget | None]:
    return [draw_target(config, step, number) for step in range(count // 8) for number in range(8)]


def test_uniform_targets_reach_both_bounds_and_are_spread_evenly() -> None:
    """Med-U1's: whole numbers from 100 to 2000, both with it."""
    near = [t.tokens for t in _drawn(_config(mode="exact", draw="uniform", low=10, high=14)) if t]
    counts = Counter(near)
    assert set(counts) == set(range(10, 15))
    # 800 each, with a standard deviation of 25.
    assert max(abs(count - 800) for count in counts.values()) < 130
    wide = [t.tokens for t in _drawn(_config(mode="exact", draw="uniform")) if t]
    assert (min(wide) >= 100, max(wide) <= 2000) == (True, True)
    assert np.mean(wide) == pytest.approx(1050, abs=40)  # standard error 8.7


def test_log_uniform_targets_are_as_many_in_every_octave() -> None:
    drawn = [t.tokens for t in _drawn(_config(mode="exact", draw="log_uniform", low=256, high=4096)) if t]
    assert (min(drawn) >= 256, max(drawn) <= 4096) == (True, True)
    octaves = Counter(min(11, math.floor(math.log2(tokens))) for tokens in drawn)
    assert max(abs(octaves[power] - 1000) for power in (8, 9, 10, 11)) < 130


def test_modes_are_mixed_and_a_share_has_no_target() -> None:
    drawn = _drawn(_config(mode="mixed", draw="uniform", max_share=0.25, none_share=0.2))
    counts = Counter(t.mode if t else None for t in drawn)
    assert [counts[mode] / 4000 for mode in (None, "max", "exact")] == pytest.approx([0.2, 0.2, 0.6], abs=0.03)
    fixed = Counter(_drawn(_config(mode="mixed", target=300)))
    assert set(fixed) == {LengthTarget("max", 300), LengthTarget("exact", 300)}
    assert set(_drawn(_config())) == {None}


def test_a_draw_belongs_to_seed_step_and_number() -> None:
    config, other = _config(mode="mixed", draw="uniform"), _config(mode="mixed", draw="uniform")
    other.seed = 4
    assert _drawn(config) == _drawn(config)
    assert draw_target(config, 5, 2) == _drawn(config)[5 * 8 + 2]
    assert _drawn(config)[:64] != _drawn(other)[:64]
    assert len(set(_drawn(config)[:64])) > 50
    # Further batches of dynamic sampling have numbers of their own.
    assert [draw_target(config, 1, n) for n in range(8)] != [draw_target(config, 1, n) for n in range(8, 16)]


@pytest.mark.parametrize("style", ["plain", "med_u1", "med_rlvr"])
@pytest.mark.parametrize("mode", ["exact", "max", "mixed"])
def test_prompts_say_their_targets_and_none_is_longer_than_first_thought(style: str, mode: str, tokenizer: Any) -> None:
    config = _config(mode=mode, draw="uniform", low=8, high=120, none_share=0.3)
    config.data.style = style
    longest, _ = make_prompts(EXAMPLES, tokenizer, training_form(config, tokenizer), max_tokens=1000)
    limits = {p.example.id: len(p.ids) for p in longest}
    targets = Targets(config, tokenizer)
    said = set()
    for step in range(40):
        draws = [(step, n) for n in range(3)]
        asked = targets.asked(longest, draws)
        assert asked == targets.asked(longest, draws)
        assert [p.length for p in asked] == [draw_target(config, step, n) for n in range(3)]
        for each in asked:
            target = each.length
            assert each.text.count("tokens.") == (target is not None)
            assert target is None or target.sentence() in each.text
            assert len(each.ids) <= limits[each.example.id]
            assert tokenizer(each.text).input_ids == list(each.ids)
            said.add(target and target.mode)
    assert said == {None, *(("exact", "max") if mode == "mixed" else (mode,))}
    assert targets.asked(longest, [(1, n + 3) for n in range(3)]) != targets.asked(longest, [(1, n) for n in range(3)])


@pytest.mark.parametrize("style", ["plain", "med_u1"])
def test_one_target_for_all_is_as_the_prompts_were_made(style: str, tokenizer: Any) -> None:
    """The plain style does not say it, and the reward server hears of it all the same."""
    config = _config(mode="exact", target=40)
    config.data.style = style
    made, _ = make_prompts(EXAMPLES, tokenizer, training_form(config, tokenizer), max_tokens=1000)
    assert Targets(config, tokenizer).asked(made, [(3, n) for n in range(len(made))]) == made
    assert {p.length for p in made} == {LengthTarget("exact", 40, said=style != "plain")}
    assert {"Think for 40 tokens." in p.text for p in made} == {style != "plain"}


@pytest.mark.parametrize("mode", ["exact", "max", "mixed"])
def test_sft_asks_for_what_a_trace_keeps(mode: str, tokenizer: Any) -> None:
    config = _config()
    config.data.say_length = mode
    thoughts = [f"{'scurvy, ' * (n % 7)}done {n}" for n in range(60)]
    rows = [
        dataclasses.replace(EXAMPLES[0], id=f"{n}", meta={"trace": {"think": thought, "answer": "A"}})
        for n, thought in enumerate(thoughts)
    ]
    made, _ = make_prompts(rows, tokenizer, prompt_form(config, teaching=True), max_tokens=1000)
    taught = taught_prompts(made, config, tokenizer)
    assert taught == taught_prompts(made[::-1], config, tokenizer)[::-1]
    sizes = [len(trace_ids(each, tokenizer)) for each in taught]
    asked = [each.length for each in taught]
    assert all(target is not None and target.sentence() in p.text for p, target in zip(taught, asked, strict=True))
    for target, size in zip(asked, sizes, strict=True):
        assert target is not None
        assert (target.tokens == size) if target.mode == "exact" else (size <= target.tokens <= 2 * size)
    assert {t.mode for t in asked if t} == ({"exact", "max"} if mode == "mixed" else {mode})
    config.data.say_length = "none"
    assert taught_prompts(made, config, tokenizer) == made


def test_rows_are_tried_with_a_target_that_the_reward_may_refuse() -> None:
    assert least_target(_config(mode="mixed", draw="uniform").reward) == LengthTarget("exact", 100)
    assert least_target(_config(mode="max", target=7).reward) == LengthTarget("max", 7)
    assert least_target(_config().reward) is None
