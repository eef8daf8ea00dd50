"""The one configuration schema: structured configs whose unknown keys fail, every key explained.

`recipes.runtime.loading` composes them, `rules` holds what is between keys, and `rollout_config` the section `rollout`.
Left out: free-form sections; a key that the schema does not know is a spelling mistake until proven otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from recipes.runtime.rollout_config import RolloutConfig

# OmegaConf's mark of a value that has to be given.
MISSING: Any = "???"
# What a rank's token count is divisible by where its layers multiply in FP8. Blocks of 128 tokens share a scale, and
# Transformer Engine gathers whole ones alone over tensor parallel ranks (assert_dim_for_all_gather, pytorch/utils.py,
# up to 2.13); products want 16 (assert_dim_for_fp8_exec says 8, and their gradients by the weights swap dimensions).
_FP8_TOKENS, _FP8_BLOCK = 16, 128


class ConfigError(ValueError):
    """A configuration that cannot run; the message names the keys, what was expected and the fix."""


def require(condition: bool, message: str) -> None:
    """Raises ConfigError with the message unless the condition holds."""
    if not condition:
        raise ConfigError(message)


@dataclass
class ModelConfig:
    """The checkpoint to start from.

    Attributes:
        path: a Megatron checkpoint made by `python -m conversion.hf_to_megatron`. An evaluation takes a Hugging Face
            folder too, and converts it.
        architecture: name of the published model that `path` is made of, for a plan made before the checkpoint
            (recipes/planning/architectures.py lists them); training reads the checkpoint alone.
        max_length: prompt and response together, in tokens; longer prompts are refused, never cut. 0 for the
            checkpoint's context, at most 4096.
        precision: float32 or bfloat16 (with float32 main weights). On a GPU float32 means TF32 in Transformer Engine's
            products, and attention that takes much memory (docs/engines.md).
        fp8: none, delayed, tensorwise or blockwise; needs Transformer Engine layers.
        transformer: local, te, or auto (te where Transformer Engine is installed).
    """

    path: str = MISSING
    architecture: str | None = None
    max_length: int = 0
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
            (less the mean of the others), reinforce_pp (dr_grpo's, whitened over all tokens of the step), or gae: PPO,
            returns less what a critic expects (section `critic`), which needs no group.
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
        gamma: gae: discount a token.
        critic_lambda: gae: of the critic's targets; 1 makes them the returns themselves.
        policy_lambda: gae: of the policy's advantages; with length_alpha the least of any response's own one.
        length_alpha: gae: lambda of a response of l tokens is 1 - 1 / (length_alpha * l); VAPO has 0.05. null gives all
            responses policy_lambda.
        cut: gae: what follows a response that the token limit cut: terminal (nothing, its score counts) or bootstrap
            (what the critic expects, and no score is paid).
        whiten: gae: advantages to mean 0 and variance 1 over the step's tokens.
        positive_coef: gae: weight of the mean negative log-likelihood of the tokens of correct responses (VAPO: 0.1).
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
    gamma: float = 1.0
    critic_lambda: float = 1.0
    policy_lambda: float = 0.95
    length_alpha: float | None = None
    cut: str = "terminal"
    whiten: bool = True
    positive_coef: float = 0.0

    @property
    def reads_reference(self) -> bool:
        """Whether updates compare the policy with the reference policy."""
        return self.kl_coef > 0

    @property
    def has_critic(self) -> bool:
        """Whether advantages come from a critic and not from a group."""
        return self.advantage == "gae"


@dataclass
class CriticConfig:
    """The critic of algorithm.advantage=gae: the layers of a model with a value head, in the policy's layout.

    Attributes:
        path: the checkpoint whose layers it starts from, with the policy's vocabulary; null for model.path.
        optimizer: its own; weight decay and gradient clipping too.
        clip: how far a value's loss follows it from the value before the update, in the reward's unit (PPO2); null for
            the plain squared error.
        mini_batches, epochs: optimizer steps a rollout, as the policy's of the same name.
        alone_steps: steps of the run in which the critic learns and the policy stays as it is.
        offload: policy and critic take turns on the GPU: weights, gradients and optimizer of the one that does not
            compute wait in host memory.
    """

    path: str | None = None
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(learning_rate=1e-5))
    clip: float | None = None
    mini_batches: int = 1
    epochs: int = 1
    alone_steps: int = 0
    offload: bool = False


@dataclass
class RewardConfig:
    """The reward server and the preset it scores with.

    Attributes:
        url: of a running server, or of several alike with commas between; empty starts one for the length of the run.
            A bearer token is read from MEDATRON_REWARD_TOKEN.
        match: how a choice answer is read, strict or lenient.
        format: the form that counts as right, strict or lenient (text may stand around the blocks).
        max_null_share: stop when more than this share of a step's samples could not be scored.
        length_mode: none, max (not longer), exact (as long), or mixed: of each in turn, by `length_max_share`.
        length_target: tokens of every response, with length_draw=fixed; the plain style does not say it.
        length_draw: fixed, or uniform or log_uniform: a target for every prompt of every step, from length_low to
            length_high, which every style says. An evaluation draws none: evaluation.budgets.
        length_max_share: share of the prompts in maximum mode, with length_mode=mixed.
        length_none_share: share of the prompts without a target.
        length_shape: preset, or l1, dapo, relative (gated's) or relative_all (of wrong answers too) in place of the
            preset's own length term.
        length_buffer: tokens before the target over which DAPO's term falls.
        length_only_correct: length counts only where the answer is correct.
        text_metric: how open answers are graded: exact, f1, bleu, ems, merge, rouge_l, judge or judge_probability; all
            but exact and judge above `text_threshold`. Med-U1's is merge with 45, as released with `text_compat`.
        text_continuous: preset med_u1 pays an open answer measure / 100 in place of +-1 (Med-U1's continuous metric),
            with bleu, ems, merge and rouge_l; right is still what is above `text_threshold`.
        likelihood: kinds of task (choice, calculation, text) rewarded by how much likelier reasoning makes the right
            answer in the policy's own eyes, and not by the server's verdict (RLPR, recipes/rollout/likelihood.py).
        likelihood_filter: leave out prompts whose responses' rewards have less than this share of the usual standard
            deviation; 0 leaves out none, RLPR has 0.5.
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
    length_draw: str = "fixed"
    length_low: int = 100
    length_high: int = 2000
    length_max_share: float = 0.5
    length_none_share: float = 0.0
    length_shape: str = "preset"
    length_buffer: int | None = None
    length_only_correct: bool = False
    text_metric: str = "exact"
    text_threshold: float | None = None
    text_compat: bool = False
    text_continuous: bool = False
    likelihood: list[str] = field(default_factory=list)
    likelihood_filter: float = 0.0
    allow_change: bool = False


@dataclass
class DataConfig:
    """Example files (JSONL) and how they become prompts.

    Attributes:
        train: files to train on; `validation` and `test` for evaluation.
        mix: weight of each kind of task (choice, calculation, text) among a step's prompts; empty draws rows uniformly.
        style: how a question is put: a name of configs/prompt (plain, med_u1, med_rlvr, and benchmarks' forms), or the
            path of a prompt file of your own, which ends in .yaml (docs/data.md).
        template: chat (the tokenizer's chat template), or base: plain text for a model that knows no turns, whose
            response ends with `</answer>`.
        teach: what SFT teaches of a row: worked (its meta.trace; rows without one are left out), or answer (its label,
            with no reasoning before it).
        say_length: SFT's prompts ask for what their traces keep: exact (their length), max (a limit, of that to twice
            as much), mixed (of each in turn), or none.
        shots: worked examples before every question, the first of its kind of task in the file `few_shot`.
        synthetic: whether the questions were generated; the report says so.
        only: ids of the rows of `train` to train on; empty for all. One id is one-example training (1-shot RLVR, arXiv
            2504.20571): every prompt of every step is that question, each time with responses of its own.
        shuffle: draw rows in a new order each epoch; false draws them as they stand in the files, as
            `prepare_data difficulty --order` sorts them.
        allow_contamination: in which ways rows of `train` may be like questions of `test` without stopping the run:
            exact, normalised, 13-gram, context (recipes/data/contamination.py).
    """

    train: list[str] = field(default_factory=list)
    validation: list[str] = field(default_factory=list)
    test: list[str] = field(default_factory=list)
    mix: dict[str, float] = field(default_factory=dict)
    style: str = "med_u1"
    template: str = "chat"
    teach: str = "worked"
    say_length: str = "none"
    shots: int = 0
    few_shot: str | None = None
    synthetic: bool = False
    only: list[str] = field(default_factory=list)
    shuffle: bool = True
    allow_contamination: list[str] = field(default_factory=list)


@dataclass
class EndpointConfig:
    """A server of OpenAI's interface, which `recipes.evaluate` asks in place of a checkpoint.

    Attributes:
        url: its base, such as http://node7:8000/v1; null asks `model.path`. A key is read from MEDATRON_ENDPOINT_KEY.
        model: the model's name there.
        concurrency: requests under way at a time.
        attempt_timeout_s, total_timeout_s: deadlines of one request, and of an answer with all repetitions.
    """

    url: str | None = None
    model: str | None = None
    concurrency: int = 32
    attempt_timeout_s: float = 600.0
    total_timeout_s: float = 1800.0


@dataclass
class EvaluationConfig:
    """How `recipes.evaluate` asks; see docs/evaluation.md.

    Attributes:
        samples: answers to every question, in every variant of it.
        temperature, top_k, top_p: of sampling; temperature 0 takes the likeliest token, and there is one such answer.
        max_think_tokens: a reasoning that is still open after so many tokens is closed with `</think>`, and the answer
            follows; null lets it go on to rollout.max_new_tokens.
        shuffles: how many more times a choice question is asked, each time with its options in another order.
        short: ask choice questions without their options too, as text questions.
        budgets: ask every question once more for each of these numbers of tokens, which the prompt says, in
            `budget_mode`: exact or max.
        endpoint: whom to ask instead of `model.path`.
    """

    samples: int = 1
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    max_think_tokens: int | None = None
    shuffles: int = 0
    short: bool = False
    budgets: list[int] = field(default_factory=list)
    budget_mode: str = "exact"
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)


@dataclass
class TrainerConfig:
    """How long, and what is kept.

    Attributes:
        steps: rollouts for GRPO; optimizer steps for SFT.
        max_seconds: stop after so many seconds of training even if steps are left; 0 means no limit.
        batch: sequences an optimizer step (SFT alone).
        save_every: steps between checkpoints; 0 keeps only the last.
        keep: checkpoints to keep; the best is kept beside them.
        best: metric whose highest mean since the checkpoint before makes a checkpoint the best, of a kind of task that
            is trained on; none of SFT's.
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
class MonitorConfig:
    """What is made of a run's outward signs.

    Attributes:
        stop_on_hacking: end the run when it drifts into a phase that cheats (docs/monitoring.md); GRPO alone.
        gain_every: steps between measurements of how much likelier reasoning makes the right answer, which take a pass
            of the trainer over the step's responses (docs/monitoring.md); 0 makes none. GRPO alone.
    """

    stop_on_hacking: bool = False
    gain_every: int = 0


@dataclass
class ClusterConfig:
    """The GPUs that `recipes.plan` estimates for; training has no use for it. Sources: configs/cluster/h100.yaml.

    `recipes.preflight` reads the GPUs and the host memory of a node.

    Attributes:
        node_memory_gb: host memory of a node, 1e9 bytes.
        memory_gb: bytes of a GPU that a plan may count on, in 1e9.
        bf16_tflops, fp8_tflops: dense matrix products of a GPU, 1e12 floating-point operations a second.
        hbm_gb_s, nvlink_gb_s, network_gb_s, host_gb_s: 1e9 bytes a second of a GPU from its own memory, to another GPU
            of its node, to one of another node, and to pageable host memory.
        price: of a GPU-hour, in your currency.
    """

    name: str = "H100 SXM 80 GB"
    gpus_per_node: int = 8
    node_memory_gb: float = 2000
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
    critic: CriticConfig = field(default_factory=CriticConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    data: DataConfig = field(default_factory=DataConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    @property
    def token_multiple(self) -> int:
        """What the tokens of a micro-batch are filled up to a multiple of, over all ranks that divide them."""
        divided = self.parallel.tensor if self.parallel.sequence else 1
        if self.model.fp8 == "none":
            return divided
        gathered = self.model.fp8 == "blockwise" and self.parallel.sequence
        return divided * (_FP8_BLOCK if gathered else _FP8_TOKENS)

    @property
    def samples_alone(self) -> bool:
        """Whether every rank samples with a whole model of its own, and not with its part of the trainer's."""
        divided = self.parallel.tensor * self.parallel.pipeline > 1
        return divided and self.rollout.sampler == "embedded" and self.rollout.tensor == 1


def to_yaml(config: Config) -> str:
    """The resolved configuration as YAML."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.structured(config))


def from_yaml(text: str) -> Config:
    """A configuration written by `to_yaml`.

    Raises:
        ConfigError: it is none.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        config: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.create(text)))
    except (OmegaConfBaseException, YAMLError, AssertionError) as error:
        said = str(error).splitlines()[0]
        raise ConfigError(
            f"config.yaml in the run's folder is not the configuration of a run ({said}); restore it, or choose "
            "another output folder"
        ) from error
    return config
