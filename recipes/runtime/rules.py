"""What a configuration must be to run: within `recipes.runtime.limits`, and by the rules between keys.

A stage is held to what it uses: SFT has no opinion on rollouts, nor a canary on either. The rules that need
the model's architecture: `recipes.runtime.model_rules`. Left out: whether files are there, which whoever opens them
says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum
from pathlib import PurePath
from typing import Any
from urllib.parse import urlsplit

from recipes.data.contamination import LIKENESSES
from recipes.data.styles import BUILT_IN, is_style
from recipes.runtime.config import Config, require
from recipes.runtime.limits import CHOICES, COMPONENTS, KINDS, LIMITS, NOT_NEGATIVE, Range
from recipes.runtime.reward_rules import check_likelihood, check_reward, is_url
from recipes.runtime.rollout_config import RolloutConfig


class Stage(Enum):
    """What a configuration is for; the value holds the beginnings of the keys that it uses.

    `trainer.batch` is the one key of the trainer that SFT alone uses.
    """

    GRPO = (
        *("output", "model.", "parallel.", "optimizer.", "algorithm.", "critic.", "rollout.", "reward.", "data."),
        *("trainer.", "monitor."),
    )
    SFT = ("output", "model.", "parallel.", "optimizer.", "data.", "trainer.")
    EVALUATE = (
        *("output", "model.", "parallel.", "reward.", "data.", "evaluation.", "rollout.max_new_tokens"),
        *("rollout.sampler", "rollout.tensor", "rollout.mismatch", "rollout.vllm."),
    )
    CANARY = ("output", "model.", "parallel.")
    PLAN = (
        *("model.", "parallel.", "optimizer.", "algorithm.", "critic.", "rollout.", "reward.", "trainer."),
        "cluster.",
    )

    def uses(self, key: str) -> bool:
        """Whether a setting matters to this stage."""
        return key.startswith(self.value) and (self is Stage.SFT or key != "trainer.batch")


def validate(config: Config, stage: Stage) -> None:
    """Every rule of what the stage uses that can be checked without the model.

    Raises:
        ConfigError: naming the keys and the fix.
    """
    for key, allowed in CHOICES.items():
        if key == "engine" or stage.uses(key):
            value = _value(config, key)
            require(value in allowed, f"{key}={value}: expected one of {', '.join(allowed)}")
    for key, limits in LIMITS.items():
        if key == "seed" or stage.uses(key):
            _check_limits(config, key, limits)
    _check_names(config, stage)
    _check_parallel(config, stage)
    _check_precision(config, stage)
    if stage.uses("algorithm.tasks"):
        (_check_critic if config.algorithm.has_critic else _check_groups)(config)
        _check_algorithm(config)
    if stage.uses("rollout.max_new_tokens"):
        _check_rollout(config, stage)
    if stage.uses("rollout.ahead"):
        _check_over_sample(config.rollout)
        if config.rollout.ahead:
            _check_ahead(config.rollout)
    if stage.uses("reward.url"):
        check_reward(config)
    if stage is Stage.GRPO and config.reward.length_draw != "fixed":
        require(
            config.reward.length_high <= config.rollout.max_new_tokens,
            f"reward.length_high={config.reward.length_high} is more than a response can have, rollout.max_new_tokens="
            f"{config.rollout.max_new_tokens}; lower the one or raise the other",
        )
    if stage is Stage.GRPO:
        check_likelihood(config)
    if stage.uses("data.mix"):
        _check_data(config)
    if stage.uses("evaluation.samples"):
        _check_evaluation(config)
    strange = set(config.trainer.trackers) - {"wandb", "mlflow"}
    require(
        not stage.uses("trainer.trackers") or not strange,
        f"trainer.trackers: {sorted(strange)} are not known; expected wandb, mlflow",
    )


def asks_endpoint(config: Config) -> bool:
    """Whether an evaluation asks an endpoint, and no checkpoint."""
    return config.evaluation.endpoint.url is not None


def _value(config: Config, key: str) -> Any:
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return value


def _check_limits(config: Config, key: str, limits: Range) -> None:
    value = _value(config, key)
    if key.endswith("optimizer.betas"):
        require(len(value) == 2, f"{key}={list(value)}: expected two numbers, such as [0.9,0.95]")
    for each in value if isinstance(value, Sequence) else (value,):
        shown = list(value) if isinstance(value, Sequence) else value
        require(each is None or limits.holds(each), f"{key}={shown}: expected {limits}")


def _check_names(config: Config, stage: Stage) -> None:
    remote = stage is Stage.EVALUATE and asks_endpoint(config)
    for key in ("output",) if remote else ("output", "model.path"):
        require(
            not stage.uses("output") or bool(_value(config, key).strip()),
            f"{key}= is empty; is a variable of the shell unset? Give it as {key}=FOLDER",
        )
    name = config.name
    require(
        bool(name.strip()) and name == PurePath(name).name and name != "..",
        f"name={name}: expected a name that a file can have, without /",
    )


def _check_parallel(config: Config, stage: Stage) -> None:
    parallel = config.parallel
    layout = parallel.tensor * parallel.pipeline
    require(
        parallel.processes % layout == 0,
        f"parallel.processes={parallel.processes} is not divisible by tensor x pipeline = {parallel.tensor} x "
        f"{parallel.pipeline}; set parallel.processes to a multiple of {layout}",
    )
    data_parallel = parallel.processes // layout
    batch_key = "trainer.batch" if stage is Stage.SFT else "rollout.prompts"
    batch = _value(config, batch_key)
    require(
        batch % data_parallel == 0 or not stage.uses(batch_key),
        f"{batch_key}={batch} is not divisible by the data parallel size {data_parallel} (parallel.processes="
        f"{parallel.processes} / tensor {parallel.tensor} / pipeline {parallel.pipeline}); choose a multiple of it",
    )
    require(
        not parallel.sequence or parallel.tensor > 1,
        "parallel.sequence=true divides activations over tensor parallel ranks; set parallel.tensor above 1",
    )
    require(
        config.engine == "megatron" or not parallel.sequence,
        "parallel.sequence=true: engine=nemo_aligner has no sequence parallelism; set it to false or engine=megatron",
    )


def _check_precision(config: Config, stage: Stage) -> None:
    fp8 = config.model.fp8
    require(
        config.engine == "megatron" or fp8 in ("none", "delayed"),
        f"model.fp8={fp8}: engine=nemo_aligner scales FP8 by delayed scaling alone; set model.fp8=delayed "
        "or engine=megatron",
    )
    require(
        fp8 == "none" or config.model.precision == "bfloat16",
        f"model.fp8={fp8} computes beside bfloat16; set model.precision=bfloat16",
    )
    require(
        fp8 == "none" or config.algorithm.importance != "none" or not stage.uses("algorithm.importance"),
        f"model.fp8={fp8}: responses are sampled in bfloat16 and trained on in FP8; set "
        "algorithm.importance=truncated (or masked) to correct for it",
    )


def _check_algorithm(config: Config) -> None:
    algorithm, prompts = config.algorithm, config.rollout.prompts
    require(
        config.rollout.sampler == "embedded" or algorithm.importance != "none",
        "rollout.sampler=vllm computes other probabilities than the trainer; set algorithm.importance=truncated (or "
        "masked) to correct for it, or choose rollout=vllm, which does",
    )
    require(
        algorithm.surrogate == "clip" or (algorithm.ratio == "token" and algorithm.dual_clip is None),
        "algorithm.surrogate=cispo weighs tokens: set algorithm.ratio=token and algorithm.dual_clip=null",
    )
    require(
        algorithm.importance_low <= algorithm.importance_high,
        f"algorithm.importance_low={algorithm.importance_low} is above importance_high={algorithm.importance_high}",
    )
    require(
        prompts % algorithm.mini_batches == 0,
        f"algorithm.mini_batches={algorithm.mini_batches} does not divide rollout.prompts={prompts}",
    )
    require(
        algorithm.tasks != "per_task" or algorithm.advantage in ("dr_grpo", "rloo"),
        f"algorithm.tasks=per_task divides by the task's deviation, and algorithm.advantage={algorithm.advantage} by "
        "another one as well; set algorithm.advantage=dr_grpo or rloo",
    )
    require(
        (algorithm.tasks == "logistic") == bool(algorithm.task_medians) and set(algorithm.task_medians) <= set(KINDS),
        "algorithm.tasks=logistic and algorithm.task_medians={choice: M, calculation: M, text: M} belong together",
    )
    require(
        (algorithm.tasks == "components") == bool(algorithm.component_weights)
        and set(algorithm.component_weights) <= set(COMPONENTS),
        "algorithm.tasks=components and algorithm.component_weights={answer: W, format: W, length: W} belong together",
    )
    for kind, median in algorithm.task_medians.items():
        require(math.isfinite(median), f"algorithm.task_medians.{kind}={median}: expected a finite number")
    _check_weights("algorithm.component_weights", algorithm.component_weights)


def _check_groups(config: Config) -> None:
    algorithm = config.algorithm
    require(
        config.rollout.group_size > 1,
        f"rollout.group_size={config.rollout.group_size}: a group of one has no advantage with algorithm.advantage="
        f"{algorithm.advantage}; expected at least 2, or take algorithm=ppo, whose critic needs no group",
    )
    require(
        algorithm.positive_coef == 0,
        f"algorithm.positive_coef={algorithm.positive_coef:g} belongs to algorithm.advantage=gae; set it to 0",
    )


def _check_critic(config: Config) -> None:
    algorithm, critic, rollout = config.algorithm, config.critic, config.rollout
    require(
        config.engine == "megatron",
        "algorithm.advantage=gae: engine=nemo_aligner has no critic; set engine=megatron, or another algorithm",
    )
    require(
        config.model.fp8 != "delayed",
        "model.fp8=delayed: the critic's scales would not be found before its first values; set model.fp8=blockwise or "
        "tensorwise with algorithm.advantage=gae",
    )
    require(
        critic.alone_steps < config.trainer.steps,
        f"critic.alone_steps={critic.alone_steps} leaves the policy no step of trainer.steps={config.trainer.steps}",
    )
    require(
        not (algorithm.overlong_filter and algorithm.cut == "bootstrap"),
        "algorithm.cut=bootstrap says what follows responses that were cut, and algorithm.overlong_filter=true leaves "
        "them out; set cut=terminal, or overlong_filter=false",
    )
    require(
        critic.path is None or bool(critic.path.strip()),
        "critic.path= is empty; is a variable of the shell unset? Give it as critic.path=FOLDER, or leave it out",
    )
    require(
        algorithm.tasks == "pooled",
        f"algorithm.tasks={algorithm.tasks} balances what groups' rewards come to, and algorithm.advantage=gae has a "
        "critic in their place, which learns what each task pays; set algorithm.tasks=pooled",
    )
    require(
        rollout.group_size > 1 or (rollout.max_batches == 1 and not rollout.adaptive),
        "rollout.max_batches and rollout.adaptive look for groups of mixed rewards, and rollout.group_size=1 has none; "
        "set max_batches=1 and adaptive=false, or a larger group",
    )
    require(
        rollout.prompts % critic.mini_batches == 0,
        f"critic.mini_batches={critic.mini_batches} does not divide rollout.prompts={rollout.prompts}",
    )


def _check_rollout(config: Config, stage: Stage) -> None:
    rollout = config.rollout
    require(
        rollout.max_new_tokens < config.model.max_length or (stage is Stage.EVALUATE and asks_endpoint(config)),
        f"rollout.max_new_tokens={rollout.max_new_tokens} leaves no room for a prompt in model.max_length="
        f"{config.model.max_length}",
    )
    require(
        rollout.min_new_tokens is None or rollout.min_new_tokens <= rollout.max_new_tokens,
        f"rollout.min_new_tokens={rollout.min_new_tokens}: expected 1 to rollout.max_new_tokens="
        f"{rollout.max_new_tokens}",
    )
    require("" not in rollout.stop, "rollout.stop holds an empty string, which every text contains; remove it")
    require(
        rollout.sampler == "vllm" or rollout.tensor <= 1,
        f"rollout.tensor={rollout.tensor}: embedded sampling takes 0 (the trainer's layout) or 1 (each rank alone); "
        "set one of these, or rollout=vllm",
    )
    warn, stop = mismatch_limits(config)
    require(
        warn <= stop,
        f"rollout.mismatch_warn={warn:g} is above rollout.mismatch_stop={stop:g}; nobody would be warned",
    )
    for url in rollout.vllm.urls:
        require(
            is_url(url),
            f"rollout.vllm.urls={list(rollout.vllm.urls)}: expected http://HOST:PORT each, or none to start servers",
        )
    require(
        rollout.sampler == "embedded"
        or rollout.temperature == 1
        or not (rollout.top_k or rollout.top_p < 1)
        or not stage.uses("rollout.top_k"),
        f"rollout.top_k={rollout.top_k}, rollout.top_p={rollout.top_p:g}: before such filters vLLM gives "
        f"log-probabilities at temperature 1 alone, and rollout.temperature={rollout.temperature:g}; set it to 1, set "
        "top_k=0 and top_p=1, or choose rollout=default",
    )


def _check_ahead(rollout: RolloutConfig) -> None:
    ahead = f"rollout.ahead={rollout.ahead}"
    require(
        rollout.sampler == "vllm",
        f"{ahead} samples while the model trains, which the embedded sampler cannot: it is that model; choose "
        "rollout=vllm, or set rollout.ahead=0",
    )
    require(
        rollout.max_batches == 1,
        f"rollout.max_batches={rollout.max_batches} draws further prompts once responses are scored, and "
        f"{ahead} has begun the next step's by then; set max_batches=1 or ahead=0",
    )
    require(
        not rollout.vllm.sleep,
        f"rollout.vllm.sleep=true gives GPUs up while the trainer computes, which is when {ahead} samples; set "
        "sleep=false and give servers GPUs of their own, or set rollout.ahead=0",
    )


def _check_over_sample(rollout: RolloutConfig) -> None:
    require(
        rollout.over_sample == 0 or rollout.sampler == "vllm",
        f"rollout.over_sample={rollout.over_sample:g}: the embedded sampler ends all responses together, and none can "
        "be broken off; choose rollout=vllm, or set over_sample=0",
    )
    require(
        rollout.continued == 0 or rollout.over_sample > 0,
        f"rollout.continued={rollout.continued} goes on with what rollout.over_sample has broken off; set over_sample, "
        "or continued=0",
    )
    require(
        rollout.continued == 0 or rollout.continued >= rollout.ahead,
        f"rollout.continued={rollout.continued}: what is broken off is gone on with in the batch of rollout.ahead="
        f"{rollout.ahead} steps later, and would be too old for it; set continued to as much at least",
    )


def mismatch_limits(config: Config) -> tuple[float, float]:
    """Above which mean difference of log-probabilities, in nats, sampler and trainer are warned about, and stopped."""
    default = (1e-3, 1e-2) if config.model.precision == "float32" else (0.05, 0.2)
    warn, stop = config.rollout.mismatch_warn, config.rollout.mismatch_stop
    return default[0] if warn is None else warn, default[1] if stop is None else stop


def _check_data(config: Config) -> None:
    data = config.data
    require(
        is_style(data.style),
        f"data.style={data.style}: expected one of {', '.join(BUILT_IN)}, or the path of a prompt file, which ends in "
        ".yaml",
    )
    unknown = set(data.mix) - set(KINDS)
    require(not unknown, f"data.mix: {sorted(unknown)} are not kinds of task; expected choice, calculation, text")
    _check_weights("data.mix", data.mix)
    strange = set(data.allow_contamination) - set(LIKENESSES)
    known = ", ".join(LIKENESSES)
    require(not strange, f"data.allow_contamination: {sorted(strange)} are not known; expected any of {known}")
    require(
        (data.shots > 0) == bool((data.few_shot or "").strip()),
        "data.shots and data.few_shot belong together: set a number and a file of worked examples, or neither",
    )
    for key in ("train", "validation", "test"):
        require(
            all(file.strip() for file in getattr(data, key)),
            f"data.{key} names a file without a name; is a variable of the shell unset?",
        )


def _check_evaluation(config: Config) -> None:
    evaluation, endpoint = config.evaluation, config.evaluation.endpoint
    require(
        evaluation.samples == 1 or evaluation.temperature > 0,
        f"evaluation.samples={evaluation.samples} at evaluation.temperature=0 are one and the same answer; set a "
        "temperature, such as 0.6, or samples=1",
    )
    require(
        evaluation.max_think_tokens is None or evaluation.max_think_tokens < config.rollout.max_new_tokens,
        f"evaluation.max_think_tokens={evaluation.max_think_tokens} leaves no room for an answer in "
        f"rollout.max_new_tokens={config.rollout.max_new_tokens}",
    )
    require(
        len(set(evaluation.budgets)) == len(evaluation.budgets)
        and all(0 < budget <= config.rollout.max_new_tokens for budget in evaluation.budgets),
        f"evaluation.budgets={list(evaluation.budgets)}: expected different numbers of tokens, from 1 to "
        f"rollout.max_new_tokens={config.rollout.max_new_tokens}",
    )
    require(
        (endpoint.url is None) == (endpoint.model is None),
        "evaluation.endpoint.url and evaluation.endpoint.model belong together: set both, or neither",
    )
    if endpoint.url is None:
        return
    require(
        is_url(endpoint.url) and "@" not in urlsplit(endpoint.url.strip()).netloc,
        "evaluation.endpoint.url: expected http://HOST:PORT/v1, without a name or password in it; a key is read from "
        "MEDATRON_ENDPOINT_KEY",
    )
    require(bool((endpoint.model or "").strip()), "evaluation.endpoint.model= is empty; name the model as it is there")
    require(
        not config.model.path,
        f"model.path={config.model.path} and evaluation.endpoint.url={endpoint.url}: give the one that is to answer",
    )
    require(
        config.parallel.processes == 1 and config.rollout.sampler == "embedded",
        "evaluation.endpoint.url is asked by one process and no sampler; set parallel.processes=1 and rollout=default",
    )
    require(
        endpoint.attempt_timeout_s <= endpoint.total_timeout_s,
        f"evaluation.endpoint.attempt_timeout_s={endpoint.attempt_timeout_s:g} is above total_timeout_s="
        f"{endpoint.total_timeout_s:g}; one request cannot take longer than all of them",
    )


def _check_weights(key: str, weights: dict[str, float]) -> None:
    for name, weight in weights.items():
        require(NOT_NEGATIVE.holds(weight), f"{key}.{name}={weight}: expected {NOT_NEGATIVE}")
    require(not weights or any(weights.values()), f"{key}={weights}: expected one weight above 0 at least")
