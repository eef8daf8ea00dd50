"""A step of PPO is the same at every layout, and the one that plain torch takes: values, targets, advantages, both
losses and both gradients, tensor by tensor.

Fails if the critic's gradients are not added up over data parallel ranks, if a tensor parallel rank counts the head's
gradient again, if a loss is averaged within a micro-batch, or if targets leave out the divergence that tokens pay for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from conversion import megatron_to_hf
from conversion.checkpoint import open_checkpoint
from conversion.megatron_folder import open_megatron
from conversion.torch_dist import TorchDistReader
from tests.engines import reference_ppo
from tests.engines.conftest import CRITICS, EPSILON, PPO_STEPS, WEIGHT_DECAY, World

pytestmark = pytest.mark.multiprocess
IN_TURNS = "dp2 in turns"
Expected = Callable[[str], tuple[list[dict[str, Any]], Any, Any]]


@pytest.fixture(scope="module")
def expected(world: World) -> Expected:
    """Two steps of a setting by the plain implementation, with both models and the second one's gradients."""

    @cache
    def run(name: str) -> tuple[list[dict[str, Any]], Any, Any]:
        return reference_ppo.take_steps(
            *(world.hf("qwen2-tied"), world.scored(), world.head(), name),
            weight_decay=WEIGHT_DECAY,
            eps=EPSILON,
        )

    return run


@pytest.mark.parametrize("name", PPO_STEPS)
def test_the_same_steps_as_plain_torch(name: str, world: World, expected: Expected) -> None:
    layout, setting, _ = PPO_STEPS[name]
    wanted, _, _ = expected(setting)
    for rank in world.results(layout):
        for step, other in zip(rank[f"ppo: {name}"]["steps"], wanted, strict=True):
            for key in ("values", "targets", "advantages"):
                for row, values in zip(_by_length(step[key]), _by_length(other[key]), strict=True):
                    assert row == pytest.approx(values, rel=1e-5, abs=1e-5), key
            for key in ("critic", "policy"):
                for found, result in zip(step[key], other[key], strict=True):
                    assert found["loss"] == pytest.approx(result["loss"], rel=1e-5, abs=1e-6), key
                    assert found["grad_norm"] == pytest.approx(result["grad_norm"], rel=1e-5), key


@pytest.mark.parametrize("name", [name for name in PPO_STEPS if name != IN_TURNS])
def test_both_whole_gradients_are_the_same(name: str, world: World, expected: Expected, tmp_path: Path) -> None:
    layout, setting, _ = PPO_STEPS[name]
    _, policy, critic = expected(setting)
    results, folder = world.results(layout), world.ppo_folder("gradient", name)
    found = load_file(megatron_to_hf.convert(folder, tmp_path / "policy") / "model.safetensors")
    _assert_same(found, {name: p.grad for name, p in policy.named_parameters()})
    # The policy's weight map, which has no output matrix where it is tied, over the critic's folder.
    model = dataclasses.replace(open_megatron(folder), reader=TorchDistReader(folder / "critic"))
    entries = model.family.entries(model.architecture)
    found = {name: tensor for entry in entries for name, tensor in zip(entry.hf_names, model.read(entry), strict=True)}
    layers = {name.replace("layers.", "model.", 1): p.grad for name, p in critic.named_parameters() if name != "head"}
    heads = [torch.tensor(rank[f"ppo: {name}"]["head"]) for rank in results if "head" in rank[f"ppo: {name}"]]
    for head in heads:
        _assert_same({**found, "head": head}, {**layers, "head": critic.head.grad})
    assert heads


@pytest.mark.parametrize("name", PPO_STEPS)
def test_a_resumed_step_is_the_same_to_the_bit(name: str, world: World) -> None:
    for rank in world.results(PPO_STEPS[name][0]):
        found = rank[f"ppo: {name}"]
        assert found["resumed"] == found["steps"][1]


def test_who_does_not_compute_leaves_the_device(world: World) -> None:
    for rank in world.results(PPO_STEPS[IN_TURNS][0]):
        (policy, critic), (policy_later, critic_later) = rank[f"ppo: {IN_TURNS}"]["bytes"]
        assert critic == policy_later == [0, 0, 0]
        assert min(*policy, *critic_later) > 0


def test_a_critic_has_a_head_and_no_output_matrix(world: World) -> None:
    """Of a tied policy too, whose last stage has a copy of the embedding."""
    for name, (layout, _, _) in PPO_STEPS.items():
        ranks = [rank[f"ppo: {name}"] for rank in world.results(layout)]
        for found in ranks:
            assert name == IN_TURNS or ("output_layer.weight" in found["names"]) == ("head" in found)
        assert any("output_layer.weight" in found["names"] for found in ranks)
        assert open_checkpoint(world.ppo_folder("saved", name)).architecture.share_embeddings_and_output_weights


@pytest.mark.parametrize("critic", [critic for _, critic in CRITICS])
def test_a_critic_starts_from_any_model_of_its_vocabulary_and_at_zero(critic: str, world: World) -> None:
    """Whatever of the two has an output matrix of its own; from 0 to a target of 1 every token errs by 1."""
    for rank in world.results("pp2"):
        found = rank[f"critic: {critic}"]
        assert {value for row in found["before"] for value in row} == {0.0}
        assert found["loss"] == pytest.approx(0.5)
        values = [value for row in found["after"] for value in row]
        assert sum(values) / len(values) > 0.1
        assert ": a vocabulary of 98 tokens, and the policy has 99; a critic reads" in found["refused"]


def test_who_has_no_critic_is_asked_for_no_values(world: World) -> None:
    assert world.results("tp1")[0]["settings"]["without critic"] == "there is no critic; set algorithm.advantage=gae"


def _by_length(rows: list[list[float]]) -> list[list[float]]:
    """In an order that both have: groups come one after the other, and the plain implementation's as they stand."""
    return sorted(rows, key=len)


def _assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor | None]) -> None:
    assert set(found) == set(wanted)
    norm = torch.cat([g.flatten() for g in wanted.values() if g is not None]).norm()
    for tensor, gradient in wanted.items():
        assert gradient is not None
        # A tensor whose gradient is rounding alone, as a key's bias, has no relative error.
        floor = 1e-3 * norm
        assert (found[tensor] - gradient).norm() <= 1e-5 * max(gradient.norm(), floor), tensor
