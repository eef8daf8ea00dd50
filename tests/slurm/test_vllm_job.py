"""A whole job that samples with real vLLM, its server on a node of its own, killed and requeued on its way.

Left out: GPUs, where weights go by NCCL and servers share the trainer's; here they go by file.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from recipes.runtime.run_folder import RunFolder
from tests.end_to_end.launch import metrics, steps
from tests.sampling.conftest import vllm_python  # noqa: F401
from tests.slurm.cluster import Cluster, eventually, fake_venv, processes_of

pytestmark = [pytest.mark.slurm, pytest.mark.vllm]

_STEPS = 8


def _servers(run: Path) -> list[int]:
    """Process ids of `recipes.sampling.vllm.serve` for the job with this run folder."""
    return [pid for pid, words in processes_of(run).items() if words[1:3] == ["-m", "recipes.sampling.vllm.serve"]]


def test_a_job_whose_vllm_was_killed_and_that_was_requeued_ends_as_it_should(
    cluster: Cluster,
    tiny_model: Path,
    questions: Path,
    vllm_python: str,  # noqa: F811
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    settings: dict[str, object] = {
        "MODEL": tiny_model,
        "DATA": questions / "train.jsonl",
        "RUN": run,
        "EXPERIMENT": "quickstart_grpo",
        "EXTRA": f"trainer.steps={_STEPS} trainer.max_seconds=0 trainer.save_every=1 rollout.prompts=4 "
        "rollout.group_size=2 rollout.max_new_tokens=16 parallel.tensor=1",
        "CONTAINER": "none",
        # Looking at the nodes is other tests' business, and takes half a minute a life.
        "VENV": fake_venv(tmp_path / "venv", {"recipes.preflight": "exit 0", "recipes.canary": "exit 0"}),
        "ROLLOUT": "vllm",
        "ROLLOUT_NODES": 1,
        "ROLLOUT_TENSOR": 1,
        "MEDATRON_VLLM_PYTHON": vllm_python,
        "TASKS_PER_NODE": 1,
        "REWARD_WORKERS": 1,
        "OMP_NUM_THREADS": 1,
        "VLLM_CPU_KVCACHE_SPACE": 1,
    }
    job = cluster.submit("--nodes=2", **settings)
    log = run / "logs" / str(job) / "rollout_servers.log"
    assert eventually(lambda: len(steps(run)) >= 2 or " failed " in cluster.log(job), 150), log.read_text()
    assert " failed " not in cluster.log(job), cluster.log(job)
    (server,) = _servers(run)
    os.kill(server, signal.SIGKILL)
    done = len(steps(run))
    assert eventually(lambda: len(steps(run)) >= done + 2, 120), cluster.log(job) + log.read_text()
    assert "stopped with exit code 137; starting it again (1 of 5)" in log.read_text()

    # As sbatch --signal=B:USR1 does ahead of the time limit.
    cluster.cancel(job, "--batch", "--signal=USR1")
    ended = cluster.wait(job, 200)
    assert (ended.state, ended.exit_code) == ("COMPLETED", 0), ended.output
    assert "life 2 of this job: goes on after step" in ended.output
    assert ended.output.count("rollout servers ready: http://node1:") == 2
    assert ended.last_line.endswith(f"done: checkpoint {RunFolder(run).step_path(_STEPS)}")
    assert steps(run) == list(range(1, _STEPS + 1))
    assert max(each["mismatch/probe_mean"] for each in metrics(run)) < 1e-3
    assert not list((run / "logs").glob("*/weights"))
    assert eventually(lambda: not processes_of(run), 10), processes_of(run)
