"""A Hugging Face model folder: its tensors found lazily, and a new one written shard by shard.

Reads `model.safetensors` or the shards of `model.safetensors.index.json`. Left out: pickled `.bin` weights, which run
code on loading; convert those with transformers first.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conversion.checkpoint import dtype_name, read_config
from conversion.errors import HuggingFaceError, TensorMapError
from conversion.families import Entry, Family, MegatronArchitecture, family_for
from conversion.safetensors_io import StoredTensor, read_header

if TYPE_CHECKING:
    import torch

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


@dataclass(frozen=True)
class HuggingFaceModel:
    """An opened folder whose tensors are exactly those of its family's weight map, whole and of the right shape."""

    path: Path
    config: dict[str, Any]
    family: Family
    architecture: MegatronArchitecture
    tensors: dict[str, StoredTensor]

    @property
    def dtype(self) -> torch.dtype | None:
        """The dtype of all weights, or None when they are mixed."""
        dtypes = {tensor.dtype for tensor in self.tensors.values()}
        return dtypes.pop() if len(dtypes) == 1 else None

    @property
    def nbytes(self) -> int:
        """Size of all weights in bytes."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def weight_files(self) -> dict[str, int]:
        """Size in bytes of each weight file, by name."""
        return {file.name: file.stat().st_size for file in sorted({t.file for t in self.tensors.values()})}

    def read(self, entry: Entry) -> list[torch.Tensor]:
        """The Hugging Face tensors of an entry, in the order of its row."""
        return [self.tensors[name].read() for name in entry.hf_names]


def open_model(path: Path) -> HuggingFaceModel:
    """Open a Hugging Face folder without reading weights.

    Raises HuggingFaceError for a missing, truncated or damaged file, TensorMapError for a tensor that is missing, left
    over or of another shape than config.json says, UnknownFamilyError or UnsupportedConfigError for the config.
    """
    config = read_config(path)
    family = family_for(config)
    architecture = family.megatron_architecture(config)
    stored = _stored_tensors(path)
    tensors: dict[str, StoredTensor] = {}
    for entry in family.entries(architecture):
        for name, shape in zip(entry.hf_names, entry.hf_shapes, strict=True):
            if name not in stored:
                raise TensorMapError(
                    f"{path}: {name} is missing; config.json ({family.name}) asks for it with shape {shape}. "
                    "Check num_hidden_layers and tie_word_embeddings, or download the model again"
                )
            tensors[name] = stored.pop(name)
            if tensors[name].shape != shape:
                raise TensorMapError(
                    f"{tensors[name].file}: {name} has shape {tensors[name].shape}, expected {shape} by config.json; "
                    "check its hidden_size, head counts, head_dim, intermediate_size and vocab_size"
                )
    _account_for_rest(path, family, architecture, tensors, stored)
    return HuggingFaceModel(path, config, family, architecture, tensors)


def _account_for_rest(
    path: Path,
    family: Family,
    architecture: MegatronArchitecture,
    tensors: dict[str, StoredTensor],
    rest: dict[str, StoredTensor],
) -> None:
    """Accept computed buffers and a tied weight stored twice; refuse anything else by name."""
    duplicate = family.tied_duplicate(architecture)
    if duplicate is not None and duplicate[0] in rest:
        second, first = rest.pop(duplicate[0]), tensors[duplicate[1]]
        if second.shape != first.shape or not second.read().equal(first.read()):
            raise TensorMapError(
                f"{second.file}: {duplicate[0]} differs from {duplicate[1]} although config.json says "
                "tie_word_embeddings; set it to false if the model really has two"
            )
    left_over = sorted(name for name in rest if not family.is_buffer(name))
    if left_over:
        raise TensorMapError(
            f"{rest[left_over[0]].file}: {left_over[0]} has no place in the weight map of {family.name} "
            f"({len(left_over)} such tensors); check model_type and num_hidden_layers in {path / 'config.json'}"
        )


def _stored_tensors(path: Path) -> dict[str, StoredTensor]:
    """Every tensor of the folder by name, from the headers of its files."""
    index = path / INDEX_FILE
    if (path / SINGLE_FILE).exists():
        if index.exists():
            raise HuggingFaceError(f"{path}: both {SINGLE_FILE} and {INDEX_FILE}; delete the one that is stale")
        return read_header(path / SINGLE_FILE)
    if not index.exists():
        raise HuggingFaceError(f"{path}: neither {SINGLE_FILE} nor {INDEX_FILE}; the weights must be safetensors")
    try:
        weight_map: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = sorted(set(weight_map.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise HuggingFaceError(f"{index}: no usable weight_map ({error}); download the file again") from error
    extra = sorted({file.name for file in path.glob("model-*-of-*.safetensors")} - set(files))
    if extra:
        raise HuggingFaceError(f"{path / extra[0]}: a shard that {INDEX_FILE} does not name; delete the stale files")
    stored: dict[str, StoredTensor] = {}
    for file in files:
        if not (path / file).exists():
            raise HuggingFaceError(f"{path / file}: missing shard, named in {INDEX_FILE}; download it again")
        stored |= read_header(path / file)
    for name, file in weight_map.items():
        if name not in stored or stored[name].file.name != file:
            raise HuggingFaceError(f"{path / file}: {name} is not in it as {INDEX_FILE} says; download it again")
    return stored


@dataclass(frozen=True)
class Shard:
    """A safetensors file to be written: its name and the entries whose tensors fill it, in order."""

    file: str
    entries: tuple[Entry, ...]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor of the file by name, in order."""
        return {
            name: shape for entry in self.entries for name, shape in zip(entry.hf_names, entry.hf_shapes, strict=True)
        }


def plan_shards(entries: Sequence[Entry], dtype: torch.dtype, max_bytes: int) -> list[Shard]:
    """Divide the entries into files of at most `max_bytes` each, unless one entry alone is larger."""
    groups: list[list[Entry]] = [[]]
    used = 0
    for entry in entries:
        size = entry.parameters * dtype.itemsize
        if groups[-1] and used + size > max_bytes:
            groups.append([])
            used = 0
        groups[-1].append(entry)
        used += size
    if len(groups) == 1:
        return [Shard(SINGLE_FILE, tuple(groups[0]))]
    return [Shard(f"model-{i:05d}-of-{len(groups):05d}.safetensors", tuple(group)) for i, group in enumerate(groups, 1)]


def write_index(path: Path, shards: Sequence[Shard], dtype: torch.dtype) -> None:
    """Write `model.safetensors.index.json` for more than one shard; nothing for one."""
    if len(shards) == 1:
        return
    parameters = sum(entry.parameters for shard in shards for entry in shard.entries)
    index = {
        "metadata": {"total_parameters": parameters, "total_size": parameters * dtype.itemsize},
        "weight_map": {name: shard.file for shard in shards for name in shard.shapes},
    }
    (path / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def config_with_dtype(text: bytes, dtype: torch.dtype) -> bytes:
    """config.json with its dtype key set, every other key and their order kept.

    transformers 5 writes `dtype`, earlier releases `torch_dtype`; the key that is there stays.
    """
    config = json.loads(text)
    key = "torch_dtype" if "torch_dtype" in config and "dtype" not in config else "dtype"
    config[key] = dtype_name(dtype)
    return (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()
