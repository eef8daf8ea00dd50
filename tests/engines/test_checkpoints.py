"""Checkpoints of a run: resuming continues as if nothing had happened, at the same layout or another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from conversion import megatron_to_hf
from conversion.checkpoint import open_checkpoint
from tests.engines import reference
from tests.engines.conftest import KL_COEF, World

pytestmark = pytest.mark.multiprocess
Expected = Callable[[str, float], list[dict[str, float]]]
NAMES = ("loss", "grad_norm", "entropy", "kl")


@pytest.mark.parametrize(
    ("saved", "resumed"),
    [
        (("tp2", "save"), ("tp2 again", "resume")),
        (("dp2", "save"), ("dp2 again", "resume")),
        (("tp2", "save bfloat16"), ("tp2 again", "resume bfloat16")),
    ],
    ids=["tp2", "dp2 with distributed optimizer", "tp2 in bfloat16"],
)
def test_a_resumed_run_gives_the_same_numbers(saved: tuple[str, str], resumed: tuple[str, str], world: World) -> None:
    """Four steps without a break against two, a save, fresh processes and two more: equal, not similar.

    Fails if the optimizer's moments, its step count, or bfloat16's float32 main weights do not survive.
    """
    whole = world.results(saved[0])[0][saved[1]]
    for rank in world.results(resumed[0]):
        found = rank[resumed[1]]
        assert found["state"] == {"step": 2, "text": "ä", "ratio": 0.1}
        assert found["steps"] == whole["steps"][2:]
        assert found["after"] == whole["after"]


@pytest.mark.parametrize(
    ("launch", "task", "saver"),
    [("tp1", "resume from tp2", "tp2"), ("pp2", "resume from tp2", "tp2"), ("tp1", "resume from dp2", "dp2")],
)
def test_a_run_resumes_at_another_layout(launch: str, task: str, saver: str, world: World) -> None:
    """Weights and moments are resharded; the numbers agree up to the order of float32 sums."""
    whole = world.results(saver)[0]["save"]
    for rank in world.results(launch):
        found = rank[task]
        for step, wanted in zip(found["steps"], whole["steps"][2:], strict=True):
            for name in NAMES:
                assert step[name] == pytest.approx(wanted[name], rel=1e-4, abs=1e-6), name
        for ours, wanted in zip(found["after"], whole["after"], strict=True):
            assert ours == pytest.approx(wanted, abs=1e-4)


def test_four_steps_are_those_of_plain_torch(world: World, expected_training: Expected) -> None:
    """The last batch has one sequence, so that at DP 2 one rank has nothing to do but still takes part."""
    expected = expected_training("qwen2-tied", KL_COEF)
    for launch in ("tp2", "dp2"):
        for step, wanted in zip(world.results(launch)[0]["save"]["steps"], expected, strict=True):
            for name in ("loss", "grad_norm", "entropy"):
                assert step[name] == pytest.approx(wanted[name], rel=1e-4), (launch, name)


def test_a_training_checkpoint_exports_to_transformers(world: World, tmp_path: Path) -> None:
    for launch in ("tp2", "dp2"):
        saved = world.results(launch)[0]["save"]
        exported = megatron_to_hf.convert(world.saved(launch), tmp_path / launch)
        ids = world.batches("qwen2-tied")[0]["sequences"][0]["ids"]
        with torch.no_grad():
            logits = reference.load_model(exported)(torch.tensor([ids])).logits[0]
            untrained = reference.load_model(world.hf("qwen2-tied"))(torch.tensor([ids])).logits[0]
        torch.testing.assert_close(torch.tensor(saved["logits"]), logits, rtol=0, atol=1e-4)
        assert (logits - untrained).abs().max() > 1e-2, "the export holds the weights from before the training"


def test_a_checkpoint_is_published_whole(world: World) -> None:
    world.results("tp2")
    checkpoint = open_checkpoint(world.saved("tp2"))
    names = set(checkpoint.manifest.files)
    assert "state.json" in names
    assert {name.split("/")[0] for name in names} == {"model", "optimizer", "hf", "state.json"}
    assert checkpoint.manifest.source == open_checkpoint(world.checkpoint("qwen2-tied")).manifest.source
    assert [path.name for path in checkpoint.path.parent.iterdir()] == ["step_000002"]


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("truncated weights", ("broken/truncated-weights/model/", ".distcp", "truncated")),
        ("missing optimizer", ("broken/missing-optimizer/optimizer/", ".distcp: missing")),
        ("missing state", ("broken/missing-state/state.json: missing",)),
        ("no training state", ("qwen2-tied-megatron/state.json: missing", "start a run from it instead")),
        ("missing model", ("nowhere: no such folder",)),
        ("another model", ("qwen3-untied-megatron",)),
    ],
)
def test_a_damaged_checkpoint_is_named(task: str, said: tuple[str, ...], world: World) -> None:
    for rank in world.results("tp2 again"):
        kind, message = rank[task]["error"]
        assert kind == "CheckpointError", message
        for part in said:
            assert part in message


def test_experts_are_refused_before_anything_is_built(world: World) -> None:
    for rank in world.results("tp2 again"):
        kind, message = rank["experts"]["error"]
        assert kind == "ConfigError"
        assert "model.path: a mixture of experts" in message


def test_a_run_resumes_that_has_taken_no_step_with_a_fused_adam(world: World) -> None:
    """Transformer Engine's and Apex's have no moments before it, which megatron-core's save takes for granted."""
    found = world.results("tp1")[0]["fused adam"]
    assert found["steps"][0] == found["steps"][1]
    assert found["after"][0] == found["after"][1]
    expected = world.results("tp1")[0]["train"]["steps"]
    assert [step["loss"] for step in found["steps"][0]] == pytest.approx([step["loss"] for step in expected], rel=1e-6)
