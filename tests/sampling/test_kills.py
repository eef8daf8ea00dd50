"""Whole runs whose vLLM server is killed or stopped in mid-flight: they end as if nothing had been."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from recipes.monitor.rollouts import read_rollouts
from tests.conftest import alive, descendants, finish, start

pytestmark = [pytest.mark.vllm, pytest.mark.multiprocess, pytest.mark.slow]
STEPS, PROMPTS, COPIES = 5, 8, 4


def _names(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def _server(run: int) -> list[int]:
    """Processes of the run's server: the watcher, vLLM's API server, its engine and its worker."""
    return [pid for pid in descendants(run) if "recipes.sampling.vllm" in _names(pid) or "VLLM::" in _names(pid)]


def _steps(output: Path) -> int:
    file = output / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.is_file() else 0


@pytest.mark.parametrize(
    ("kills", "number"),
    [(1, signal.SIGSTOP), pytest.param(5, signal.SIGKILL, marks=pytest.mark.long)],
)
def test_a_run_survives_its_server(
    vllm_python: str, tiny_checkpoint: Path, embedded_data: Path, tmp_path: Path, kills: int, number: signal.Signals
) -> None:
    """Killed or hung at random moments, whichever of its processes: every prompt of every step is answered once, by
    the weights of that step, and no process stays."""
    output, log, rng = tmp_path / "run", tmp_path / "log", random.Random(kills)
    settings = [f"output={output}", f"model.path={tiny_checkpoint}", f"data.train=[{embedded_data / 'train.jsonl'}]"]
    settings += ["rollout=vllm", "parallel=tp2", "parallel.timeout_minutes=3", "model.max_length=256"]
    settings += [f"rollout.prompts={PROMPTS}", f"rollout.group_size={COPIES}", "rollout.max_new_tokens=64"]
    settings += [f"trainer.steps={STEPS * kills}", "rollout.samples_every=1", "rollout.vllm.transfer_timeout_s=20"]
    run = start([sys.executable, "-m", "recipes.grpo", *settings], log, MEDATRON_VLLM_PYTHON=vllm_python)
    try:
        for kill in range(kills):
            until = time.monotonic() + 300
            while _steps(output) < 1 + kill * STEPS:
                assert run.poll() is None, log.read_text(errors="replace")[-4000:]
                assert time.monotonic() < until, log.read_text(errors="replace")[-4000:]
                time.sleep(0.02)
            time.sleep(rng.uniform(0, 1))
            found = _server(run.pid)
            # A watcher that is stopped harms nobody.
            chosen = found if number is signal.SIGKILL else [pid for pid in found if "VLLM::" in _names(pid)]
            os.kill(rng.choice(chosen), number)
    finally:
        said = finish(run, log, 400)
    assert run.returncode == 0, said[-4000:]
    assert "is lost" in said
    rows = read_rollouts(output)
    assert Counter(row.step for row in rows) == dict.fromkeys(range(1, STEPS * kills + 1), PROMPTS * COPIES)
    assert all(row.version == row.step - 1 for row in rows)
    metrics = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in metrics] == list(range(1, STEPS * kills + 1))
    assert max(row["mismatch/probe_max"] for row in metrics) < 1e-3
    until = time.monotonic() + 20
    while any(map(alive, found)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(map(alive, found))
