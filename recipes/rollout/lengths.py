"""How long each response of a run should be: one target a prompt, as Med-U1 draws them (arXiv 2506.12307).

A draw is a function of seed, step and the prompt's number within the step, so that all ranks draw the same, and a
resumed run what it would have drawn. All responses of a group share their target. Prompts are first made with the
target that takes most tokens to say, so that one that fits fits with any. Left out: Med-U1's targets that are drawn
once for a file and stay with their rows.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Sequence
from typing import Any, Literal

from conversion.tokenizer_check import encode
from recipes.data.prompts import Form, LengthTarget
from recipes.rollout.prompts import Prompt, common_target, prompt_form, render_prompts, trace_ids
from recipes.runtime.config import Config, RewardConfig


def draw_target(config: Config, step: int, number: int) -> LengthTarget | None:
    """The target of a step's prompt `number`; None for the share without one, and where no length is asked for.

    Uniform over the integers from length_low to length_high, or 2^U(log2 low, log2 high) rounded.
    """
    reward = config.reward
    if reward.length_mode == "none":
        return None
    if (common := common_target(config)) is not None:
        return common
    draw = random.Random(f"length/{config.seed}/{step}/{number}")
    aims, at_most, position = draw.random() >= reward.length_none_share, draw.random(), draw.random()
    if not aims:
        return None
    mode: Any = reward.length_mode
    if mode == "mixed":
        mode = "max" if at_most < reward.length_max_share else "exact"
    return LengthTarget(mode, _placed(reward, position))


def _placed(reward: RewardConfig, position: float) -> int:
    """The number of tokens at a position in [0, 1) of the distribution."""
    if reward.length_target is not None:
        return reward.length_target
    low, high = reward.length_low, reward.length_high
    if reward.length_draw == "log_uniform":
        return round(2 ** (math.log2(low) + position * math.log2(high / low)))
    return low + int(position * (high - low + 1))


def least_target(reward: RewardConfig) -> LengthTarget | None:
    """The least that may be asked for, in the mode that a reward may refuse."""
    if reward.length_mode == "none":
        return None
    mode: Literal["max", "exact"] = "max" if reward.length_mode == "max" else "exact"
    return LengthTarget(mode, reward.length_target or reward.length_low)


def training_form(config: Config, tokenizer: Any) -> Form:
    """How a run puts its questions while it trains: `prompt_form`, with the target that takes most tokens to say.

    Raises:
        StyleError: of the prompt's file.
    """
    form, reward = prompt_form(config), config.reward
    if "choice" in reward.likelihood or config.monitor.gain_every:
        form.style.check_letters("likelihoods of the right answer (reward.likelihood, monitor.gain_every)")
    if form.length is not None or reward.length_mode == "none":
        return form
    fixed = reward.length_target
    counts = [fixed] if fixed is not None else list(range(reward.length_low, reward.length_high + 1))
    mode: Literal["max", "exact"] = "exact" if reward.length_mode == "exact" else "max"
    targets = [LengthTarget(mode, count) for count in counts]
    sizes = [len(ids) for ids in encode(tokenizer, [f" {target.sentence()}" for target in targets])]
    return dataclasses.replace(form, length=targets[sizes.index(max(sizes))])


def kept_target(mode: str, tokens: int, name: str) -> LengthTarget:
    """A target that a response of so many tokens keeps, the same one for the same row.

    Args:
        mode: exact (its own length), max (a limit, of its length to twice that), or mixed (of each in turn).
        tokens: of the response.
        name: of its row.
    """
    draw = random.Random(f"kept/{name}")
    limits, above = mode == "max" or (mode == "mixed" and draw.random() < 0.5), draw.random()
    return LengthTarget("max", int(tokens * (1 + above))) if limits else LengthTarget("exact", tokens)


def taught_prompts(prompts: Sequence[Prompt], config: Config, tokenizer: Any) -> list[Prompt]:
    """SFT's prompts, asking for what their traces keep where data.say_length wants it. Ours: L1 and Med-U1 begin with
    models that know what a number of tokens is.

    Raises:
        RowError: see `render_prompts` and `trace_ids`.
    """
    mode = config.data.say_length
    if mode == "none":
        return list(prompts)
    targets = [kept_target(mode, len(trace_ids(prompt, tokenizer)), prompt.example.id) for prompt in prompts]
    form = prompt_form(config, teaching=True)
    return render_prompts([prompt.example for prompt in prompts], tokenizer, form, targets)


class Targets:
    """Gives the prompts of a step their targets.

    Args:
        config: of the run.
        tokenizer: of the checkpoint.
    """

    def __init__(self, config: Config, tokenizer: Any) -> None:
        self._config, self._tokenizer = config, tokenizer
        self._form = prompt_form(config)
        self._drawn = config.reward.length_mode != "none" and common_target(config) is None

    def asked(self, prompts: Sequence[Prompt], draws: Sequence[tuple[int, int]]) -> list[Prompt]:
        """Prompts as they are asked, each with its own target; as they are where all share one.

        Args:
            prompts: any.
            draws: the step of each, and its number in it.

        Raises:
            RowError: see `render_prompts`.
        """
        if not self._drawn:
            return list(prompts)
        targets = [draw_target(self._config, step, number) for step, number in draws]
        return render_prompts([prompt.example for prompt in prompts], self._tokenizer, self._form, targets)
