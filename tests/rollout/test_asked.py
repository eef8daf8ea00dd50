"""What a checkpoint keeps of how its run asked is what stands in the run's prompts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from conversion.asked import check_asked
from recipes.data.styles import BUILT_IN, read_style
from recipes.rollout.asked import how_asked
from recipes.rollout.lengths import Targets, training_form
from recipes.rollout.prompts import make_prompts
from recipes.runtime.config import Config
from recipes.runtime.rules import Stage
from tests.rollout.samples import prompt

EXAMPLES = [prompt(f"{n}").example for n in range(8)]
DRAWN = {"draw": "uniform", "low": 8, "high": 12}
EXACT, AT_MOST = "Think for N tokens.", "Think for maximum N tokens."


@pytest.mark.parametrize(
    ("style", "reward", "said"),
    [
        ("plain", {}, []),
        ("plain", {"mode": "exact", "target": 40}, []),
        ("plain", {"mode": "mixed", "target": 40}, ["Think for 40 tokens.", "Think for maximum 40 tokens."]),
        ("med_u1", {"mode": "max", "target": 40}, ["Think for maximum 40 tokens."]),
        ("med_u1", {"mode": "max", "target": 40, "none_share": 0.5}, ["Think for maximum 40 tokens."]),
        ("plain", {"mode": "exact", **DRAWN}, [EXACT]),
        ("plain", {"mode": "exact", **DRAWN, "high": 8}, ["Think for 8 tokens."]),
        ("med_u1", {"mode": "mixed", **DRAWN}, [EXACT, AT_MOST]),
        ("med_u1", {"mode": "mixed", **DRAWN, "max_share": 1.0, "none_share": 0.3}, [AT_MOST]),
        ("med_u1", {"mode": "mixed", **DRAWN, "max_share": 0.0}, [EXACT]),
    ],
)
def test_the_lengths_that_grpo_asks_for(style: str, reward: dict[str, Any], said: list[str], tokenizer: Any) -> None:
    config = Config()
    config.data.style = style
    for key, value in reward.items():
        setattr(config.reward, f"length_{key}", value)
    made, _ = make_prompts(EXAMPLES, tokenizer, training_form(config, tokenizer), max_tokens=1000)
    steps = [[(step, number) for number in range(8)] for step in range(40)]
    texts = [each.text for draws in steps for each in Targets(config, tokenizer).asked(made, draws)]
    sentences = [re.findall(r"Think for (maximum )?(\d+) tokens\.", text) for text in texts]
    found = {("max" if limit else "exact", int(count)) for each in sentences for limit, count in each}
    asked = how_asked(config, Stage.GRPO)
    check_asked(asked)
    assert [length["sentence"] for length in asked["lengths"]] == said
    assert found == {(e["mode"], n) for e in asked["lengths"] for n in range(e["low"], e["high"] + 1)}
    if said:
        share = sum(not each for each in sentences) / len(sentences)
        assert share == pytest.approx(asked["length_none_share"], abs=0.1)  # standard error below 0.03


@pytest.mark.parametrize(
    ("mode", "said"), [("none", []), ("exact", [EXACT]), ("max", [AT_MOST]), ("mixed", [EXACT, AT_MOST])]
)
def test_sft_says_what_traces_keep_and_none_of_the_rewards_lengths(mode: str, said: list[str]) -> None:
    config = Config()
    config.data.say_length, config.reward.length_mode, config.reward.length_target = mode, "exact", 40
    config.reward.length_none_share = 0.5
    asked = how_asked(config, Stage.SFT)
    check_asked(asked)
    assert [(length["sentence"], length["low"], length["high"]) for length in asked["lengths"]] == [
        (sentence, None, None) for sentence in said
    ]
    assert asked["length_none_share"] == 0


@pytest.mark.parametrize("style", [*BUILT_IN, "own.yaml"])
def test_it_holds_the_words_themselves(style: str, tmp_path: Path) -> None:
    """Which survive the checkpoint's state, and the file that they came from."""
    config = Config()
    if style == "own.yaml":
        (tmp_path / style).write_text("question: 'é {question}'\n# why\ninstruction: {choice: One letter.}\n")
        style = str(tmp_path / style)
    config.data.style, config.data.template, config.data.shots = style, "base", 2
    asked = json.loads(json.dumps(how_asked(config, Stage.GRPO)))
    check_asked(asked)
    assert asked["words"] == read_style(style).spelled_out
    assert (asked["template"], asked["shots"], asked["lengths"]) == ("base", 2, [])
