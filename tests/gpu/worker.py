"""A process of one rank that runs a list of tasks, each for itself, and writes down after each what it found.

Argument: a folder with `job.json` as of `tests.engines.worker`, whose tasks it has beside its own. `result.json` holds
name -> what a task returned, or {"error": its traceback}: one that fails, or hangs, costs the others nothing.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import json
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from conversion import megatron_cpu
from conversion.device import on_gpu

megatron_cpu.install()

from recipes.engines.megatron.engine import MegatronEngine  # noqa: E402
from recipes.planning.layout import Rollout, layout_of  # noqa: E402
from recipes.planning.memory import memory_of  # noqa: E402
from recipes.runtime.launch import init_process_group  # noqa: E402
from recipes.runtime.loading import load  # noqa: E402
from recipes.runtime.platform import device  # noqa: E402
from tests.engines import worker  # noqa: E402
from tests.engines.steps import batch_of, take_steps  # noqa: E402
from tests.engines.worker import Task, _engine  # noqa: E402

_PRODUCTS, _LINEARS = ("linear_proj", "linear_fc2"), ("linear_qkv", "linear_proj", "linear_fc1", "linear_fc2")


def built(layout: list[str], task: Task) -> Any:
    """What the engine is made of: where its weights and ranks are, and whose layers and optimizer it has."""
    engine = _engine(layout, task)
    inner = getattr(engine.optimizer, "chained_optimizers", [engine.optimizer])[0].optimizer
    return {
        "device": str(next(engine.module.parameters()).device.type),
        "backend": dist.get_backend(),
        "linears": sorted({type(each).__name__ for each in _named(engine, _LINEARS).values()}),
        "optimizer": f"{type(inner).__module__}.{type(inner).__name__}",
    }


def carry(layout: list[str], task: Task) -> Any:
    """Loads a checkpoint and saves it as it is, before any step."""
    engine = _engine(layout, task)
    engine.save(Path(task["save"]), {})
    return str(engine.finish_saves(wait=True))


def peak(layout: list[str], task: Task) -> Any:
    """Most bytes that a training step held beside what was held before, and what a plan says of it."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    engine = _engine(layout, task)
    found = take_steps(engine, [task["batch"]], "grpo")
    held = torch.cuda.max_memory_allocated() - before
    sequences = task["batch"]["sequences"]
    longest = max(len(s["ids"]) - s["prompt_length"] for s in sequences)
    rollout = Rollout(1, len(sequences), sequences[0]["prompt_length"], longest / 2, longest)
    planned = memory_of(
        engine.architecture, layout_of(engine.config), rollout, reference=False, longest_prompt=rollout.prompt_tokens
    )
    # The context and the communicators are not torch's.
    return {"steps": found, "held": held, "planned": planned.training_peak - planned.always["overhead"]}


# --- FP8 --------------------------------------------------------------------------------------------------------------


def _named(engine: MegatronEngine, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: each for name, each in engine.module.named_modules() if name.split(".")[-1] in names}


def _rounded(x: Tensor) -> Tensor:
    """E4M3 with one scale for the whole tensor, as the tensorwise recipe rounds, back in the tensor's own type."""
    scale = 448 / x.float().abs().max()
    return ((x.float() * scale).to(torch.float8_e4m3fn).float() / scale).to(x.dtype)


def _distance(found: Tensor, wanted: Tensor) -> float:
    """Size of the difference as a share of the size of what was wanted."""
    return float((found.float() - wanted.float()).norm() / wanted.float().norm())


@contextlib.contextmanager
def _emulated(engine: MegatronEngine, recipe: str) -> Iterator[None]:
    """Products of the layers with both factors rounded to E4M3, gradients as they are: the CPU's stand-in for FP8."""

    def rounded(module: Any, inputs: Any, output: Any) -> Any:
        x, weight = inputs[0].detach(), module.weight.detach()
        return output[0] + (_rounded(x) @ _rounded(weight).t() - x @ weight.t()), *output[1:]

    linears = _named(engine, _LINEARS).values() if recipe != "none" else ()
    handles = [each.register_forward_hook(rounded) for each in linears]
    yield
    for handle in handles:
        handle.remove()


def _quantised(linear: Any) -> tuple[Tensor, Tensor]:
    """The weight that Transformer Engine multiplied with, dequantised, and its scales."""
    if not on_gpu():
        return _rounded(linear.weight.detach()), 448 / linear.weight.detach().float().abs().max()[None]
    copy = linear._fp8_workspaces["weight"]
    blocks = getattr(copy, "_rowwise_scale_inv", None)
    return copy.dequantize(), copy._scale_inv if blocks is None else blocks


def fp8(layout: list[str], task: Task) -> Any:
    """Log-probabilities and steps by a recipe, and what shows which kernels ran."""
    recipe = task["recipe"]
    chosen = [*layout, f"model.fp8={recipe}"]
    # Settled here too, where the engine cannot have it.
    load(["output=unused", "model.path=unused", *chosen, *task["overrides"]])
    engine = _engine(chosen if on_gpu() else layout, task)
    seen: dict[str, list[list[float]]] = {}

    def look(name: str) -> Any:
        def compare(module: Any, inputs: Any, output: Any) -> None:
            x, weight = inputs[0].detach(), module.weight.detach()
            exact = x.float() @ weight.float().t()
            emulated = _rounded(x).float() @ _rounded(weight).float().t()
            seen.setdefault(name, []).append([_distance(output[0], exact), _distance(emulated, exact)])

        return compare

    with contextlib.nullcontext() if on_gpu() else _emulated(engine, recipe):
        # Delayed scaling knows its scales after a gradient; at a rate of 0 the weights stay as they are.
        first = {**task["batches"][0], "learning_rate": 0.0}
        found: dict[str, Any] = {"steps": take_steps(engine, [first], "grpo")}
        handles = [each.register_forward_hook(look(name)) for name, each in _named(engine, _PRODUCTS).items()]
        found["logprobs"] = engine.logprobs(batch_of(task["probe"]))
        for handle in handles:
            handle.remove()
        found["products"] = seen
        found["weights"] = {}
        if recipe != "none":
            for name, linear in _named(engine, _LINEARS).items():
                weight, scales = _quantised(linear)
                found["weights"][name] = [_distance(weight, linear.weight.detach()), scales.float().flatten().tolist()]
        found["steps"] += take_steps(engine, [task["batches"][1]], "grpo")
    if recipe == "delayed" and on_gpu():
        histories = [each.fp8_meta["scaling_fwd"].amax_history for each in _named(engine, _LINEARS).values()]
        found["amax"] = min(float(history.max()) for history in histories)
    return found


TASKS = {**worker.TASKS, "built": built, "carry": carry, "peak": peak, "fp8": fp8}


def main() -> None:
    folder = Path(sys.argv[1])
    job = json.loads((folder / "job.json").read_text())
    # Where it stands, should it hang.
    faulthandler.dump_traceback_later(job["deadline_s"], exit=True)
    torch.set_num_threads(1)
    sys.addaudithook(worker._hold_at_weights)
    init_process_group(load(["output=unused", "model.path=unused", "parallel.timeout_minutes=1"]))
    results: dict[str, Any] = {"device": str(device())}
    for name, task in job["tasks"].items():
        try:
            results[name] = TASKS[task["kind"]](job["layout"], task)
        except Exception:
            results[name] = {"error": traceback.format_exc()}
        # Engines hold themselves; the next one's memory is to be measured alone.
        gc.collect()
        torch.cuda.empty_cache()
        partial = folder / "result.partial"
        partial.write_text(json.dumps(results))
        partial.replace(folder / "result.json")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
