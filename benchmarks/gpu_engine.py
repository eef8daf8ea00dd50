"""The sections of benchmarks/gpu.py that run the engine: steps, sampling, the reference swap, saves and loading."""

from __future__ import annotations

import resource
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.gpu_cases import (
    CASES,
    Bench,
    Case,
    checkpoint,
    engine,
    free,
    loss_of,
    micro_batch,
    on_gpu,
    settings,
    work,
)
from conversion import hf_to_megatron
from recipes.engines.base import Sampling, TokenBatch
from recipes.engines.megatron.engine import MegatronEngine
from recipes.planning.layout import Rollout, layout_of
from recipes.planning.memory import memory_of
from recipes.quickstart import BASE

_RECIPES = ("none", "blockwise", "tensorwise", "delayed")
# The two that goals are set for in every recipe, then every other in bfloat16, then their FP8.
_TRAINED = [(name, recipe) for name in ("70B/8", "3B") for recipe in _RECIPES]
_TRAINED += [(name, "none") for name in CASES if name not in ("70B/8", "3B")]
_TRAINED += [(name, recipe) for name in CASES if name not in ("70B/8", "3B") for recipe in _RECIPES[1:]]


def train(bench: Bench) -> None:
    """A whole optimizer step on one packed micro-batch of GRPO, at every shape, in bfloat16 and in FP8."""
    for name, recipe in _TRAINED:
        key = f"{name} {'bfloat16' if recipe == 'none' else recipe}"
        for recompute in (False, True):
            # Responses would be sampled in bfloat16.
            more = ["algorithm.importance=truncated", f"parallel.recompute={recompute}".lower()]
            fp8 = [f"model.fp8={recipe}"]
            try:
                # Settled here too, where there is no FP8.
                settings(bench, checkpoint(bench, CASES[name]), *fp8, *more)
                bench.report(key, _step(bench, key, CASES[name], [*(fp8 if on_gpu() else []), *more]))
                break
            except torch.OutOfMemoryError:
                bench.report(key, {"out of memory": "with recompute" if recompute else "without recompute"})
            except Exception as error:
                # One recipe's fault is not another's.
                bench.report(key, {"error": f"{type(error).__name__}: {error}"[:600]})
                break
            finally:
                free()


def _step(bench: Bench, key: str, case: Case, more: list[str]) -> dict[str, Any]:
    before = torch.cuda.memory_allocated()
    with engine(bench, case, *more) as found:
        batch = micro_batch(bench, found.architecture.vocab_size)
        loss = loss_of(batch)

        def step() -> Any:
            return found.train_step(batch, loss, learning_rate=1e-6, reference=False)

        metrics, spent = step(), bench.milliseconds(step, repeats=3)
        forward = bench.milliseconds(lambda: found.logprobs(batch), repeats=3)
        update = bench.milliseconds(found.optimizer.step, repeats=3)
        peak = torch.cuda.max_memory_allocated() - before
        counted, gradient = work(found.architecture, batch), spent - update
        return {
            "step_ms": spent,
            "forward_ms": forward,
            "optimizer_ms": update,
            "tflops": round(counted.training / gradient / 1e9, 3),
            "step_tflops": round(counted.training / spent / 1e9, 3),
            "product_tflop": round(3 * (counted.products + counted.output) / 1e12, 4),
            "attention_tflop": round(3.5 * counted.attention / 1e12, 4),
            "recompute": found.config.parallel.recompute,
            "peak_gb": round(peak / 1e9, 3),
            "planned_gb": round(_planned(found, batch) / 1e9, 3),
            "outside_torch_gb": round(_outside_torch() / 1e9, 3),
            "grad_norm": metrics["grad_norm"],
            "loss": metrics["loss"] / metrics["tokens"],
            "stepped": metrics["stepped"],
            "kernels": bench.profiled(step, f"train {key}"),
        }


def _planned(found: MegatronEngine, batch: TokenBatch) -> float:
    """What a plan says of the same step, in bytes, without its constant for what is not torch's."""
    prompt = batch.sequences[0].prompt_length
    longest = max(sequence.response_length for sequence in batch.sequences)
    rollout = Rollout(1, len(batch.sequences), prompt, longest / 2, longest)
    planned = memory_of(
        found.architecture, layout_of(found.config), rollout, reference=False, longest_prompt=rollout.prompt_tokens
    )
    return planned.training_peak - planned.always["overhead"]


def _outside_torch() -> float:
    """Bytes beside live tensors: context, communicators, workspaces, and what torch held at its peak in pieces."""
    if not on_gpu():
        return 0.0
    left, total = torch.cuda.mem_get_info()
    pieces = torch.cuda.max_memory_reserved() - torch.cuda.max_memory_allocated()
    return total - left - torch.cuda.memory_reserved() + pieces


def sampler(bench: Bench) -> None:
    """What one token costs a layer in the embedded sampler, from two lengths; and its kernels."""
    short, long = (2, 6) if bench.small else (8, 72)
    for name, case, rows in (
        ("70B/8", Case("Llama-3.1-70B", 8, 20), 64),
        ("70B/8", Case("Llama-3.1-70B", 8, 20), 512),
        ("3B", CASES["3B"], 64),
    ):
        with engine(bench, case) as found:
            copies = 2 if bench.small else 16
            prompts = [[5 + number] * (8 if bench.small else 512) for number in range(max(1, rows // 16))][
                : 2 if bench.small else None
            ]
            layers, steps = found.architecture.num_layers, long - short

            def spent(tokens: int, found: Any = found, prompts: Any = prompts, copies: int = copies) -> float:
                sampling = Sampling(copies, 1.0, tokens, ())
                return bench.milliseconds(lambda: found.generate(prompts, sampling), repeats=3)

            def kernels(tokens: int, found: Any = found, prompts: Any = prompts, name: str = name) -> int:
                sampling = Sampling(2, 1.0, tokens, ())
                kinds = bench.profiled(lambda: found.generate(prompts[:4], sampling), f"sampler {name} {tokens}")
                return sum(row["kernels"] for row in kinds.values())

            milliseconds = (spent(long) - spent(short)) / steps
            row = {
                "rows": len(prompts) * copies,
                "layers": layers,
                "token_ms": round(milliseconds, 4),
                "layer_token_ms": round(milliseconds / layers, 5),
            }
            bench.report(f"{name} {rows} rows", row)
            if rows == 64:
                row["kernels_layer_token"] = round((kernels(6) - kernels(2)) / 4 / layers, 1)
                bench.report(f"{name} {rows} rows", row)


def host(bench: Bench) -> None:
    """The reference swap, and a save beside training, of four layers of a 70B shard."""
    with engine(bench, CASES["70B/8"], "algorithm.kl_coef=0.1") as found:
        batch = micro_batch(bench, found.architecture.vocab_size)
        held = sum(p.numel() * p.element_size() for p in found.module.parameters())
        plain = bench.milliseconds(lambda: found.logprobs(batch), repeats=3)
        swapped = bench.milliseconds(lambda: found.logprobs(batch, "reference"), repeats=3)
        swap = max(1e-3, (swapped - plain) / 2)
        bench.report("swap", {"ms": round(swap, 3), "weights_gb": held / 1e9, "gb_s": round(2 * held / swap / 1e6, 3)})
        found.train_step(batch, loss_of(batch), learning_rate=1e-6, reference=False)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        folder, began = bench.folder / "saved" / "step_000001", time.perf_counter()
        folder.parent.mkdir(exist_ok=True)
        found.save(folder, {})
        returned = time.perf_counter() - began
        found.saves.finish(wait=True)
        bench.report(
            "save",
            {
                "returned_s": round(returned, 3),
                "written_s": round(time.perf_counter() - began, 3),
                "gb": round(sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / 1e9, 3),
                "host_peak_gb": round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / 1e9, 3),
            },
        )


def loading(bench: Bench) -> None:
    """A 0.5B model of random weights: converted, and loaded into the engine."""
    case = CASES["0.5B"]
    config = AutoConfig.from_pretrained(checkpoint(bench, case) / "hf")
    source, target = bench.folder / "hf", bench.folder / "megatron"
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(source)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(BASE / file, source / file)
    began = time.perf_counter()
    converted: Path = hf_to_megatron.convert(source, target).path
    bench.report("convert_s", round(time.perf_counter() - began, 3))
    size = sum(file.stat().st_size for file in converted.rglob("*") if file.is_file())
    began = time.perf_counter()
    found = MegatronEngine(settings(bench, converted, "algorithm.kl_coef=0.0"))
    torch.cuda.synchronize()
    spent = time.perf_counter() - began
    bench.report("engine_s", round(spent, 3))
    bench.report("gb_s", round(size / spent / 1e9, 3))
    bench.report("finite", bool(found.logits([1, 2, 3]).isfinite().all()))
