"""The section `rollout` of the configuration: who samples, how, and by which servers; see `recipes.runtime.config`."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class VLLMConfig:
    """Servers of vLLM, which sample with rollout.sampler=vllm; see docs/rollouts.md.

    Attributes:
        urls: of running ones, started by `python -m recipes.sampling.vllm.serve`; empty starts `replicas` on this
            machine for the length of the run. A bearer token is read from MEDATRON_ROLLOUT_TOKEN.
        replicas: servers to start.
        python: interpreter with vLLM to start them with; null for MEDATRON_VLLM_PYTHON, or else this one.
        transfer: how weights get there: file (in `folder`), gloo, nccl, ipc (servers on the trainer's own GPUs), or
            auto: nccl between GPUs, file on CPUs.
        folder: where both sides see the same files; null for shared memory.
        bucket_mib: weights handed over at a time, in MiB; a layer is never divided.
        memory_share: of a GPU's memory, for weights and keys and values.
        sleep: give that memory up while the trainer computes, on the GPUs that it shares.
        start_timeout_s, transfer_timeout_s, generate_timeout_s: deadlines of a server's start, of handing over all
            weights, and of one response.
    """

    urls: list[str] = field(default_factory=list)
    replicas: int = 1
    python: str | None = None
    transfer: str = "auto"
    folder: str | None = None
    bucket_mib: int = 128
    memory_share: float = 0.85
    sleep: bool = False
    start_timeout_s: float = 900.0
    transfer_timeout_s: float = 300.0
    generate_timeout_s: float = 1800.0


@dataclass
class RolloutConfig:
    """Sampling of responses.

    Attributes:
        sampler: embedded (the training model itself) or vllm.
        tensor: tensor parallel size of a copy of the sampling model. 0: the trainer's own layout for embedded, 1 for
            vllm. embedded takes 0 or 1, for which every rank gathers the weights once a step and samples alone.
        mismatch_warn, mismatch_stop: mean difference of a token's log-probability between sampler and trainer, in nats,
            on fixed probes after every hand-over of weights, above which the run warns or stops. null: 1e-3 and 1e-2
            with model.precision=float32, 0.05 and 0.2 with bfloat16.
        vllm: its servers.
        ahead: steps whose batches are sampled while this one trains, by weights so many steps older; 0 one after the
            other.
        over_sample: share of further prompts that a batch asks for; it ends as soon as `prompts` groups are whole.
        continued: steps that what was broken off then is gone on with; 0 drops it.
        prompts: prompts a step, over all ranks.
        group_size: responses a prompt.
        max_batches: above 1, groups of equal rewards (before any length term) are replaced by sampling further prompts,
            up to so many batches of `prompts` a step (DAPO's dynamic sampling); then the step takes what there is.
        max_new_tokens: limit of a response; 0 for half of model.max_length, at most 1024.
        top_k, top_p: sample from the likeliest tokens alone; 0 and 1 from all.
        stop: strings that end a response.
        min_new_tokens: room that a prompt must leave in model.max_length; null for max_new_tokens. Below that, a
            response to a long prompt has what room is left.
        adaptive: draw prompts whose skill lately gave groups of mixed rewards more often.
        samples_every: steps between files of sampled rollouts; 0 writes none.
    """

    sampler: str = "embedded"
    tensor: int = 0
    mismatch_warn: float | None = None
    mismatch_stop: float | None = None
    vllm: VLLMConfig = field(default_factory=VLLMConfig)
    ahead: int = 0
    over_sample: float = 0.0
    continued: int = 0
    prompts: int = 32
    group_size: int = 8
    max_batches: int = 1
    max_new_tokens: int = 0
    min_new_tokens: int | None = None
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    stop: list[str] = field(default_factory=list)
    adaptive: bool = False
    samples_every: int = 10
