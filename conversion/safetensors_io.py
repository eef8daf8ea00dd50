"""safetensors files read and written one tensor at a time.

The safetensors library maps a whole file into memory on reading and wants every tensor of a file at once on writing.
The format needs neither: eight bytes of header length, a JSON header with the dtype, shape and byte range of each
tensor, then the bytes. Reading it directly keeps one tensor in memory and lets a truncated file be named before any of
it is converted.

Left out: dtypes that no supported model stores its weights in (integers, FP8, complex).
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from conversion.errors import HuggingFaceError

if TYPE_CHECKING:
    import torch

# By torch's own names.
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_LENGTH = struct.Struct("<Q")


def raw_bytes(tensor: torch.Tensor) -> memoryview:
    """The bytes of a tensor on the CPU in row-major order, without a copy if it is contiguous."""
    import torch

    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy().data


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies: its file, the offset of its first byte in that file, its dtype and shape."""

    file: Path
    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size of the data in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self) -> torch.Tensor:
        """Read the tensor into fresh memory. Raises HuggingFaceError if the file ends before it."""
        return self.read_rows(0, self.shape[0]) if self.shape else self._read(self.offset, self.nbytes, ())

    def read_rows(self, start: int, stop: int) -> torch.Tensor:
        """Read the slice `[start:stop]` as `read` does."""
        row = self.nbytes // self.shape[0] if self.shape[0] else 0
        return self._read(self.offset + start * row, (stop - start) * row, (stop - start, *self.shape[1:]))

    def _read(self, offset: int, size: int, shape: tuple[int, ...]) -> torch.Tensor:
        import torch

        data = torch.empty(size, dtype=torch.uint8)
        view = data.numpy().data
        with open(self.file, "rb", buffering=0) as stream:
            stream.seek(offset)
            done = 0
            while done < size:
                count = stream.readinto(view[done:])
                if not count:
                    raise HuggingFaceError(f"{self.file}: ends at byte {offset + done}; download the file again")
                done += count
        return data.view(self.dtype).reshape(shape)


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file, by name, checked to fill the file exactly.

    Raises HuggingFaceError naming the file when it is missing, truncated or damaged, or a tensor's dtype is not one
    that models are trained in.
    """
    import torch

    try:
        size = path.stat().st_size
        with open(path, "rb") as stream:
            prefix = stream.read(_LENGTH.size)
            length = _LENGTH.unpack(prefix)[0] if len(prefix) == _LENGTH.size else size
            if _LENGTH.size + length > size:
                raise _damaged(path, f"its {size} bytes end inside the header")
            header = json.loads(stream.read(length))
    except FileNotFoundError as error:
        raise HuggingFaceError(f"{path}: no such file; download the model again") from error
    except ValueError as error:
        raise _damaged(path, f"its header is not JSON ({error})") from error
    start = _LENGTH.size + length
    tensors, end = {}, 0
    try:
        header.pop("__metadata__", None)
        for name, item in sorted(header.items(), key=lambda pair: pair[1]["data_offsets"]):
            if item["dtype"] not in _DTYPES:
                raise HuggingFaceError(
                    f"{path}: {name} has dtype {item['dtype']}, expected one of {', '.join(_DTYPES)}; "
                    "convert an unquantised model"
                )
            dtype = getattr(torch, _DTYPES[item["dtype"]])
            stored = StoredTensor(path, start + item["data_offsets"][0], dtype, tuple(item["shape"]))
            if item["data_offsets"] != [end, end + stored.nbytes]:
                raise _damaged(path, f"the byte range of {name} is {item['data_offsets']}, expected to start at {end}")
            tensors[name], end = stored, end + stored.nbytes
    except (AttributeError, KeyError, TypeError) as error:
        raise _damaged(path, f"its header lacks {error}") from error
    if start + end != size:
        raise _damaged(path, f"it has {size} bytes where the header promises {start + end}")
    return tensors


def _damaged(path: Path, what: str) -> HuggingFaceError:
    return HuggingFaceError(f"{path}: truncated or damaged: {what}; download the file again")


class SafetensorsWriter:
    """Writes one safetensors file whose names and shapes are known beforehand; `add` must follow their order.

    A tensor may come in several pieces, rows after rows. Use as a context manager; leaving it without an error checks
    that every tensor was written.
    """

    def __init__(self, path: Path, shapes: Mapping[str, Sequence[int]], dtype: torch.dtype) -> None:
        self._path = path
        self._dtype = dtype
        self._expected = list(shapes.items())
        self._stream: BinaryIO = open(path, "xb")  # noqa: SIM115
        stored_as = next(name for name, ours in _DTYPES.items() if str(dtype) == f"torch.{ours}")
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name, shape in self._expected:
            begin, end = end, end + math.prod(shape) * dtype.itemsize
            header[name] = {"dtype": stored_as, "shape": list(shape), "data_offsets": [begin, end]}
        encoded = json.dumps(header, separators=(",", ":")).encode()
        encoded += b" " * (-len(encoded) % 8)  # the data begins at a multiple of eight, as readers expect
        self._stream.write(_LENGTH.pack(len(encoded)) + encoded)
        self._added = 0
        self._rows = 0

    def __enter__(self) -> SafetensorsWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._stream.close()
        assert kind is not None or self._added == len(self._expected), f"{self._path}: not every tensor was written"

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Append the next tensor, or its next rows; name, shape and dtype are those announced."""
        expected, shape = self._expected[self._added]
        assert name == expected, f"{self._path}: {name} came where {expected} was announced"
        assert tuple(tensor.shape[1:]) == tuple(shape[1:]), f"{self._path}: {name} has shape {tuple(tensor.shape)}"
        assert tensor.dtype == self._dtype, f"{self._path}: {name} has dtype {tensor.dtype}"
        self._stream.write(raw_bytes(tensor))
        self._rows += len(tensor)
        assert self._rows <= shape[0], f"{self._path}: {name} has more than {shape[0]} rows"
        if self._rows == shape[0]:
            self._added, self._rows = self._added + 1, 0
