"""What a checkpoint or model folder from anywhere may not do: run code, take files of this machine along, or be NaN."""

from __future__ import annotations

import collections
import enum
import io
import json
import os
import pickle
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint import DefaultLoadPlanner, FileSystemReader, ReadItem
from torch.distributed.checkpoint.metadata import MetadataIndex
from torch.distributed.checkpoint.planner import LoadItemType

from conversion import hf_to_megatron, megatron_to_hf, unpickling
from conversion.checkpoint import open_checkpoint
from conversion.errors import CheckpointError, HuggingFaceError, NonFiniteError
from conversion.verify import compare, main

Make = Callable[..., Path]


class _Runs:
    """Unpickled, it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def checkpoint(megatron_folder: Make, tmp_path: Path) -> Path:
    """A checkpoint of a stranger's, to be changed."""
    return shutil.copytree(megatron_folder("qwen2-tied"), tmp_path / "foreign")


def _sealed(checkpoint: Path) -> None:
    """The manifest is the stranger's too, and says what suits them."""
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    for name, record in manifest["files"].items():
        record["size"] = (checkpoint / name).stat().st_size
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))


def _refused(action: Callable[[], object], message: str, mark: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        action()
    assert not mark.exists()


@pytest.mark.parametrize("inside", [False, True])
def test_metadata_runs_nothing(inside: bool, checkpoint: Path, tmp_path: Path) -> None:
    """A bare call, and one among what torch itself writes there."""
    mark, file = tmp_path / "mark", checkpoint / "model" / ".metadata"
    content: Any = _Runs(mark)
    if inside:
        content = FileSystemReader(checkpoint / "model").read_metadata()
        content.planner_data = _Runs(mark)
    file.write_bytes(pickle.dumps(content))
    _sealed(checkpoint)
    said = r"\.metadata: wants posix.mkdir to be run.*nothing was run"
    _refused(lambda: megatron_to_hf.convert(checkpoint, tmp_path / "out"), said, mark)
    # The way of megatron-core and of whoever else reads with torch in this process.
    _refused(FileSystemReader(checkpoint / "model").read_metadata, said, mark)
    _refused(lambda: unpickling.load({}, checkpoint / "model"), said, mark)


def test_common_and_sharded_objects_run_nothing(checkpoint: Path, tmp_path: Path) -> None:
    """megatron-core's load before it reads a tensor, and torch's planner, whose own way is weights_only=False."""
    mark = tmp_path / "mark"
    torch.save({"step": _Runs(mark)}, checkpoint / "model" / "common.pt")
    _refused(lambda: unpickling.load({}, checkpoint / "model"), r"common.pt: not opened \(", mark)
    planner = DefaultLoadPlanner(flatten_state_dict=False)
    planner.state_dict = {}
    index = MetadataIndex("a/shard_0_1")
    item = ReadItem(LoadItemType.BYTE_IO, index, torch.Size([0]), index, torch.Size([0]), torch.Size([0]))
    for content, fine in ((_Runs(mark), False), ([None], True), (io.BytesIO(b"x"), True), (torch.ones(2), True)):
        stream = io.BytesIO()
        torch.save(content, stream)
        stream.seek(0)
        if fine:
            planner.load_bytes(item, stream)
            assert type(planner.state_dict["a/shard_0_1"]) is type(content)
        else:
            _refused(lambda stream=stream: planner.load_bytes(item, stream), r"a/shard_0_1: not opened", mark)
    (checkpoint / "model" / "metadata.json").write_text('{"sharded_backend": "torch_dist", "common_backend": "zarr"}')
    _refused(lambda: unpickling.load({}, checkpoint / "model"), r"common_backend is 'zarr'", mark)


def test_extra_states_hold_tensors_and_recipes(tmp_path: Path) -> None:
    """Transformer Engine unpickles these bytes by itself; tensors within them are pickles in turn."""
    mark = tmp_path / "mark"

    def check(value: object, kind: type = torch.Tensor) -> None:
        content = pickle.dumps(value)
        found = io.BytesIO(content) if kind is io.BytesIO else torch.frombuffer(bytearray(content), dtype=torch.uint8)
        unpickling.check_extra_state("layer", found)

    check({"scale_fwd": torch.ones(3), "extra_fp8_variables": {"a": 1}})
    unpickling.check_extra_state("layer", torch.empty(0, dtype=torch.uint8))
    unpickling.check_extra_state("layer", None)
    _refused(lambda: check({"recipe": _Runs(mark)}), r"layer: an extra state that is not tensors", mark)
    _refused(lambda: check(_Runs(mark), io.BytesIO), r"posix.mkdir", mark)


def test_fp8_recipes_are_known_where_transformer_engine_is_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What get_extra_state of Transformer Engine 2.11 pickles of a layer for each `model.fp8`.

    Its classes (common/recipe/__init__.py) are there while they are pickled, and not while they are looked at.
    """
    place, subclass = "transformer_engine.common.recipe", "megatron.core.extensions.transformer_engine"
    helper = collections.namedtuple("_FormatHelper", ("max_fwd", "max_bwd"), module=place)
    formats = enum.Enum("Format", {"E4M3": helper(448, 448), "HYBRID": helper(448, 57344)}, module=place)

    def kind(name: str, module: str, **values: object) -> Any:
        made = type(name, (), {"__module__": module})
        monkeypatch.setattr(modules[module], name, made, raising=False)
        recipe = made()
        vars(recipe).update(values)
        return recipe

    modules = {name: types.ModuleType(name) for name in ("transformer_engine", place, subclass)}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(modules[place], "Format", formats, raising=False)
    monkeypatch.setattr(modules[place], "_FormatHelper", helper, raising=False)
    product = kind("MMParams", place, use_split_accumulator=True)
    tensorwise = {"use_power_2_scales": False, "fp8_format": formats["HYBRID"], "fp8_gemm_fprop": product}
    blockwise = {"use_f32_scales": False, "fp8_format": formats["E4M3"], "fp8_gemm_fprop": product}
    delayed = {"margin": 0, "fp8_format": formats["HYBRID"], "amax_compute_algo": "most_recent", "reduce_amax": True}
    scales = {f"{name}_{way}": torch.ones(3) for name in ("scale", "amax_history") for way in ("fwd", "bwd")}
    states = [
        {"recipe": kind("TEDelayedScaling", subclass, **delayed), **scales},
        {"recipe": kind("Float8CurrentScaling", place, **tensorwise)},
        {"recipe": kind("Float8BlockScaling", place, **blockwise)},
    ]
    foreign = {"recipe": kind("CustomRecipe", place, qfactory=None)}
    extra = {"extra_fp8_variables": {"fp8_checkpoint": True, "num_gemms": 1, "fp8_max_fwd": 448, "names": ("a",)}}
    pickled = [pickle.dumps(state | extra) for state in (*states, foreign, {"recipe": _Runs(tmp_path / "mark")})]
    for name in modules:
        monkeypatch.setitem(sys.modules, name, None)
    found = [torch.frombuffer(bytearray(content), dtype=torch.uint8) for content in pickled]
    for state in found[:3]:
        unpickling.check_extra_state("layer", state)
    _refused(lambda: unpickling.check_extra_state("layer", found[3]), "recipe.CustomRecipe", tmp_path / "mark")
    _refused(lambda: unpickling.check_extra_state("layer", found[4]), "posix.mkdir", tmp_path / "mark")


def test_links_out_of_a_folder_are_not_followed(checkpoint: Path, hf_folder: Make, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of this machine")
    source = shutil.copytree(hf_folder("qwen2-tied"), tmp_path / "source")
    (source / "within").symlink_to("LICENSE")
    assert hf_to_megatron.convert(source, tmp_path / "fine").hf_dir.joinpath("within").is_file()
    for place in (source / "extra.txt", source / "additional_chat_templates" / "tool.jinja"):
        place.parent.mkdir(exist_ok=True)
        place.symlink_to(secret)
        with pytest.raises(HuggingFaceError, match=rf"{place.name}: leads out of the model's folder, to {secret}"):
            hf_to_megatron.convert(source, tmp_path / "out")
        place.unlink()
    index = source / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"model.norm.weight": "../other/model.safetensors"}}))
    with pytest.raises(HuggingFaceError, match=r"names '../other/model.safetensors', which is no file of this folder"):
        hf_to_megatron.convert(source, tmp_path / "out")
    index.unlink()
    folder = tmp_path / "whole"
    folder.symlink_to(source)
    hf_to_megatron.convert(folder, tmp_path / "by_link")
    (checkpoint / "hf" / "extra.txt").symlink_to(secret)
    with pytest.raises(CheckpointError, match=rf"extra.txt: a link to {secret}, out of the checkpoint"):
        open_checkpoint(checkpoint)
    (checkpoint / "hf" / "extra.txt").unlink()
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    for name in ("hf/../../secret", str(secret)):
        changed = {**manifest, "files": {**manifest["files"], name: {"size": 15}}}
        (checkpoint / "manifest.json").write_text(json.dumps(changed))
        with pytest.raises(CheckpointError, match=r"which lies outside of the checkpoint"):
            open_checkpoint(checkpoint)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_no_numbers_stop_everything(
    value: float, hf_folder: Make, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = shutil.copytree(hf_folder("qwen2-tied"), tmp_path / "source")
    tensors = load_file(source / "model.safetensors")
    name = "model.layers.2.self_attn.k_proj.weight"
    tensors[name][3, 5] = value
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    with pytest.raises(NonFiniteError, match=r"source: .*linear_qkv.weight: 1 of [\d,]+ values are NaN or infinite"):
        hf_to_megatron.convert(source, tmp_path / "out")
    assert compare(source, source).differences == tuple(
        f"{name}: 1 of 2,048 values in {source} are NaN or infinite" for _ in range(2)
    )
    assert main([str(source), str(source)]) == 1
    assert "DIFFERENT" in capsys.readouterr().out
    # On the Megatron side: every byte of a stored tensor's data replaced.
    file = next((checkpoint / "model").glob("*.distcp"))
    content, wanted = file.read_bytes(), load_file(hf_folder("qwen2-tied") / "model.safetensors")
    row = wanted["model.norm.weight"].numpy().tobytes()
    assert content.count(row) == 1
    file.write_bytes(content.replace(row, torch.full_like(wanted["model.norm.weight"], value).numpy().tobytes()))
    with pytest.raises(NonFiniteError, match=r"foreign: model.norm.weight: 64 of 64 values are NaN or infinite"):
        megatron_to_hf.convert(checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()
