"""One training step is the same step at every layout, and the one that plain torch takes.

Fails if a loss is averaged where it must be summed, a gradient is counted twice or not at all, padding or a filler row
leaks into a loss, or the reference pass leaves its weights behind.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from conversion import megatron_to_hf
from tests.engines import reference
from tests.engines.conftest import GRADIENTS, KL, KL_COEF, World
from tests.engines.constants import OBJECTIVES
from tests.engines.steps import assert_named

pytestmark = pytest.mark.multiprocess
Expected = Callable[..., list[dict[str, float]]]
LAYOUTS = ("tp1", "tp2", "pp2", "dp2")
CASES = [
    (layout, task, model, kl)
    for layout in LAYOUTS
    for task, model, kl in (
        ("train", "qwen2-tied", 0.0),
        ("train in small micro-batches", "qwen2-tied", 0.0),
        ("train with KL", "qwen2-tied", KL_COEF),
        ("train qwen3", "qwen3-untied", KL_COEF),
    )
]
CASES += [
    ("tp2", "train sequence parallel", "qwen2-tied", KL_COEF),
    ("tp2", "train qwen3 sequence parallel", "qwen3-untied", KL_COEF),
    ("tp1", "recompute", "qwen2-tied", KL_COEF),
    ("pp2", "recompute", "qwen2-tied", KL_COEF),
]


@pytest.mark.parametrize(("layout", "task", "model", "kl"), CASES)
def test_the_same_steps_as_plain_torch(
    layout: str, task: str, model: str, kl: float, world: World, expected_training: Expected
) -> None:
    expected = expected_training(model, kl)
    for rank in world.results(layout):
        steps = rank[task]["steps"]
        assert len(steps) == 2
        for step, wanted in zip(steps, expected, strict=False):
            assert step["stepped"] == 1
            assert step["tokens"] == wanted["tokens"]
            assert step["clipped"] == wanted["clipped"] > 0
            for name in ("loss", "grad_norm", "entropy"):
                assert step[name] == pytest.approx(wanted[name], rel=1e-5), name
            # Near 0 at the first step, where policy and reference are one model.
            assert step["kl"] == pytest.approx(wanted["kl"], rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("name", GRADIENTS)
def test_the_whole_gradient_is_the_same(name: str, world: World, tmp_path: Path) -> None:
    """Packed responses that share a prompt against sequences each for itself, on every layout, tensor by tensor."""
    layout, overrides = GRADIENTS[name]
    world.results(layout)
    found = load_file(megatron_to_hf.convert(world.gradient_folder(name), tmp_path / "hf") / "model.safetensors")
    wanted = reference.gradient(
        world.hf("qwen2-tied"), world.batches("qwen2-tied")[1], kl_coef=KL_COEF if KL in overrides else 0.0
    )
    assert set(found) == set(wanted)
    norm = torch.cat([g.flatten() for g in wanted.values()]).norm()
    assert norm == pytest.approx(1.0, rel=1e-3)  # it was clipped
    for tensor, gradient in wanted.items():
        # A tensor whose gradient is rounding alone, as a key's bias, has no relative error.
        floor = 1e-3 * norm
        assert (found[tensor] - gradient).norm() <= 1e-5 * max(gradient.norm(), floor), tensor


def test_a_rank_with_more_micro_batches_is_among_the_above(world: World) -> None:
    """Gradients are reduced while the last one's are computed, which comes later there."""
    counts = [rank["gradient: dp2 unequal micro-batches"]["micro-batches"] for rank in world.results("dp2")]
    assert counts == [2, 1]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("objective", [name for name in OBJECTIVES if name != "grpo"])
def test_other_objectives_are_the_same_at_every_layout(
    objective: str, layout: str, world: World, expected_training: Expected
) -> None:
    """A response's own statistics (its ratio, its length) must not depend on the micro-batch it is in."""
    expected = expected_training("qwen2-tied", KL_COEF, objective)
    for rank in world.results(layout):
        for step, wanted in zip(rank[objective]["steps"], expected, strict=False):
            assert step["clipped"] == wanted["clipped"]
            for name in ("grad_norm", "entropy"):
                assert step[name] == pytest.approx(wanted[name], rel=1e-5), name
            # A difference of terms near 1, whose own rounding is what is left of it.
            assert step["loss"] == pytest.approx(wanted["loss"], abs=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_step_into_nothing_is_not_taken(layout: str, world: World) -> None:
    """Weights, main weights and moments stay as they are to the last bit, and the next step is an ordinary one."""
    for rank in world.results(layout):
        found = rank["poisoned"]
        assert [step["stepped"] for step in found["steps"]] == [1, 0, 1]
        assert found["states"][1] == found["states"][0]
        assert len(found["states"][0]) > 20
        before, after = rank["train in small micro-batches"]["steps"][1], found["steps"][2]
        assert after["loss"] == before["loss"]
        assert after["grad_norm"] == before["grad_norm"]


@pytest.mark.parametrize("layout", ["tp1", "tp2"])
def test_values_that_are_not_finite_stop_the_engine_by_name(layout: str, world: World) -> None:
    for rank in world.results(layout):
        assert_named(rank["diverged"])


def test_the_batches_are_a_fair_trial(world: World, expected_training: Expected) -> None:
    """Guards the test above: clipping is active, the KL term weighs, and gradients are clipped in some step only."""
    with_kl, without = expected_training("qwen2-tied", KL_COEF), expected_training("qwen2-tied", 0.0)
    assert with_kl[1]["loss"] != pytest.approx(without[1]["loss"], rel=1e-3)
    assert with_kl[1]["kl"] / with_kl[1]["tokens"] > 1e-3
    assert all(0 < step["clipped"] < step["tokens"] for step in with_kl[:2])
    assert any(step["grad_norm"] > 1 for step in with_kl)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("task", ["train with KL", "train qwen3"])
def test_log_probabilities_agree_before_and_after_training(task: str, layout: str, world: World) -> None:
    expected = world.results("tp1")[0][task]
    for rank in world.results(layout):
        for when in ("before", "after"):
            for found, wanted in zip(rank[task][when], expected[when], strict=True):
                assert found == pytest.approx(wanted, abs=2e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_reference_stays_where_the_policy_began(layout: str, world: World) -> None:
    for rank in world.results(layout):
        found = rank["train with KL"]
        assert found["reference"] == found["before"]
        assert found["after_reference"] == found["after"]
        assert found["after"] != found["before"]


@pytest.mark.parametrize("layout", ["tp1", "tp2"])
def test_token_logprobs_on_a_divided_vocabulary(layout: str, world: World) -> None:
    """Padding entries must get no probability and no gradient, and chunks must add up, whatever their size."""
    for rank in world.results(layout):
        found = rank["vocabulary"]
        assert found["logprob"] < 2e-4  # at logits of hundreds, whose float32 spacing is 3e-5
        assert found["entropy"] < 2e-5
        assert found["hidden gradient"] < 1e-5
        assert found["weight gradient"] < 1e-5


def test_settings_that_only_a_gpu_would_miss(world: World) -> None:
    """At FP8, rows of a few dozen tokens end at what each of 8 ranks must hold; amaxes stay with tensor parallel ranks.

    With the defaults Transformer Engine asserts on the one, at a step of short responses, and data parallel ranks that
    have not the same number of micro-batches wait for ever for the other.
    """
    for rank in world.results("tp1"):
        found = rank["settings"]
        assert found["tp_only_amax_red"] is True
        rows = found["rows"]
        assert len(rows["blockwise True"]) > 2
        assert set(rows["blockwise True"]) == {8 * 128}
        assert set(rows["tensorwise True"]) == {8 * 16}
        assert set(rows["blockwise False"]) < {16, 32, 48, 64, 80}


def test_the_passes_that_find_delayed_scales_leave_no_gradient(world: World) -> None:
    for rank in world.results("tp1"):
        found = rank["settings"]["calibrated"]
        assert found["passes"] == 2 + len(found["steps"])
        assert found["steps"] == rank["train in small micro-batches"]["steps"]


def test_the_cpu_trains_beside_transformer_engine(world: World) -> None:
    """Every test of this layout runs where it can be imported; megatron-core would take its kernels for CPU tensors."""
    assert world.results("tp1")[0]["settings"]["transformer engine"] == [True, None]
