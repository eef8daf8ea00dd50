"""Reads the pickles of a torch_dist checkpoint without running what a stranger may have put into them.

A pickle names functions and calls them. Three kinds lie in a checkpoint: `.metadata`, which torch opens with plain
pickle; sharded objects among the tensors, which torch's planner loads with `weights_only=False`; `common.pt`, which
older torch loads in the same way. Here each may name a handful of classes that hold data and nothing else. Importing
this module puts that in the place of torch's own readers, for this process and for megatron-core, which inherits them.

Left out: what Transformer Engine unpickles of the sharded objects that it is handed (its FP8 scaling history): `load`
looks at those first, without Transformer Engine, and refuses one that names anything but tensors and recipes.
"""

from __future__ import annotations

import contextlib
import enum
import io
import json
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import DefaultLoadPlanner, FileSystemReader, Metadata, ReadItem
from torch.distributed.checkpoint.metadata import StorageMeta

from conversion.errors import CheckpointError

METADATA_FILE = ".metadata"
BACKEND_FILE = "metadata.json"
COMMON_FILE = "common.pt"
# What megatron-core's dist_checkpointing writes and asks for in metadata.json.
BACKEND = {
    "sharded_backend": "torch_dist",
    "sharded_backend_version": 1,
    "common_backend": "torch",
    "common_backend_version": 1,
}
_PLAIN = {
    "collections": ("OrderedDict",),
    "pathlib": ("PosixPath",),
    "pathlib._local": ("PosixPath",),
    "torch": ("Size",),
    "torch.serialization": ("_get_layout",),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
    "torch.distributed.checkpoint.metadata": (
        *("Metadata", "MetadataIndex", "StorageMeta", "TensorProperties", "_MEM_FORMAT_ENCODING"),
        *("TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata"),
    ),
    # megatron-core keeps the plan of the save beside it.
    "torch.distributed.checkpoint.planner": (
        *("SavePlan", "WriteItem", "WriteItemType", "TensorWriteData", "BytesIOWriteData"),
    ),
}
_TENSORS = {
    "collections": ("OrderedDict",),
    "io": ("BytesIO",),
    "_io": ("BytesIO",),
    "torch._utils": ("_rebuild_tensor_v2", "_rebuild_tensor"),
    "torch.storage": ("_load_from_bytes",),
}
# A layer's recipe, as get_extra_state of Transformer Engine 2.11 (pytorch/module/base.py) pickles it: megatron-core's
# subclass for delayed scaling. _OverrideLinearPrecision is of 1.x.
_RECIPES = {
    "transformer_engine.common.recipe": (
        *("DelayedScaling", "Float8CurrentScaling", "Float8BlockScaling", "MXFP8BlockScaling", "NVFP4BlockScaling"),
        *("Format", "MMParams", "QParams", "_FormatHelper", "_OverrideLinearPrecision"),
    ),
    "megatron.core.extensions.transformer_engine": ("TEDelayedScaling",),
}
_FORMATS = ("E2M1", "E4M3", "E5M2", "HYBRID")


class _Refused(pickle.UnpicklingError):
    """A pickle that names what it may not; the message is the name."""


class _Restricted(pickle.Unpickler):
    """Finds the names of `allowed`, and torch's dtypes."""

    def __init__(self, stream: Any, allowed: Mapping[str, tuple[str, ...]]) -> None:
        super().__init__(stream)
        self._allowed = allowed

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("builtins", "getattr"):
            return _member
        if module == "torch.storage" and name in self._allowed.get(module, ()):
            return lambda content: torch.load(io.BytesIO(content), weights_only=True)
        if name in self._allowed.get(module, ()) or (
            module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        ):
            return super().find_class(module, name)
        raise _Refused(f"{module}.{name}")


class _Recipe:
    """Stands for any class of _RECIPES while an extra state is looked at: takes what it is given and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> _Recipe:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        """Nothing."""

    def __setstate__(self, _: Any) -> None:
        """Nothing."""


class _Looking(_Restricted):
    """Finds tensors, and stand-ins for recipes, whose library may not be there."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream, _TENSORS)

    def find_class(self, module: str, name: str) -> Any:
        return _Recipe if name in _RECIPES.get(module, ()) else super().find_class(module, name)


def _member(kind: Any, name: str) -> Any:
    """What Python 3.11.0 to 3.11.3 write for the member of an enumeration, and nothing else of `getattr`."""
    if kind is _Recipe and name in _FORMATS:
        return _Recipe()
    if isinstance(kind, enum.EnumType) and name in kind.__members__:
        return kind[name]
    raise _Refused("builtins.getattr")


def read_metadata(path: Path) -> Metadata:
    """The content of a `.metadata`.

    Raises:
        CheckpointError: it cannot be read, or names what has no place in it; nothing of it has been run.
    """
    try:
        with path.open("rb") as stream:
            found = _Restricted(stream, _PLAIN).load()
    except _Refused as refused:
        raise CheckpointError(
            f"{path}: wants {refused} to be run, which has no place in a checkpoint; nothing was run. Do not open it "
            "with other programs, and get the checkpoint from a source that you trust"
        ) from None
    except Exception as error:  # a damaged pickle raises nearly anything
        raise CheckpointError(
            f"{path}: cannot be read ({error}); the checkpoint is incomplete, convert or save it again"
        ) from error
    if not isinstance(found, Metadata):
        raise CheckpointError(f"{path}: holds a {type(found).__name__}, expected torch's Metadata; save it again")
    return found


def load(sharded: dict[str, Any], folder: Path) -> dict[str, Any]:
    """`megatron.core.dist_checkpointing.load` of a folder that may come from anywhere.

    Raises:
        CheckpointError: the folder is no torch_dist checkpoint, or asks for something to be run.
    """
    check_backend(folder)
    read_metadata(folder / METADATA_FILE)
    with _naming(folder / COMMON_FILE):
        torch.load(folder / COMMON_FILE, map_location="cpu", weights_only=True)
    from megatron.core import dist_checkpointing

    loaded: dict[str, Any] = dist_checkpointing.load(sharded, str(folder))
    for key, value in loaded.items():
        if key.endswith("_extra_state"):
            check_extra_state(f"{folder}: {key}", value)
    return loaded


def check_backend(folder: Path) -> None:
    """Raises CheckpointError unless the folder's metadata.json says torch_dist; others have readers of their own."""
    path = folder / BACKEND_FILE
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}; the checkpoint is incomplete, convert or save it again") from error
    for key in ("sharded_backend", "common_backend"):
        value = found.get(key, BACKEND[key]) if isinstance(found, dict) else None
        if value != BACKEND[key]:
            raise CheckpointError(
                f"{path}: {key} is {value!r}, expected {BACKEND[key]!r}; save the checkpoint with torch_dist"
            )


def check_extra_state(where: str, value: Any) -> None:
    """Refuses a layer's extra state whose pickle, as Transformer Engine will read it, does more than hold tensors."""
    if isinstance(value, torch.Tensor):
        content = value.cpu().contiguous().view(torch.uint8).numpy().tobytes()
    elif isinstance(value, io.BytesIO):
        content = value.getvalue()
    else:
        return
    if not content or content.startswith(b"PK"):  # nothing, or torch.save's archive, which it loads as weights
        return
    try:
        _Looking(io.BytesIO(content)).load()
    except Exception as error:
        raise CheckpointError(
            f"{where}: an extra state that is not tensors and scaling recipes alone ({error}); it is not opened, as it "
            "may run code: convert the Hugging Face model instead"
        ) from error


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: missing; convert or save the checkpoint again") from error
    except Exception as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path}: not opened ({said}); it holds more than values and tensors and may run code, or is damaged"
        ) from error


def _read_metadata(reader: FileSystemReader, *_: Any, **options: Any) -> Metadata:
    """torch/distributed/checkpoint/filesystem.py, FileSystemReader.read_metadata: unpickles whatever is named."""
    rank = options.get("rank")
    metadata = read_metadata(Path(reader.path) / (METADATA_FILE if rank is None else f"__{rank}{METADATA_FILE}"))
    if getattr(metadata, "storage_meta", None) is None:
        metadata.storage_meta = StorageMeta()
    metadata.storage_meta.load_id = reader.load_id  # type: ignore[union-attr]  # set above
    return metadata


_torch_load_bytes = DefaultLoadPlanner.load_bytes


def _load_bytes(planner: DefaultLoadPlanner, item: ReadItem, value: io.BytesIO) -> None:
    """torch/distributed/checkpoint/default_planner.py, DefaultLoadPlanner.load_bytes: loads with weights_only=False."""
    with _naming(Path(f"sharded object {item.dest_index.fqn}")), torch.serialization.safe_globals([io.BytesIO]):
        torch.load(value, weights_only=True)
    value.seek(0)
    _torch_load_bytes(planner, item, value)


FileSystemReader.read_metadata = _read_metadata  # type: ignore[method-assign,assignment]  # see the module
DefaultLoadPlanner.load_bytes = _load_bytes  # type: ignore[method-assign,assignment]  # see the module
