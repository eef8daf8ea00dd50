"""The launches that the engine tests share: each layout starts once and runs all its tasks."""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from conversion import hf_to_megatron
from conversion.checkpoint import write_manifest
from tests.conftest import BESIDE_CUDA, finish, start
from tests.conversion.models import VOCABULARY, save_folder
from tests.engines import reference
from tests.engines.constants import BUCKETS, OBJECTIVES, ppo_overrides
from tests.engines.words import save_tokenizer

LAYOUTS = {
    "tp1": ["parallel.tensor=1"],
    "tp2": ["parallel.tensor=2"],
    "pp2": ["parallel.pipeline=2"],
    "dp2": ["parallel.tensor=1"],
    "tp2 pp2": ["parallel.tensor=2", "parallel.pipeline=2"],
}
PROCESSES = {"tp1": 1, "tp2": 2, "pp2": 2, "dp2": 2, "tp2 pp2": 4}
COMMON = [
    *("model.max_length=128", "rollout.max_new_tokens=32", "parallel.timeout_minutes=1"),
    *("optimizer.weight_decay=0.05", "optimizer.eps=1e-4", "parallel.micro_batch_tokens=4096"),
]
# At its usual epsilon Adam makes a full step of a gradient that is rounding alone, as a key's bias has one (it moves no
# softmax), and layouts would part by that.
WEIGHT_DECAY, EPSILON, KL_COEF = 0.05, 1e-4, 0.2
NO_KL, KL = "algorithm.kl_coef=0.0", f"algorithm.kl_coef={KL_COEF}"
SMALL = "parallel.micro_batch_tokens=50"
EACH_ALONE = "parallel.micro_batch_tokens=1"
# Of the batch whose gradients are compared: two on the first data parallel rank, one on the second.
UNEQUAL = "parallel.micro_batch_tokens=60"
RECOMPUTE = "parallel.recompute=true"
SEQUENCE = "parallel.sequence=true"
MODELS = ("qwen2-tied", "qwen3-untied")
# Layout and settings of the steps whose whole gradients are compared.
GRADIENTS: dict[str, tuple[str, list[str]]] = {
    "one micro-batch": ("tp1", [NO_KL]),
    "small micro-batches": ("tp1", [NO_KL, SMALL]),
    "a sequence a micro-batch": ("tp1", [NO_KL, EACH_ALONE]),
    "recompute": ("tp1", [NO_KL, SMALL, RECOMPUTE]),
    "tp2": ("tp2", [NO_KL]),
    "tp2 sequence parallel": ("tp2", [NO_KL, SMALL, SEQUENCE]),
    "tp2 sequence parallel recompute": ("tp2", [NO_KL, SMALL, SEQUENCE, RECOMPUTE]),
    "pp2": ("pp2", [NO_KL, SMALL]),
    "pp2 recompute": ("pp2", [NO_KL, SMALL, RECOMPUTE]),
    "dp2": ("dp2", [NO_KL]),
    "dp2 small micro-batches": ("dp2", [NO_KL, SMALL]),
    "dp2 unequal micro-batches": ("dp2", [NO_KL, UNEQUAL]),
    "tp2 pp2": ("tp2 pp2", [NO_KL, SMALL]),
    "tp2 pp2 sequence parallel": ("tp2 pp2", [NO_KL, EACH_ALONE, SEQUENCE]),
    "one micro-batch KL": ("tp1", [KL]),
    "tp2 pp2 sequence parallel KL": ("tp2 pp2", [KL, SMALL, SEQUENCE]),
}
# Layout, setting of PPO and further settings of steps that are compared whole.
PPO_STEPS: dict[str, tuple[str, str, list[str]]] = {
    "one micro-batch": ("tp1", "ppo", []),
    "small micro-batches": ("tp1", "vapo", [SMALL]),
    "a sequence a micro-batch": ("tp1", "ppo", [EACH_ALONE]),
    "tp2": ("tp2", "ppo", [SMALL]),
    "tp2 sequence parallel": ("tp2", "vapo", [SMALL, SEQUENCE]),
    "pp2": ("pp2", "ppo", [SMALL]),
    "dp2 in turns": ("dp2", "vapo", ["critic.offload=true"]),
    "dp2 small micro-batches": ("dp2", "ppo", [SMALL]),
    "tp2 pp2 sequence parallel": ("tp2 pp2", "ppo", [SMALL, SEQUENCE, RECOMPUTE]),
}
# Policies beside critics that start from another model, tied and untied.
CRITICS = (("qwen2-tied", "qwen3-untied"), ("qwen3-untied", "qwen2-tied"))
# Models and precisions whose weights are handed over.
EXPORTS = {
    "tp1": (("qwen2-tied", "float32"),),
    "tp2": (("qwen2-tied", "bfloat16"), ("qwen3-untied", "float32"), ("llama-scaled-tied", "float32")),
    "pp2": (("qwen2-tied", "float32"), ("qwen3-untied", "bfloat16")),
    "dp2": (("qwen2-tied", "float32"),),
    "tp2 pp2": (("qwen2-tied", "float32"),),
}
PROMPT_LENGTHS, LIMIT = (3, 17, 1, 9, 30), 24
# What the sampler's tasks set: limits of each prompt, strings inside and across tokens, filters that both bite.
LIMITS, STOP_STRINGS, FILTER = (5, 24, 1, 9, 16), ("é", "gab"), {"top_k": 12, "top_p": 0.8, "temperature": 1.3}
# Sampled again while rows that have ended leave the batch late.
SELDOM = ("limits", "all at once")
# In greedy responses: over three tokens, inside a token, and one that a prompt's last token would begin.
GREEDY_STOP_STRINGS = ("bgbf", "fa", "éd")

TINY = Path(__file__).parents[2] / "recipes" / "data" / "tiny_base"

Results = dict[str, Any]


class World:
    """Models, data, and the results of each launch; made on first use and kept for the session."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._results: dict[str, list[Results]] = {}

    @cache  # noqa: B019  # one instance a session
    def hf(self, model: str) -> Path:
        return save_folder(model, self.root / f"{model}-hf")

    @cache  # noqa: B019
    def checkpoint(self, model: str) -> Path:
        return hf_to_megatron.convert(self.hf(model), self.root / f"{model}-megatron").path

    @cache  # noqa: B019
    def batches(self, model: str) -> list[Results]:
        """Four batches of uneven sequences with ratios on both sides of the clip range; the last has one sequence.

        In the first ones four and two sequences share a prompt, and one of them is a single token.
        """
        rng, policy, found = random.Random(1), reference.load_model(self.hf(model)), []
        prompts: dict[int, list[int]] = {}
        shapes = [(12, 30), (12, 1), (12, 40), (5, 2), (5, 17), (2, 9), (12, 25)]
        advantages = [1.5, 0.8, -0.6, 1.1, 0.3, -1.2, 2.0]
        for number, count in enumerate((7, 6, 5, 1)):
            sequences = []
            for (prompt, response), advantage in zip(shapes[number : number + count], advantages, strict=False):
                shared = prompts.setdefault(prompt, [rng.randrange(VOCABULARY) for _ in range(prompt)])
                ids = shared + [rng.randrange(VOCABULARY) for _ in range(response)]
                weights = [rng.choice((0.5, 1.0, 2.0)) for _ in range(response)]
                sequences.append({"ids": ids, "prompt_length": prompt, "advantage": advantage, "weights": weights})
            batch = {"sequences": sequences, "temperature": 0.8, "learning_rate": 1e-3 * (number + 1)}
            for sequence, logprobs in zip(sequences, reference.response_logprobs(policy, batch), strict=True):
                sequence["old_logprobs"] = [value + rng.gauss(0, 0.2) for value in logprobs]
            found.append(batch)
        return found

    def prompts(self) -> list[list[int]]:
        rng = random.Random(2)
        return [[rng.randrange(VOCABULARY) for _ in range(length)] for length in PROMPT_LENGTHS]

    @cache  # noqa: B019
    def greedy(self) -> list[list[int]]:
        return reference.greedy(self.hf("qwen2-tied"), self.prompts(), LIMIT)

    def stop(self) -> int:
        """A token that some greedy responses hold and others do not."""
        candidates = [token for response in self.greedy() for token in response[2:-2]]
        return min(candidates, key=lambda token: abs(sum(token in response for response in self.greedy()) - 2.5))

    def train_task(
        self, *overrides: str, model: str = "qwen2-tied", steps: int = 2, first: int = 0, **more: Any
    ) -> Results:
        batches = self.batches(model)
        return {
            "kind": "train",
            "model": str(self.checkpoint(model)),
            "overrides": list(overrides),
            "batches": batches[first : first + steps],
            "probe": batches[0],
            **more,
        }

    @cache  # noqa: B019
    def spoken(self) -> Path:
        """The checkpoint of qwen2-tied with a tokenizer that can decode."""
        folder = save_folder("qwen2-tied", self.root / "spoken-hf")
        checkpoint = hf_to_megatron.convert(folder, self.root / "spoken-megatron")
        # Put there afterwards: the conversion refuses a tokenizer that knows no more than seven letters.
        save_tokenizer(checkpoint.hf_dir)
        write_manifest(checkpoint.path, source=checkpoint.manifest.source)
        return checkpoint.path

    def generate_task(self, *overrides: str) -> Results:
        stop = self.stop()
        greedy = {"copies": 1, "temperature": 0.0, "max_new_tokens": LIMIT, "stop_ids": []}
        plain = {"copies": 4, "temperature": 1.0, "max_new_tokens": LIMIT, "stop_ids": [], "seed": 5}
        samplings = {
            "greedy": greedy,
            "greedy with a stop": {**greedy, "copies": 2, "stop_ids": [stop]},
            "greedy with strings": {**greedy, "stop_strings": GREEDY_STOP_STRINGS},
            "sampled": {**plain, "stop_ids": [stop, 7]},
            "hot": {"copies": 2, "temperature": 1.7, "max_new_tokens": 6, "stop_ids": [1, 2, 3, 4], "seed": 5},
            "other seed": {**plain, "stop_ids": [stop, 7], "seed": 6},
            "plain": plain,
            "limits": {**plain, "limits": LIMITS},
            "strings": {**plain, "stop_strings": STOP_STRINGS},
            "all at once": {**plain, **FILTER, "limits": LIMITS, "stop_strings": STOP_STRINGS, "stop_ids": [stop]},
            "filtered": {**plain, **FILTER},
            "likeliest of one": {**plain, "copies": 1, "top_k": 1},
            "tiny nucleus": {**plain, "copies": 1, "top_p": 1e-6},
        }
        return {
            "kind": "generate",
            "model": str(self.spoken()),
            "overrides": [NO_KL, *overrides],
            "prompts": self.prompts(),
            "samplings": samplings,
            "seldom": SELDOM,
            "positions": max(map(sum, zip(PROMPT_LENGTHS, LIMITS, strict=True))),
        }

    # --- launches ------------------------------------------------------------------------------------------------

    def saved(self, name: str) -> Path:
        """A checkpoint that a launch saves after two steps."""
        return self.root / "saved" / name / "step_000002"

    def _saving(self, name: str, *overrides: str) -> Results:
        self.saved(name).parent.mkdir(parents=True, exist_ok=True)
        return self.train_task(*overrides, steps=4, save={"2": str(self.saved(name))})

    def snapshot_task(self, name: str, *overrides: str) -> Results:
        """Saves while training goes on, under `saved_beside(name)`."""
        return {**self.train_task(*overrides, steps=4), "kind": "snapshot", "folder": str(self.saved_beside(name))}

    def saved_beside(self, name: str) -> Path:
        """A checkpoint that was written beside training."""
        return self.root / "beside" / name

    def _breaking(self, how: str) -> Results:
        folder = self.saved_beside(f"broken-{how.replace(' ', '-')}")
        return {**self.train_task(NO_KL, steps=1), "kind": "broken save", "how": how, "folder": str(folder)}

    def exported(self, launch: str, model: str) -> Path:
        """A checkpoint saved where `_export_tasks` handed the same weights over."""
        return self.root / "exported" / f"{launch}-{model}".replace(" ", "-")

    def _export_tasks(self, launch: str) -> dict[str, Results]:
        (self.root / "exported").mkdir(exist_ok=True)
        return {
            f"export {model}": {
                **self.train_task(KL, f"model.precision={precision}", model=model),
                **{"kind": "export", "folder": str(self.exported(launch, model)), "limits": BUCKETS},
            }
            for model, precision in EXPORTS[launch]
        }

    def _between_tasks(self, launch: str, *overrides: str) -> dict[str, Results]:
        """Sampling around updates, in the trainer's layout and alone."""
        (self.root / "between").mkdir(exist_ok=True)
        sampling = {"copies": 3, "temperature": 1.0, "max_new_tokens": LIMIT, "stop_ids": [self.stop(), 7], "seed": 5}
        return {
            f"between: {tensor}": {
                **self.train_task(KL, SMALL, f"rollout.tensor={tensor}", *overrides),
                **{"kind": "between", "prompts": self.prompts(), "sampling": sampling},
                "folder": str(self.root / "between" / f"{launch}-{tensor}".replace(" ", "-")),
            }
            for tensor in (0, 1)
        }

    def _resuming(self, name: str, *overrides: str) -> Results:
        return self.train_task(*overrides, first=2, load=str(self.saved(name)))

    def gradient_folder(self, name: str) -> Path:
        """Where a launch saves the gradient of `GRADIENTS[name]`."""
        return self.root / "gradients" / name.replace(" ", "-")

    def _gradient_tasks(self, layout: str) -> dict[str, Results]:
        (self.root / "gradients").mkdir(exist_ok=True)
        return {
            f"gradient: {name}": {
                "kind": "gradient",
                "model": str(self.checkpoint("qwen2-tied")),
                "overrides": overrides,
                # The second batch: at the first one's weights, yet its ratios are others.
                "batch": self.batches("qwen2-tied")[1],
                "save": str(self.gradient_folder(name)),
            }
            for name, (wanted, overrides) in GRADIENTS.items()
            if wanted == layout
        }

    @cache  # noqa: B019
    def scored(self) -> list[Results]:
        """Two of the batches with what each response was paid; one was not scored, some were cut or are wrong."""
        found = copy.deepcopy(self.batches("qwen2-tied")[:2])
        for number, s in enumerate(s for batch in found for s in batch["sequences"]):
            reward = None if number == 2 else s["advantage"]
            s |= {"reward": reward, "right": number % 3 == 0, "finished": number % 4 != 1}
        return found

    @cache  # noqa: B019
    def head(self) -> list[float]:
        rng = random.Random(3)
        return [rng.gauss(0, 0.05) for _ in range(64)]

    def ppo_folder(self, kind: str, name: str) -> Path:
        """Where a launch saves what `PPO_STEPS[name]` comes to: its gradients, or a checkpoint."""
        return self.root / "ppo" / f"{kind} {name}".replace(" ", "-")

    def _ppo_tasks(self, layout: str) -> dict[str, Results]:
        (self.root / "ppo").mkdir(exist_ok=True)
        return {
            f"ppo: {name}": {
                **{"kind": "ppo", "model": str(self.checkpoint("qwen2-tied")), "batches": self.scored()},
                **{"overrides": [*ppo_overrides(setting), *overrides], "head": self.head()},
                **{"gradient": str(self.ppo_folder("gradient", name)), "saved": str(self.ppo_folder("saved", name))},
            }
            for name, (wanted, setting, overrides) in PPO_STEPS.items()
            if wanted == layout
        } | {
            f"critic: {critic}": self.train_task(
                *("algorithm=vapo", f"critic.path={self.checkpoint(critic)}"), model=policy, kind="critics"
            )
            for policy, critic in CRITICS
            if layout == "pp2"
        }

    def _tasks(self, launch: str) -> dict[str, Results]:
        if launch == "tp2 again":
            return self._tp2_again()
        if launch == "dp2 again":
            return {"resume": self._resuming("dp2", KL)}
        if launch == "tp2 pp2":
            return {
                **self._ppo_tasks(launch),
                **self._gradient_tasks(launch),
                **self._export_tasks(launch),
                **self._between_tasks(launch, "parallel.pipeline=1"),
            }
        tasks = {
            **self._ppo_tasks(launch),
            **self._gradient_tasks(launch),
            **self._export_tasks(launch),
            "vocabulary": {"kind": "vocabulary", "model": ""},
            "settings": self.train_task(NO_KL, SMALL, kind="settings"),
            "train": self.train_task(NO_KL),
            "train in small micro-batches": self.train_task(NO_KL, SMALL),
            "train with KL": self.train_task(KL, SMALL),
            "poisoned": self.train_task(NO_KL, SMALL, kind="poisoned"),
            "train qwen3": self.train_task(KL, model="qwen3-untied"),
            "generate": self.generate_task(),
        }
        if launch == "tp1":
            overrides = [NO_KL, "model.precision=bfloat16"]
            tasks["bfloat16"] = {
                "kind": "bfloat16",
                "model": str(self.checkpoint("qwen2-tied")),
                "overrides": overrides,
            }
            folder = str(self.saved_beside("before the first step"))
            tasks["fused adam"] = self.train_task(NO_KL, kind="fused adam", folder=folder)
        if launch in ("tp2", "pp2"):
            tasks["likelihood"] = {
                **{"kind": "likelihood", "model": str(hf_to_megatron.convert(TINY, self.root / f"tiny-{launch}").path)},
                "overrides": [NO_KL, SMALL, "reward.likelihood=[text]", "reward.likelihood_filter=1.0"],
            }
            tasks["generate alone"] = self.generate_task("rollout.tensor=1")
            tasks |= self._between_tasks(launch)
        if launch in ("tp1", "tp2"):
            folder = str(self.saved_beside(f"{launch}-diverged"))
            tasks["diverged"] = self.train_task(NO_KL, steps=1, kind="diverged", folder=folder)
        if launch != "pp2":
            for precision in ("float32", "bfloat16"):
                tasks[f"snapshot {precision}"] = self.snapshot_task(
                    f"{launch}-{precision}", NO_KL, f"model.precision={precision}"
                )
        tasks |= {name: self.train_task(KL, SMALL, objective=name) for name in OBJECTIVES if name != "grpo"}
        if launch == "tp2":
            tasks["refused export"] = self.train_task(NO_KL, kind="refused export")
            tasks["train sequence parallel"] = self.train_task(KL, SEQUENCE, SMALL)
            tasks["train qwen3 sequence parallel"] = self.train_task(KL, SEQUENCE, model="qwen3-untied")
            tasks["generate sequence parallel"] = self.generate_task(SEQUENCE)
            tasks["save"] = self._saving("tp2", KL)
            tasks["save bfloat16"] = self._saving("tp2-bfloat16", KL, "model.precision=bfloat16")
        if launch == "dp2":
            tasks["save"] = self._saving("dp2", KL)
        if launch in ("tp1", "pp2"):
            self.results("tp2")
            tasks["resume from tp2"] = self._resuming("tp2", KL)
            tasks["recompute"] = self.train_task(KL, "parallel.recompute=true")
        if launch == "tp1":
            self.results("dp2")
            tasks["resume from dp2"] = self._resuming("dp2", KL)
        return tasks

    def _tp2_again(self) -> dict[str, Results]:
        self.results("tp2")
        tasks = {
            "resume": self._resuming("tp2", KL),
            "resume bfloat16": self._resuming("tp2-bfloat16", KL, "model.precision=bfloat16"),
        }
        for name in ("truncated weights", "missing optimizer", "missing state"):
            broken = self.root / "broken" / name.replace(" ", "-")
            shutil.copytree(self.saved("tp2"), broken)
            if name == "truncated weights":
                file = max((broken / "model").glob("*.distcp"), key=lambda path: path.stat().st_size)
                file.write_bytes(file.read_bytes()[:-100])
            elif name == "missing optimizer":
                max((broken / "optimizer").glob("*.distcp"), key=lambda path: path.stat().st_size).unlink()
            else:
                (broken / "state.json").unlink()
            tasks[name] = self._failing(load=str(broken))
        tasks |= {f"save: {how}": self._breaking(how) for how in ("killed", "stuck", "no space", "no folder")}
        tasks["no training state"] = self._failing(load=str(self.checkpoint("qwen2-tied")))
        tasks["missing model"] = self._failing(model=str(self.root / "nowhere"))
        tasks["experts"] = self._failing(model=str(self.checkpoint("qwen3moe-untied")))
        tasks["another model"] = self._failing(load=str(self.checkpoint("qwen3-untied")))
        return tasks

    def _failing(self, **more: str) -> Results:
        return {
            "kind": "start",
            "model": str(self.checkpoint("qwen2-tied")),
            "overrides": [NO_KL],
            "may_fail": True,
            **more,
        }

    def launch(self, folder: Path, layout: str, tasks: dict[str, Results]) -> subprocess.Popen[bytes]:
        """Starts the ranks of a layout on their tasks; they report and log into a new folder."""
        folder.mkdir()
        (folder / "job.json").write_text(json.dumps({"layout": [*COMMON, *LAYOUTS[layout]], "tasks": tasks}))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc-per-node={PROCESSES[layout]}", "-m", "tests.engines.worker", str(folder)]
        # One layout runs where Transformer Engine can be imported and has no GPU, as in NVIDIA's images.
        beside = {"PYTHONPATH": f"{BESIDE_CUDA}:{os.environ.get('PYTHONPATH', '')}"} if layout == "tp1" else {}
        return start(command, folder / "log", **beside)

    def results(self, launch: str) -> list[Results]:
        """Of every rank of a launch, run on first use."""
        if launch not in self._results:
            layout = launch.removesuffix(" again")
            folder = self.root / launch.replace(" ", "-")
            if folder.exists():
                pytest.fail(f"the launch {launch} failed already; see the first test that asked for it")
            tasks = self._tasks(launch)
            process = self.launch(folder, layout, tasks)
            output = finish(process, folder / "log", deadline_s=240)
            assert process.returncode == 0, output[-6000:]
            ranks = range(PROCESSES[layout])
            self._results[launch] = [json.loads((folder / f"result.{rank}.json").read_text()) for rank in ranks]
        return self._results[launch]


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("engines"))


@pytest.fixture(scope="session")
def expected_training(world: World) -> Callable[..., list[dict[str, float]]]:
    """Four steps of the plain implementation."""

    @cache
    def run(model: str, kl_coef: float, objective: str = "grpo") -> list[dict[str, float]]:
        torch.manual_seed(0)
        batches, differs = world.batches(model), OBJECTIVES[objective]
        return reference.train(
            world.hf(model), batches, kl_coef=kl_coef, weight_decay=WEIGHT_DECAY, eps=EPSILON, **differs
        )

    return run
