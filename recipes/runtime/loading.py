"""From command line and `configs/` to a checked configuration.

`load()` composes them with Hydra into a typed `Config`, fits lengths that nobody has set to the checkpoint, and holds
the result to the rules of `recipes.runtime.rules`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from conversion.command import expand_home
from conversion.errors import ConversionError
from conversion.families import family_for
from recipes.data.styles import is_file
from recipes.runtime.config import Config, ConfigError
from recipes.runtime.overrides import CONFIGS, as_hydra_reads, reason
from recipes.runtime.rules import Stage, validate

__all__ = ["CONFIGS", "load", "world_size"]

# What a run takes where nobody says otherwise and the checkpoint has room for it.
_LENGTH, _RESPONSE = 4096, 1024


def world_size() -> int | None:
    """The number of ranks when a launcher (torchrun, srun) has set it, else None.

    Raises:
        ConfigError: it is no number.
    """
    value = os.environ.get("WORLD_SIZE")
    if value and not (value.isdecimal() and int(value)):
        raise ConfigError(f"WORLD_SIZE={value} in the environment: expected the number of ranks; unset it")
    return int(value) if value else None


def load(overrides: Sequence[str], stage: Stage = Stage.GRPO) -> Config:
    """Composes `configs/` with command-line overrides and checks what the stage uses of the result.

    Raises:
        ConfigError: for an unknown key or group, a missing or mistyped value, or a broken rule.
    """
    # Imported here since they take longer than all else that a mistake in an override needs.
    from hydra import compose, initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    schema = OmegaConf.structured(Config)
    # Hydra closes every section against new keys; the keys of these are names of tasks and components.
    for names in (schema.data.mix, schema.algorithm.task_medians, schema.algorithm.component_weights):
        names._set_flag("struct", False)
    ConfigStore.instance().store(name="schema", node=schema)
    typed = as_hydra_reads(overrides)
    try:
        with initialize_config_dir(config_dir=str(CONFIGS), version_base="1.3"):
            composed = compose("config", overrides=typed)
        if composed.evaluation.endpoint.url is not None and OmegaConf.is_missing(composed.model, "path"):
            composed.model.path = ""
        missing = sorted(OmegaConf.missing_keys(composed))
        if missing:
            raise ConfigError(f"{missing[0]} is not set; give it as {missing[0]}=VALUE on the command line")
        # A key added with +key=value passes Hydra's own check, but not this merge.
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.to_container(composed)))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(reason(error)) from None
    assert isinstance(config, Config)
    config.parallel.processes = world_size() or config.parallel.processes
    _expand_homes(config)
    _fit_lengths(config)
    validate(config, stage)
    return config


def _expand_homes(config: Config) -> None:
    config.output = expand_home(config.output)
    config.model.path = expand_home(config.model.path)
    if config.critic.path:
        config.critic.path = expand_home(config.critic.path)
    if is_file(config.data.style):
        config.data.style = expand_home(config.data.style)
    if config.data.few_shot:
        config.data.few_shot = expand_home(config.data.few_shot)
    for key in ("train", "validation", "test"):
        setattr(config.data, key, [expand_home(file) for file in getattr(config.data, key)])


def _fit_lengths(config: Config) -> None:
    """Gives lengths that are left open, 0, the values that the schema promises."""
    if config.model.max_length == 0:
        config.model.max_length = min(_LENGTH, _context(config.model.path) or _LENGTH)
    if config.rollout.max_new_tokens == 0:
        config.rollout.max_new_tokens = min(_RESPONSE, max(1, config.model.max_length // 2))


def _context(model: str) -> int | None:
    """The longest sequence of a converted or Hugging Face folder; None where that cannot be read."""
    # A converted checkpoint keeps the original's files in hf/.
    for path in (Path(model) / "hf" / "config.json", Path(model) / "config.json"):
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return family_for(values).megatron_architecture(values).max_position_embeddings
        except (ConversionError, OSError, ValueError, AttributeError):
            # Whoever opens the checkpoint says what is wrong with it.
            continue
    return None
