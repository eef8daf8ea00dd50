"""One process of a torchrun job: runs a list of tasks on engines of one layout and writes what each rank found.

Argument: a folder with `job.json`: {"layout": [overrides], "tasks": {name: {"kind", "model", "overrides", ...}}}.
Each rank writes `result.RANK.json`, name -> what the task returned, or {"error": [type, message]}.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from conversion import megatron_cpu

megatron_cpu.install()

from megatron.core import parallel_state  # noqa: E402

from recipes.engines.base import Sampling, TokenBatch, TokenSequence  # noqa: E402
from recipes.engines.megatron.engine import MegatronEngine  # noqa: E402
from recipes.engines.megatron.vocabulary import token_logprobs  # noqa: E402
from recipes.rl.losses import Objective, policy_loss  # noqa: E402
from recipes.runtime.config import load  # noqa: E402
from recipes.runtime.launch import init_process_group  # noqa: E402
from tests.engines.constants import CLIP_HIGH, CLIP_LOW, OBJECTIVES  # noqa: E402

Task = dict[str, Any]


def _engine(layout: list[str], task: Task) -> MegatronEngine:
    overrides = [*layout, *task.get("overrides", [])]
    return MegatronEngine(load(["output=unused", f"model.path={task['model']}", *overrides]))


def _batch(values: dict[str, Any]) -> TokenBatch:
    sequences = tuple(
        TokenSequence(tuple(s["ids"]), s["prompt_length"], s["advantage"], tuple(s["old_logprobs"]))
        for s in values["sequences"]
    )
    return TokenBatch(sequences, values["temperature"])


def _steps(engine: MegatronEngine, batches: list[dict[str, Any]], name: str) -> list[dict[str, float]]:
    kl_coef = engine.config.algorithm.kl_coef
    found = []
    for values in batches:
        batch = _batch(values)
        objective = Objective(clip_low=CLIP_LOW, clip_high=CLIP_HIGH, kl_coef=kl_coef, **OBJECTIVES[name])
        loss = policy_loss(objective, tokens=batch.response_tokens, sequences=len(batch.sequences))
        metrics = engine.train_step(batch, loss, learning_rate=values["learning_rate"], reference=kl_coef > 0)
        found.append(metrics | {"loss": metrics["loss"] / metrics["tokens"]})
    return found


def train(layout: list[str], task: Task) -> Any:
    """Trains on `batches` from the checkpoint or, with `load`, from a saved one; `save` = {number of steps: folder}."""
    engine = _engine(layout, task)
    state = engine.load(Path(task["load"])) if "load" in task else {}
    found: dict[str, Any] = {"state": state, "before": engine.logprobs(_batch(task["probe"])), "steps": []}
    saves = {int(steps): Path(folder) for steps, folder in task.get("save", {}).items()}
    for number, values in enumerate(task["batches"], 1):
        found["steps"] += _steps(engine, [values], task.get("objective", "grpo"))
        if number in saves:
            engine.save(saves[number], {"step": number, "text": "ä", "ratio": 0.1})
            found["logits"] = engine.logits(task["probe"]["sequences"][0]["ids"]).tolist()
    found["after"] = engine.logprobs(_batch(task["probe"]))
    if engine.config.algorithm.kl_coef > 0:
        found["reference"] = engine.logprobs(_batch(task["probe"]), "reference")
        found["after_reference"] = engine.logprobs(_batch(task["probe"]))
    return found


def generate(layout: list[str], task: Task) -> Any:
    """Samples by each of `samplings`; also the trainer's log-probabilities of what was sampled."""
    engine = _engine(layout, task)
    found = {"logits": engine.logits(task["prompts"][0]).tolist()}
    for name, values in task["samplings"].items():
        sampling = Sampling(**{**values, "stop_ids": tuple(values["stop_ids"])})
        groups = engine.generate(task["prompts"], sampling)
        sequences = [
            TokenSequence((*prompt, *c.ids), len(prompt))
            for prompt, group in zip(task["prompts"], groups, strict=True)
            for c in group
        ]
        found[name] = {
            "ids": [[list(c.ids) for c in group] for group in groups],
            "logprobs": [[list(c.logprobs) for c in group] for group in groups],
            "finished": [[c.finished for c in group] for group in groups],
            "trainer": engine.logprobs(TokenBatch(tuple(sequences), sampling.temperature or 1.0)),
        }
    return found


def start(layout: list[str], task: Task) -> Any:
    """Only builds the engine, and loads when asked to."""
    engine = _engine(layout, task)
    return engine.load(Path(task["load"])) if "load" in task else {}


def vocabulary(layout: list[str], task: Task) -> Any:
    """token_logprobs on this rank's shard of random logits against torch on all of them: greatest differences."""
    config = load(["output=unused", "model.path=unused", *layout])
    if not parallel_state.model_parallel_is_initialized():
        parallel_state.initialize_model_parallel(config.parallel.tensor, config.parallel.pipeline)
    group = parallel_state.get_tensor_model_parallel_group()
    size, rank = dist.get_world_size(group), dist.get_rank(group)
    worst: dict[str, float] = {}
    for valid, padded in ((96, 96), (99, 112), (50, 112)):
        for temperature in (1.0, 0.7, 2.0):
            generator = torch.Generator().manual_seed(valid)
            logits = torch.randn(3, 5, padded, generator=generator) * 4
            logits[0, 0, :10] += 300  # far from uniform: a sum without the peak taken off would overflow
            targets = torch.randint(0, valid, (3, 5), generator=generator)
            targets[0, :2] = torch.tensor([0, valid - 1])
            weights = torch.randn(3, 5, generator=generator)
            whole = logits[..., :valid].clone().requires_grad_()
            expected = torch.log_softmax(whole / temperature, -1)
            expected_entropy = -(expected.exp() * expected).sum(-1)
            expected = expected.gather(-1, targets[..., None])[..., 0]
            entropy_weights = torch.randn(3, 5, generator=generator)
            (expected * weights + expected_entropy * entropy_weights).sum().backward()
            width = padded // size
            shard = logits[..., rank * width : (rank + 1) * width].clone().requires_grad_()
            given = shard.detach().clone()
            found, entropy = token_logprobs(shard, targets, temperature=temperature, valid=valid, group=group)
            (found * weights + entropy * entropy_weights).sum().backward()
            assert whole.grad is not None
            assert shard.grad is not None
            gradient = torch.zeros_like(logits)
            gradient[..., :valid] = whole.grad
            differences: dict[str, torch.Tensor] = {
                "logprob": (found - expected).abs().max(),
                "entropy": (entropy - expected_entropy).abs().max(),
                "gradient": (shard.grad - gradient[..., rank * width : (rank + 1) * width]).abs().max(),
                "input": (shard.detach() - given).abs().max(),
            }
            for name, value in differences.items():
                worst[name] = max(worst.get(name, 0.0), float(value.detach()))
    return worst


TASKS = {"train": train, "generate": generate, "start": start, "vocabulary": vocabulary}


def main() -> None:
    folder = Path(sys.argv[1])
    job = json.loads((folder / "job.json").read_text())
    torch.set_num_threads(1)
    init_process_group(load(["output=unused", "model.path=unused", "parallel.timeout_minutes=1"]))
    results: dict[str, Any] = {}
    for name, task in job["tasks"].items():
        try:
            results[name] = TASKS[task["kind"]](job["layout"], task)
        except Exception as error:
            # Every rank must fail alike, or the next collective call would hang until its deadline.
            if not task.get("may_fail"):
                raise
            results[name] = {"error": [type(error).__name__, str(error)]}
    (folder / f"result.{dist.get_rank()}.json").write_text(json.dumps(results))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
