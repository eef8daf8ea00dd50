"""The shipped experiments: each composes, fits its GPUs by the plan, and builds the model that it names."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from recipes.planning.architectures import parameters, published
from recipes.planning.estimate import Assumptions, Plan
from recipes.planning.memory import verdict
from recipes.planning.sweep import check_layout, sweep
from recipes.runtime.config import Config
from recipes.runtime.loading import load
from tests.conftest import REPOSITORY

SIZES = {
    "med_u1_3b": 3.086,
    "med_u1_7b": 7.616,
    "medvlthinker_7b": 7.616,
    "alphamed_7b": 7.616,
    "med_rlvr_3b": 3.086,
    "med_rlvr_3b_grpo": 3.086,
    "grpo_32b": 32.764,
    "grpo_70b": 70.554,
    "grpo_70b_fp8": 70.554,
    "qwen2_5_72b_fp8": 72.706,
}


def configuration(experiment: str, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    return load([f"experiment={experiment}", "output=run", "model.path=checkpoint", "data.train=[train.jsonl]"])


@pytest.mark.parametrize("experiment", SIZES)
def test_it_composes_and_its_layout_is_legal_for_its_model(experiment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configuration(experiment, monkeypatch)
    assert config.name == experiment
    assert config.model.architecture is not None
    architecture = published(config.model.architecture)
    assert parameters(architecture) / 1e9 == pytest.approx(SIZES[experiment], abs=5e-4)
    check_layout(config, architecture)
    assert config.model.precision == "bfloat16"
    assert (config.model.fp8 == "blockwise") == experiment.endswith("fp8")
    # Sampler and trainer are not one kernel in bfloat16: without weights the first update's ratios are noise.
    assert config.algorithm.importance == "truncated"


@pytest.mark.parametrize("experiment", SIZES)
def test_its_layout_is_among_the_fastest_that_fit(experiment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configuration(experiment, monkeypatch)
    given = Assumptions(300, config.rollout.max_new_tokens // 2)
    plan = Plan(config, published(str(config.model.architecture)), given)
    assert verdict(plan.memory, plan.gpu.memory) == "fits"
    best = next(p for p in sweep(plan)[0] if verdict(p.memory, plan.gpu.memory) == "fits")
    assert plan.step_seconds <= 1.02 * best.step_seconds


def test_settings_of_the_papers_and_peers_reach_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    med_u1 = configuration("med_u1_7b", monkeypatch)
    assert (med_u1.reward.preset, med_u1.data.style, med_u1.rollout.temperature) == ("med_u1", "med_u1", 0.6)
    asked, few = med_u1.reward, configuration("med_u1_mini", monkeypatch).reward
    assert (asked.length_mode, asked.length_draw, asked.length_low, asked.length_high) == (
        "exact",
        "uniform",
        100,
        2000,
    )
    assert (few.length_mode, few.length_draw, few.length_target) == ("mixed", "log_uniform", None)
    med_rlvr = configuration("med_rlvr_3b", monkeypatch)
    assert (med_rlvr.reward.preset, med_rlvr.algorithm.kl_place) == ("med_rlvr", "reward")
    assert (med_rlvr.data.template, med_rlvr.algorithm.has_critic, med_rlvr.rollout.group_size) == ("base", True, 1)
    # Open answers have words, not one word: exact matches would pay next to none.
    assert (asked.text_metric, asked.text_threshold, asked.text_compat) == ("merge", 45, False)
    thinker, traces = (configuration(f"medvlthinker_7b{kind}", monkeypatch) for kind in ("", "_sft"))
    assert (thinker.reward.preset, thinker.reward.match, thinker.reward.format) == ("binary", "lenient", "strict")
    assert (thinker.algorithm.kl_coef, thinker.rollout.group_size, thinker.rollout.prompts) == (0.01, 8, 64)
    assert (thinker.rollout.prompts // thinker.algorithm.mini_batches, thinker.data.shuffle) == (32, False)
    assert (traces.data.teach, traces.data.shuffle, traces.model) == ("worked", True, thinker.model)
    alphamed = configuration("alphamed_7b", monkeypatch)
    assert (alphamed.reward.preset, alphamed.reward.format, alphamed.data.mix) == ("binary", "lenient", {"choice": 1.0})
    dapo = configuration("grpo_32b", monkeypatch)
    assert (dapo.algorithm.clip_high, dapo.algorithm.kl_coef) == (0.28, 0.0)
    assert configuration("grpo_70b", monkeypatch).model.fp8 == "none"


@pytest.mark.parametrize("size", ["3b", "mini"])
def test_med_rlvr_differs_from_what_stands_beside_it_in_the_method_alone(
    size: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the comparison would be one of something else too."""
    ppo, grpo, sft = (configuration(f"med_rlvr_{size}{kind}", monkeypatch) for kind in ("", "_grpo", "_sft"))
    assert [each.algorithm.has_critic for each in (ppo, grpo)] == [True, False]
    for other in (grpo, sft):
        same = ("data", "reward", "model", "evaluation", "parallel")
        assert [getattr(other, key) for key in same] == [getattr(ppo, key) for key in same]
    assert (grpo.optimizer, grpo.trainer) == (ppo.optimizer, ppo.trainer)
    assert grpo.algorithm.mini_batches == ppo.algorithm.mini_batches
    responses = {each.rollout.prompts * each.rollout.group_size for each in (ppo, grpo)}
    assert len(responses) == 1
    assert sft.trainer.max_seconds == ppo.trainer.max_seconds


# The engine's own model, on the meta device: shapes without memory. One rank, since a count needs no layout.
_BUILD = """
import sys, torch, torch.distributed as dist
# torch lists the functions that a device context concerns at first use: before they are wrapped for megatron-core.
with torch.device("meta"):
    torch.empty(0)
from conversion import megatron_cpu
megatron_cpu.install()
from megatron.core import parallel_state
from recipes.engines.megatron.model import build_model
from recipes.planning.architectures import published
from recipes.runtime.loading import load
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
parallel_state.initialize_model_parallel()
one_rank = ["parallel.processes=1", "parallel.tensor=1", "parallel.pipeline=1", "parallel.sequence=false"]
one_rank += ["output=run", "model.path=checkpoint", "model.fp8=none", "model.transformer=local"]
for experiment in sys.argv[1:]:
    config = load([f"experiment={experiment}", *one_rank])
    with torch.device("meta"):
        model = build_model(published(config.model.architecture), config)
    assert {p.device.type for p in model.parameters()} == {"meta"}
    print(experiment, sum(p.numel() for p in model.parameters()))
"""


def test_the_engine_builds_the_published_models() -> None:
    """All 80 layers of them, as the engine would on one GPU that had the memory."""
    expected = {
        "grpo_70b": 70_553_706_496,
        "grpo_70b_fp8": 70_553_706_496,
        "qwen2_5_72b_fp8": 72_706_203_648,
    }
    environment = {**os.environ, "MEDATRON_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
    environment.pop("WORLD_SIZE", None)
    command = [sys.executable, "-c", _BUILD, *expected]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines() == [f"{experiment} {count}" for experiment, count in expected.items()]
