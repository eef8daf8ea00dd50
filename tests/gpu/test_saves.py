"""Saves of a process that holds CUDA: written beside training to the last bit, resumed to the last bit, exported."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from conversion import megatron_to_hf
from tests.gpu.conftest import GpuWorld
from tests.gpu.place import gpu_tests

pytestmark = gpu_tests
LAUNCHES = [("local", "float32"), ("engine", "bfloat16")]


@pytest.mark.parametrize(("launch", "precision"), LAUNCHES)
def test_a_forked_writer_saves_what_was_there(launch: str, precision: str, gpu_world: GpuWorld) -> None:
    """It stands still until two more steps have run on the device, then writes the values from before them."""
    found = gpu_world.found(launch, f"snapshot {launch}-{precision}")
    assert found["loaded"] == found["saved"]
    assert len(found["saved"]) > 20
    assert [key for key, digest in found["moved"].items() if digest != found["saved"][key]]
    assert (found["held"], found["early"], found["children"]) == (1, [False, False], 0)


@pytest.mark.parametrize(("launch", "precision"), LAUNCHES)
def test_a_resumed_run_goes_on_to_the_last_bit(launch: str, precision: str, gpu_world: GpuWorld) -> None:
    """Sequences are shorter than a block of keys, for which alone attention's gradient adds up in one order."""
    whole = gpu_world.found(launch, f"whole {launch}-{precision}")
    resumed = gpu_world.found(launch, f"resumed {launch}-{precision}")
    assert resumed["state"]["step"] == 2
    assert resumed["steps"] == whole["steps"][2:]
    assert resumed["after"] == whole["after"]


def test_a_checkpoint_comes_back_from_the_device_bit_for_bit(gpu_world: GpuWorld, tmp_path: Path) -> None:
    """Converted, loaded into the engine, saved before any step, and exported."""
    saved = gpu_world.found("engine", "carry")
    exported = load_file(megatron_to_hf.convert(Path(saved), tmp_path / "hf") / "model.safetensors")
    original = load_file(gpu_world.hf("qwen2-tied") / "model.safetensors")
    assert set(exported) == set(original)
    for name, tensor in original.items():
        assert tensor.dtype == exported[name].dtype == torch.bfloat16
        assert torch.equal(tensor, exported[name]), name
