"""Hugging Face -> Megatron -> Hugging Face returns every bit of every file that is not regenerated."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch.distributed.checkpoint import FileSystemReader
from transformers import AutoModelForCausalLM

from conversion import hf_to_megatron, megatron_folder, megatron_to_hf
from conversion.checkpoint import open_checkpoint
from conversion.publishing import MARKER_FILE
from tests.conversion.companions import COMPANIONS
from tests.conversion.models import CASES, save_folder

Make = Callable[..., Path]


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Every stored tensor, read by the safetensors library and not by our own reader."""
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def _assert_same_weights(a: Path, b: Path) -> None:
    left, right = _tensors(a), _tensors(b)
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert tensor.dtype == right[name].dtype, name
        assert torch.equal(tensor, right[name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_round_trip_is_exact(
    case: str, dtype: torch.dtype, hf_folder: Make, megatron_folder: Make, tmp_path: Path
) -> None:
    source = hf_folder(case, dtype)
    back = megatron_to_hf.convert(megatron_folder(case, dtype), tmp_path / "back")
    _assert_same_weights(source, back)
    names = {"config.json", "generation_config.json", *COMPANIONS}
    assert {file.name for file in back.iterdir()} == {*names, "model.safetensors", MARKER_FILE}
    for name in names:
        assert (back / name).read_bytes() == (source / name).read_bytes(), name


@pytest.mark.parametrize(
    "case", ["qwen2-tied", "llama-scaled-tied", "qwen3-untied", "mistral-untied", "qwen3moe-untied"]
)
def test_exported_model_loads_in_transformers(
    case: str, hf_folder: Make, megatron_folder: Make, tmp_path: Path
) -> None:
    back = megatron_to_hf.convert(megatron_folder(case), tmp_path / "back")
    tokens = torch.arange(24)[None]
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(hf_folder(case))(tokens).logits
        loaded, report = AutoModelForCausalLM.from_pretrained(back, output_loading_info=True)
        assert torch.equal(loaded(tokens).logits, expected)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]


def test_tied_weight_is_stored_once(megatron_folder: Make, tmp_path: Path) -> None:
    back = megatron_to_hf.convert(megatron_folder("qwen2-tied"), tmp_path / "back")
    assert "lm_head.weight" not in _tensors(back)
    assert "model.embed_tokens.weight" in _tensors(back)


def test_sharded_source_and_sharded_export(hf_folder: Make, tmp_path: Path) -> None:
    source = save_folder("qwen2-untied", tmp_path / "source", max_shard_size="100KB")
    assert len(list(source.glob("model-*.safetensors"))) > 2
    checkpoint = hf_to_megatron.convert(source, tmp_path / "megatron")
    back = megatron_to_hf.convert(checkpoint.path, tmp_path / "back", max_shard_bytes=100_000)
    shards = sorted(back.glob("model-*.safetensors"))
    assert len(shards) > 2
    assert all(shard.stat().st_size < 110_000 for shard in shards)
    index = json.loads((back / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in _tensors(back).values())
    for name, file in index["weight_map"].items():
        with safe_open(back / file, framework="pt") as opened:
            assert name in opened.keys()  # noqa: SIM118
    _assert_same_weights(hf_folder("qwen2-untied"), back)
    assert AutoModelForCausalLM.from_pretrained(back).config.num_hidden_layers == 4


def test_rounding_to_bfloat16_rounds_once_and_says_so_in_the_config(hf_folder: Make, tmp_path: Path) -> None:
    source = hf_folder("llama-classic-config")
    checkpoint = hf_to_megatron.convert(source, tmp_path / "megatron", dtype=torch.bfloat16)
    assert checkpoint.manifest.dtype == "bfloat16"
    assert checkpoint.manifest.source.dtype == "float32"
    back = megatron_to_hf.convert(checkpoint.path, tmp_path / "back")
    rounded = _tensors(back)
    for name, tensor in _tensors(source).items():
        assert torch.equal(rounded[name], tensor.to(torch.bfloat16)), name
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (source, back))
    assert after.pop("torch_dtype") == "bfloat16"
    assert before.pop("torch_dtype") == "float32"
    assert list(after.items()) == list(before.items())


def test_manifest_counts_are_those_of_transformers(hf_folder: Make, megatron_folder: Make) -> None:
    for case in CASES:
        manifest = open_checkpoint(megatron_folder(case)).manifest
        model = AutoModelForCausalLM.from_pretrained(hf_folder(case))
        assert manifest.parameter_count == sum(parameter.numel() for parameter in model.parameters()), case
        assert manifest.tensor_count == len(_tensors(hf_folder(case))), case


@pytest.mark.parametrize("case", ["qwen2-untied", "qwen3moe-tied"])
def test_large_tensors_travel_in_pieces(
    case: str, hf_folder: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With pieces of 1,000 bytes every matrix is large: memory stays flat, and not a bit changes."""
    for module in (hf_to_megatron, megatron_folder):
        monkeypatch.setattr(module, "PIECE_BYTES", 1000)
    source = hf_folder(case)
    for layout in ("megatron", "nemo"):
        checkpoint = hf_to_megatron.convert(source, tmp_path / layout, layout=layout)
        metadata = FileSystemReader(checkpoint.model_dir).read_metadata().state_dict_metadata
        (embedding,) = (entry for key, entry in metadata.items() if key.endswith("word_embeddings.weight"))
        assert len(embedding.chunks) > 10
        _assert_same_weights(source, megatron_to_hf.convert(checkpoint.path, tmp_path / f"{layout}-back"))


def test_a_tied_model_stored_with_its_copy_converts(hf_folder: Make, tmp_path: Path) -> None:
    """Some tied checkpoints store lm_head.weight a second time; it is accepted when equal, and dropped."""
    from safetensors.torch import save_file

    source = save_folder("qwen2-tied", tmp_path / "source")
    tensors = load_file(source / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    checkpoint = hf_to_megatron.convert(source, tmp_path / "megatron")
    _assert_same_weights(hf_folder("qwen2-tied"), megatron_to_hf.convert(checkpoint.path, tmp_path / "back"))
