"""slurm/grpo_70b.sh, submitted as a user submits it, on a cluster whose nodes run the tiny model on CPU.

Left out: containers and GPUs.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch

from recipes.runtime.run_folder import RunFolder
from tests.checkpoints import checkpoint_tensors
from tests.slurm.cluster import Cluster, eventually, fake_venv, processes_of

pytestmark = pytest.mark.slurm

STEPS = 6
_TINY = (
    f"trainer.steps={STEPS} trainer.max_seconds=0 trainer.save_every=1 rollout.prompts=4 rollout.group_size=2 "
    "rollout.max_new_tokens=16 parallel.tensor=2"
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
        "TASKS_PER_NODE": 1,
        "REWARD_WORKERS": 1,
        "OMP_NUM_THREADS": 1,
    }


@pytest.fixture(scope="module")
def whole(cluster: Cluster, tiny_model: Path, questions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a whole job on two nodes: conversion, training, evaluation, release."""
    folder = tmp_path_factory.mktemp("whole")
    run, release = folder / "run", folder / "release"
    settings = _settings(run, tiny_model, questions) | {"TEST_DATA": questions / "test.jsonl", "RELEASE": release}
    ended = cluster.wait(cluster.submit("--nodes=2", **settings), 240)

    assert (ended.state, ended.exit_code) == ("COMPLETED", 0), ended.output
    checkpoint, evaluation = RunFolder(run).step_path(STEPS), run / "evaluation" / "after.json"
    assert ended.last_line.endswith(f"done: checkpoint {checkpoint}, evaluation {evaluation}, release {release}")
    assert (checkpoint / "manifest.json").is_file()
    assert json.loads(evaluation.read_text())["tasks"]
    assert (release / "SHA256SUMS").is_file()
    assert "megatron-core" in ended.output  # the canary's table
    assert "srun: " not in ended.output
    assert eventually(lambda: not processes_of(run), 10), processes_of(run)
    return run


def _steps(run: Path) -> list[int]:
    metrics = run / "metrics.jsonl"
    return [json.loads(line)["step"] for line in metrics.read_text().splitlines()] if metrics.exists() else []


def _assert_the_same_weights(run: Path, whole: Path, tmp_path: Path) -> None:
    assert _steps(run) == list(range(1, STEPS + 1))
    found, wanted = (checkpoint_tensors(each, tmp_path) for each in (run, whole))
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_one_job_converts_trains_evaluates_and_releases(whole: Path) -> None:
    assert _steps(whole) == list(range(1, STEPS + 1))
    assert (whole / "code" / "grpo_70b" / "recipes" / "grpo.py").is_file()


def _begun(whole: Path, tmp_path: Path) -> Path:
    """A run folder with a converted model."""
    shutil.copytree(whole / "megatron", tmp_path / "run" / "megatron")
    return tmp_path / "run"


def test_a_job_that_is_asked_to_stop_is_requeued_and_ends_as_if_it_had_not_been(
    cluster: Cluster, whole: Path, tiny_model: Path, questions: Path, tmp_path: Path
) -> None:
    run = _begun(whole, tmp_path)
    job = cluster.submit("--nodes=2", **_settings(run, tiny_model, questions))
    assert eventually(lambda: len(_steps(run)) >= 2, 120), cluster.log(job)
    # As sbatch --signal=B:USR1 does ahead of the time limit.
    cluster.cancel(job, "--batch", "--signal=USR1")
    ended = cluster.wait(job, 150)

    assert (ended.state, ended.exit_code) == ("COMPLETED", 0), ended.output
    assert "asking the ranks to save and stop" in ended.output
    assert "asked to stop: saved after step" in ended.output
    assert "life 2 of this job: goes on after step" in ended.output
    assert "conversion" not in ended.output.split("reward server")[0]
    _assert_the_same_weights(run, whole, tmp_path)
    assert eventually(lambda: not processes_of(run), 10), processes_of(run)


def test_where_requeueing_is_off_another_job_goes_on(
    cluster: Cluster, whole: Path, tiny_model: Path, questions: Path, tmp_path: Path
) -> None:
    run = _begun(whole, tmp_path)
    job = cluster.submit("--nodes=2", **_settings(run, tiny_model, questions), REQUEUE="chain")
    assert eventually(lambda: len(_steps(run)) >= 2, 120), cluster.log(job)
    cluster.cancel(job, "--batch", "--signal=USR1")
    first = cluster.wait(job, 60)
    assert (first.state, first.exit_code) == ("FAILED", 75), first.output
    chained = re.search(r"job (\d+) goes on from there", first.output)
    assert chained, first.output
    ended = cluster.wait(int(chained[1]), 120)
    assert (ended.state, ended.exit_code) == ("COMPLETED", 0), ended.output + cluster.log(job)
    _assert_the_same_weights(run, whole, tmp_path)


def test_a_job_that_lost_a_node_goes_on_when_it_is_back(
    cluster: Cluster, whole: Path, tiny_model: Path, questions: Path, tmp_path: Path
) -> None:
    run = _begun(whole, tmp_path)
    job = cluster.submit("--nodes=2", **_settings(run, tiny_model, questions))
    assert eventually(lambda: len(_steps(run)) >= 2, 120), cluster.log(job)
    cluster.node("kill-node", "node1")
    assert eventually(lambda: cluster.state(job)[0] == "PENDING", 120), cluster.log(job)
    cluster.node("start-node", "node1")
    ended = cluster.wait(job, 180)
    assert (ended.state, ended.exit_code) == ("COMPLETED", 0), ended.output
    assert "life 2 of this job" in ended.output
    _assert_the_same_weights(run, whole, tmp_path)


def test_a_dead_reward_server_is_started_again(
    cluster: Cluster, whole: Path, tiny_model: Path, questions: Path, tmp_path: Path
) -> None:
    run = _begun(whole, tmp_path)
    job = cluster.submit("--nodes=2", **_settings(run, tiny_model, questions))
    assert eventually(lambda: len(_steps(run)) >= 2, 120), cluster.log(job)
    os.kill(_process(run, "reward_server"), signal.SIGKILL)
    ended = cluster.wait(job, 120)
    assert (ended.state, ended.exit_code) == ("COMPLETED", 0), ended.output
    assert "the reward server stopped with exit code 137; starting it again (1 of 5)" in ended.output
    _assert_the_same_weights(run, whole, tmp_path)


def test_the_reward_server_may_have_a_node_of_its_own(
    cluster: Cluster, whole: Path, tiny_model: Path, questions: Path, tmp_path: Path
) -> None:
    run = _begun(whole, tmp_path)
    settings = _settings(run, tiny_model, questions) | {"TASKS_PER_NODE": 2, "REWARD_NODES": 1}
    ended = cluster.wait(cluster.submit("--nodes=1", ":", "--nodes=1", "--exclusive", **settings), 150)
    assert (ended.state, ended.exit_code) == ("COMPLETED", 0), ended.output
    assert "reward server ready: http://node1:" in ended.output
    _assert_the_same_weights(run, whole, tmp_path)


def test_what_cannot_work_ends_the_job_before_anything_trains(
    cluster: Cluster, tiny_model: Path, questions: Path, tmp_path: Path
) -> None:
    """Each with its fix; 16918 is the port that slurmd itself listens on."""
    good = _settings(tmp_path / "run", tiny_model, questions)
    image = {"CONTAINER": "pyxis", "CONTAINER_IMAGE": "/nowhere.sqsh"}
    for changed, message in (
        ({"MODEL": "/nowhere"}, "MODEL=/nowhere: no config.json there"),
        (image, "CONTAINER_IMAGE=/nowhere.sqsh: no such file"),
        ({"RUN": cluster.small_disk / "run"}, "set output (RUN) to a larger file system"),
        ({"MASTER_PORT": 16918}, "16918 is taken by another program; set MASTER_PORT to a free port"),
        (
            {"TASKS_PER_NODE": 2, "EXTRA": f"{_TINY} parallel.tensor=4"},
            "parallel.tensor=4 does not divide the model's 2 key-value heads (4 attention heads); use one of [1, 2]",
        ),
    ):
        ended = cluster.wait(cluster.submit("--nodes=2", **good | changed), 90)
        assert ended.state == "FAILED", ended.output
        assert message in ended.output, ended.output
        assert "recipes.grpo" not in ended.output
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.fixture
def prepared(whole: Path, tmp_path: Path) -> Path:
    return _begun(whole, tmp_path)


def test_a_killed_rank_ends_the_job_within_a_minute(
    cluster: Cluster, prepared: Path, tiny_model: Path, questions: Path
) -> None:
    job = cluster.submit("--nodes=2", **_settings(prepared, tiny_model, questions))
    assert eventually(lambda: len(_steps(prepared)) >= 1, 120), cluster.log(job)
    os.kill(_process(prepared, "recipes.grpo"), signal.SIGKILL)
    ended = cluster.wait(job, 60)

    assert (ended.state, ended.exit_code) == ("FAILED", 137), ended.output  # 128 + SIGKILL
    assert "training failed with exit code 137" in ended.last_line
    assert eventually(lambda: not processes_of(prepared), 10), processes_of(prepared)


def test_a_failed_ranks_exit_code_is_the_jobs(
    cluster: Cluster, prepared: Path, tiny_model: Path, questions: Path, tmp_path: Path
) -> None:
    # Rank 0 would wait ten minutes for the other one, as ranks do in a collective.
    venv = fake_venv(tmp_path / "venv", '[ "$SLURM_PROCID" = 1 ] && exit 7; exec sleep 600')
    settings = _settings(prepared, tiny_model, questions) | {"VENV": venv}
    ended = cluster.wait(cluster.submit("--nodes=2", **settings), 120)

    assert (ended.state, ended.exit_code) == ("FAILED", 7), ended.output
    assert "training failed with exit code 7" in ended.last_line


def test_a_cancelled_job_leaves_nothing_behind(
    cluster: Cluster, prepared: Path, tiny_model: Path, questions: Path, tmp_path: Path
) -> None:
    venv = fake_venv(tmp_path / "venv", "echo ranks wait; exec sleep 600")
    settings = _settings(prepared, tiny_model, questions) | {"VENV": venv, "TASKS_PER_NODE": 2}
    job = cluster.submit("--nodes=1", **settings)
    assert eventually(lambda: "ranks wait" in cluster.log(job), 90), cluster.log(job)
    assert any("sleep 600" in command for command in processes_of(prepared))
    cluster.cancel(job)

    assert cluster.wait(job, 30).state == "CANCELLED"
    assert eventually(lambda: not processes_of(prepared), 10), processes_of(prepared)


def _process(run: Path, module: str) -> int:
    """The process id of the first that runs a module for the job with this run folder."""
    found = [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdecimal()
        and (words := (entry / "cmdline").read_bytes().split(b"\0"))[1:3] == [b"-m", module.encode()]
        and any(str(run).encode() in word for word in words)
    ]
    assert found
    return min(found)
