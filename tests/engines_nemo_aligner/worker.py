"""One process of a torchrun job on the NeMo-Aligner engine; the counterpart of `tests.engines.worker`.

Argument: a folder with `job.json`: {"layout": [overrides], "tasks": {name: {"kind", "model", "overrides", ...}}}.
Each rank writes `result.RANK.json`, name -> what the task returned.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from recipes.engines import create_engine
from recipes.engines.base import EngineError
from recipes.runtime.config import ConfigError
from recipes.runtime.launch import init_process_group
from recipes.runtime.loading import load
from tests.engines.steps import batch_of, diverge, export_all, sample_all, sample_between, take_steps

Task = dict[str, Any]


def _engine(layout: list[str], task: Task) -> Any:
    overrides = ["engine=nemo_aligner", *layout, *task.get("overrides", [])]
    return create_engine(load(["output=unused", f"model.path={task['model']}", *overrides]))


def train(layout: list[str], task: Task) -> Any:
    """Trains on `batches` from the checkpoint or, with `load`, from a saved one; `save` = {number of steps: folder}."""
    engine = _engine(layout, task)
    state = engine.load(Path(task["load"])) if "load" in task else {}
    probe, ids = batch_of(task["probe"]), task["probe"]["sequences"][0]["ids"]
    found: dict[str, Any] = {"state": state, "start": engine.logits(ids).tolist()}
    found |= {"before": engine.logprobs(probe), "steps": []}
    saves = {int(steps): Path(folder) for steps, folder in task.get("save", {}).items()}
    for number, values in enumerate(task["batches"], 1):
        found["steps"] += take_steps(engine, [values], task.get("objective", "grpo"))
        if number in saves:
            engine.save(saves[number], {"step": number, "text": "ä"})
            found["logits"] = engine.logits(ids).tolist()
    found["published"] = str(engine.finish_saves(wait=True))
    found["after"] = engine.logprobs(probe)
    if engine.config.algorithm.kl_coef > 0:
        found["reference"] = engine.logprobs(probe, "reference")
    return found


def generate(layout: list[str], task: Task) -> Any:
    """Samples by each of `samplings`; also the trainer's log-probabilities of what was sampled."""
    engine = _engine(layout, task)
    return sample_all(engine, task)


def diverged(layout: list[str], task: Task) -> Any:
    """What the engine says of values that are not finite."""
    return diverge(_engine(layout, task), task["batches"][0], Path(task["folder"]))


def between(layout: list[str], task: Task) -> Any:
    """Samples around updates."""
    return sample_between(lambda: _engine(layout, task), task)


def export(layout: list[str], task: Task) -> Any:
    """The weights handed over at several moments."""
    return export_all(_engine(layout, task), task)


def refuse(layout: list[str], task: Task) -> Any:
    """What building the engine says."""
    try:
        _engine(layout, task)
    except (EngineError, ConfigError) as error:
        return str(error)
    return None


def upstream(layout: list[str], task: Task) -> Any:
    """What NeMo-Aligner's own entries to its defects do on our actor, and settings that it forgets."""
    actor = _engine(layout, task).actor
    found: dict[str, Any] = {
        "epsilon": actor.optimizer.config.adam_eps,
        "tp_only_amax_red": actor.module.config.tp_only_amax_red,
    }
    for name, call in {
        "infer": lambda: actor.infer({}),
        "loss": actor.get_actor_forward_output_and_loss_func,
    }.items():
        try:
            found[name] = repr(call())
        except EngineError as error:
            found[name] = str(error)
    return found


TASKS = {
    **{"train": train, "generate": generate, "export": export, "between": between},
    **{"diverged": diverged, "refuse": refuse, "upstream": upstream},
}


def main() -> None:
    folder = Path(sys.argv[1])
    job = json.loads((folder / "job.json").read_text())
    torch.set_num_threads(1)
    init_process_group(load(["output=unused", "model.path=unused", "parallel.timeout_minutes=1"]))
    results = {name: TASKS[task["kind"]](job["layout"], task) for name, task in job["tasks"].items()}
    (folder / f"result.{dist.get_rank()}.json").write_text(json.dumps(results))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
