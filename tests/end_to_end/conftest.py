from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from recipes.runtime.run_folder import last_checkpoint
from tests.end_to_end.launch import run, steps

Settings = Callable[..., list[str]]
Whole = Callable[[str], Path]
STEPS = 6
LAYOUTS = {
    "tp1": ["parallel.processes=1", "parallel.tensor=1"],
    "tp2": ["parallel.processes=2", "parallel.tensor=2"],
    "dp2": ["parallel.processes=2", "parallel.tensor=1"],
    "ppo": [
        *(
            "parallel.processes=2",
            "parallel.tensor=2",
            "algorithm=ppo",
            "rollout.adaptive=false",
            "critic.alone_steps=2",
        ),
        *("critic.optimizer.learning_rate=3e-4", "critic.mini_batches=2", "critic.clip=0.5", "critic.offload=true"),
    ],
}


@pytest.fixture(scope="session")
def warm_checkpoint(tiny_checkpoint: Path, embedded_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model after 30 SFT steps on two processes: it has the form of an answer."""
    folder = tmp_path_factory.mktemp("sft")
    run(
        "recipes.sft",
        "experiment=quickstart_sft",
        f"output={folder / 'run'}",
        f"model.path={tiny_checkpoint}",
        f"data.train=[{embedded_data / 'sft.jsonl'}]",
        *("trainer.steps=30", "trainer.batch=16"),
        log=folder / "log",
    )
    return last_checkpoint(folder / "run")


@pytest.fixture(scope="session")
def settings(warm_checkpoint: Path, embedded_data: Path) -> Settings:
    """`settings(output, ...)`: overrides of a small GRPO run at TP 2; its rates do not depend on how long it is.

    Med-U1's preset pays for length, so that even a model this poor has groups to learn from in every step.
    """

    def make(output: Path, *more: str) -> list[str]:
        return [
            "experiment=quickstart_grpo",
            f"output={output}",
            f"model.path={warm_checkpoint}",
            f"data.train=[{embedded_data / 'train.jsonl'}]",
            *("trainer.steps=2", "trainer.max_seconds=0", "rollout.prompts=6", "rollout.group_size=4"),
            *("optimizer.final_share=1.0", "rollout.samples_every=1", "reward.preset=med_u1"),
            "monitor.gain_every=4",
            *("optimizer.learning_rate=3e-4", "rollout.max_new_tokens=48", *more),
        ]

    return make


@pytest.fixture(scope="session")
def whole(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """`whole(layout)`: a run of six steps without a break."""

    @cache
    def run_of(layout: str) -> Path:
        folder = tmp_path_factory.mktemp(layout)
        overrides = settings(folder / "run", f"trainer.steps={STEPS}", *LAYOUTS[layout])
        run("recipes.grpo", *overrides, log=folder / "log")
        return folder / "run"

    return run_of


@pytest.fixture(scope="session")
def begun(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first two steps at TP 2, for tests to go on from in a copy."""
    folder = tmp_path_factory.mktemp("begun")
    run("recipes.grpo", *settings(folder / "run", "trainer.steps=2", *LAYOUTS["tp2"]), log=folder / "log")
    assert steps(folder / "run") == [1, 2]
    return folder / "run"
