"""The limits of every number of a configuration, and the choices of every name."""

from __future__ import annotations

import math
from dataclasses import dataclass

KINDS = ("choice", "calculation", "text")
COMPONENTS = ("answer", "format", "length")
# Of open answers, from 0 to 100.
MEASURES = ("bleu", "ems", "merge", "rouge_l")
# Names of checkpoints have six digits.
_MOST_STEPS = 999_999
_MONTH_MINUTES = 43_200


@dataclass(frozen=True)
class Range:
    """Of a finite number; `above` and `below` say that a limit itself is outside."""

    low: float
    high: float = math.inf
    above: bool = False
    below: bool = False

    def holds(self, value: float) -> bool:
        """Whether a value is finite and within."""
        if not math.isfinite(value):
            return False
        over = value > self.low if self.above else value >= self.low
        return over and (value < self.high if self.below else value <= self.high)

    def __str__(self) -> str:
        low = f"{'above' if self.above else 'at least'} {self.low:g}"
        return low if self.high == math.inf else f"{low} and {'below' if self.below else 'at most'} {self.high:g}"


_POSITIVE = Range(0, above=True)
NOT_NEGATIVE = Range(0)
_COUNT = Range(1)
_SHARE = Range(0, 1)

_OPTIMIZER = {
    "learning_rate": NOT_NEGATIVE,
    "betas": Range(0, 1, below=True),
    "eps": _POSITIVE,
    "weight_decay": NOT_NEGATIVE,
    "warmup_steps": NOT_NEGATIVE,
    "final_share": _SHARE,
    "clip_grad": NOT_NEGATIVE,
}

# Every number of the schema but those of dictionaries; null passes.
LIMITS: dict[str, Range] = {
    "seed": Range(0, 10**18),
    "model.max_length": Range(2),
    **{f"parallel.{key}": _COUNT for key in ("processes", "tensor", "pipeline", "micro_batch_tokens")},
    "parallel.timeout_minutes": Range(0, _MONTH_MINUTES, above=True),
    **{f"{of}optimizer.{key}": limits for of in ("", "critic.") for key, limits in _OPTIMIZER.items()},
    "algorithm.clip_low": _SHARE,
    "algorithm.clip_high": NOT_NEGATIVE,
    "algorithm.dual_clip": Range(1, above=True),
    "algorithm.kl_coef": NOT_NEGATIVE,
    "algorithm.entropy_coef": NOT_NEGATIVE,
    "algorithm.mini_batches": _COUNT,
    "algorithm.epochs": _COUNT,
    "algorithm.importance_low": NOT_NEGATIVE,
    "algorithm.importance_high": _POSITIVE,
    **{f"algorithm.{key}": _SHARE for key in ("gamma", "critic_lambda", "policy_lambda")},
    "algorithm.length_alpha": _POSITIVE,
    "algorithm.positive_coef": NOT_NEGATIVE,
    "critic.clip": _POSITIVE,
    **{f"critic.{key}": _COUNT for key in ("mini_batches", "epochs")},
    "critic.alone_steps": NOT_NEGATIVE,
    "rollout.tensor": NOT_NEGATIVE,
    "rollout.ahead": Range(0, 4),
    "rollout.over_sample": Range(0, 4),
    "rollout.continued": Range(0, 8),
    "rollout.mismatch_warn": _POSITIVE,
    "rollout.mismatch_stop": _POSITIVE,
    "rollout.vllm.replicas": _COUNT,
    "rollout.vllm.bucket_mib": _COUNT,
    "rollout.vllm.memory_share": Range(0, 1, above=True),
    **{f"rollout.vllm.{key}_timeout_s": _POSITIVE for key in ("start", "transfer", "generate")},
    "rollout.prompts": _COUNT,
    "rollout.group_size": _COUNT,
    "rollout.max_batches": _COUNT,
    "rollout.max_new_tokens": _COUNT,
    "rollout.min_new_tokens": _COUNT,
    "rollout.temperature": _POSITIVE,
    "rollout.top_k": NOT_NEGATIVE,
    "rollout.top_p": Range(0, 1, above=True),
    "rollout.samples_every": NOT_NEGATIVE,
    "reward.attempt_timeout_s": _POSITIVE,
    "reward.total_timeout_s": _POSITIVE,
    "reward.max_null_share": _SHARE,
    "reward.likelihood_filter": _SHARE,
    **{f"reward.length_{key}": _COUNT for key in ("target", "low", "high", "buffer")},
    "reward.length_max_share": _SHARE,
    "reward.length_none_share": Range(0, 1, below=True),
    "reward.text_threshold": Range(0, 100, above=True),
    "data.shots": NOT_NEGATIVE,
    # maj@k is counted in floating-point numbers, which do not hold the ways to choose half of more.
    "evaluation.samples": Range(1, 1024),
    **{f"evaluation.{key}": _COUNT for key in ("max_think_tokens", "endpoint.concurrency")},
    "evaluation.temperature": NOT_NEGATIVE,
    "evaluation.top_k": NOT_NEGATIVE,
    "evaluation.top_p": Range(0, 1, above=True),
    "evaluation.shuffles": NOT_NEGATIVE,
    **{f"evaluation.endpoint.{key}_timeout_s": _POSITIVE for key in ("attempt", "total")},
    "monitor.gain_every": NOT_NEGATIVE,
    "trainer.steps": Range(1, _MOST_STEPS),
    "trainer.max_seconds": NOT_NEGATIVE,
    "trainer.batch": _COUNT,
    "trainer.save_every": NOT_NEGATIVE,
    "trainer.keep": NOT_NEGATIVE,
    "trainer.max_skipped": _COUNT,
    "trainer.profile_first": _COUNT,
    "trainer.profile_steps": NOT_NEGATIVE,
    "cluster.gpus_per_node": _COUNT,
    **{f"cluster.{key}": _POSITIVE for key in ("memory_gb", "bf16_tflops", "fp8_tflops", "hbm_gb_s", "nvlink_gb_s")},
    **{f"cluster.{key}": _POSITIVE for key in ("network_gb_s", "host_gb_s")},
    "cluster.node_memory_gb": _POSITIVE,
    "cluster.price": NOT_NEGATIVE,
}

CHOICES: dict[str, tuple[str, ...]] = {
    "engine": ("megatron", "nemo_aligner"),
    "model.precision": ("float32", "bfloat16"),
    "model.fp8": ("none", "delayed", "tensorwise", "blockwise"),
    "model.transformer": ("auto", "local", "te"),
    "algorithm.advantage": ("grpo", "dr_grpo", "rloo", "reinforce_pp", "gae"),
    "algorithm.cut": ("terminal", "bootstrap"),
    "algorithm.surrogate": ("clip", "cispo"),
    "algorithm.ratio": ("token", "sequence"),
    "algorithm.kl_estimator": ("k1", "k2", "k3"),
    "algorithm.kl_place": ("loss", "reward"),
    "algorithm.reduction": ("token", "sequence"),
    "algorithm.tasks": ("pooled", "per_task", "components", "logistic"),
    "algorithm.importance": ("none", "truncated", "masked", "sequence_masked"),
    "rollout.sampler": ("embedded", "vllm"),
    "rollout.vllm.transfer": ("auto", "file", "gloo", "nccl", "ipc"),
    "data.teach": ("worked", "answer"),
    "data.say_length": ("none", "exact", "max", "mixed"),
    "data.template": ("chat", "base"),
    "evaluation.budget_mode": ("exact", "max"),
    "reward.length_mode": ("none", "max", "exact", "mixed"),
    "reward.length_draw": ("fixed", "uniform", "log_uniform"),
    "reward.match": ("strict", "lenient"),
    "reward.format": ("strict", "lenient"),
    "reward.length_shape": ("preset", "l1", "dapo", "relative", "relative_all"),
    "reward.text_metric": ("exact", "f1", *MEASURES, "judge", "judge_probability"),
    # Of the metrics those that are better the higher they are, and that training measures.
    "trainer.best": tuple(f"{what}/{of}" for what in ("accuracy", "reward") for of in ("mean", *KINDS))
    + tuple(f"reward/{of}/{part}" for of in ("component", *KINDS) for part in COMPONENTS),
}
