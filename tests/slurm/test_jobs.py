"""slurm/grpo_70b.sh, submitted as a user submits it, on a cluster whose nodes run the tiny model on CPU.

Left out: containers and GPUs.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, eventually, fake_venv, processes_of

pytestmark = pytest.mark.slurm

_TINY = (
    "trainer.steps=2 trainer.max_seconds=0 rollout.prompts=4 rollout.group_size=2 rollout.max_new_tokens=16 "
    "parallel.tensor=2"
)


def _settings(run: Path, model: Path, questions: Path) -> dict[str, object]:
    return {
        "MODEL": model,
        "DATA": questions / "train.jsonl",
        "RUN": run,
        "EXPERIMENT": "quickstart_grpo",
        "EXTRA": _TINY,
        "CONTAINER": "none",
        "VENV": sys.prefix,
        "REWARD_WORKERS": 1,
        "OMP_NUM_THREADS": 1,
    }


@pytest.fixture(scope="module")
def converted(cluster: Cluster, tiny_model: Path, questions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a whole job: conversion, training on two tasks of one node, evaluation."""
    run = tmp_path_factory.mktemp("whole") / "run"
    settings = _settings(run, tiny_model, questions) | {"TEST_DATA": questions / "test.jsonl", "TASKS_PER_NODE": 2}
    job = cluster.submit("--nodes=1", **settings)
    ended = cluster.wait(job, 150)

    assert (ended.state, ended.exit_code) == ("COMPLETED", 0), ended.output
    checkpoint, evaluation = run / "checkpoints" / "step_000002", run / "evaluation" / "after.json"
    assert ended.last_line.endswith(f"done: checkpoint {checkpoint}, evaluation {evaluation}")
    assert (checkpoint / "manifest.json").is_file()
    assert json.loads(evaluation.read_text())["tasks"]
    assert "srun: " not in ended.output
    assert eventually(lambda: not processes_of(run), 10), processes_of(run)
    return run


def test_one_job_converts_trains_and_evaluates(converted: Path) -> None:
    steps = [json.loads(line) for line in (converted / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in steps] == [1, 2]


def test_two_nodes_train_one_model_and_convert_it_only_once(
    cluster: Cluster, converted: Path, tiny_model: Path, questions: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(converted / "megatron", run / "megatron")
    before = (run / "megatron" / "manifest.json").stat().st_mtime_ns
    ended = cluster.wait(cluster.submit("--nodes=2", **_settings(run, tiny_model, questions), TASKS_PER_NODE=1), 120)

    assert (ended.state, ended.exit_code) == ("COMPLETED", 0), ended.output
    checkpoint = run / "checkpoints" / "step_000002"
    assert ended.last_line.endswith(f"done: checkpoint {checkpoint}")
    assert (checkpoint / "manifest.json").is_file()
    assert "conversion" not in ended.output.split("reward server")[0]
    assert (run / "megatron" / "manifest.json").stat().st_mtime_ns == before


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """A run folder that passes for one with a converted model."""
    (tmp_path / "run" / "megatron").mkdir(parents=True)
    (tmp_path / "run" / "megatron" / "manifest.json").write_text("{}")
    return tmp_path / "run"


def test_a_dead_rank_ends_the_job_with_its_exit_code(
    cluster: Cluster, prepared: Path, tiny_model: Path, questions: Path, tmp_path: Path
) -> None:
    # Rank 0 would wait ten minutes for the other one, as ranks do in a collective.
    venv = fake_venv(tmp_path / "venv", '[ "$SLURM_PROCID" = 1 ] && exit 7; exec sleep 600')
    settings = _settings(prepared, tiny_model, questions) | {"VENV": venv, "TASKS_PER_NODE": 1}
    ended = cluster.wait(cluster.submit("--nodes=2", **settings), 60)

    assert (ended.state, ended.exit_code) == ("FAILED", 7), ended.output
    assert "training failed with exit code 7" in ended.last_line
    assert eventually(lambda: not processes_of(prepared), 10), processes_of(prepared)


def test_a_dead_reward_server_ends_the_job(
    cluster: Cluster, prepared: Path, tiny_model: Path, questions: Path, tmp_path: Path
) -> None:
    venv = fake_venv(tmp_path / "venv", "echo ranks wait; exec sleep 600")
    settings = _settings(prepared, tiny_model, questions) | {"VENV": venv, "TASKS_PER_NODE": 1}
    job = cluster.submit("--nodes=1", **settings)
    assert eventually(lambda: "ranks wait" in cluster.log(job), 60), cluster.log(job)
    os.kill(_server(prepared), signal.SIGKILL)
    ended = cluster.wait(job, 30)

    assert (ended.state, ended.exit_code) == ("FAILED", 137), ended.output  # 128 + SIGKILL
    assert "the reward server stopped with exit code 137" in ended.last_line
    assert eventually(lambda: not processes_of(prepared), 10), processes_of(prepared)


def test_a_job_outlives_the_time_limits_signal_and_a_cancelled_one_leaves_nothing_behind(
    cluster: Cluster, prepared: Path, tiny_model: Path, questions: Path, tmp_path: Path
) -> None:
    venv = fake_venv(tmp_path / "venv", "echo ranks wait; exec sleep 600")
    settings = _settings(prepared, tiny_model, questions) | {"VENV": venv, "TASKS_PER_NODE": 2}
    job = cluster.submit("--nodes=1", **settings)
    assert eventually(lambda: "ranks wait" in cluster.log(job), 60), cluster.log(job)
    cluster.cancel(job, "--batch", "--signal=USR1")
    assert eventually(lambda: f"submit again with RUN={prepared}" in cluster.log(job), 10), cluster.log(job)
    assert any("sleep 600" in command for command in processes_of(prepared))
    cluster.cancel(job)

    assert cluster.wait(job, 30).state == "CANCELLED"
    assert eventually(lambda: not processes_of(prepared), 10), processes_of(prepared)


def _server(run: Path) -> int:
    """The process id of the reward server of the job with this run folder."""
    found = [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdecimal()
        and (words := (entry / "cmdline").read_bytes().split(b"\0"))[1:3] == [b"-m", b"reward_server"]
        and any(word.startswith(str(run).encode()) for word in words)
    ]
    assert len(found) == 1
    return found[0]
