"""How a run asked, as its checkpoints keep it for the model's release; `conversion.asked` tells the keys."""

from __future__ import annotations

from typing import Any

from recipes.data.prompts import length_sentence
from recipes.data.styles import read_style
from recipes.rollout.prompts import common_target
from recipes.runtime.config import Config, RewardConfig
from recipes.runtime.rules import Stage

_MODES: dict[str, tuple[str, ...]] = {"none": (), "exact": ("exact",), "max": ("max",), "mixed": ("exact", "max")}


def how_asked(config: Config, stage: Stage) -> dict[str, Any]:
    """What `origin.asked` holds of a run. Raises StyleError, of the prompt's file."""
    data, reward, teaching = config.data, config.reward, stage is Stage.SFT
    return {
        "words": read_style(data.style).spelled_out,
        "template": data.template,
        "shots": data.shots,
        "lengths": _taught(data.say_length) if teaching else _rewarded(config),
        "length_none_share": 0.0 if teaching else reward.length_none_share,
    }


def _taught(mode: str) -> list[dict[str, Any]]:
    """SFT asks for what its traces keep (`recipes.rollout.lengths.taught_prompts`)."""
    return [_length(each, None, None) for each in _MODES[mode]]


def _rewarded(config: Config) -> list[dict[str, Any]]:
    """GRPO asks for what it rewards, where its prompts say it."""
    reward, common = config.reward, common_target(config)
    if common is not None and not common.said:
        return []
    low, high = _bounds(reward)
    return [_length(mode, low, high) for mode in _modes(reward)]


def _bounds(reward: RewardConfig) -> tuple[int, int]:
    if reward.length_target is not None:
        return reward.length_target, reward.length_target
    return reward.length_low, reward.length_high


def _modes(reward: RewardConfig) -> tuple[str, ...]:
    if reward.length_mode == "mixed" and reward.length_max_share in (0, 1):
        return ("max",) if reward.length_max_share else ("exact",)
    return _MODES[reward.length_mode]


def _length(mode: str, low: int | None, high: int | None) -> dict[str, Any]:
    known = low if low is not None and low == high else "N"
    return {"mode": mode, "sentence": length_sentence(mode, known), "low": low, "high": high}
