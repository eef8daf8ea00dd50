"""One measurement of benchmarks/rollout.py, under torchrun; the last line is JSON.

    torchrun -m benchmarks.rollout_parts PART FOLDER ...

Parts: model GIB, sample ROUNDS, transformers ROUNDS, transfer ROUNDS WAY,WAY [KEY=VALUE ...]
"""

from __future__ import annotations

import gc
import json
import math
import os
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

PROMPTS, PROMPT_TOKENS, COPIES, NEW_TOKENS = 32, 28, 8, 128
LAYERS, HEAD = 8, 128
START_S = 300.0


def seconds(action: Callable[[], Any]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def median(values: list[float]) -> float:
    return round(statistics.median(values), 4)


def make_model(folder: Path, gib: float) -> None:
    """A random model of so many GiB in float32, whose inner layers are about three times as wide as the outer ones."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from benchmarks.grpo_step_model import VOCABULARY, make_tokenizer

    hidden = 2 ** round(math.log2(2048 * gib**0.5))
    inner = ((gib * 2**28 - VOCABULARY * hidden) / LAYERS - 3 * hidden**2) / (3 * hidden)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=64 * round(inner / 64),
        num_hidden_layers=LAYERS,
        num_attention_heads=hidden // HEAD,
        num_key_value_heads=hidden // HEAD // 2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        eos_token_id=1,
        pad_token_id=0,
        bos_token_id=None,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder / "hf")
    make_tokenizer(random.Random(0)).save_pretrained(folder / "hf")


def prompts(folder: Path) -> list[list[int]]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "hf")
    texts = json.loads((folder / "hf/prompts.json").read_text())[:PROMPTS]
    return [tokenizer(text).input_ids[:PROMPT_TOKENS] for text in texts]


def configured(folder: Path, *overrides: str) -> Any:
    from recipes.runtime.loading import load

    settings = [f"output={folder / 'run'}", f"model.path={folder / 'megatron'}", "rollout=vllm", *overrides]
    settings += ["model.max_length=256", f"rollout.max_new_tokens={NEW_TOKENS}", "algorithm.kl_coef=0.0"]
    return load([*settings, f"parallel.processes={os.environ['WORLD_SIZE']}"])


def sample(folder: Path, rounds: int) -> dict[str, float]:
    """Tokens a second of the embedded sampler and of vLLM."""
    from recipes.engines import create_engine
    from recipes.engines.base import Sampling
    from recipes.runtime.launch import init_process_group
    from recipes.sampling.base import EmbeddedSampler, create_sampler

    config, asked = configured(folder), prompts(folder)
    init_process_group(config)
    engine = create_engine(config)
    with closing(create_sampler(config, engine, asked)) as vllm:
        samplers = {"embedded": EmbeddedSampler(engine), "vllm": vllm}
        taken: dict[str, list[float]] = {name: [] for name in samplers}
        for turn in range(rounds + 1):
            for name, sampler in samplers.items():
                sampler.update(turn)
                began = time.perf_counter()
                groups = sampler.generate(asked, Sampling(COPIES, 1.0, NEW_TOKENS, (), seed=turn))
                taken[name].append(time.perf_counter() - began)
                assert {len(c.ids) for group in groups for c in group} == {NEW_TOKENS}
    # The first round warms up.
    return {name: round(PROMPTS * COPIES * NEW_TOKENS / median(times[1:])) for name, times in taken.items()}


def transformers(folder: Path, rounds: int) -> dict[str, float]:
    """Tokens a second of `generate`; prompts are of one length and need no padding."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder / "hf", dtype=torch.float32)
    model.generation_config.eos_token_id = None
    ids = torch.tensor(prompts(folder))

    def generate() -> None:
        drawn = model.generate(
            ids, do_sample=True, temperature=1.0, top_k=0, num_return_sequences=COPIES, max_new_tokens=NEW_TOKENS
        )
        assert drawn.shape == (PROMPTS * COPIES, ids.shape[1] + NEW_TOKENS)

    taken = [seconds(generate) for _ in range(rounds + 1)][1:]
    return {"transformers": round(PROMPTS * COPIES * NEW_TOKENS / median(taken))}


def transfer(folder: Path, rounds: int, ways: list[str], overrides: list[str]) -> list[dict[str, Any]]:
    """A row for each way; see benchmarks/rollout.py."""
    from conversion.checkpoint import open_checkpoint
    from recipes.engines import create_engine
    from recipes.runtime.launch import init_process_group
    from recipes.sampling.vllm.servers import Fleet

    config = configured(folder, *overrides)
    init_process_group(config)
    engine = create_engine(config)
    fleet = Fleet(config, open_checkpoint(config.model.path).hf_dir, folder / "logs")
    size = sum(bucket.flat.numel() for bucket in engine.weights(1 << 30, False) if bucket.flat is not None)
    source = torch.randn(size)
    target = source.clone()
    try:
        assert fleet.wait(START_S, all_of_them=True), "the server did not start"
        rows = []
        for way in ways:
            chosen = configured(folder, f"rollout.vllm.transfer={way}", *overrides)
            measured = hand_overs(chosen, engine, fleet, rounds, lambda: target.copy_(source))
            gib = round(size * source.element_size() / 2**30, 4)
            rows.append({"gib": gib, "way": way, **measured})
        return rows
    finally:
        fleet.close()


def hand_overs(config: Any, engine: Any, fleet: Any, rounds: int, copy: Callable[[], Any]) -> dict[str, float]:
    """Medians of the hand-overs by one way, taken in turn with the copy; the first one warms up."""
    from unittest import mock

    from recipes.sampling.vllm.servers import Server, State
    from recipes.sampling.vllm.transfer import Transfer

    spent: Counter[str] = Counter()
    call, handing = Server.call, Transfer(config, engine)
    send = handing.way.send

    def timed_call(server: Any, path: str, *arguments: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            return call(server, path, *arguments, **named)
        finally:
            known = {"/update_weights": "update_s", "/finish_weight_update": "finish_s"}
            spent[known.get(path, "other_s")] += time.perf_counter() - began

    def timed_send(bucket: Any, post: Callable[[Any], None], left_s: float) -> None:
        began, posting = time.perf_counter(), []
        send(bucket, lambda extra: posting.append(seconds(lambda: post(extra))), left_s)
        spent["write_s"] += time.perf_counter() - began - sum(posting)

    def hand_over() -> None:
        for server in fleet.servers:
            server.state = State.STALE
        handing.hand_over(fleet, 0)
        assert all(server.state is State.UNPROVEN for server in fleet.servers)

    def export() -> None:
        for bucket in engine.weights(config.rollout.vllm.bucket_mib << 20, handing.way.everywhere, handing.way.room):
            del bucket

    taken: dict[str, list[float]] = {}
    with (
        closing(handing),
        mock.patch.object(Server, "call", timed_call),
        mock.patch.object(handing.way, "send", timed_send),
    ):
        first = seconds(hand_over)
        for _ in range(rounds):
            gc.collect()
            spent.clear()
            once = {"seconds": seconds(hand_over), "copy_s": seconds(copy), "export_s": seconds(export)}
            for name, value in {**once, **spent}.items():
                taken.setdefault(name, []).append(value)
    found = {name: median(values) for name, values in taken.items()}
    return {
        "seconds": found["seconds"],
        "ratio_to_copy": round(found["seconds"] / found["copy_s"], 2),
        "first_s": round(first, 4),
        **found,
    }


def main() -> None:
    name, folder, rest = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    result: Any = None
    if name == "model":
        make_model(folder, float(rest[0]))
    elif name == "sample":
        result = sample(folder, int(rest[0]))
    elif name == "transformers":
        result = transformers(folder, int(rest[0]))
    else:
        result = transfer(folder, int(rest[0]), rest[1].split(","), rest[2:])
    if os.environ["RANK"] == "0":
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
