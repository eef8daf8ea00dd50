"""How a run asked, as its checkpoints keep it for the model's release.

    {"words": those of the prompt's file (`recipes.data.styles`), "template": "chat" or "base",
     "shots": worked examples before each question, "lengths": ["Think for N tokens."]}

`lengths` are the sentences that ask for a length, N standing for a number that is not the same in all prompts; none
where prompts say none. Left out: the worked examples themselves, whose file `data` of the origin names by its digest.
"""

from __future__ import annotations

from typing import Any

from recipes.data.prompts import length_sentence
from recipes.data.styles import read_style
from recipes.rollout.prompts import common_target
from recipes.runtime.config import Config
from recipes.runtime.rules import Stage

_MODES: dict[str, tuple[str, ...]] = {"none": (), "exact": ("exact",), "max": ("max",), "mixed": ("exact", "max")}


def how_asked(config: Config, stage: Stage) -> dict[str, Any]:
    """See the module. Raises StyleError, of the prompt's file."""
    data = config.data
    teaching = stage is Stage.SFT
    return {
        "words": dict(read_style(data.style).words),
        "template": data.template,
        "shots": data.shots,
        "lengths": _lengths(config, data.say_length if teaching else config.reward.length_mode, teaching=teaching),
    }


def _lengths(config: Config, mode: str, *, teaching: bool) -> list[str]:
    common = None if teaching else common_target(config)
    if common is not None:
        return [common.sentence()] if common.said else []
    fixed = None if teaching else config.reward.length_target
    return [length_sentence(each, "N" if fixed is None else fixed) for each in _MODES[mode]]
