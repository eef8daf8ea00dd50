"""From command line and `configs/` to a checked configuration.

`load()` composes them with Hydra into a typed `Config`; `validate()` holds the rules that need more than one field,
each with a message that names the fix.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from recipes.runtime.config import Config, ConfigError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def world_size() -> int | None:
    """The number of ranks when a launcher (torchrun, srun) has set it, else None."""
    value = os.environ.get("WORLD_SIZE")
    return int(value) if value else None


def load(overrides: Sequence[str]) -> Config:
    """Composes `configs/` with command-line overrides and checks the result.

    Raises:
        ConfigError: for an unknown key or group, a missing or mistyped value, or a broken cross-field rule.
    """
    schema = OmegaConf.structured(Config)
    # Hydra closes every section against new keys; the keys of these are names of tasks and components.
    for names in (schema.data.mix, schema.algorithm.task_medians, schema.algorithm.component_weights):
        names._set_flag("struct", False)
    ConfigStore.instance().store(name="schema", node=schema)
    try:
        with initialize_config_dir(config_dir=str(CONFIGS), version_base="1.3"):
            composed = compose("config", overrides=list(overrides))
        missing = sorted(OmegaConf.missing_keys(composed))
        if missing:
            raise ConfigError(f"{missing[0]} is not set; give it as {missing[0]}=VALUE on the command line")
        # A key added with +key=value passes Hydra's own check, but not this merge.
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.to_container(composed)))
    except (HydraException, OmegaConfBaseException) as error:
        reason = " ".join(str(error.__cause__ or error).split("\n")[0:2])
        raise ConfigError(f"{reason} (the keys are listed in {CONFIGS.name}/ and recipes/runtime/config.py)") from None
    assert isinstance(config, Config)
    config.parallel.processes = world_size() or config.parallel.processes
    validate(config)
    return config


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _one_of(key: str, value: str, allowed: Sequence[str]) -> None:
    _require(value in allowed, f"{key}={value}: expected one of {', '.join(allowed)}")


def validate(config: Config) -> None:
    """Every rule that can be checked without the model; `validate_model` holds those that need its architecture.

    Raises:
        ConfigError: naming the keys and the fix.
    """
    _one_of("engine", config.engine, ("megatron", "nemo_aligner"))
    _validate_algorithm(config)
    _one_of("model.precision", config.model.precision, ("float32", "bfloat16"))
    _one_of("model.fp8", config.model.fp8, ("none", "delayed", "tensorwise", "blockwise"))
    _one_of("model.transformer", config.model.transformer, ("auto", "local", "te"))
    _one_of("data.style", config.data.style, ("plain", "med_u1", "med_rlvr"))
    _one_of("reward.length_mode", config.reward.length_mode, ("none", "max", "exact"))
    _one_of("reward.match", config.reward.match, ("strict", "lenient"))
    _one_of("reward.format", config.reward.format, ("strict", "lenient"))
    _one_of("reward.length_shape", config.reward.length_shape, ("preset", "l1", "dapo"))
    parallel, rollout = config.parallel, config.rollout
    for key in ("processes", "tensor", "pipeline", "micro_batch_tokens"):
        _require(getattr(parallel, key) >= 1, f"parallel.{key}={getattr(parallel, key)}: expected at least 1")
    _require(
        parallel.timeout_minutes > 0,
        f"parallel.timeout_minutes={parallel.timeout_minutes:g}: expected above 0, since ranks are never there at once",
    )
    for key in ("prompts", "max_new_tokens"):
        _require(getattr(rollout, key) >= 1, f"rollout.{key}={getattr(rollout, key)}: expected at least 1")
    _require(
        rollout.group_size >= 2,
        f"rollout.group_size={rollout.group_size}: a group of one has no advantage; expected at least 2",
    )
    layout = parallel.tensor * parallel.pipeline
    _require(
        parallel.processes % layout == 0,
        f"parallel.processes={parallel.processes} is not divisible by tensor x pipeline = {parallel.tensor} x "
        f"{parallel.pipeline}; set parallel.processes to a multiple of {layout}",
    )
    data_parallel = parallel.processes // layout
    for key, batch in (("rollout.prompts", rollout.prompts), ("trainer.batch", config.trainer.batch)):
        _require(
            batch % data_parallel == 0,
            f"{key}={batch} is not divisible by the data parallel size {data_parallel} (parallel.processes="
            f"{parallel.processes} / tensor {parallel.tensor} / pipeline {parallel.pipeline}); choose a multiple of it",
        )
    _require(
        rollout.max_new_tokens < config.model.max_length,
        f"rollout.max_new_tokens={rollout.max_new_tokens} leaves no room for a prompt in model.max_length="
        f"{config.model.max_length}",
    )
    _require(
        rollout.min_new_tokens is None or 1 <= rollout.min_new_tokens <= rollout.max_new_tokens,
        f"rollout.min_new_tokens={rollout.min_new_tokens}: expected 1 to rollout.max_new_tokens="
        f"{rollout.max_new_tokens}",
    )
    _require(0 < rollout.top_p <= 1, f"rollout.top_p={rollout.top_p}: expected above 0 and at most 1")
    _require(rollout.top_k >= 0, f"rollout.top_k={rollout.top_k}: expected at least 0 (all tokens)")
    _require(rollout.max_batches >= 1, f"rollout.max_batches={rollout.max_batches}: expected at least 1")
    _require(rollout.temperature > 0, f"rollout.temperature={rollout.temperature}: expected a positive number")
    _require(
        (config.reward.length_mode == "none") == (config.reward.length_target is None),
        "reward.length_mode and reward.length_target belong together: set both, or mode none and no target",
    )
    _require(
        (config.reward.length_shape == "dapo") == (config.reward.length_buffer is not None)
        and (config.reward.length_shape != "dapo" or config.reward.length_mode == "max"),
        "reward.length_shape=dapo needs reward.length_mode=max and reward.length_buffer; other shapes take no buffer",
    )
    _require(
        not parallel.sequence or parallel.tensor > 1,
        "parallel.sequence=true divides activations over tensor parallel ranks; set parallel.tensor above 1",
    )
    _require(
        config.engine == "megatron" or not parallel.sequence,
        "parallel.sequence=true: engine=nemo_aligner has no sequence parallelism; set it to false or engine=megatron",
    )
    _require(
        config.engine == "megatron" or config.model.fp8 in ("none", "delayed"),
        f"model.fp8={config.model.fp8}: engine=nemo_aligner scales FP8 by delayed scaling alone; set model.fp8=delayed "
        "or engine=megatron",
    )
    for key, value in vars(config.cluster).items():
        _require(key in ("name", "price") or value > 0, f"cluster.{key}={value}: expected a positive number")
    strange = set(config.trainer.trackers) - {"wandb", "mlflow"}
    _require(not strange, f"trainer.trackers: {sorted(strange)} are not known; expected wandb, mlflow")
    unknown = set(config.data.mix) - {"choice", "calculation", "text"}
    _require(not unknown, f"data.mix: {sorted(unknown)} are not kinds of task; expected choice, calculation, text")
    _require(
        config.model.fp8 == "none" or config.model.precision == "bfloat16",
        f"model.fp8={config.model.fp8} computes beside bfloat16; set model.precision=bfloat16",
    )
    _require(
        config.model.fp8 == "none" or config.algorithm.importance != "none",
        f"model.fp8={config.model.fp8}: responses are sampled in bfloat16 and trained on in FP8; set "
        "algorithm.importance=truncated (or masked) to correct for it",
    )


def _validate_algorithm(config: Config) -> None:
    algorithm, prompts = config.algorithm, config.rollout.prompts
    _one_of("algorithm.advantage", algorithm.advantage, ("grpo", "dr_grpo", "rloo", "reinforce_pp"))
    _one_of("algorithm.surrogate", algorithm.surrogate, ("clip", "cispo"))
    _one_of("algorithm.ratio", algorithm.ratio, ("token", "sequence"))
    _one_of("algorithm.kl_estimator", algorithm.kl_estimator, ("k1", "k2", "k3"))
    _one_of("algorithm.kl_place", algorithm.kl_place, ("loss", "reward"))
    _one_of("algorithm.reduction", algorithm.reduction, ("token", "sequence"))
    _one_of("algorithm.tasks", algorithm.tasks, ("pooled", "per_task", "components", "logistic"))
    _one_of("algorithm.importance", algorithm.importance, ("none", "truncated", "masked", "sequence_masked"))
    _require(
        algorithm.surrogate == "clip" or (algorithm.ratio == "token" and algorithm.dual_clip is None),
        "algorithm.surrogate=cispo weighs tokens: set algorithm.ratio=token and algorithm.dual_clip=null",
    )
    _require(
        algorithm.dual_clip is None or algorithm.dual_clip > 1,
        f"algorithm.dual_clip={algorithm.dual_clip}: expected above 1, such as 3",
    )
    _require(
        algorithm.importance_low <= algorithm.importance_high,
        f"algorithm.importance_low={algorithm.importance_low} is above importance_high={algorithm.importance_high}",
    )
    for key in ("mini_batches", "epochs"):
        _require(getattr(algorithm, key) >= 1, f"algorithm.{key}={getattr(algorithm, key)}: expected at least 1")
    _require(
        prompts % algorithm.mini_batches == 0,
        f"algorithm.mini_batches={algorithm.mini_batches} does not divide rollout.prompts={prompts}",
    )
    _require(
        algorithm.tasks != "per_task" or algorithm.advantage in ("dr_grpo", "rloo"),
        f"algorithm.tasks=per_task divides by the task's deviation, and algorithm.advantage={algorithm.advantage} by "
        "another one as well; set algorithm.advantage=dr_grpo or rloo",
    )
    kinds, components = {"choice", "calculation", "text"}, {"answer", "format", "length"}
    _require(
        (algorithm.tasks == "logistic") == bool(algorithm.task_medians) and set(algorithm.task_medians) <= kinds,
        "algorithm.tasks=logistic and algorithm.task_medians={choice: M, calculation: M, text: M} belong together",
    )
    _require(
        (algorithm.tasks == "components") == bool(algorithm.component_weights)
        and set(algorithm.component_weights) <= components,
        "algorithm.tasks=components and algorithm.component_weights={answer: W, format: W, length: W} belong together",
    )


def validate_model(config: Config, *, layers: int, heads: int, query_groups: int, context: int) -> None:
    """The rules that need the model's architecture.

    Args:
        layers, heads, query_groups: of the checkpoint; query groups are its key-value heads.
        context: the longest sequence its configuration allows, in tokens.

    Raises:
        ConfigError: naming the key and the values that would work.
    """
    tensor, pipeline = config.parallel.tensor, config.parallel.pipeline
    _require(
        query_groups % tensor == 0 and heads % tensor == 0,
        f"parallel.tensor={tensor} does not divide the model's {query_groups} key-value heads ({heads} attention "
        f"heads); use one of {[n for n in range(1, query_groups + 1) if query_groups % n == 0]}",
    )
    _require(
        layers % pipeline == 0,
        f"parallel.pipeline={pipeline} does not divide the model's {layers} layers; use one of "
        f"{[n for n in range(1, layers + 1) if layers % n == 0]}",
    )
    _require(
        config.model.max_length <= context,
        f"model.max_length={config.model.max_length} is over the model's context of {context} tokens",
    )
