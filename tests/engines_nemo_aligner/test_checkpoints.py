"""What the engine saves: NeMo's form, from one layout to another, and back to Hugging Face."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from conversion import megatron_to_hf
from conversion.checkpoint import open_checkpoint
from tests.engines.exports import check_exports
from tests.engines.steps import assert_named
from tests.engines_nemo_aligner.conftest import World
from tests.engines_nemo_aligner.models import logits

pytestmark = pytest.mark.multiprocess


@pytest.mark.parametrize("model", ["qwen2", "llama"])
def test_hugging_face_to_nemo_to_grpo_to_hugging_face(world: World, model: str, tmp_path: Path) -> None:
    """The model that began is transformers' and so is the one that training made, which is another."""
    found = world.results("tp2")[0][f"save {model}"]
    ids = world.batches(model)[0]["sequences"][0]["ids"]
    back = megatron_to_hf.convert(world.saved(model), tmp_path / "back")
    trained = logits(back, ids)
    assert (torch.tensor(found["logits"]) - trained).abs().max() < 1e-4
    assert (trained - logits(world.hf(model), ids)).abs().max() > 1e-2
    for file in world.hf(model).iterdir():
        if file.suffix == ".json":
            assert (back / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.parametrize("layout", ["tp2", "pp2"])
def test_weights_handed_over_are_those_of_the_checkpoint(world: World, layout: str, tmp_path: Path) -> None:
    """Of the source at the start; after a step, and when loaded after another, of what was saved and converted."""
    ranks = [rank["export"] for rank in world.results(layout)]
    saved = world.exported(layout)
    check_exports(ranks, source=world.hf("qwen2"), saved=saved, precision=torch.float32, scratch=tmp_path)


@pytest.mark.parametrize("layout", ["pp2", "dp2"])
def test_resumed_at_another_layout_it_goes_on(world: World, layout: str) -> None:
    """Saved at TP 2: the third step, after weights, moments and step count are back, is the uninterrupted run's."""
    whole = world.results("tp2")[0]["qwen2"]["steps"]
    for rank in world.results(layout):
        resumed = rank["resume"]
        assert resumed["state"] == {"step": 2, "text": "ä"}
        for key in ("loss", "grad_norm", "kl"):
            assert resumed["steps"][0][key] == pytest.approx(whole[2][key], rel=1e-4, abs=1e-6), key
        for row, other in zip(resumed["after"], world.results("tp2")[0]["qwen2"]["after"], strict=True):
            # Adam turns the layouts' rounding into 1e-4; the last step alone moved 0.1 and more.
            assert row == pytest.approx(other, abs=1e-3)


def test_a_checkpoint_is_a_nemo_folder(world: World) -> None:
    """NeMo's names; a run may start from it as from a converted one."""
    world.results("tp2")
    folder = world.saved("qwen2")
    assert world.results("tp2")[0]["save qwen2"]["published"] == str(folder)
    checkpoint = open_checkpoint(folder)
    assert checkpoint.manifest.layout == "nemo"
    settings = yaml.safe_load((folder / "model_config.yaml").read_text())
    assert settings["override_vocab_size"] == 128
    assert settings["tokenizer"]["type"] == str(folder / "hf")
    assert {"model_weights", "optimizer", "hf"} <= {path.name for path in folder.iterdir()}


def test_values_that_are_not_finite_stop_the_engine_by_name(world: World) -> None:
    for rank in world.results("tp2"):
        assert_named(rank["diverged"])
