"""The one configuration schema: structured Hydra configs whose unknown keys fail, and every cross-field rule.

`load()` composes `configs/` with command-line overrides into a typed `Config`; `validate()` holds the rules that need
more than one field, each with a message that names the fix. Left out: free-form sections; a key that the schema does
not know is a spelling mistake until proven otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


class ConfigError(ValueError):
    """A configuration that cannot run; the message names the keys, what was expected and the fix."""


@dataclass
class ModelConfig:
    """The checkpoint to start from.

    Attributes:
        path: a Megatron checkpoint made by `python -m conversion.hf_to_megatron`.
        architecture: name of the published model that `path` is made of, for a plan made before the checkpoint
            (recipes/planning/architectures.py lists them); training reads the checkpoint alone.
        max_length: prompt and response together, in tokens; longer prompts are refused, never cut.
        precision: float32 or bfloat16 (with float32 main weights).
        fp8: none, delayed, tensorwise or blockwise; needs Transformer Engine layers.
        transformer: local, te, or auto (te where Transformer Engine is installed).
    """

    path: str = MISSING
    architecture: str | None = None
    max_length: int = 4096
    precision: str = "float32"
    fp8: str = "none"
    transformer: str = "auto"


@dataclass
class ParallelConfig:
    """How ranks divide the work; the data parallel size is what is left of the world size.

    Attributes:
        processes: ranks to start; under torchrun or srun it is the launcher's world size, whatever is set here.
        micro_batch_tokens: tokens in one forward pass of a training step.
        timeout_minutes: how long ranks wait for one another, at the start and in every collective.
    """

    processes: int = 1
    tensor: int = 1
    pipeline: int = 1
    sequence: bool = False
    recompute: bool = False
    micro_batch_tokens: int = 8192
    timeout_minutes: float = 30


@dataclass
class OptimizerConfig:
    """AdamW with linear warm-up and decay to `final_share` of the peak rate over the run's steps."""

    learning_rate: float = 1e-6
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.0
    warmup_steps: int = 0
    final_share: float = 1.0
    clip_grad: float = 1.0


@dataclass
class AlgorithmConfig:
    """A policy update; the formulas are in `recipes.rl`.

    Attributes:
        advantage: grpo (a group's rewards less their mean, over their standard deviation), dr_grpo (not divided), rloo
            (less the mean of the others), reinforce_pp (dr_grpo's, whitened over all tokens of the step).
        surrogate: clip, or cispo, whose clipped ratio only weighs the log-probability.
        ratio: of each token, or of the whole sequence (GSPO).
        clip_low, clip_high: the probability ratio is clipped to [1 - clip_low, 1 + clip_high].
        dual_clip: bound on the loss of a bad response, as a multiple of its advantage, above 1; null leaves it open.
        kl_coef: weight of KL to the reference policy; 0 runs no reference pass.
        kl_estimator: k1, k2 or k3.
        entropy_coef: weight of the entropy bonus.
        reduction: mean over tokens (DAPO), or over responses of the means over their tokens (GRPO's paper, GSPO).
        mini_batches: optimizer steps an epoch; the rollout's groups are dealt out among them.
        epochs: passes over a rollout; from the second update on the ratio is no longer 1.
        kl_place: whether KL is a term of the loss, or charged to each token's advantage (REINFORCE++).
        tasks: how kinds of task share a step: pooled; per_task (advantages divided by the task's deviation instead of
            the group's, for advantage dr_grpo or rloo); components (GDPO: each of `component_weights` against its own
            group); logistic (rewards through a logistic around the kind's median, `task_medians`).
        task_medians: median reward of the starting model for each kind of task (choice, calculation, text).
        component_weights: weight of each component of the reward (answer, format, length).
        overlong_filter: leave responses cut at the limit out of the loss; they still count in their group's baseline.
        importance: weight of the policy loss against a sampler that computes other probabilities than the trainer:
            none, truncated, masked or sequence_masked, with bounds importance_low and importance_high.
    """

    advantage: str = "grpo"
    surrogate: str = "clip"
    ratio: str = "token"
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float | None = None
    kl_coef: float = 0.001
    kl_estimator: str = "k3"
    entropy_coef: float = 0.0
    reduction: str = "token"
    mini_batches: int = 1
    epochs: int = 1
    kl_place: str = "loss"
    tasks: str = "pooled"
    task_medians: dict[str, float] = field(default_factory=dict)
    component_weights: dict[str, float] = field(default_factory=dict)
    overlong_filter: bool = False
    importance: str = "none"
    importance_low: float = 0.0
    importance_high: float = 2.0

    @property
    def reads_reference(self) -> bool:
        """Whether updates compare the policy with the reference policy."""
        return self.kl_coef > 0


@dataclass
class RolloutConfig:
    """Sampling of responses.

    Attributes:
        prompts: prompts a step, over all ranks.
        group_size: responses a prompt.
        max_batches: above 1, groups of equal rewards (before any length term) are replaced by sampling further prompts,
            up to so many batches of `prompts` a step (DAPO's dynamic sampling); then the step takes what there is.
        top_k, top_p: sample from the likeliest tokens alone; 0 and 1 from all.
        stop: strings that end a response.
        min_new_tokens: room that a prompt must leave in model.max_length; null for max_new_tokens. Below that, a
            response to a long prompt has what room is left.
        adaptive: draw prompts whose skill lately gave groups of mixed rewards more often.
        samples_every: steps between files of sampled rollouts; 0 writes none.
    """

    prompts: int = 32
    group_size: int = 8
    max_batches: int = 1
    max_new_tokens: int = 1024
    min_new_tokens: int | None = None
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    stop: list[str] = field(default_factory=list)
    adaptive: bool = False
    samples_every: int = 10


@dataclass
class RewardConfig:
    """The reward server and the preset it scores with.

    Attributes:
        url: of a running server, or of several alike with commas between; empty starts one for the length of the run.
            A bearer token is read from MEDATRON_REWARD_TOKEN.
        match: how a choice answer is read, strict or lenient.
        format: the form that counts as right, strict or lenient (for chat templates that open `<think>` themselves).
        max_null_share: stop when more than this share of a step's samples could not be scored.
        length_mode: none, max or exact; `length_target` is in tokens.
        length_shape: preset, or l1 or dapo in place of the preset's own length term.
        length_buffer: tokens before the target over which DAPO's term falls.
        length_only_correct: length counts only where the answer is correct.
        allow_change: resume even if the server now defines the preset otherwise than when the checkpoint was saved.
    """

    preset: str = "gated"
    url: str | None = None
    attempt_timeout_s: float = 30.0
    total_timeout_s: float = 300.0
    max_null_share: float = 0.05
    match: str = "lenient"
    format: str = "strict"
    length_mode: str = "none"
    length_target: int | None = None
    length_shape: str = "preset"
    length_buffer: int | None = None
    length_only_correct: bool = False
    allow_change: bool = False


@dataclass
class DataConfig:
    """Example files (JSONL) and how they become prompts.

    Attributes:
        train: files to train on; `validation` and `test` for evaluation.
        mix: weight of each kind of task (choice, calculation, text) among a step's prompts; empty draws rows uniformly.
        style: plain, med_u1 or med_rlvr prompts.
        synthetic: whether the questions were generated; the report says so.
    """

    train: list[str] = field(default_factory=list)
    validation: list[str] = field(default_factory=list)
    test: list[str] = field(default_factory=list)
    mix: dict[str, float] = field(default_factory=dict)
    style: str = "med_u1"
    synthetic: bool = False


@dataclass
class TrainerConfig:
    """How long, and what is kept.

    Attributes:
        steps: rollouts for GRPO; optimizer steps for SFT.
        max_seconds: stop after so many seconds of training even if steps are left; 0 means no limit.
        batch: sequences an optimizer step (SFT alone).
        save_every: steps between checkpoints; 0 keeps only the last.
        keep: checkpoints to keep; the best is kept beside them.
        best: metric whose mean since the checkpoint before decides which one is the best.
        max_skipped: stop after so many steps in a row whose loss or gradient was not finite; each is skipped.
        trackers: wandb, mlflow; metrics.jsonl and TensorBoard files are always written.
        profile_first, profile_steps: steps to trace with torch's profiler.
    """

    steps: int = 100
    max_seconds: float = 0.0
    batch: int = 32
    save_every: int = 0
    keep: int = 2
    best: str = "accuracy/mean"
    max_skipped: int = 5
    trackers: list[str] = field(default_factory=list)
    profile_first: int = 1
    profile_steps: int = 0


@dataclass
class ClusterConfig:
    """The GPUs that `recipes.plan` estimates for; training has no use for it. Sources: configs/cluster/h100.yaml.

    Attributes:
        memory_gb: bytes of a GPU that a plan may count on, in 1e9.
        bf16_tflops, fp8_tflops: dense matrix products of a GPU, 1e12 floating-point operations a second.
        hbm_gb_s, nvlink_gb_s, network_gb_s, host_gb_s: 1e9 bytes a second of a GPU from its own memory, to another GPU
            of its node, to one of another node, and to pageable host memory.
        price: of a GPU-hour, in your currency.
    """

    name: str = "H100 SXM 80 GB"
    gpus_per_node: int = 8
    memory_gb: float = 80
    bf16_tflops: float = 989.4
    fp8_tflops: float = 1978.9
    hbm_gb_s: float = 3350
    nvlink_gb_s: float = 450
    network_gb_s: float = 50
    host_gb_s: float = 10
    price: float = 2.5


@dataclass
class Config:
    """One run. `output` is its folder; the same folder again resumes it.

    Attributes:
        engine: megatron, or nemo_aligner in its own environment; docs/engines.md says when to take which.
    """

    name: str = "run"
    output: str = MISSING
    seed: int = 0
    engine: str = "megatron"
    model: ModelConfig = field(default_factory=ModelConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    data: DataConfig = field(default_factory=DataConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)


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


def to_yaml(config: Config) -> str:
    """The resolved configuration as YAML."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def from_yaml(text: str) -> Config:
    """A configuration written by `to_yaml`."""
    config: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.create(text)))
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
