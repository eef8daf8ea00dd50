"""NeMo's form of a checkpoint: written with NeMo's keys and names, and converted back from what NeMo writes itself."""

from __future__ import annotations

import io
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch.distributed.checkpoint import FileSystemReader

from conversion import hf_to_megatron, megatron_to_hf
from conversion.checkpoint import open_checkpoint
from conversion.errors import CheckpointError, TensorMapError, UnsupportedConfigError
from conversion.verify import compare
from tests.conversion.models import save_folder

Make = Callable[..., Path]
_CONTENT = b"not yours"
# Llama 3.2's factor of 32 cannot be said in NeMo 2.1.
CASES = ("qwen2-tied", "qwen2-untied", "qwen3-untied", "mistral-untied", "qwen3moe-tied")


@pytest.fixture(params=CASES)
def pair(request: pytest.FixtureRequest, hf_folder: Make, tmp_path: Path) -> tuple[Path, Path]:
    """A Hugging Face folder and the same model in NeMo's form."""
    source = hf_folder(request.param, torch.bfloat16)
    return source, hf_to_megatron.convert(source, tmp_path / "actor.nemo", layout="nemo").path


def _assert_same(source: Path, back: Path) -> None:
    expected, found = load_file(source / "model.safetensors"), load_file(back / "model.safetensors")
    assert expected.keys() == found.keys()
    assert all(
        torch.equal(tensor, found[name]) and tensor.dtype == found[name].dtype for name, tensor in expected.items()
    )
    for file in source.iterdir():
        if file.suffix != ".safetensors":
            assert (back / file.name).read_bytes() == file.read_bytes(), file.name


def test_there_and_back(pair: tuple[Path, Path], tmp_path: Path) -> None:
    source, nemo = pair
    _assert_same(source, megatron_to_hf.convert(nemo, tmp_path / "back"))
    assert compare(source, nemo).differences == ()


def test_keys_and_padding_are_those_that_nemo_asks_for(pair: tuple[Path, Path]) -> None:
    _, nemo = pair
    config = yaml.safe_load((nemo / "model_config.yaml").read_text())
    metadata = FileSystemReader(nemo / "model_weights").read_metadata().state_dict_metadata
    assert all(key.startswith("model.") for key in metadata)
    # 99 rows become 128, at every tensor parallel size; torch loads no other number than was stored.
    assert tuple(metadata["model.embedding.word_embeddings.weight"].size) == (128, 64)
    assert config["override_vocab_size"] == 128
    architecture = open_checkpoint(nemo).architecture
    for key in ("num_layers", "hidden_size", "num_query_groups", "kv_channels", "qk_layernorm", "rotary_base"):
        assert config[key] == getattr(architecture, key), key
    assert config["qkv_bias"] is architecture.add_qkv_bias
    assert (config["precision"], config["megatron_amp_O2"]) == ("bf16", True)
    assert (config["activation"], config["normalization"], config["bias"]) == ("fast-swiglu", "rmsnorm", False)
    assert Path(config["tokenizer"]["type"]).is_dir()


@pytest.mark.parametrize("form", ["tar", "folder", "training checkpoint"])
def test_what_nemo_saved_itself_comes_back(pair: tuple[Path, Path], form: str, tmp_path: Path) -> None:
    """NeMo writes no manifest and no hf/: those files come from where training began."""
    source, nemo = pair
    saved = tmp_path / "saved"
    if form == "training checkpoint":
        shutil.copytree(nemo / "model_weights", saved)
    else:
        shutil.copytree(nemo, saved, ignore=shutil.ignore_patterns("hf", "manifest.json"))
    if form == "tar":
        archive = tmp_path / "saved.nemo"
        with tarfile.open(archive, "w") as tar:
            for file in ("model_config.yaml", "model_weights"):
                tar.add(saved / file, arcname=f"./{file}")
        saved = archive
    with pytest.raises(CheckpointError, match=r"name the Hugging Face folder it came from.*--hf-files"):
        megatron_to_hf.convert(saved, tmp_path / "back")
    _assert_same(source, megatron_to_hf.convert(saved, tmp_path / "back", hf_files=source))
    assert not list(tmp_path.glob(".nemo-*"))


def test_another_models_files_are_refused(hf_folder: Make, tmp_path: Path) -> None:
    nemo = hf_to_megatron.convert(hf_folder("qwen2-tied"), tmp_path / "actor.nemo", layout="nemo").path
    (nemo / "manifest.json").unlink()
    with pytest.raises(TensorMapError, match=r"output_layer.weight: missing"):
        megatron_to_hf.convert(nemo, tmp_path / "back", hf_files=hf_folder("qwen2-untied"))
    assert not (tmp_path / "back").exists()


def test_a_truncated_tar_is_named(hf_folder: Make, tmp_path: Path) -> None:
    nemo = hf_to_megatron.convert(hf_folder("qwen2-tied"), tmp_path / "whole", layout="nemo").path
    archive = tmp_path / "cut.nemo"
    with tarfile.open(archive, "w") as tar:
        tar.add(nemo / "model_weights", arcname="model_weights")
    archive.write_bytes(archive.read_bytes()[:100_000])
    with pytest.raises(CheckpointError, match=r"cut.nemo: cannot be unpacked|cut.nemo"):
        megatron_to_hf.convert(archive, tmp_path / "back", hf_files=hf_folder("qwen2-tied"))
    assert not (tmp_path / "back").exists()


def _member(name: str, kind: bytes = tarfile.REGTYPE, to: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, to, len(_CONTENT) if kind == tarfile.REGTYPE else 0
    return member


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([_member("../outside")], "'../outside' lies outside of it"),
        ([_member("model_weights/../../outside")], "lies outside of it"),
        ([_member("../outside", tarfile.DIRTYPE)], "lies outside of it"),
        ([_member("{tmp}/outside")], "lies outside of it"),
        ([_member("link", tarfile.SYMTYPE, ".."), _member("link/outside")], "'link' is a link or a device"),
        ([_member("model_config.yaml", tarfile.SYMTYPE, "/etc/passwd")], "is a link or a device"),
        ([_member("a"), _member("b", tarfile.LNKTYPE, "a")], "'b' is a link or a device"),
        ([_member("b", tarfile.LNKTYPE, "/etc/passwd")], "is a link or a device"),
        ([_member("pipe", tarfile.FIFOTYPE)], "is a link or a device"),
        ([_member("disk", tarfile.BLKTYPE)], "is a link or a device"),
        ([_member("terminal", tarfile.CHRTYPE)], "is a link or a device"),
        ([_member("a"), _member("a/b")], "'a/b' is a file and a folder in it"),
        ([_member("a/b"), _member("a")], "'a' is a file and a folder in it"),
        ([_member(".")], "'.' is a file and a folder in it"),
    ],
)
def test_a_tar_that_reaches_out_of_its_folder_is_refused(
    members: list[tarfile.TarInfo], said: str, hf_folder: Make, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    with tarfile.open(home / "bad.nemo", "w") as tar:
        for member in members:
            member.name = member.name.format(tmp=tmp_path)
            tar.addfile(member, io.BytesIO(_CONTENT) if member.isreg() else None)
    source = hf_folder("qwen2-tied")
    before = set(tmp_path.rglob("*"))
    with pytest.raises(CheckpointError, match=rf"bad.nemo: cannot be unpacked \(.*{re.escape(said)}"):
        megatron_to_hf.convert(home / "bad.nemo", home / "back", hf_files=source)
    assert set(tmp_path.rglob("*")) == before


def test_rotary_scaling_that_nemo_cannot_express_is_refused(tmp_path: Path) -> None:
    source = save_folder("llama-scaled-tied", tmp_path / "source")
    with pytest.raises(UnsupportedConfigError, match=r"rope scaling by 32.0; NeMo 2.1 scales by 8.0 only"):
        hf_to_megatron.convert(source, tmp_path / "out", layout="nemo")
    assert not (tmp_path / "out").exists()
