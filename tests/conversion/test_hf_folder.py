"""Which files of a Hugging Face folder are the model: as its index names them, and never half of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from conversion import hf_to_megatron, verify
from conversion.errors import ConversionError, HuggingFaceError, TensorMapError

Make = Callable[..., Path]
_INDEX = "model.safetensors.index.json"


@pytest.fixture
def source(hf_folder: Make, tmp_path: Path) -> Path:
    """A private copy of a folder with one weight file."""
    return Path(shutil.copytree(hf_folder("qwen3-untied"), tmp_path / "source"))


def _save(folder: Path, file: str, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, folder / file, metadata={"format": "pt"})


def _write_index(folder: Path, weight_map: dict[str, str]) -> None:
    (folder / _INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))


def _cut(folder: Path, *files: str) -> dict[str, torch.Tensor]:
    """Deal the tensors of the one weight file out to these; returns all of them."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = {name: files[number % len(files)] for number, name in enumerate(tensors)}
    for file in files:
        _save(folder, file, {name: tensors[name] for name in tensors if names[name] == file})
    _write_index(folder, names)
    return tensors


def _converts(source: Path, original: Path, tmp_path: Path) -> None:
    """The folder is the same model as `original`, tensor by tensor."""
    converted = hf_to_megatron.convert(source, tmp_path / "out").path
    assert verify.compare(original, converted).differences == ()


def test_one_file_beside_the_index_that_names_it(source: Path, hf_folder: Make, tmp_path: Path) -> None:
    names = load_file(source / "model.safetensors").keys()
    _write_index(source, dict.fromkeys(names, "model.safetensors"))
    _converts(source, hf_folder("qwen3-untied"), tmp_path)
    _write_index(source, {**dict.fromkeys(names, "model.safetensors"), "model.extra.weight": "model.safetensors"})
    with pytest.raises(HuggingFaceError, match=r"model.extra.weight is not in it as"):
        hf_to_megatron.convert(source, tmp_path / "out2")
    _write_index(source, dict.fromkeys(names, "model-00001-of-00002.safetensors"))
    with pytest.raises(
        HuggingFaceError, match=r"names other files \(model-00001-of-00002.safetensors\); delete the one"
    ):
        hf_to_megatron.convert(source, tmp_path / "out2")


def test_files_of_any_name_and_a_consolidated_one_beside_them(source: Path, hf_folder: Make, tmp_path: Path) -> None:
    """As Mistral publishes it. A tensor that lies in two files is read from the one that the index names."""
    tensors = _cut(source, "layers-0.safetensors", "layers-1.safetensors")
    _save(source, "consolidated.safetensors", {"layers.0.attention.wq.weight": torch.zeros(2)})
    (source / "params.json").write_text('{"dim": 64}')
    stale = load_file(source / "layers-1.safetensors") | {
        "model.norm.weight": torch.zeros_like(tensors["model.norm.weight"])
    }
    names = json.loads((source / _INDEX).read_text())["weight_map"]
    _save(source, "layers-1.safetensors", stale)
    _write_index(source, names | {"model.norm.weight": "layers-0.safetensors"})
    _save(
        source,
        "layers-0.safetensors",
        load_file(source / "layers-0.safetensors") | {"model.norm.weight": tensors["model.norm.weight"]},
    )
    _converts(source, hf_folder("qwen3-untied"), tmp_path)


def _cache(source: Path, root: Path) -> Path:
    """The folder as a Hugging Face cache keeps it: blobs by checksum, a snapshot of links to them."""
    snapshot = root / "models--org--tiny" / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    blobs = root / "models--org--tiny" / "blobs"
    blobs.mkdir()
    for number, file in enumerate(sorted(source.iterdir())):
        shutil.copyfile(file, blobs / f"{number:040x}")
        (snapshot / file.name).symlink_to(f"../../blobs/{number:040x}")
    return snapshot


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "generation_config.json", "LICENSE"])
def test_a_cache_whose_blob_is_gone(file: str, source: Path, hf_folder: Make, tmp_path: Path) -> None:
    snapshot = _cache(source, tmp_path / "cache")
    with pytest.raises(HuggingFaceError, match=r"the root of a model in a Hugging Face cache; give .*snapshots/"):
        hf_to_megatron.convert(snapshot.parents[1], tmp_path / "out")
    _converts(snapshot, hf_folder("qwen3-untied"), tmp_path)
    (snapshot / file).resolve().unlink()
    with pytest.raises(ConversionError, match=rf"{file}: a link to .*gone.*; download"):
        hf_to_megatron.convert(snapshot, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def _pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def _stale_index(folder: Path) -> None:
    names = load_file(folder / "model.safetensors").keys()
    _pickle(folder)
    _write_index(folder, dict.fromkeys(names, "model-00001-of-00003.safetensors"))


def _other_name(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "weights.safetensors")


def _adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")


def _own_format(folder: Path) -> None:
    (folder / "config.json").rename(folder / "params.json")
    (folder / "model.safetensors").rename(folder / "consolidated.safetensors")


def _set(folder: Path, **keys: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


def _rename(change: Callable[[str], str]) -> Callable[[Path], None]:
    def renamed(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        _save(folder, "model.safetensors", {change(name): tensor for name, tensor in tensors.items()})

    return renamed


def _classifier(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["score.weight"] = tensors.pop("lm_head.weight")[:2].clone()
    _save(folder, "model.safetensors", tensors)
    _set(folder, architectures=["Qwen3ForSequenceClassification"])


def _quantised(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name] = tensors[name].to(torch.float8_e4m3fn)
    _save(folder, "model.safetensors", tensors)


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (_pickle, HuggingFaceError, r"neither model.safetensors.*has pytorch_model.bin.*save_pretrained"),
        (_stale_index, HuggingFaceError, r"00003.safetensors: missing shard.*delete the index.*pytorch_model.bin"),
        (_other_name, HuggingFaceError, r"found weights.safetensors: name the one that holds the whole model"),
        (_adapter, HuggingFaceError, r"adapter_config.json: an adapter \(LoRA\); merge it into its base"),
        (_own_format, HuggingFaceError, r"params.json: a model in its maker's own format; download the files for"),
        (lambda folder: _write_index(folder, {}), HuggingFaceError, r"index.json: no usable weight_map"),
        (lambda folder: _set(folder, transformers_weights="a.safetensors"), HuggingFaceError, r"transformers_weights"),
        (_rename(lambda name: name.removeprefix("model.")), TensorMapError, r"folder calls it embed_tokens.weight"),
        (_rename(lambda name: f"base_model.{name}"), TensorMapError, r"folder calls it base_model.model.embed_tokens"),
        (_classifier, TensorMapError, r"lm_head.weight is missing.*architectures says Qwen3ForSequenceClassification"),
        (_quantised, HuggingFaceError, r"up_proj.weight has dtype F8_E4M3.*convert an unquantised model"),
    ],
)
def test_what_is_no_model_is_named_with_the_way_out(
    damage: Callable[[Path], None], error: type[ConversionError], message: str, source: Path, tmp_path: Path
) -> None:
    damage(source)
    with pytest.raises(error, match=message):
        hf_to_megatron.convert(source, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"source"}


def test_what_transformers_leaves_out_is_said(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rotary = {
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "rope_scaling": {"type": "linear", "factor": 2.0},
    }
    _set(source, dual_chunk_attention_config={"chunk_size": 262144}, **rotary)
    assert hf_to_megatron.main([str(source), str(tmp_path / "out")]) == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: config.json: ")]
    assert "dual_chunk_attention_config {'chunk_size': 262144} is left out, as transformers does" in notes[0]
    assert "rope_scaling replaces rope_parameters" in notes[1]
    assert "'rope_theta': 10000.0" in notes[1]
