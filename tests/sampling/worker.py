"""One rank of a trainer beside a running server: weights handed over, compared, and faults that must be found.

Argument: a folder with `job.json`: {"url", "model", "layout", "prompts", "stop", "faults"}. Rank 0 writes
`result.json`. Runs in either engine's environment.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch

if importlib.util.find_spec("nemo_aligner") is None:
    from conversion import megatron_cpu

    megatron_cpu.install()
else:
    from recipes.engines.nemo_aligner import upstream

    upstream.prepare()

from recipes.engines import create_engine
from recipes.engines.base import Bucket, Sampling, TokenBatch, TokenSequence
from recipes.rl.losses import supervised_loss
from recipes.runtime.launch import init_process_group, is_leader
from recipes.runtime.loading import load
from recipes.sampling.base import RolloutError
from recipes.sampling.vllm import client, servers, transfer
from recipes.sampling.vllm.sampler import VLLMSampler

Results = dict[str, Any]
TEMPERATURE = 0.7
# So large that one step moves log-probabilities by much more than rounding.
RATE = 3e-3


class Trainer:
    """An engine with its sampler, and steps to take."""

    def __init__(self, job: Results, *overrides: str) -> None:
        settings = [*job["layout"], f"model.path={job['model']}", "output=unused", "rollout=vllm"]
        settings += [f"rollout.vllm.urls=[{job['url']}]", "model.max_length=200", "rollout.max_new_tokens=24"]
        settings += [f"rollout.temperature={TEMPERATURE}", "parallel.timeout_minutes=2", "algorithm.kl_coef=0.0"]
        # Buckets of one layer each.
        self.config = load([*settings, "rollout.vllm.bucket_mib=1", *overrides])
        self.prompts: list[list[int]] = job["prompts"]
        self.engine: Any = create_engine(self.config)
        self.sampler = VLLMSampler(self.config, self.engine, self.prompts, Path(job["folder"]))
        self.version = 0

    def step(self) -> None:
        """Any step that changes all weights."""
        sequences = tuple(TokenSequence(tuple(p) + tuple(reversed(p)), len(p)) for p in self.prompts[:4])
        batch = TokenBatch(sequences)
        loss = supervised_loss(tokens=batch.response_tokens)
        self.engine.train_step(batch, loss, learning_rate=RATE, reference=False)
        self.version += 1

    def update(self) -> dict[str, float]:
        return self.sampler.update(self.version)

    def apart(self, sampling: Sampling) -> tuple[int, float]:
        """Of what vLLM samples: tokens, and the largest difference of a log-probability from the trainer's."""
        groups = self.sampler.generate(self.prompts, sampling)
        pairs = [(p, c) for p, group in zip(self.prompts, groups, strict=True) for c in group]
        assert all(c.versions == ((self.version, len(c.ids)),) for _, c in pairs)
        sequences = tuple(TokenSequence((*p, *c.ids), len(p)) for p, c in pairs)
        trainer = self.engine.logprobs(TokenBatch(sequences, sampling.temperature or 1.0))
        apart = [
            abs(ours - theirs)
            for (_, c), row in zip(pairs, trainer, strict=True)
            for ours, theirs in zip(row, c.logprobs, strict=True)
        ]
        return len(apart), max(apart)

    def differing(self, sampling: Sampling) -> int:
        """How many prompts' completions are not the embedded sampler's."""
        own, theirs = (s.generate(self.prompts, sampling) for s in (self.engine, self.sampler))
        return sum(
            [(c.ids, c.finished) for c in a] != [(c.ids, c.finished) for c in b]
            for a, b in zip(own, theirs, strict=True)
        )


def agreement(job: Results, trainer: Trainer) -> Results:
    """Greedy completions and log-probabilities before and after three updates."""
    greedy = Sampling(1, 0.0, 24, (job["stop"],))
    drawn = Sampling(2, TEMPERATURE, 24, (job["stop"],), seed=3)
    found: Results = {"differing": [], "apart": [], "metrics": []}
    for _ in range(4):
        found["metrics"].append(trainer.update())
        found["differing"].append(trainer.differing(greedy))
        found["apart"].append(trainer.apart(drawn))
        trainer.step()
    trainer.update()
    limits = tuple(1 + n % 24 for n in range(len(trainer.prompts)))
    found["limits"] = trainer.differing(Sampling(1, 0.0, 24, (), limits=limits))
    found["strings"] = trainer.differing(Sampling(1, 0.0, 24, (), stop_strings=("bg", "é", "fa")))
    again, other = drawn, Sampling(2, TEMPERATURE, 24, (job["stop"],), seed=4)
    texts = [
        [c.ids for group in trainer.sampler.generate(trainer.prompts, s) for c in group] for s in (drawn, again, other)
    ]
    found["same seed"] = sum(a != b for a, b in zip(texts[0], texts[1], strict=True))
    found["other seed"] = sum(a != b for a, b in zip(texts[0], texts[2], strict=True))
    found["copies"] = sum(a != b for a, b in zip(texts[0][::2], texts[0][1::2], strict=True))
    return found


def broken_off(trainer: Trainer) -> Results:
    """Responses that an update finds half written, and such as are not waited for: what they are when they have ended.

    The server's weights are a step older than the trainer's when they begin.
    """
    sampler, prompts = trainer.sampler, trainer.prompts[:12]
    sampling = Sampling(2, TEMPERATURE, 120, (), seed=5)
    trainer.update()
    # The first batch of a size may take several times as long as another.
    sampler.generate(prompts, dataclasses.replace(sampling, max_new_tokens=4))
    began = time.monotonic()
    whole = sampler.generate(prompts, sampling)
    seconds = time.monotonic() - began
    trainer.step()
    first = sampler.begin(prompts, sampling)
    time.sleep(seconds / 4)
    trainer.update()
    # Four groups are whole long before the many others, however fast the server's engine runs ahead of its front.
    limits = tuple(4 if n % 16 == 0 else 120 for n in range(len(trainer.prompts)))
    uneven = dataclasses.replace(sampling, seed=6, limits=limits)
    second = sampler.begin(trainer.prompts, uneven, enough=4)
    groups, left = (sampler.finish(begun, trainer.version) for begun in (first, second))
    rest = sampler.finish(sampler.begin(trainer.prompts, uneven, so_far=left), trainer.version)
    found: Results = {"versions": [], "old": [], "new": [], "short of": []}
    sequences = [TokenSequence((*p, *c.ids), len(p)) for p, g in zip(prompts, groups, strict=True) for c in g]
    computed = trainer.engine.logprobs(TokenBatch(tuple(sequences), TEMPERATURE))
    flat = [[c for group in each for c in group] for each in (whole, groups, left, rest)]
    for unbroken, completion, own in zip(flat[0], flat[1], computed, strict=True):
        old = sum(count for version, count in completion.versions if version < trainer.version)
        found["versions"].append(sorted(trainer.version - version for version, _ in completion.versions))
        found["short of"].append(120 - len(completion.ids))
        assert completion.ids[:old] == unbroken.ids[:old]
        apart = [abs(a - b) for a, b in zip(completion.logprobs, (*unbroken.logprobs[:old], *own[old:]), strict=True)]
        found["old"] += apart[:old]
        found["new"] += apart[old:]
    found["left"] = sum(c.partial for c in flat[2])
    for number, (so_far, completion) in enumerate(zip(flat[2], flat[3], strict=True)):
        found["short of"].append(limits[number // 2] - len(completion.ids))
        assert completion.ids[: len(so_far.ids)] == so_far.ids
        assert completion.logprobs[: len(so_far.ids)] == so_far.logprobs
    return found


@contextmanager
def unemptied_cache() -> Iterator[None]:
    """The server says that it has emptied its prefix cache, and has not."""
    call = servers.Server.call

    def lying(self: Any, path: str, timeout_s: float, **body: Any) -> Any:
        if path.startswith("/reset_prefix_cache"):
            return {"success": True}
        return call(self, path.replace("mode=abort", "mode=keep&clear_cache=false"), timeout_s, **body)

    with mock.patch.object(servers.Server, "call", lying):
        yield


@contextmanager
def stale_head(trainer: Trainer) -> Iterator[None]:
    """The tied output matrix is not packed again."""

    def switch(broken: bool) -> None:
        if trainer.sampler._fleet is not None:
            server = trainer.sampler._fleet.servers[0]
            server.call("/collective_rpc", 10, method="break_tied_head", args=[broken])

    switch(True)
    try:
        yield
    finally:
        switch(False)


@contextmanager
def changed(engine: Any, change: Callable[[Sequence[Bucket]], Sequence[Bucket]]) -> Iterator[None]:
    """The weights on their way are changed."""
    weights = engine.weights

    # All of them are kept here, and so in memory of their own.
    def own(limit: int, everywhere: bool, _: Any) -> Iterator[Bucket]:
        return iter(change(list(weights(limit, everywhere))))

    with mock.patch.object(engine, "weights", own):
        yield


def without(name: str) -> Callable[[Sequence[Bucket]], Sequence[Bucket]]:
    """All weights but the tensors of a name."""
    return lambda buckets: [Bucket(tuple(p for p in b.pieces if name not in p.name), b.flat) for b in buckets]


@contextmanager
def at_temperature(value: float) -> Iterator[None]:
    """Servers are asked to sample at another temperature than the trainer knows of."""
    parameters = client._parameters

    def wrong(*arguments: Any) -> dict[str, Any]:
        return parameters(*arguments) | {"temperature": value}

    with mock.patch.object(client, "_parameters", wrong):
        yield


def faults(trainer: Trainer) -> Results:
    """What the gate says of each fault, and that the next hand-over is right again."""
    found: Results = {}
    trainer.update()
    before = list(trainer.engine.weights(1 << 20, False))

    def tried(name: str, *contexts: Any, update: bool = True) -> None:
        trainer.step()
        with ExitStack() as stack:
            for context in contexts:
                stack.enter_context(context)
            try:
                trainer.update()
                found[name] = "nothing"
            except RolloutError as error:
                found[name] = str(error)
        found[f"after {name}"] = trainer.update()["mismatch/probe_max"]

    tried("stale cache", unemptied_cache())
    tried("stale head", stale_head(trainer))
    tried("key matrix left out", changed(trainer.engine, without("layers.2.self_attn.k_proj.weight")))
    tried("older weights", changed(trainer.engine, lambda buckets: before))
    tried("other temperature", at_temperature(1.0))
    return found


def failures(trainer: Trainer) -> Results:
    """Hand-overs that break off: the next one is right, and nothing is left half done."""
    found: Results = {}
    way = trainer.sampler._transfer.way
    send, count = type(way).send, 0

    def breaking(self: Any, bucket: Bucket, post: Any, left_s: float) -> None:
        nonlocal count
        count += 1
        if count == 2:
            raise servers.ServerError("the line is cut")
        send(self, bucket, post, left_s)

    trainer.step()
    with mock.patch.object(type(way), "send", breaking):
        found["cut"] = trainer.update()["mismatch/probe_max"]

    def lost(self: Any, bucket: Bucket, post: Any, left_s: float) -> None:
        nonlocal count
        count += 1
        send(self, bucket, (lambda extra: post({**extra, "file": "/nowhere"})) if count == 2 else post, left_s)

    count = 0
    trainer.step()
    with mock.patch.object(type(way), "send", lost):
        found["no file"] = trainer.update()["mismatch/probe_max"]
    trainer.step()
    with changed(trainer.engine, without("layers.1.input_layernorm.weight")):
        try:
            trainer.update()
            found["norm left out"] = "nothing"
        except RolloutError as error:
            found["norm left out"] = str(error)
    return found


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    job = json.loads((folder / "job.json").read_text()) | {"folder": str(folder)}
    init_process_group(load(["output=unused", "model.path=unused", "parallel.timeout_minutes=2"]))
    results: Results = {}
    for way in ("gloo", "file"):
        trainer = Trainer(job, f"rollout.vllm.transfer={way}")
        results[way] = agreement(job, trainer)
        if way == "gloo":
            trainer.sampler.close()
    if job["faults"]:
        results["broken off"] = broken_off(trainer)
        results["faults"] = faults(trainer)
        results["failures"] = failures(trainer)
    trainer.sampler.close()
    left = [str(path) for path in transfer._SHARED_MEMORY.glob("medatron-weights-*")]
    if is_leader():
        (folder / "result.json").write_text(json.dumps(results | {"left": left}))


if __name__ == "__main__":
    main()
