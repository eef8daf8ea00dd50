"""The torch_dist distributed checkpoint, written and read one tensor at a time without a process group.

`megatron.core.dist_checkpointing.save` needs a process group and starts writer processes;
`torch.distributed.checkpoint.save` keeps one tensor of every key in memory. The format itself is small: files of
back-to-back `torch.save` records, and a pickled `Metadata` that says which slice of which tensor lies where. Writing
it directly keeps one tensor in memory, whatever the size of the model.

Left out: optimizer state and random number states (the engine saves and loads those with megatron-core itself), and
the per-layer key layout (`singleton_local_shards`, non-homogeneous layers).

`.metadata` is a pickle, as torch defines it; `conversion.unpickling` reads it.
"""

from __future__ import annotations

import io
import itertools
import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch.distributed.checkpoint import DefaultLoadPlanner, FileSystemReader, LoadPlan, Metadata, ReadItem, filesystem
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    STORAGE_TYPES,
    BytesStorageMetadata,
    ChunkStorageMetadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from conversion.errors import CheckpointError
from conversion.unpickling import BACKEND, BACKEND_FILE, COMMON_FILE, METADATA_FILE, check_backend

_OPTIMIZER_PREFIX = "optimizer."
# Older torch, as in NeMo's containers, has neither the constant nor the field.
_VERSION: dict[str, Any] = (
    {"version": filesystem.CURRENT_DCP_VERSION} if hasattr(filesystem, "CURRENT_DCP_VERSION") else {}
)


class TorchDistWriter:
    """Writes a torch_dist checkpoint into `directory`, which must exist and be empty.

    A new data file begins once the current one has reached `file_bytes`. Nothing can load the result before `finish`.
    `prefix` is put before every key. Use as a context manager, so that the open file is closed on errors too.
    """

    def __init__(self, directory: Path, *, prefix: str = "", file_bytes: int = 4 << 30) -> None:
        self._directory = directory
        self._prefix = prefix
        self._file_bytes = file_bytes
        self._files = 0
        self._stream: BinaryIO | None = None
        self._name = ""
        self._entries: dict[str, STORAGE_TYPES] = {}
        self._storage: dict[MetadataIndex, _StorageInfo] = {}

    def __enter__(self) -> TorchDistWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def add_tensor(self, key: str, tensor: torch.Tensor, global_shape: Sequence[int], offsets: Sequence[int]) -> None:
        """Append the slice of `key` that begins at `offsets`; `tensor` has as many axes as `global_shape`."""
        key = self._prefix + key
        entry = self._entries.get(key)
        if entry is None:
            entry = TensorStorageMetadata(TensorProperties(dtype=tensor.dtype), torch.Size(global_shape), [])
            self._entries[key] = entry
        assert isinstance(entry, TensorStorageMetadata), f"{key} was added as an object before"
        index = MetadataIndex(key, offsets, len(entry.chunks))
        entry.chunks.append(ChunkStorageMetadata(torch.Size(offsets), tensor.size()))
        tensor = tensor.detach().contiguous()
        if tensor.untyped_storage().nbytes() != tensor.nbytes:
            tensor = tensor.clone()  # torch.save would write the whole storage behind a view
        self._append(index, tensor)

    def add_empty_object(self, key: str) -> None:
        """Append a sharded object that holds nothing; `key` ends in `/shard_<offset>_<count>`."""
        key = self._prefix + key
        self._entries[key] = BytesStorageMetadata()
        self._append(MetadataIndex(key), [None])

    def finish(self) -> None:
        """Write the metadata: from here on the checkpoint can be loaded."""
        self._close()
        metadata = Metadata(
            state_dict_metadata=self._entries,
            planner_data={},
            storage_data=self._storage,
            storage_meta=StorageMeta(),
            **_VERSION,
        )
        torch.save({}, self._directory / COMMON_FILE)
        with open(self._directory / METADATA_FILE, "wb") as stream:
            pickle.dump(metadata, stream)
        (self._directory / BACKEND_FILE).write_text(json.dumps(BACKEND))

    def _append(self, index: MetadataIndex, value: object) -> None:
        stream = self._stream_with_room()
        offset = stream.tell()
        try:
            torch.save(value, stream)
        except RuntimeError as error:
            # torch's zip writer puts an error of its own over the file system's.
            cause = error.__context__ if isinstance(error.__context__, OSError) else error
            raise CheckpointError(f"{self._directory / self._name}: cannot be written ({cause})") from error
        self._storage[index] = _StorageInfo(self._name, offset, stream.tell() - offset)

    def _stream_with_room(self) -> BinaryIO:
        if self._stream is not None and self._stream.tell() >= self._file_bytes:
            self._close()
        if self._stream is None:
            self._name = f"__0_{self._files}.distcp"
            self._files += 1
            self._stream = open(self._directory / self._name, "xb")  # noqa: SIM115
        return self._stream

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None


class _SliceLoader(DefaultLoadPlanner):
    """Puts everything that is read into one tensor."""

    def __init__(self, target: torch.Tensor) -> None:
        super().__init__()
        self._target = target

    def lookup_tensor(self, index: MetadataIndex) -> torch.Tensor:
        return self._target


class _Slices:
    """The stored slices of a tensor by the leading indices they touch, since a model of experts has thousands."""

    def __init__(self, entry: TensorStorageMetadata, depth: int) -> None:
        self._slices: dict[tuple[int, ...], list[ChunkStorageMetadata]] = {}
        for chunk in entry.chunks:
            ranges = [range(o, o + n) for o, n in zip(chunk.offsets[:depth], chunk.sizes[:depth], strict=True)]
            for index in itertools.product(*ranges):
                self._slices.setdefault(index, []).append(chunk)

    def at(self, index: tuple[int, ...]) -> list[ChunkStorageMetadata]:
        return self._slices.get(index, [])


class TorchDistReader:
    """Reads single tensors, or single layers of them, from a torch_dist checkpoint saved at any parallel layout.

    Keys are given and returned without `prefix`, which stands before each of them in the checkpoint.
    Raises CheckpointError when the metadata is absent or unreadable.
    """

    def __init__(self, directory: Path, *, prefix: str = "") -> None:
        self._directory = directory
        self._prefix = prefix
        self._slices: dict[str, _Slices] = {}
        check_backend(directory)
        self._reader = FileSystemReader(directory)
        self._metadata = self._reader.read_metadata()
        self._reader.set_up_storage_reader(self._metadata, is_coordinator=True)

    def tensors(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Global shape and dtype of every weight, by key; optimizer state and sharded objects are not weights."""
        return {
            key.removeprefix(self._prefix): (tuple(entry.size), entry.properties.dtype)
            for key, entry in self._metadata.state_dict_metadata.items()
            if isinstance(entry, TensorStorageMetadata) and not key.startswith(_OPTIMIZER_PREFIX)
        }

    def row_starts(self, key: str, index: tuple[int, ...]) -> list[int]:
        """The rows of the slice `[index]` at which a stored piece begins, in order: where to divide it for reading."""
        depth = len(index)
        _, pieces = self._stored(self._prefix + key, index)
        return sorted({int(chunk.offsets[depth]) for chunk in pieces})

    def read(self, key: str, index: tuple[int, ...] = (), start: int = 0, stop: int | None = None) -> torch.Tensor:
        """The rows `[start:stop]` of the slice `[index]` of the tensor `key`.

        By default all of it; `index` is that of one layer, or of one layer's expert.
        Raises CheckpointError if the stored slices do not cover it or a record cannot be read.
        """
        key = self._prefix + key
        entry, pieces = self._stored(key, index)
        rest = entry.size[len(index) :]
        rows = ((rest[0] if stop is None else stop) - start, *rest[1:])
        shape = torch.Size((*(1 for _ in index), *rows))
        offsets = torch.Size((*index, start, *(0 for _ in rows[1:])))
        target = torch.empty(shape, dtype=entry.properties.dtype)
        stored = TensorStorageMetadata(entry.properties, entry.size, pieces)
        items: list[ReadItem] = create_read_items_for_chunk_list(key, stored, [ChunkStorageMetadata(offsets, shape)])
        covered = sum(item.lengths.numel() for item in items)
        if covered != target.numel():
            raise CheckpointError(
                f"{self._directory}: {key}: {covered} of {target.numel()} values are stored; "
                "the checkpoint is incomplete, convert or save it again"
            )
        try:
            self._reader.read_data(LoadPlan(items), _SliceLoader(target))
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, io.UnsupportedOperation) as error:
            raise CheckpointError(
                f"{self._directory}: {key}: a stored record cannot be read ({error}); "
                "the checkpoint is damaged, convert or save it again"
            ) from error
        return target.view(rows)

    def _stored(self, key: str, index: tuple[int, ...]) -> tuple[TensorStorageMetadata, list[ChunkStorageMetadata]]:
        entry = self._metadata.state_dict_metadata[key]
        assert isinstance(entry, TensorStorageMetadata)
        if key not in self._slices:
            self._slices[key] = _Slices(entry, len(index))
        return entry, self._slices[key].at(index)
