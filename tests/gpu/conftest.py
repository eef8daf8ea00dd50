"""The launches that the GPU tests share: one process for each kind of layer, both at once."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.conftest import descendants, kill, start
from tests.conversion.models import save_folder
from tests.engines import reference
from tests.engines.conftest import COMMON, KL, NO_KL, RECOMPUTE, SMALL, Results, World
from tests.gpu.place import ENVIRONMENT, ON_GPU

MODELS = ("qwen2-tied", "qwen3-untied", "llama-scaled-tied")
RECIPES = ("delayed", "tensorwise", "blockwise")
# FP8 by blocks wants sides that 128 divides; the rest as small as can be.
SIZES = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
}
# A step whose activations outweigh what a plan leaves out; on a CPU there is no count to hold it against.
_LARGE = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "num_hidden_layers": 8,
}
_LARGE_LENGTH = 4096
_LARGE_VOCABULARY, _LARGE_TOKENS = 32000, 8192
_LAYERS = {"local": "local", "engine": "auto"}
# What FP8 asks for, since responses are sampled in bfloat16.
CORRECTED = "algorithm.importance=truncated"
BF16, FLOAT32 = "model.precision=bfloat16", "model.precision=float32"
# Seconds of a launch. On a CPU it is there against hanging alone.
_DEADLINE_S = 120 if ON_GPU else 400


def differences(found: list[list[float]], wanted: list[list[float]]) -> Tensor:
    """Between the log-probabilities of two computations, in nats, one after another."""
    ours, theirs = (torch.tensor([value for row in rows for value in row]) for rows in (found, wanted))
    return (ours - theirs).abs()


class GpuWorld(World):
    """Models and data as of `tests.engines`, at sizes that Transformer Engine's kernels take, and two launches.

    Every weight is a bfloat16 number, so that what is computed in either precision has the same reference.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @cache  # noqa: B019
    def hf(self, model: str) -> Path:
        folder = self.root / f"{model}-hf"
        if model == "large":
            sizes = {**(_LARGE if ON_GPU else SIZES), "max_position_embeddings": _LARGE_LENGTH}
            return save_folder("qwen2-tied", folder, torch.bfloat16, vocabulary=_LARGE_VOCABULARY, **sizes)
        return save_folder(model, folder, torch.bfloat16, **SIZES)

    @cache  # noqa: B019
    def spoken(self) -> Path:
        return self.checkpoint("qwen2-tied")

    def large_batch(self) -> Results:
        """A group of eight that fills one micro-batch."""
        rng, tokens = random.Random(3), _LARGE_TOKENS if ON_GPU else _LARGE_TOKENS // 16
        prompt = [rng.randrange(_LARGE_VOCABULARY) for _ in range(tokens // 16)]
        sequences = []
        for number in range(8):
            # 7/16 to 21/16 of an equal share each, 15/16 of the micro-batch in all.
            length = (tokens - len(prompt)) // 8 * (7 + 2 * number) // 14
            sequences.append(
                {
                    "ids": prompt + [rng.randrange(_LARGE_VOCABULARY) for _ in range(length)],
                    "prompt_length": len(prompt),
                    "advantage": 1.0 - number / 4,
                    "old_logprobs": [-10.0] * length,
                    "weights": [1.0] * length,
                }
            )
        return {"sequences": sequences, "temperature": 1.0, "learning_rate": 1e-5}

    def _task(self, kind: str, model: str, *overrides: str, **more: Any) -> Results:
        return {"kind": kind, "model": str(self.checkpoint(model)), "overrides": list(overrides), **more}

    @cache  # noqa: B019
    def unclipped(self, model: str) -> Results:
        """A batch with ratios of one, so that rounding moves no token over the edge of the clip range."""
        batch, policy = self.batches(model)[1], reference.load_model(self.hf(model))
        logprobs = reference.response_logprobs(policy, batch)
        sequences = [
            {**sequence, "old_logprobs": values} for sequence, values in zip(batch["sequences"], logprobs, strict=True)
        ]
        return {**batch, "sequences": sequences}

    def _gradient(self, name: str, model: str, *overrides: str) -> Results:
        batch, folder = self.unclipped(model), self.gradient_folder(name)
        folder.parent.mkdir(exist_ok=True)
        return self._task("gradient", model, *overrides, batch=batch, save=str(folder))

    def _samples(self, model: str, *overrides: str) -> Results:
        plain = {"copies": 4, "temperature": 1.0, "max_new_tokens": 24, "stop_ids": [7], "seed": 5}
        samplings = {"greedy": {**plain, "copies": 1, "temperature": 0.0, "stop_ids": []}, "sampled": plain}
        return self._task("generate", model, NO_KL, *overrides, prompts=self.prompts(), samplings=samplings)

    def _saves(self, launch: str, precision: str) -> dict[str, Results]:
        name = f"{launch}-{precision.split('=')[1]}"
        whole = self._saving(name, KL, precision)
        resumed = self._resuming(name, KL, precision)
        return {
            f"snapshot {name}": self.snapshot_task(name, NO_KL, precision),
            f"whole {name}": whole,
            f"resumed {name}": resumed,
        }

    def _tasks(self, launch: str) -> dict[str, Results]:
        tasks: dict[str, Results] = {"built": self._task("built", "qwen2-tied", BF16)}
        for model in MODELS:
            tasks[f"bfloat16 {model}"] = self.train_task(KL, BF16, model=model)
            tasks[f"sample bfloat16 {model}"] = self._samples(model, BF16)
            key = f"gradient {launch} bfloat16 {model}"
            tasks[key] = self._gradient(key, model, NO_KL, SMALL, BF16)
        if launch == "local":
            for model in MODELS:
                tasks[f"float32 {model}"] = self.train_task(KL, SMALL, model=model)
                tasks[f"sample float32 {model}"] = self._samples(model)
                for name, settings in (("", [SMALL]), (" recompute", [SMALL, RECOMPUTE])):
                    key = f"gradient {launch} float32 {model}{name}"
                    tasks[key] = self._gradient(key, model, NO_KL, *settings)
            return tasks | self._saves(launch, FLOAT32)
        carried = {"save": str(self.root / "carried")}
        tasks["carry"] = self._task("carry", "qwen2-tied", NO_KL, BF16, **carried)
        tasks |= {
            f"fp8 {recipe}": self.train_task(NO_KL, BF16, CORRECTED, kind="fp8", recipe=recipe)
            for recipe in ("none", *RECIPES)
        }
        lengths = [f"parallel.micro_batch_tokens={_LARGE_TOKENS}", f"model.max_length={_LARGE_LENGTH}"]
        tasks["peak"] = self._task("peak", "large", NO_KL, BF16, *lengths, batch=self.large_batch())
        return tasks | self._saves(launch, BF16)

    def start(self) -> None:
        """Starts both launches."""
        for launch, layers in _LAYERS.items():
            folder = self.root / launch
            folder.mkdir()
            layout = [*COMMON, f"model.transformer={layers}"]
            job = {"layout": layout, "tasks": self._tasks(launch), "deadline_s": _DEADLINE_S}
            (folder / "job.json").write_text(json.dumps(job))
            command = [sys.executable, "-m", "tests.gpu.worker", str(folder)]
            self._processes[launch] = start(command, folder / "log", **ENVIRONMENT)

    def stop(self) -> None:
        """Ends what still runs."""
        for process in self._processes.values():
            if process.poll() is None:
                kill(descendants(process.pid))
                process.kill()
                process.wait()

    def found(self, launch: str, task: str) -> Any:
        """What a task found, as soon as it has; the test fails with its error, or with the log where it never will."""
        file, process, end = self.root / launch / "result.json", self._processes[launch], time.monotonic() + _DEADLINE_S
        while True:
            ended = process.poll() is not None
            results = json.loads(file.read_text()) if file.exists() else {}
            if task in results or ended or time.monotonic() > end:
                break
            time.sleep(0.1)
        if task not in results:
            pytest.fail(f"{launch} did not come to {task}:\n{(self.root / launch / 'log').read_text()[-6000:]}")
        if "error" in results[task]:
            pytest.fail(f"{launch}: {task}: {results[task]['error']}")
        return results[task]


@pytest.fixture(scope="session")
def gpu_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GpuWorld]:
    world = GpuWorld(tmp_path_factory.mktemp("gpu"))
    world.start()
    yield world
    world.stop()
