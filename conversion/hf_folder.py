"""A Hugging Face model folder: its tensors found lazily, and a new one written shard by shard.

Reads `model.safetensors` or the files of `model.safetensors.index.json`, whatever they are called, and nothing beside
them. Left out: pickled `.bin` weights, which run code on loading; convert those with transformers first.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from conversion.checkpoint import check_link, dtype_name, read_config
from conversion.errors import HuggingFaceError, TensorMapError
from conversion.families import Entry, Family, MegatronArchitecture, family_for
from conversion.safetensors_io import StoredTensor, read_header

if TYPE_CHECKING:
    import torch

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_RESAVE = "load it with transformers' AutoModelForCausalLM and give what save_pretrained writes"


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
    _refuse_other_formats(path)
    config = read_config(path)
    family = family_for(config)
    architecture = family.megatron_architecture(config)
    if config.get("transformers_weights"):
        raise HuggingFaceError(
            f"{path / 'config.json'}: transformers_weights names a weight file of its own; {_RESAVE}"
        )
    stored = _stored_tensors(path)
    tensors: dict[str, StoredTensor] = {}
    for entry in family.entries(architecture):
        for name, shape in zip(entry.hf_names, entry.hf_shapes, strict=True):
            if name not in stored:
                raise TensorMapError(
                    f"{path}: {name} is missing; config.json ({family.name}) asks for it with shape {shape}. "
                    f"{_why_missing(name, config, stored)}"
                )
            tensors[name] = stored.pop(name)
            if tensors[name].shape != shape:
                raise TensorMapError(
                    f"{tensors[name].file}: {name} has shape {tensors[name].shape}, expected {shape} by config.json; "
                    "check its hidden_size, head counts, head_dim, intermediate_size and vocab_size"
                )
    _account_for_rest(path, family, architecture, tensors, stored)
    return HuggingFaceModel(path, config, family, architecture, tensors)


def _refuse_other_formats(path: Path) -> None:
    """Name the folders that are often taken for a model's: an adapter's, a cache's root, Mistral's own format."""
    if (path / "adapter_config.json").exists():
        raise HuggingFaceError(
            f"{path / 'adapter_config.json'}: an adapter (LoRA); merge it into its base with peft's merge_and_unload "
            "and give what save_pretrained writes, or delete this file if the weights beside it are merged already"
        )
    if not (path / "config.json").is_symlink() and not (path / "config.json").exists():
        if (path / "snapshots").is_dir():
            raise HuggingFaceError(f"{path}: the root of a model in a Hugging Face cache; give a folder of snapshots/")
        if (path / "params.json").exists():
            raise HuggingFaceError(
                f"{path / 'params.json'}: a model in its maker's own format; download the files for transformers "
                f"(config.json, {INDEX_FILE} and what it names)"
            )


def _why_missing(name: str, config: dict[str, Any], stored: dict[str, StoredTensor]) -> str:
    """The likely reason that a tensor is missing, and what to do."""
    other = next((found for found in sorted(stored) if found.endswith(f".{name}") or name.endswith(f".{found}")), None)
    if other is not None:
        return f"The folder calls it {other}: {_RESAVE}"
    classes = config.get("architectures")
    if isinstance(classes, list) and classes and not any("CausalLM" in str(one) for one in classes):
        return f"architectures says {', '.join(map(str, classes))}: give a model that generates text (ForCausalLM)"
    return "Check num_hidden_layers and tie_word_embeddings, or download the model again"


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
    single, index = path / SINGLE_FILE, path / INDEX_FILE
    check_link(single)
    check_link(index)
    if not index.exists():
        if not single.exists():
            raise HuggingFaceError(f"{path}: neither {SINGLE_FILE} nor {INDEX_FILE}; {_other_weights(path)}")
        return read_header(single)
    weight_map = _weight_map(index)
    files = sorted(set(weight_map.values()))
    if single.exists() and files != [SINGLE_FILE]:
        raise HuggingFaceError(
            f"{path}: both {SINGLE_FILE} and {INDEX_FILE}, which names other files ({files[0]}); delete the one "
            "that is stale"
        )
    extra = sorted({file.name for file in path.glob("model-*-of-*.safetensors")} - set(files))
    if extra:
        raise HuggingFaceError(f"{path / extra[0]}: a shard that {INDEX_FILE} does not name; delete the stale files")
    headers: dict[str, dict[str, StoredTensor]] = {}
    for file in files:
        check_link(path / file)
        if not (path / file).exists():
            raise HuggingFaceError(
                f"{path / file}: missing shard, named in {INDEX_FILE}; download it again, or delete the index if it "
                f"is stale{_if_pickled(path)}"
            )
        headers[file] = read_header(path / file)
    for name, file in weight_map.items():
        if name not in headers[file]:
            raise HuggingFaceError(f"{path / file}: {name} is not in it as {INDEX_FILE} says; download it again")
    unlisted = {name: tensor for header in headers.values() for name, tensor in header.items()}
    return unlisted | {name: headers[file][name] for name, file in weight_map.items()}


def _weight_map(index: Path) -> dict[str, str]:
    """File name by tensor name, as the index has it."""
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if not weight_map or not all(isinstance(file, str) for file in weight_map.values()):
            raise TypeError("expected file names by tensor name")
        elsewhere = sorted(file for file in weight_map.values() if PurePath(file).name != file)
        if elsewhere:
            raise ValueError(f"it names {elsewhere[0]!r}, which is no file of this folder")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise HuggingFaceError(f"{index}: no usable weight_map ({error}); download the file again") from error
    return dict(weight_map)


def _other_weights(path: Path) -> str:
    """What to do with the weights that a folder without safetensors of the usual names has."""
    found = sorted(file.name for file in path.glob("*.safetensors")) if path.is_dir() else []
    if found:
        return f"found {', '.join(found)}: name the one that holds the whole model {SINGLE_FILE}"
    return f"the weights must be safetensors{_if_pickled(path)}"


def _if_pickled(path: Path) -> str:
    """A hint where the weights are there in pickled form."""
    pickled = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in path.glob(pattern))
    return f". The folder has {pickled[0]}, which cannot be read without running it: {_RESAVE}" if pickled else ""


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
