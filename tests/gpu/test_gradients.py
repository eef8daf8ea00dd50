"""Log-probabilities, losses and gradients of packed groups on a GPU against plain transformers in float32 on its host.

In float32 to 1e-4; in bfloat16 within two to four times what rounding alone did on a CPU, for the local and for
Transformer Engine's layers, and the two against each other.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from conversion import megatron_to_hf
from tests.engines import reference
from tests.engines.conftest import EPSILON, KL_COEF, WEIGHT_DECAY
from tests.gpu.conftest import MODELS, GpuWorld, differences
from tests.gpu.place import ON_GPU, gpu_tests

pytestmark = gpu_tests
LAUNCHES = ("local", "engine")
# Of bfloat16: mean and largest difference of a log-probability in nats, and the share that a whole gradient, a gradient
# norm and an entropy may be off. On a CPU: 0.028, 0.12; 0.087, 0.02, 0.001.
MEAN_NATS, LARGEST_NATS = 0.06, 0.4
GRADIENT, NORM, ENTROPY = 0.2, 0.05, 0.004


@pytest.fixture(scope="session")
def expected(gpu_world: GpuWorld) -> Any:
    """Steps and first log-probabilities of the plain implementation."""

    @cache
    def run(model: str) -> tuple[list[dict[str, float]], list[list[float]]]:
        folder, batches = gpu_world.hf(model), gpu_world.batches(model)
        steps = reference.train(folder, batches[:2], kl_coef=KL_COEF, weight_decay=WEIGHT_DECAY, eps=EPSILON)
        return steps, reference.response_logprobs(reference.load_model(folder), batches[0])

    return run


@pytest.fixture(scope="session")
def gradient_of(gpu_world: GpuWorld, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a launch saved as a gradient, by Hugging Face's names."""

    @cache
    def read(name: str) -> dict[str, Tensor]:
        folder: Path = tmp_path_factory.mktemp("gradient") / "hf"
        exported = megatron_to_hf.convert(gpu_world.gradient_folder(name), folder)
        return {key: value.float() for key, value in load_file(exported / "model.safetensors").items()}

    return read


@pytest.mark.parametrize("launch", LAUNCHES)
def test_the_engine_is_where_it_should_be(launch: str, gpu_world: GpuWorld) -> None:
    found = gpu_world.found(launch, "built")
    assert (found["device"], found["backend"]) == (("cuda", "nccl") if ON_GPU else ("cpu", "gloo"))
    if launch == "engine" and ON_GPU:
        assert all(name.startswith("TE") for name in found["linears"]), found
        assert "transformer_engine" in found["optimizer"], found
    else:
        assert found["linears"] == ["ColumnParallelLinear", "RowParallelLinear"]


@pytest.mark.parametrize("model", MODELS)
def test_float32_steps_are_those_of_plain_torch(model: str, gpu_world: GpuWorld, expected: Any) -> None:
    """Two steps with clipping and KL: loss, gradient norm, entropy, and where the reference and the policy stand."""
    found = gpu_world.found("local", f"float32 {model}")
    steps, logprobs = expected(model)
    assert float(differences(found["before"], logprobs).max()) < 1e-4
    for step, wanted in zip(found["steps"], steps, strict=True):
        assert step["stepped"] == 1
        assert (step["tokens"], step["clipped"]) == (wanted["tokens"], wanted["clipped"])
        for name in ("loss", "grad_norm", "entropy"):
            assert step[name] == pytest.approx(wanted[name], rel=1e-4), name
        assert step["kl"] == pytest.approx(wanted["kl"], rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("launch", LAUNCHES)
def test_the_reference_is_swapped_to_and_fro(launch: str, gpu_world: GpuWorld) -> None:
    names = [f"bfloat16 {model}" for model in MODELS] + [f"float32 {model}" for model in MODELS if launch == "local"]
    for found in (gpu_world.found(launch, name) for name in names):
        assert found["reference"] == found["before"]
        assert found["after_reference"] == found["after"]
        assert found["after"] != found["before"]


@pytest.mark.parametrize("recompute", ["", " recompute"])
@pytest.mark.parametrize("model", MODELS)
def test_the_whole_float32_gradient(model: str, recompute: str, gpu_world: GpuWorld, gradient_of: Any) -> None:
    name = f"gradient local float32 {model}{recompute}"
    gpu_world.found("local", name)
    found, wanted = (
        gradient_of(name),
        reference.gradient(gpu_world.hf(model), gpu_world.unclipped(model), kl_coef=0.0),
    )
    assert set(found) == set(wanted)
    norm = torch.cat([g.flatten() for g in wanted.values()]).norm()
    for tensor, gradient in wanted.items():
        # A tensor whose gradient is rounding alone, as a key's bias, has no relative error.
        assert (found[tensor] - gradient).norm() <= 1e-4 * max(gradient.norm(), 1e-3 * norm), tensor


@pytest.mark.parametrize("launch", LAUNCHES)
@pytest.mark.parametrize("model", MODELS)
def test_bfloat16_is_off_by_rounding_alone(
    model: str, launch: str, gpu_world: GpuWorld, expected: Any, gradient_of: Any, record_property: Any
) -> None:
    found = gpu_world.found(launch, f"bfloat16 {model}")
    steps, logprobs = expected(model)
    off = differences(found["before"], logprobs)
    record_property("nats, mean and largest", [float(off.mean()), float(off.max())])
    assert float(off.mean()) < MEAN_NATS
    assert float(off.max()) < LARGEST_NATS
    assert found["steps"][0]["grad_norm"] == pytest.approx(steps[0]["grad_norm"], rel=NORM)
    for step, wanted in zip(found["steps"], steps, strict=True):
        assert step["stepped"] == 1
        assert step["entropy"] == pytest.approx(wanted["entropy"], rel=ENTROPY)
    name = f"gradient {launch} bfloat16 {model}"
    gpu_world.found(launch, name)
    wanted = reference.gradient(gpu_world.hf(model), gpu_world.unclipped(model), kl_coef=0.0)
    share = _share(gradient_of(name), wanted)
    record_property("share of the gradient", share)
    assert share < GRADIENT


@pytest.mark.parametrize("model", MODELS)
def test_local_and_transformer_engine_layers_agree(model: str, gpu_world: GpuWorld, gradient_of: Any) -> None:
    ours, theirs = (gpu_world.found(launch, f"bfloat16 {model}") for launch in LAUNCHES)
    off = differences(ours["before"], theirs["before"])
    assert float(off.mean()) < MEAN_NATS
    assert float(off.max()) < LARGEST_NATS
    names = [f"gradient {launch} bfloat16 {model}" for launch in LAUNCHES]
    for launch, name in zip(LAUNCHES, names, strict=True):
        gpu_world.found(launch, name)
    assert _share(gradient_of(names[1]), gradient_of(names[0])) < GRADIENT


def _share(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """Size of the difference of two gradients as a share of the second's."""
    assert set(found) == set(wanted)
    whole = torch.cat([wanted[name].flatten() for name in wanted])
    return float((torch.cat([found[name].flatten() for name in wanted]) - whole).norm() / whole.norm())
