"""What a checkpoint keeps of how its run asked is what stands in the run's prompts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from recipes.data.styles import BUILT_IN, read_style
from recipes.rollout.asked import how_asked
from recipes.rollout.lengths import Targets, training_form
from recipes.rollout.prompts import make_prompts
from recipes.runtime.config import Config
from recipes.runtime.rules import Stage
from tests.rollout.samples import prompt

EXAMPLES = [prompt(f"{n}").example for n in range(8)]
DRAWN = {"draw": "uniform", "low": 8, "high": 20}


@pytest.mark.parametrize(
    ("style", "reward", "said"),
    [
        ("plain", {}, []),
        ("plain", {"mode": "exact", "target": 40}, []),
        ("plain", {"mode": "mixed", "target": 40}, ["Think for 40 tokens.", "Think for maximum 40 tokens."]),
        ("med_u1", {"mode": "max", "target": 40}, ["Think for maximum 40 tokens."]),
        ("med_u1", {"mode": "max", "target": 40, "none_share": 0.5}, ["Think for maximum 40 tokens."]),
        ("plain", {"mode": "exact", **DRAWN}, ["Think for N tokens."]),
        ("med_u1", {"mode": "mixed", **DRAWN}, ["Think for N tokens.", "Think for maximum N tokens."]),
    ],
)
def test_the_lengths_that_grpo_asks_for(style: str, reward: dict[str, Any], said: list[str], tokenizer: Any) -> None:
    config = Config()
    config.data.style = style
    for key, value in reward.items():
        setattr(config.reward, f"length_{key}", value)
    made, _ = make_prompts(EXAMPLES, tokenizer, training_form(config, tokenizer), max_tokens=1000)
    texts = [p.text for step in range(8) for p in Targets(config, tokenizer).asked(made, [(step, n) for n in range(8)])]
    found = {sentence for text in texts for sentence in re.findall(r"Think for [a-z ]*\d+ tokens\.", text)}
    if "target" not in reward:
        found = {re.sub(r"\d+", "N", sentence) for sentence in found}
    asked = how_asked(config, Stage.GRPO)
    assert asked["lengths"] == said
    assert found == set(said)


@pytest.mark.parametrize(("mode", "said"), [("none", 0), ("exact", 1), ("max", 1), ("mixed", 2)])
def test_sft_says_what_traces_keep_and_none_of_the_rewards_lengths(mode: str, said: int) -> None:
    config = Config()
    config.data.say_length, config.reward.length_mode, config.reward.length_target = mode, "exact", 40
    lengths = how_asked(config, Stage.SFT)["lengths"]
    assert lengths == [s for s in ("Think for N tokens.", "Think for maximum N tokens.") if s in lengths]
    assert len(lengths) == said


@pytest.mark.parametrize("style", [*BUILT_IN, "own.yaml"])
def test_it_holds_the_words_themselves(style: str, tmp_path: Path) -> None:
    """Which survive the checkpoint's state, and the file that they came from."""
    config = Config()
    if style == "own.yaml":
        (tmp_path / style).write_text("question: 'é {question}'\n# why\ninstruction: {choice: One letter.}\n")
        style = str(tmp_path / style)
    config.data.style, config.data.template, config.data.shots = style, "base", 2
    asked = json.loads(json.dumps(how_asked(config, Stage.GRPO)))
    assert asked == {"words": dict(read_style(style).words), "template": "base", "shots": 2, "lengths": []}
