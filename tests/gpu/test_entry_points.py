"""What a user runs on a GPU: the canary, SFT, the quickstart's GRPO with its reward server, and a profile."""

from __future__ import annotations

import gzip
import json
import math
import sys
from pathlib import Path

import pytest

from conversion import hf_to_megatron
from recipes.quickstart import BASE
from recipes.runtime.run_folder import last_checkpoint
from tests.conftest import finish, start
from tests.end_to_end.launch import metrics
from tests.gpu.place import ENVIRONMENT, ON_GPU, gpu_tests

pytestmark = gpu_tests
STEPS, PROMPTS = (20, 36) if ON_GPU else (2, 6)
_ONE_RANK = ("parallel.processes=1", "parallel.tensor=1")
_DEADLINE_S = 90


def _run(log: Path, module: str, *overrides: str) -> str:
    process = start([sys.executable, "-m", module, *overrides], log, **ENVIRONMENT)
    output = finish(process, log, _DEADLINE_S)
    assert process.returncode == 0, output[-6000:]
    return output


def test_the_canary_finds_nothing_wrong(tmp_path: Path) -> None:
    output = _run(tmp_path / "log", "recipes.canary", f"output={tmp_path / 'run'}", "model.path=unread")
    assert ("CPU" in output.splitlines()[-1]) != ON_GPU, output


# The launches compute meanwhile.
@pytest.mark.usefixtures("gpu_world")
def test_the_quickstarts_grpo_runs_and_is_profiled(embedded_data: Path, tmp_path: Path) -> None:
    """Warm start by SFT, then GRPO whose rewards a server of its own gives; the second step is traced."""
    base = hf_to_megatron.convert(BASE, tmp_path / "base").path
    _run(
        tmp_path / "sft.log",
        "recipes.sft",
        "experiment=quickstart_sft",
        f"output={tmp_path / 'sft'}",
        f"model.path={base}",
        f"data.train=[{embedded_data / 'sft.jsonl'}]",
        *_ONE_RANK,
        *("trainer.steps=40", "trainer.batch=16", "optimizer.warmup_steps=3"),
    )
    output = tmp_path / "run"
    _run(
        tmp_path / "grpo.log",
        "recipes.grpo",
        "experiment=quickstart_grpo",
        f"output={output}",
        f"model.path={last_checkpoint(tmp_path / 'sft')}",
        f"data.train=[{embedded_data / 'train.jsonl'}]",
        *_ONE_RANK,
        *(f"trainer.steps={STEPS}", "trainer.max_seconds=0", f"rollout.prompts={PROMPTS}"),
        "rollout.temperature=1.2",
        # Paid for length, a model after so few steps has groups to learn from, too.
        *("reward.preset=med_u1", "reward.length_mode=exact", "reward.length_target=40"),
        *("trainer.profile_first=2", "trainer.profile_steps=1"),
    )
    rows = metrics(output)
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    for row in rows:
        assert all(value is not None and math.isfinite(value) for value in row.values()), row
        assert row["groups/null_reward_share"] == 0
    # Not there where no group taught anything. Transformer Engine takes float32 products in TF32, and those of decoding
    # and of training not alike.
    errors = [row["mismatch/token_prob_error"] for row in rows if "mismatch/token_prob_error" in row]
    assert errors
    assert errors == pytest.approx([1] * len(errors), abs=2e-2 if ON_GPU else 1e-4)
    with gzip.open(output / "profile" / "step_000002.rank_0.json.gz") as trace:
        kinds = {event.get("cat") for event in json.load(trace)["traceEvents"]}
    assert {"cpu_op", "kernel"} <= kinds if ON_GPU else "cpu_op" in kinds
    assert last_checkpoint(output).name == f"step_{STEPS:06d}"
