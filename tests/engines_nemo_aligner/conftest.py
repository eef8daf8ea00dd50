"""The launches that the tests of the second engine share: each layout starts once and runs all its tasks.

These tests run in the second engine's own environment (`make test-aligner`) and are not collected elsewhere.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY, finish, start
from tests.engines.constants import BUCKETS

if importlib.util.find_spec("nemo_aligner") is None:
    collect_ignore_glob = ["test_*.py"]

LAYOUTS = {
    "tp2": ["parallel.tensor=2"],
    "pp2": ["parallel.pipeline=2"],
    "dp2": ["parallel.tensor=1"],
}
COMMON = [
    *("model.max_length=128", "rollout.max_new_tokens=32", "parallel.timeout_minutes=1"),
    *("optimizer.weight_decay=0.05", "optimizer.eps=1e-4", "parallel.micro_batch_tokens=4096"),
]
NO_KL, KL = "algorithm.kl_coef=0.0", "algorithm.kl_coef=0.2"
SMALL = "parallel.micro_batch_tokens=50"
LIMIT = 16
_ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY)}

Results = dict[str, Any]


class World:
    """Models, data, and the results of each launch on either engine; made on first use and kept for the session."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._results: dict[str, list[Results]] = {}

    @cache  # noqa: B019  # one instance a session
    def hf(self, model: str) -> Path:
        folder = self.root / f"{model}-hf"
        if model == "qwen3":
            # NeMo's transformers does not know it, the first environment's does.
            code = "import pathlib, tests.conversion.models as m; m.save_folder('qwen3-tied', pathlib.Path(%r))"
            command = [megatron_python(), "-c", code % str(folder)]
            subprocess.run(command, env=_ENVIRONMENT, cwd=REPOSITORY, check=True)
            return folder
        from tests.engines_nemo_aligner.models import save_folder

        return save_folder(model, folder)

    @cache  # noqa: B019
    def checkpoint(self, model: str, layout: str) -> Path:
        from conversion import hf_to_megatron

        return hf_to_megatron.convert(self.hf(model), self.root / f"{model}-{layout}", layout=layout).path

    @cache  # noqa: B019
    def batches(self, model: str) -> list[Results]:
        """Three batches of uneven sequences with ratios on both sides of the clip range; four share a prompt.

        Those of qwen3 are qwen2's, since what a batch says of the policy before need not be true.
        """
        if model == "qwen3":
            return self.batches("qwen2")
        from tests.engines_nemo_aligner.models import VOCABULARY, response_logprobs

        rng, found = random.Random(1), []
        prompts: dict[int, list[int]] = {}
        shapes = [(12, 30), (12, 1), (12, 40), (5, 2), (5, 17), (2, 9), (12, 25)]
        advantages = [1.5, 0.8, -0.6, 1.1, 0.3, -1.2, 2.0]
        for number, count in enumerate((7, 6, 1)):
            sequences = []
            for (prompt, response), advantage in zip(shapes[number : number + count], advantages, strict=False):
                shared = prompts.setdefault(prompt, [rng.randrange(VOCABULARY) for _ in range(prompt)])
                ids = shared + [rng.randrange(VOCABULARY) for _ in range(response)]
                weights = [rng.choice((0.5, 1.0, 2.0)) for _ in range(response)]
                sequences.append({"ids": ids, "prompt_length": prompt, "advantage": advantage, "weights": weights})
            for sequence in sequences:
                values = response_logprobs(self.hf(model), sequence, 0.8)
                sequence["old_logprobs"] = [value + rng.gauss(0, 0.2) for value in values]
            found.append({"sequences": sequences, "temperature": 0.8, "learning_rate": 1e-3 * (number + 1)})
        return found

    def _train(self, model: str, engine: str, *overrides: str, **more: Any) -> Results:
        batches = self.batches(model)
        return {
            "kind": "train",
            "model": str(self.checkpoint(model, engine)),
            "overrides": list(overrides),
            "batches": batches,
            "probe": batches[0],
            **more,
        }

    def _between(self, launch: str, engine: str, tensor: int) -> Results:
        """Sampling around updates."""
        (self.root / "between").mkdir(exist_ok=True)
        sampling = {"copies": 4, "temperature": 1.0, "max_new_tokens": LIMIT, "stop_ids": [7, 8, 9], "seed": 5}
        more = {"prompts": self._generate("nemo")["prompts"], "sampling": sampling}
        folder = str(self.root / "between" / launch)
        return self._train("qwen2", engine, KL, f"rollout.tensor={tensor}", kind="between", folder=folder, **more)

    def _generate(self, engine: str) -> Results:
        from tests.engines_nemo_aligner.models import VOCABULARY

        rng = random.Random(2)
        plain = {"copies": 4, "temperature": 1.0, "max_new_tokens": LIMIT, "stop_ids": [7, 8, 9], "seed": 5}
        return {
            "kind": "generate",
            "model": str(self.checkpoint("qwen2", engine)),
            "overrides": [NO_KL],
            "prompts": [[rng.randrange(VOCABULARY) for _ in range(length)] for length in (3, 17, 1, 9, 30)],
            "samplings": {
                "greedy": {**plain, "copies": 1, "temperature": 0.0},
                "sampled": plain,
                "filtered": {**plain, "top_k": 12, "top_p": 0.8, "temperature": 1.3, "limits": [5, 16, 1, 9, 12]},
            },
        }

    def saved(self, model: str) -> Path:
        """A checkpoint that the launch at TP 2 saves after two steps."""
        return self.root / "saved" / f"{model}-step"

    def exported(self, launch: str) -> Path:
        """A checkpoint saved where the same weights were handed over."""
        return self.root / f"exported-{launch}"

    def _tasks(self, launch: str) -> dict[str, Results]:
        if launch == "megatron":
            return {
                "qwen2": self._train("qwen2", "megatron", KL),
                "llama": self._train("llama", "megatron", NO_KL),
                "qwen3": self._train("qwen3", "megatron", NO_KL),
                "gspo": self._train("qwen2", "megatron", KL, objective="gspo"),
                "generate": self._generate("megatron"),
                "between": self._between(launch, "megatron", 0),
            }
        tasks = {
            "qwen2": self._train("qwen2", "nemo", KL),
            "qwen2 in small micro-batches": self._train("qwen2", "nemo", KL, SMALL),
            "llama": self._train("llama", "nemo", NO_KL),
            "qwen3": self._train("qwen3", "nemo", NO_KL, SMALL),
            "gspo": self._train("qwen2", "nemo", KL, SMALL, objective="gspo"),
            "recompute": self._train("qwen2", "nemo", KL, "parallel.recompute=true"),
            "generate": self._generate("nemo"),
        }
        if launch != "dp2":
            more = {"kind": "export", "folder": str(self.exported(launch)), "limits": BUCKETS}
            tasks["export"] = self._train("qwen2", "nemo", KL, **more)
            tasks["between"] = self._between(launch, "nemo", 1)
        if launch == "tp2":
            (self.root / "saved").mkdir()
            for model, kl in (("qwen2", KL), ("llama", NO_KL)):
                tasks[f"save {model}"] = self._train(model, "nemo", kl, save={"2": str(self.saved(model))})
            wrong = {"kind": "refuse", "model": str(self.checkpoint("qwen2", "nemo")), "overrides": [NO_KL]}
            tasks |= {
                "layout": {**wrong, "model": str(self.checkpoint("qwen2", "megatron"))},
                "sequence": {**wrong, "overrides": [NO_KL, "parallel.sequence=true"]},
                "fp8": {
                    **wrong,
                    "overrides": [
                        NO_KL,
                        "model.precision=bfloat16",
                        "model.fp8=delayed",
                        "algorithm.importance=masked",
                    ],
                },
                "upstream": {**wrong, "kind": "upstream"},
                "diverged": self._train("qwen2", "nemo", NO_KL, kind="diverged", folder=str(self.root / "diverged")),
                "bfloat16": self._train("qwen2", "nemo", KL, "model.precision=bfloat16"),
            }
        else:
            self.results("tp2")
            last = {"load": str(self.saved("qwen2")), "batches": self.batches("qwen2")[2:]}
            tasks["resume"] = self._train("qwen2", "nemo", KL, **last)
        return tasks

    def results(self, launch: str) -> list[Results]:
        """Of every rank of a launch: tp2, pp2 or dp2 on this engine, or megatron, the first engine at TP 2."""
        if launch not in self._results:
            folder = self.root / launch
            if folder.exists():
                pytest.fail(f"the launch {launch} failed already; see the first test that asked for it")
            tasks, python, module = self._tasks(launch), sys.executable, "tests.engines_nemo_aligner.worker"
            if launch == "megatron":
                python, module = megatron_python(), "tests.engines.worker"
            folder.mkdir()
            layout = LAYOUTS.get(launch, LAYOUTS["tp2"])
            (folder / "job.json").write_text(json.dumps({"layout": [*COMMON, *layout], "tasks": tasks}))
            command = [python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", module]
            process = start([*command, str(folder)], folder / "log", PYTHONPATH=str(REPOSITORY))
            output = finish(process, folder / "log", deadline_s=240)
            assert process.returncode == 0, output[-6000:]
            self._results[launch] = [json.loads((folder / f"result.{rank}.json").read_text()) for rank in range(2)]
        return self._results[launch]


def megatron_python() -> str:
    """The interpreter of the first engine's environment."""
    python = os.environ.get("MEDATRON_MEGATRON_PYTHON", "")
    if not python:
        pytest.fail("set MEDATRON_MEGATRON_PYTHON to the Python of the first engine's environment (.venv/bin/python)")
    assert subprocess.run([python, "-c", "import megatron.core"], check=False).returncode == 0, python
    return python


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("engines"))
