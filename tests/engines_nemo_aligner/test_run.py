"""`python -m recipes.grpo engine=nemo_aligner`: the same loop, data and reward server, killed and resumed."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from conversion import hf_to_megatron, megatron_to_hf
from recipes.quickstart import BASE
from recipes.runtime.run_folder import RunFolder, last_checkpoint
from tests.conftest import REPOSITORY, descendants, finish, start, wait_until_dead
from tests.end_to_end.launch import DEADLINE_S, MEASURED, metrics, run, started, steps, wait_for
from tests.engines_nemo_aligner.conftest import megatron_python
from tests.engines_nemo_aligner.models import logits

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]
STEPS = 4

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def warm(embedded_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quickstart's base model in NeMo's form, after SFT on this engine: it has the form of an answer."""
    folder = tmp_path_factory.mktemp("base")
    base = hf_to_megatron.convert(BASE, folder / "nemo", layout="nemo").path
    run(
        "recipes.sft",
        *("experiment=quickstart_sft", "engine=nemo_aligner", f"output={folder / 'run'}", f"model.path={base}"),
        *(f"data.train=[{embedded_data / 'sft.jsonl'}]", "trainer.max_seconds=0"),
        *("trainer.steps=80", "trainer.batch=16"),
        log=folder / "log",
    )
    return last_checkpoint(folder / "run")


def _overrides(output: Path, warm: Path, data: Path, *more: str) -> list[str]:
    return [
        *("experiment=quickstart_grpo", "engine=nemo_aligner", f"output={output}", f"model.path={warm}"),
        *(f"data.train=[{data / 'train.jsonl'}]", f"trainer.steps={STEPS}", "trainer.max_seconds=0"),
        *("rollout.prompts=6", "rollout.group_size=4", "reward.preset=med_u1"),
        *("optimizer.final_share=1.0", "algorithm.overlong_filter=true", *more),
    ]


@pytest.fixture(scope="module")
def whole(warm: Path, embedded_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps without a break."""
    folder = tmp_path_factory.mktemp("whole")
    output = run("recipes.grpo", *_overrides(folder / "run", warm, embedded_data), log=folder / "log")
    assert "NeMo-Aligner: Transformer Engine layers no, FP8 no" in output
    assert steps(folder / "run") == [1, 2, 3, 4]
    assert all(row["policy/updates"] == 1 and row["policy/grad_norm"] > 0 for row in metrics(folder / "run"))
    return folder / "run"


def test_it_is_the_run_of_the_megatron_engine(warm: Path, whole: Path, embedded_data: Path, tmp_path: Path) -> None:
    """The same weights under `engine=megatron` in its own environment: rewards, losses and gradient norms are equal."""
    hf = megatron_to_hf.convert(warm, tmp_path / "hf")
    model = hf_to_megatron.convert(hf, tmp_path / "megatron").path
    overrides = [*_overrides(tmp_path / "run", model, embedded_data), "engine=megatron"]
    command = [megatron_python(), "-m", "recipes.grpo", *overrides]
    process = start(command, tmp_path / "log", PYTHONPATH=str(REPOSITORY))
    output = finish(process, tmp_path / "log", DEADLINE_S)
    assert process.returncode == 0, output[-6000:]
    _assert_the_same_figures(metrics(whole), metrics(tmp_path / "run"))


def test_two_pipeline_stages_make_the_same_run(warm: Path, whole: Path, embedded_data: Path, tmp_path: Path) -> None:
    """Its first two steps: rounding differs, and with many more tokens one draw would fall the other way some day."""
    layout = ("parallel.tensor=1", "parallel.pipeline=2", "trainer.steps=2")
    run("recipes.grpo", *_overrides(tmp_path / "run", warm, embedded_data, *layout), log=tmp_path / "log")
    _assert_the_same_figures(metrics(whole)[:2], metrics(tmp_path / "run"))


def _assert_the_same_figures(rows: Rows, others: Rows) -> None:
    for found, wanted in zip(rows, others, strict=True):
        for key in ("reward/mean", "policy/loss", "policy/grad_norm", "policy/kl", "policy/entropy"):
            assert found[key] == pytest.approx(wanted[key], rel=1e-3, abs=1e-4), key


def test_killed_and_resumed_it_is_the_same_run(warm: Path, whole: Path, embedded_data: Path, tmp_path: Path) -> None:
    """Steps, data cursor, optimizer and random draws go on from the checkpoint: every figure of every step is equal."""
    folder, log = tmp_path / "run", tmp_path / "log"
    overrides = _overrides(folder, warm, embedded_data, "trainer.save_every=2")
    process = started("recipes.grpo", *overrides, log=log)
    wait_for(lambda: RunFolder(folder).steps() == [2], process, log)
    family = descendants(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    finish(process, log, 60)
    assert not wait_until_dead(family, 60)
    run("recipes.grpo", *overrides, log=tmp_path / "second")
    rows = [
        [{key: v for key, v in row.items() if not key.startswith(MEASURED)} for row in metrics(path)]
        for path in (folder, whole)
    ]
    assert rows[0] == rows[1]
    states = [json.loads((RunFolder(f).step_path(STEPS) / "state.json").read_text()) for f in (folder, whole)]
    for state in states:
        # Scores are means since the checkpoint before, and the whole run has no other checkpoint.
        del state["seconds"], state["score"]
    assert states[0] == states[1]
    latest = RunFolder(folder).latest()
    assert latest is not None
    exported = megatron_to_hf.convert(latest, tmp_path / "hf")
    assert (logits(exported, [1, 2, 3]) - logits(BASE, [1, 2, 3])).abs().max() > 1e-3
