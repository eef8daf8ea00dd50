"""Every damage to a source or a checkpoint is caused for real: a clear error, nothing left, the source untouched."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from conversion import hf_to_megatron, megatron_to_hf
from conversion.checkpoint import companion_files, copy_companions, open_checkpoint, write_manifest
from conversion.errors import (
    CheckpointError,
    ConversionError,
    DestinationError,
    HuggingFaceError,
    TensorMapError,
    UnknownFamilyError,
)
from tests.conversion.models import save_folder

Make = Callable[..., Path]
_REPOSITORY = Path(__file__).parents[2]


def _state(folder: Path) -> dict[str, str]:
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


@contextmanager
def _refused(error: type[ConversionError], message: str, source: Path, root: Path) -> Iterator[None]:
    """The body raises this error; the source is unchanged and `root` holds no new folder."""
    before, names = _state(source), {path.name for path in root.iterdir()}
    with pytest.raises(error, match=message):
        yield
    assert _state(source) == before
    assert {path.name for path in root.iterdir()} == names


@pytest.fixture
def source(hf_folder: Make, tmp_path: Path) -> Path:
    """A private copy of a Hugging Face folder, to be damaged."""
    return Path(shutil.copytree(hf_folder("qwen2-untied"), tmp_path / "source"))


@pytest.fixture
def checkpoint(megatron_folder: Make, tmp_path: Path) -> Path:
    """A private copy of a checkpoint, to be damaged."""
    return Path(shutil.copytree(megatron_folder("qwen2-untied"), tmp_path / "checkpoint"))


def _edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _edit_tensors(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model_type": "gpt2"}, UnknownFamilyError, r"'gpt2'"),
        ({"num_attention_heads": 8}, TensorMapError, r"k_proj.weight has shape \(32, 64\), expected \(16, 64\)"),
        ({"num_key_value_heads": 1}, TensorMapError, r"k_proj.weight has shape \(32, 64\), expected \(16, 64\)"),
        ({"tie_word_embeddings": True}, TensorMapError, r"lm_head.weight differs from model.embed_tokens.weight"),
        ({"num_hidden_layers": 3, "layer_types": None}, TensorMapError, r"model.layers.3.*has no place"),
        (
            {"num_hidden_layers": 5, "layer_types": None},
            TensorMapError,
            r"model.layers.4.input_layernorm.weight is missing",
        ),
        ({"vocab_size": 100}, TensorMapError, r"embed_tokens.weight has shape \(99, 64\), expected \(100, 64\)"),
        ({"model_type": "llama"}, TensorMapError, r"k_proj.bias has no place in the weight map of Llama"),
        ({"model_type": "qwen3", "head_dim": 16}, TensorMapError, r"q_norm.weight is missing"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_wrong_config(
    changes: dict[str, Any], error: type[ConversionError], message: str, source: Path, tmp_path: Path
) -> None:
    _edit_config(source, **changes)
    with _refused(error, message, source, tmp_path):
        hf_to_megatron.convert(source, tmp_path / "out")


def test_untied_config_of_a_tied_model(hf_folder: Make, tmp_path: Path) -> None:
    source = Path(shutil.copytree(hf_folder("qwen2-tied"), tmp_path / "source"))
    _edit_config(source, tie_word_embeddings=False)
    with _refused(TensorMapError, r"lm_head.weight is missing.*tie_word_embeddings", source, tmp_path):
        hf_to_megatron.convert(source, tmp_path / "out")


def test_left_over_and_missing_tensor(source: Path, tmp_path: Path) -> None:
    _edit_tensors(source, lambda tensors: tensors.update({"model.vision.weight": torch.zeros(2)}))
    with _refused(TensorMapError, r"model.vision.weight has no place in the weight map of Qwen2", source, tmp_path):
        hf_to_megatron.convert(source, tmp_path / "out")
    _edit_tensors(source, lambda tensors: [tensors.pop("model.vision.weight"), tensors.pop("model.norm.weight")])
    with _refused(TensorMapError, r"model.norm.weight is missing", source, tmp_path):
        hf_to_megatron.convert(source, tmp_path / "out")


def test_mixed_and_unknown_dtypes(source: Path, tmp_path: Path) -> None:
    name = "model.norm.weight"
    _edit_tensors(source, lambda tensors: tensors.update({name: tensors[name].to(torch.float16)}))
    with _refused(HuggingFaceError, r"mixed dtypes \(float16, float32\).*--dtype", source, tmp_path):
        hf_to_megatron.convert(source, tmp_path / "out")
    assert hf_to_megatron.convert(source, tmp_path / "out", dtype=torch.bfloat16).manifest.dtype == "bfloat16"
    _edit_tensors(source, lambda tensors: tensors.update({name: tensors[name].to(torch.int8)}))
    with _refused(HuggingFaceError, r"model.norm.weight has dtype I8", source, tmp_path):
        hf_to_megatron.convert(source, tmp_path / "out2")


@pytest.mark.parametrize("keep", [0, 5, 100, -1], ids=["empty", "in-length", "in-header", "last-byte"])
def test_truncated_safetensors(keep: int, source: Path, tmp_path: Path) -> None:
    file = source / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with _refused(HuggingFaceError, r"model.safetensors: truncated or damaged", source, tmp_path):
        hf_to_megatron.convert(source, tmp_path / "out")


def test_corrupt_header(source: Path, tmp_path: Path) -> None:
    file = source / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[8:12] = b"\xff\xfe\x00\x01"
    file.write_bytes(data)
    with _refused(
        HuggingFaceError, r"model.safetensors: truncated or damaged: its header is not JSON", source, tmp_path
    ):
        hf_to_megatron.convert(source, tmp_path / "out")


def test_missing_shard_and_lying_index(tmp_path: Path) -> None:
    source = save_folder("qwen2-tied", tmp_path / "source", max_shard_size="100KB")
    shards = sorted(source.glob("model-*.safetensors"))
    content = shards[1].read_bytes()
    shards[1].unlink()
    with _refused(HuggingFaceError, rf"{shards[1].name}: missing shard", source, tmp_path):
        hf_to_megatron.convert(source, tmp_path / "out")
    shards[1].write_bytes(content)
    index = source / "model.safetensors.index.json"
    values = json.loads(index.read_text())
    values["weight_map"]["model.norm.weight"] = shards[0].name
    index.write_text(json.dumps(values))
    with _refused(HuggingFaceError, r"model.norm.weight is not in it", source, tmp_path):
        hf_to_megatron.convert(source, tmp_path / "out")


def test_extra_shards(tmp_path: Path) -> None:
    source = save_folder("qwen2-tied", tmp_path / "source", max_shard_size="100KB")
    stale = source / "model-00009-of-00009.safetensors"
    shutil.copyfile(next(source.glob("model-00001-*.safetensors")), stale)
    with _refused(
        HuggingFaceError, r"model-00009-of-00009.safetensors: a shard that .* does not name", source, tmp_path
    ):
        hf_to_megatron.convert(source, tmp_path / "out")
    stale.rename(source / "model.safetensors")
    with _refused(HuggingFaceError, r"both model.safetensors and model.safetensors.index.json", source, tmp_path):
        hf_to_megatron.convert(source, tmp_path / "out")


def test_folder_without_weights_or_config(source: Path, tmp_path: Path) -> None:
    (source / "model.safetensors").unlink()
    with _refused(HuggingFaceError, r"neither model.safetensors nor", source, tmp_path):
        hf_to_megatron.convert(source, tmp_path / "out")
    (source / "config.json").unlink()
    with _refused(HuggingFaceError, r"config.json: no such file", source, tmp_path):
        hf_to_megatron.convert(source, tmp_path / "out")


def test_destination_exists_overlaps_or_has_no_parent(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious").write_text("x")
    with _refused(DestinationError, r"out: exists.*--force", source, tmp_path):
        hf_to_megatron.convert(source, out)
    with _refused(DestinationError, r"out: was not built by this project", source, tmp_path):
        hf_to_megatron.convert(source, out, force=True)
    with _refused(DestinationError, r"precious: is no folder, so --force", source, tmp_path):
        hf_to_megatron.convert(source, out / "precious", force=True)
    (out / "precious").unlink()
    for inside in (source, source / "megatron", tmp_path):
        with _refused(DestinationError, r"overlaps the source", source, tmp_path):
            hf_to_megatron.convert(source, inside, force=True)
    with _refused(DestinationError, r"nowhere: no such folder", source, tmp_path):
        hf_to_megatron.convert(source, tmp_path / "nowhere" / "out")
    assert hf_to_megatron.convert(source, out, force=True).manifest.family == "Qwen2"
    assert {path.name for path in tmp_path.iterdir()} == {"source", "out"}


def test_a_failing_forced_conversion_keeps_the_old_destination(source: Path, checkpoint: Path, tmp_path: Path) -> None:
    before = _state(checkpoint)

    def fail(_: int) -> None:
        raise OSError("the disk went away")

    @contextmanager
    def failing(_what: str, _total: int) -> Iterator[Callable[[int], None]]:
        yield fail

    with pytest.raises(OSError, match="the disk went away"):
        hf_to_megatron.convert(source, checkpoint, force=True, progress=failing)
    assert _state(checkpoint) == before
    assert {path.name for path in tmp_path.iterdir()} == {"source", "checkpoint"}


def _first_data_file(checkpoint: Path) -> Path:
    return checkpoint / "model" / "__0_0.distcp"


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b" ")


@pytest.mark.parametrize(
    ("damage", "file", "message"),
    [
        (Path.unlink, "manifest.json", r"manifest.json: missing, so the checkpoint is incomplete"),
        (_truncate, "manifest.json", None),
        (Path.unlink, "model/__0_0.distcp", r"__0_0.distcp: missing"),
        (_truncate, "model/__0_0.distcp", r"__0_0.distcp: \d+ bytes, expected \d+; it is truncated"),
        (_truncate, "model/.metadata", r".metadata: \d+ bytes, expected"),
        (Path.unlink, "model/metadata.json", r"metadata.json: missing"),
        (Path.unlink, "hf/chat_template.jinja", r"chat_template.jinja: missing"),
        (_append, "hf/tokenizer.json", r"tokenizer.json: \d+ bytes, expected"),
    ],
)
def test_damaged_checkpoint(
    damage: Callable[[Path], object], file: str, message: str | None, checkpoint: Path, tmp_path: Path
) -> None:
    if message is None:  # a manifest cut in half, since the last byte is only a line end
        path = checkpoint / file
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        message = r"manifest.json: not valid JSON"
    else:
        damage(checkpoint / file)
    with _refused(CheckpointError, message, checkpoint, tmp_path):
        megatron_to_hf.convert(checkpoint, tmp_path / "out")


def test_edited_config_of_the_same_size_is_noticed(checkpoint: Path) -> None:
    config = checkpoint / "hf" / "config.json"
    config.write_text(config.read_text().replace('"hidden_size": 64', '"hidden_size": 65'))
    with pytest.raises(CheckpointError, match=r"config.json: was changed after the conversion"):
        open_checkpoint(checkpoint)


def test_corrupt_record_is_noticed_on_reading(checkpoint: Path, tmp_path: Path) -> None:
    file = _first_data_file(checkpoint)
    data = bytearray(file.read_bytes())
    data[: len(data) // 2] = bytes(len(data) // 2)
    file.write_bytes(data)
    with _refused(
        CheckpointError, r"embedding.word_embeddings.weight: a stored record cannot be read", checkpoint, tmp_path
    ):
        megatron_to_hf.convert(checkpoint, tmp_path / "out")


def test_not_a_checkpoint(source: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"a Hugging Face folder.*python -m conversion.hf_to_megatron"):
        open_checkpoint(source)
    with pytest.raises(CheckpointError, match=r"nowhere: no such folder"):
        open_checkpoint(tmp_path / "nowhere")


def test_other_format_version_is_refused(checkpoint: Path) -> None:
    path = checkpoint / "manifest.json"
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(CheckpointError, match=r"format version 2, this release reads 1"):
        open_checkpoint(checkpoint)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("qwen2-tied", r"output_layer.weight: in the checkpoint but not in the weight map"),
        ("qwen3-untied", r"layer_norm_weight: missing|linear_qkv.weight: shape \(4, 128, 64\) in the checkpoint"),
        ("mistral-untied", r"linear_qkv.bias: in the checkpoint but not in the weight map of Mistral"),
    ],
)
def test_weights_of_another_model_are_not_sealed(
    case: str, message: str, hf_folder: Make, checkpoint: Path, tmp_path: Path
) -> None:
    """model/ of an untied Qwen2 beside the config of something else, as a mixed-up training folder would have it."""
    mixed = tmp_path / "mixed"
    shutil.copytree(checkpoint / "model", mixed / "model")
    source = hf_folder(case)
    copy_companions({name: source / name for name in companion_files(source)}, mixed / "hf")
    with pytest.raises(TensorMapError, match=message):
        write_manifest(mixed, source=open_checkpoint(checkpoint).manifest.source)
    assert not (mixed / "manifest.json").exists()


def _python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=_REPOSITORY, capture_output=True, text=True, timeout=60)


def test_a_killed_conversion_leaves_nothing_that_opens(source: Path, tmp_path: Path) -> None:
    kill = (
        "import contextlib, os, signal, sys\n"
        "from conversion import hf_to_megatron\n"
        "done = []\n"
        "def advance(count):\n"
        "    done.append(count)\n"
        "    if len(done) == 9: os.kill(os.getpid(), signal.SIGKILL)\n"
        "progress = lambda what, total: contextlib.nullcontext(advance)\n"
        "hf_to_megatron.convert(sys.argv[1], sys.argv[2], progress=progress)\n"
    )
    assert _python(kill, source, tmp_path / "out").returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    (leftover,) = tmp_path.glob("out.partial-*")
    with pytest.raises(CheckpointError, match=r"a leftover of an interrupted conversion or save"):
        open_checkpoint(leftover)
    leftover.rename(tmp_path / "renamed")
    with pytest.raises(CheckpointError, match=r"manifest.json: missing"):
        open_checkpoint(tmp_path / "renamed")
    assert hf_to_megatron.convert(source, tmp_path / "out").manifest.tensor_count > 0


@pytest.mark.parametrize("direction", ["hf_to_megatron", "megatron_to_hf"])
def test_full_disk(direction: str, source: Path, checkpoint: Path, tmp_path: Path) -> None:
    """A limit on the size of files makes the kernel refuse a write in the middle, as a full disk does."""
    full = (
        "import resource, sys\n"
        f"from conversion import command, {direction}\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
        f"sys.exit(command.run({direction}.main))\n"
    )
    done = _python(full, source if direction == "hf_to_megatron" else checkpoint, tmp_path / "out")
    assert done.returncode == 1, done.stderr
    assert "error: " in done.stderr
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"source", "checkpoint"}
