"""slurm/grpo_70b.sh, submitted as a user submits it, on a cluster whose nodes run the tiny model on CPU.

Where a test is about how a job begins or ends, shell lines stand for the modules that its steps run.

Left out: containers and GPUs.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from recipes.runtime.run_folder import RunFolder
from tests.checkpoints import checkpoint_tensors
from tests.end_to_end.launch import steps
from tests.published import write_published
from tests.slurm.cluster import REPO, Cluster, Ended, eventually, fake_venv, processes_of

pytestmark = pytest.mark.slurm

STEPS = 6
_TINY = (
    f"trainer.steps={STEPS} trainer.max_seconds=0 trainer.save_every=1 rollout.prompts=4 rollout.group_size=2 "
    "rollout.max_new_tokens=16 parallel.tensor=2"
)

Settings = dict[str, object]


def _settings(run: Path, model: Path, questions: Path) -> Settings:
    return {
        "MODEL": model,
        "DATA": questions / "train.jsonl",
        "RUN": run,
        "EXPERIMENT": "quickstart_grpo",
        "EXTRA": _TINY,
        "CONTAINER": "none",
        "VENV": sys.prefix,
        "ROLLOUT": "embedded",
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
    ended = _completed(cluster, cluster.submit("--nodes=2", **settings), 240)

    checkpoint, evaluation = RunFolder(run).step_path(STEPS), run / "evaluation" / "after.json"
    assert ended.last_line.endswith(f"done: checkpoint {checkpoint}, evaluation {evaluation}, release {release}")
    assert (checkpoint / "manifest.json").is_file()
    assert json.loads(evaluation.read_text())["tasks"]
    assert (release / "SHA256SUMS").is_file()
    assert "megatron-core" in ended.output  # the canary's table
    assert "srun: " not in ended.output
    _assert_nothing_left(run)
    return run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a test's own run, which is not there yet."""
    return tmp_path / "run"


@pytest.fixture
def given(run: Path, tiny_model: Path, questions: Path) -> Settings:
    """The settings of a job that begins from nothing."""
    return _settings(run, tiny_model, questions)


@pytest.fixture
def converted(given: Settings, run: Path, whole: Path) -> Settings:
    """The settings of a job that finds its model converted."""
    shutil.copytree(whole / "megatron", run / "megatron")
    return given


def _trained(cluster: Cluster, settings: Settings, count: int = 2) -> int:
    """A job on two nodes that has done so many steps."""
    job, run = cluster.submit("--nodes=2", **settings), Path(str(settings["RUN"]))
    assert eventually(lambda: len(steps(run)) >= count, 120), cluster.log(job)
    return job


def _played(settings: Settings, venv: Path, instead: dict[str, str]) -> Settings:
    """The settings of a job whose looks are shell lines, as are the modules of `instead`, and its model converted."""
    manifest = Path(str(settings["RUN"])) / "megatron" / "manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.touch()
    looks = {"recipes.preflight": "exit 0", "recipes.canary": "exit 0", "conversion.hf_to_megatron": "exit 0"}
    return settings | {"VENV": fake_venv(venv, looks | instead)}


def _waiting(cluster: Cluster, settings: Settings) -> int:
    """A job on one node whose ranks have said that they wait."""
    job = cluster.submit("--nodes=1", **settings)
    assert eventually(lambda: "ranks wait" in cluster.log(job), 90), cluster.log(job)
    return job


def _completed(cluster: Cluster, job: int, seconds: float, before: str = "") -> Ended:
    """The end of a job that succeeds; `before` is what an earlier one printed."""
    ended = cluster.wait(job, seconds)
    assert (ended.state, ended.exit_code) == ("COMPLETED", 0), before + ended.output
    return ended


def _failed(cluster: Cluster, job: int, code: int, seconds: float) -> Ended:
    """The end of a job that fails with this exit code."""
    ended = cluster.wait(job, seconds)
    assert (ended.state, ended.exit_code) == ("FAILED", code), ended.output
    return ended


def _assert_nothing_left(run: Path) -> None:
    assert eventually(lambda: not processes_of(run), 10), processes_of(run)


def _assert_the_same_weights(run: Path, whole: Path, tmp_path: Path) -> None:
    assert steps(run) == list(range(1, STEPS + 1))
    found, wanted = (checkpoint_tensors(each, tmp_path) for each in (run, whole))
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def _process(run: Path, module: str) -> int:
    """The process id of the first that runs a module for the job with this run folder."""
    found = [pid for pid, words in processes_of(run).items() if words[1:3] == ["-m", module]]
    assert found
    return min(found)


def test_published_files_become_a_release_by_one_command(
    cluster: Cluster, tiny_model: Path, run: Path, tmp_path: Path
) -> None:
    source, release = tmp_path / "published", tmp_path / "release"
    write_published(source)
    settings = _settings(run, tiny_model, source) | {"SOURCE": source, "RELEASE": release}
    settings["EXTRA"] = f"{_TINY} data=med_u1 trainer.steps=1 parallel.tensor=1"
    del settings["DATA"]
    script = REPO / "slurm" / "grpo_7b.sh"
    ended = _completed(cluster, cluster.submit("--nodes=1", script=script, **settings), 180)
    assert f"release {release}" in ended.last_line
    assert "like a held-out question" in ended.output
    result = json.loads((run / "evaluation" / "after.json").read_text())
    assert sorted(result["distributions"]) == ["in distribution", "out of distribution"]
    assert (release / "SHA256SUMS").is_file()


def test_one_job_converts_trains_evaluates_and_releases(whole: Path) -> None:
    assert steps(whole) == list(range(1, STEPS + 1))
    assert len(list(whole.glob("code/grpo_70b-*/recipes/grpo.py"))) == 1


def test_a_job_that_is_asked_to_stop_is_requeued_and_ends_as_if_it_had_not_been(
    cluster: Cluster, whole: Path, converted: Settings, run: Path, tmp_path: Path
) -> None:
    job = _trained(cluster, converted)
    # As sbatch --signal=B:USR1 does ahead of the time limit.
    cluster.cancel(job, "--batch", "--signal=USR1")
    ended = _completed(cluster, job, 150)

    assert "asking the ranks to save and stop" in ended.output
    assert "asked to stop: saved after step" in ended.output
    assert "life 2 of this job: goes on after step" in ended.output
    assert "converting" not in ended.output
    _assert_the_same_weights(run, whole, tmp_path)
    _assert_nothing_left(run)


def test_where_requeueing_is_off_another_job_goes_on(
    cluster: Cluster, whole: Path, converted: Settings, run: Path, tmp_path: Path
) -> None:
    job = _trained(cluster, converted | {"REQUEUE": "chain"})
    cluster.cancel(job, "--batch", "--signal=USR1")
    first = _failed(cluster, job, 75, 60)
    chained = re.search(r"job (\d+) goes on from there", first.output)
    assert chained, first.output
    _completed(cluster, int(chained[1]), 120, before=first.output)
    _assert_the_same_weights(run, whole, tmp_path)


def test_where_a_job_may_not_go_on_it_says_how_to(cluster: Cluster, given: Settings, run: Path, tmp_path: Path) -> None:
    stop = "trap 'kill $!; exit 75' USR1; sleep 600 & echo ranks wait; wait"
    settings = _played(given, tmp_path / "venv", {"recipes.grpo": stop})
    job = _waiting(cluster, settings | {"REQUEUE": "none"})
    cluster.cancel(job, "--batch", "--signal=USR1")
    ended = _failed(cluster, job, 75, 60)
    assert ended.last_line.endswith(f"stopped after step 0; submit again with RUN={run} to go on from there")
    _assert_nothing_left(run)


@pytest.mark.parametrize(
    ("began", "limit", "code", "message"),
    [
        ((0, 1, 2), 2, 1, "gone on 2 times (MAX_RESTARTS); submit again with RUN={run} to go on from step 3"),
        ((3, 3, 3), 20, 1, "the last 3 lives saved nothing after step 3; see the logs in {run}/logs"),
        # The one before it did get further, from step 2 to 3.
        ((2, 3, 3), 20, 4, "preflight failed with exit code 4"),
    ],
    ids=["too often", "idle", "not idle"],
)
def test_a_job_goes_on_so_often_and_as_long_as_it_gets_further(
    began: tuple[int, ...],
    limit: int,
    code: int,
    message: str,
    cluster: Cluster,
    given: Settings,
    run: Path,
    tmp_path: Path,
) -> None:
    """The fourth life of a run that has saved step 3; `began` are the steps after which the lives before it began."""
    (run / "checkpoints" / "step_000003").mkdir(parents=True)
    (run / "checkpoints" / "step_000003" / "manifest.json").touch()
    kept = run / "code" / "grpo_70b-7"
    shutil.copytree(REPO / "slurm", kept / "slurm")
    (run / "logs").mkdir()
    (run / "logs" / "training.lives").write_text("".join(f"7 {life} {step}\n" for life, step in enumerate(began)))
    venv = fake_venv(tmp_path / "venv", {"recipes.preflight": "exit 4"})
    settings = given | {"VENV": venv, "CHAINED": 3, "MAX_RESTARTS": limit, "REPO": kept}
    ended = _failed(cluster, cluster.submit("--nodes=1", **settings), code, 60)

    assert ended.last_line.startswith(f"grpo_70b.sh: {message.format(run=run)}")
    assert "life 4 of this job: goes on after step 3" in ended.output
    assert ("srun " in ended.output) == (code == 4)  # whether anything was started


def test_a_queued_job_does_not_change_with_the_checkout(
    cluster: Cluster, given: Settings, run: Path, tmp_path: Path
) -> None:
    """Paths that were typed from the checkout and an EXTRA of several lines come through whole as well."""
    checkout = tmp_path / "checkout"
    for part in ("configs", "conversion", "recipes", "reward_server", "slurm"):
        shutil.copytree(REPO / part, checkout / part, ignore=shutil.ignore_patterns("__pycache__"))
    mark = checkout / "recipes" / "mark"
    mark.write_text("as it was submitted\n")
    # The login node's check passes, the job's says which code it looks at and what it was given.
    looks = '[ -n "$SLURM_JOB_ID" ] || exit 0; cat recipes/mark; printf "<%s>\\n" "$@"; exit 4'
    venv = fake_venv(tmp_path / "venv", {"recipes.preflight": looks})
    settings = given | {"VENV": venv, "EXTRA": "trainer.steps=3\n\n rollout.stop=['a b',\n c]"}
    plain = cluster.submit("--nodes=1", "--hold", checkout=checkout, **settings)
    relative = {name: os.path.relpath(str(settings[name]), checkout) for name in ("MODEL", "DATA", "RUN", "VENV")}
    copied = cluster.submit_code(checkout, "--nodes=1", "--hold", f"--chdir={tmp_path}", **settings | relative)
    time.sleep(1.1)  # Slurm's times are whole seconds
    # As rsync leaves a file: with a time before the jobs'.
    mark.write_text("edited since\n")
    os.utime(mark, (1, 1))
    cluster.release(plain)
    refused = _failed(cluster, plain, 2, 60)
    for script in (checkout / "slurm").rglob("*.sh"):
        script.write_text("exit 9\n")
    cluster.release(copied)
    ended = _failed(cluster, copied, 4, 60)

    assert f"{mark}: changed after this job was submitted" in refused.last_line
    assert "srun " not in refused.output
    assert "\nas it was submitted\n" in ended.output
    assert f"\n<data.train=[{given['DATA']}]>\n" in ended.output
    assert "\n<trainer.steps=3>\n<rollout.stop=['a b',\n c]>\n" in ended.output
    assert f"--chdir={run}/code/grpo_70b-" in ended.output


def test_a_run_belongs_to_the_job_that_is_at_it(cluster: Cluster, given: Settings, run: Path, tmp_path: Path) -> None:
    settings = _played(given, tmp_path / "venv", {"recipes.grpo": "echo ranks wait; exec sleep 600"})
    old, young = (run / "code" / f"grpo_70b-{job}" for job in (900001, 900002))
    for copy in (old, young):
        copy.mkdir(parents=True)
    os.utime(old, (1, 1))
    first = _waiting(cluster, settings)
    code = run / "code" / f"grpo_70b-{first}"
    os.utime(code, (1, 1))
    second = _failed(cluster, cluster.submit("--nodes=1", **settings), 2, 60)
    assert second.last_line.startswith(f"grpo_70b.sh: RUN={run}: job {first} is at its training (RUNNING on [node")
    assert "srun " not in second.output
    other = {"TEST_DATA": given["DATA"], "CHECKPOINT": run / "megatron"}
    evaluation = settings | other | {"VENV": fake_venv(tmp_path / "no", {"recipes.preflight": "exit 4"})}
    del evaluation["MODEL"]
    _failed(cluster, cluster.submit("--nodes=1", script=REPO / "slurm" / "evaluate.sh", **evaluation), 4, 60)
    assert cluster.state(first)[0] == "RUNNING"
    assert (code / "recipes" / "grpo.py").is_file()
    assert (old.exists(), young.exists()) == (False, True)

    cluster.cancel(first)
    cluster.wait(first, 30)
    third = _waiting(cluster, settings)
    assert not code.exists()
    cluster.cancel(third)
    cluster.wait(third, 30)


def test_a_job_that_lost_a_node_goes_on_when_it_is_back(
    cluster: Cluster, whole: Path, converted: Settings, run: Path, tmp_path: Path
) -> None:
    job = _trained(cluster, converted)
    cluster.node("kill-node", "node1")
    assert eventually(lambda: cluster.state(job)[0] == "PENDING", 120), cluster.log(job)
    cluster.node("start-node", "node1")
    ended = _completed(cluster, job, 180)
    assert "life 2 of this job" in ended.output
    _assert_the_same_weights(run, whole, tmp_path)


def test_a_dead_reward_server_is_started_again(
    cluster: Cluster, whole: Path, converted: Settings, run: Path, tmp_path: Path
) -> None:
    job = _trained(cluster, converted)
    os.kill(_process(run, "reward_server"), signal.SIGKILL)
    ended = _completed(cluster, job, 120)
    assert "the reward server stopped with exit code 137; starting it again (1 of 5)" in ended.output
    _assert_the_same_weights(run, whole, tmp_path)


def test_a_reward_server_that_keeps_dying_ends_the_job_with_its_exit_code(
    cluster: Cluster, given: Settings, run: Path, tmp_path: Path
) -> None:
    """Long before READY_DEADLINE, ten minutes, in which it would have had to get ready."""
    settings = _played(given, tmp_path / "venv", {"reward_server": "echo no such thing; exit 3"})
    job = cluster.submit("--nodes=1", **settings)
    ended = _failed(cluster, job, 3, 60)

    log = run / "logs" / str(job) / "reward_server.log"
    assert ended.last_line == f"grpo_70b.sh: the reward server stopped with exit code 3, the 6th time; its log is {log}"
    assert "starting it again (5 of 5)" in ended.output
    assert log.read_text().count("no such thing") == 6
    assert "recipes.grpo" not in ended.output


def test_the_reward_server_may_have_a_node_of_its_own(
    cluster: Cluster, whole: Path, converted: Settings, run: Path, tmp_path: Path
) -> None:
    settings = converted | {"TASKS_PER_NODE": 2, "REWARD_NODES": 1}
    ended = _completed(cluster, cluster.submit("--nodes=1", ":", "--nodes=1", "--exclusive", **settings), 150)
    assert "reward server ready: http://node1:" in ended.output
    _assert_the_same_weights(run, whole, tmp_path)


# Stands for vLLM: says yes where it is asked whether it is there, and answers GET /health.
_SERVER = """#!{python}
import http.server, os, sys
if sys.argv[1] == "-c":
    sys.exit()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
print("serving", sys.argv[3:], len(os.environ["MEDATRON_ROLLOUT_TOKEN"]), flush=True)
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.HTTPServer((sys.argv[sys.argv.index("--host") + 1], port), Handler).serve_forever()
"""


def test_servers_of_rollouts_are_started_again_one_by_one(
    cluster: Cluster, given: Settings, run: Path, tmp_path: Path
) -> None:
    """Two on a node of their own; with a task of theirs lost for good, the job ends."""
    python = tmp_path / "python"
    python.write_text(_SERVER.format(python=sys.executable))
    python.chmod(0o755)
    trainer = 'printf "<%s>\\n" "$@" "$SLURMD_NODENAME ${#MEDATRON_ROLLOUT_TOKEN}"; echo ranks wait; exec sleep 600'
    servers = {"ROLLOUT": "vllm", "ROLLOUT_NODES": 1, "ROLLOUT_TENSOR": 1, "TASKS_PER_NODE": 2}
    extra = {"MEDATRON_VLLM_PYTHON": python, "EXTRA": _TINY.replace("parallel.tensor=2", "parallel.tensor=1")}
    settings = _played(given | servers | extra, tmp_path / "venv", {"recipes.grpo": trainer})
    job = cluster.submit("--nodes=2", **settings)
    assert eventually(lambda: cluster.log(job).count("ranks wait\n") == 2, 90), cluster.log(job)
    port = 10000 + job * 16
    urls = [f"http://node1:{port + replica}" for replica in (0, 1)]
    assert f"rollout servers ready: {' '.join(urls)}" in cluster.log(job)
    assert f"<rollout.vllm.urls=[{','.join(urls)}]>" in cluster.log(job)
    assert cluster.log(job).count("<node0 32>") == 2

    log = run / "logs" / str(job) / "rollout_servers.log"
    first, second = sorted(pid for pid, words in processes_of(run).items() if words[1:2] == [str(python)])
    os.kill(first, signal.SIGKILL)
    assert eventually(lambda: log.read_text().count("serving") == 3, 30), log.read_text()
    assert Path(f"/proc/{second}").exists()
    assert "stopped with exit code 137; starting it again (1 of 5)" in log.read_text()
    assert f"'{given['MODEL']}', '--host', '0.0.0.0', '--precision', 'float32'" in log.read_text()

    os.kill(min(pid for pid, words in processes_of(run).items() if "replica.sh" in " ".join(words[:2])), signal.SIGKILL)
    # srun's is the highest code of its tasks, of which it ended the other one.
    ended = _failed(cluster, job, 143, 60)
    assert ended.last_line == f"grpo_70b.sh: the rollout servers stopped with exit code 143; its log is {log}"
    _assert_nothing_left(run)


def test_what_cannot_work_ends_the_job_before_anything_trains(cluster: Cluster, given: Settings, run: Path) -> None:
    """Each with its fix; 16918 is the port that slurmd itself listens on."""
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
        ended = cluster.wait(cluster.submit("--nodes=2", **given | changed), 90)
        assert ended.state == "FAILED", ended.output
        assert message in ended.output, ended.output
        assert "recipes.grpo" not in ended.output
    assert not (run / "checkpoints").exists()


def test_a_killed_rank_ends_the_job_within_a_minute(cluster: Cluster, converted: Settings, run: Path) -> None:
    job = _trained(cluster, converted, 1)
    os.kill(_process(run, "recipes.grpo"), signal.SIGKILL)
    ended = _failed(cluster, job, 137, 60)  # 128 + SIGKILL

    assert "training failed with exit code 137" in ended.last_line
    _assert_nothing_left(run)


def test_a_failed_ranks_exit_code_is_the_jobs(cluster: Cluster, given: Settings, tmp_path: Path) -> None:
    # Rank 0 would wait ten minutes for the other one, as ranks do in a collective.
    stuck = '[ "$SLURM_PROCID" = 1 ] && exit 7; exec sleep 600'
    settings = _played(given, tmp_path / "venv", {"recipes.grpo": stuck})
    ended = _failed(cluster, cluster.submit("--nodes=2", **settings), 7, 90)
    assert "training failed with exit code 7" in ended.last_line


def test_a_cancelled_job_leaves_nothing_behind(cluster: Cluster, given: Settings, run: Path, tmp_path: Path) -> None:
    settings = _played(given, tmp_path / "venv", {"recipes.grpo": "echo ranks wait; exec sleep 600"})
    job = _waiting(cluster, settings | {"TASKS_PER_NODE": 2})
    assert eventually(lambda: ["sleep", "600", ""] in processes_of(run).values(), 10), processes_of(run)
    cluster.cancel(job)

    assert cluster.wait(job, 30).state == "CANCELLED"
    _assert_nothing_left(run)


@pytest.mark.long
def test_med_rlvr_compares_all_its_methods(cluster: Cluster, given: Settings, questions: Path, run: Path) -> None:
    """Each has a run of its own; submitted again with one more, the job leaves the others as they are."""
    tests = ",".join(str(questions / f"{name}.jsonl") for name in ("test", "unseen"))
    settings = given | {
        "EXPERIMENT": "med_rlvr_mini",
        "TEST_DATA": tests,
        "TRACES": questions / "train.jsonl",
        "METHODS": "sft_answer sft_worked ppo",
        "EXTRA": "trainer.steps=2 trainer.max_seconds=0 trainer.batch=4 critic.alone_steps=0 rollout.prompts=4 "
        "rollout.max_new_tokens=16 model.max_length=256",
    }
    script = REPO / "slurm" / "medrlvr_3b.sh"
    first = _completed(cluster, cluster.submit("--nodes=2", script=script, **settings), 400)
    assert first.last_line.endswith(f", comparison {run}/comparison")
    saved = {path: path.stat().st_mtime_ns for path in run.glob("*/checkpoints/*/manifest.json")}
    assert {path.parts[-4] for path in saved} == {"sft_answer", "sft_worked", "ppo"}
    again = settings | {"METHODS": "sft_answer sft_worked grpo ppo"}
    _completed(cluster, cluster.submit("--nodes=2", script=script, **again), 400)
    assert {path: path.stat().st_mtime_ns for path in saved} == saved
    names = ["base", "sft_answer", "sft_worked", "grpo", "ppo"]
    compared = json.loads((run / "comparison" / f"{'_'.join(names)}.json").read_text())
    assert list(compared["evaluations"]) == names
    assert set(compared["sets"]) == {"medatron-embedded", "medatron-embedded-unseen"}
