"""What runs inside vLLM's workers: receiving weights from the trainer, and telling what is loaded.

Imported by vLLM (`--worker-extension-cls`), in an environment without the rest of this project but this folder. It
registers a weight transfer engine, so that vLLM's own endpoints (init, start, update, finish) hand over weights in four
ways: a file that both sides see (also in shared memory), gloo or NCCL with torch alone on both sides, and CUDA memory
of the trainer's process on the same GPU. vLLM's built-in engines want vLLM in the trainer's process, or fail on a CPU.

Left out: quantised weights and draft models, which want processing of their own.
"""

from __future__ import annotations

import base64
import contextlib
import math
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from recipes.sampling.vllm.serve import end_with_parent
from recipes.sampling.vllm.wire import EMBEDDING, broadcast, digest, group_store, process_group


@dataclass
class Init(WeightTransferInitInfo):
    """How weights come: `way`, and where the trainer waits for gloo and nccl, for a group of `size`."""

    way: str
    host: str = ""
    port: int = 0
    first: int = 1
    size: int = 1
    timeout_s: float = 300.0
    number: int = 0


@dataclass
class Update(WeightTransferUpdateInfo):
    """One bucket: tensors by name, shape and start in `elements` values of one type, and where these are."""

    names: list[str]
    shapes: list[list[int]]
    starts: list[int]
    dtype: str
    elements: int
    file: str = ""
    handles: dict[str, list[Any]] = field(default_factory=dict)


class Receiver(WeightTransferEngine[Init, Update]):
    """The receiving end; every bucket holds whole layers."""

    init_info_cls = Init
    update_info_cls = Update

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._init: Init | None = None
        self._group: Any = None
        self._expected = {name for name, _ in self.model.named_parameters()}
        self._loaded: set[str] | None = None
        self._files: dict[Path, torch.Tensor] = {}

    def init_transfer_engine(self, init_info: Init) -> None:
        """Meets the trainer where the way wants it."""
        self.shutdown()
        self._init = init_info
        if init_info.way in ("gloo", "nccl"):
            parallel = self.parallel_config
            own = init_info.first + parallel.data_parallel_index * parallel.world_size + parallel.rank
            store, _ = group_store(
                init_info.host, init_info.port, init_info.size, init_info.number, init_info.timeout_s, leads=False
            )
            self._group = process_group(init_info.way, store, own, init_info.size, init_info.timeout_s)

    def start_weight_update(self) -> None:
        """Makes the layers ready to be loaded again; what an update that was given up left behind is closed first."""
        if self._loaded is not None:
            finalize_layerwise_reload(self.model, self.model_config)
        self._loaded = set()
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """One bucket; waits for the GPU, so that the trainer may use the bucket's memory again."""
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def receive_weights(self, update_info: Update) -> None:
        """Loads the tensors of a bucket."""
        if self._loaded is None or self._init is None:
            raise RuntimeError("weights came before the transfer was initialised and started")
        flat = self._flat(update_info)
        self._loaded |= self.model.load_weights(_pieces(flat, update_info))

    def _flat(self, update: Update) -> torch.Tensor:
        dtype = getattr(torch, update.dtype)
        assert self._init is not None
        if self._init.way == "file":
            return self._bytes(Path(update.file))[: update.elements * dtype.itemsize].view(dtype)
        if self._init.way == "ipc":
            return _opened(update.handles[_uuid(self.device)], self.device, dtype, update.elements)
        flat = torch.empty(update.elements, dtype=dtype, device=self.device if self._init.way == "nccl" else "cpu")
        broadcast(self._group, flat, self._init.timeout_s)
        return flat

    def _bytes(self, path: Path) -> torch.Tensor:
        """A file's; in shared memory it stays mapped, elsewhere another machine may write it, and is read anew."""
        if path in self._files:
            return self._files[path]
        found = torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)
        if path.is_relative_to("/dev/shm"):
            self._files = {known: kept for known, kept in self._files.items() if known.exists()} | {path: found}
        return found

    def finish_weight_update(self) -> None:
        """Closes the update. Raises RuntimeError where a parameter got nothing; the next update starts afresh."""
        assert self._loaded is not None
        missing = sorted(self._expected - self._loaded - _tied(self.model))
        if missing:
            raise RuntimeError(f"{len(missing)} parameters got no weights, such as {missing[0]}; send all tensors")
        finalize_layerwise_reload(self.model, self.model_config)
        self._loaded = None
        _pack_tied_head(self.model)

    def shutdown(self) -> None:
        """Leaves the trainer's group."""
        group, self._group = self._group, None
        if group is not None and hasattr(group, "abort"):
            with contextlib.suppress(RuntimeError):
                group.abort()


def _pieces(flat: torch.Tensor, update: Update) -> Iterator[tuple[str, torch.Tensor]]:
    for name, shape, start in zip(update.names, update.shapes, update.starts, strict=True):
        tensor = flat[start : start + math.prod(shape)].view(shape)
        # A matrix of the vocabulary that vLLM pads is put in place at the end, when its bucket's memory holds another.
        yield name, tensor if ".layers." in name else tensor.clone()


def _tied(model: torch.nn.Module) -> set[str]:
    head = getattr(model, "lm_head", None)
    tied = getattr(getattr(model, "config", None), "tie_word_embeddings", False)
    return {f"lm_head.{name}" for name, _ in head.named_parameters()} if tied and head is not None else set()


def _pack_tied_head(model: torch.nn.Module) -> None:
    """On a CPU the output layer multiplies by a packed copy, which no weight of its own comes to renew when tied."""
    head = getattr(model, "lm_head", None)
    method = getattr(head, "quant_method", None)
    weight = getattr(head, "weight", None)
    if method is not None and weight is not None and weight.device.type == "cpu" and weight.numel():
        method.process_weights_after_loading(head)


def _uuid(device: torch.device) -> str:
    return str(torch.cuda.get_device_properties(device).uuid)


def _opened(handle: list[Any], device: torch.device, dtype: torch.dtype, elements: int) -> torch.Tensor:
    """The trainer's memory on this GPU, by what `UntypedStorage._share_cuda_` said there."""
    parts = [base64.b64decode(part["b64"]) if isinstance(part, dict) else part for part in handle]
    index = torch.cuda.current_device() if device.index is None else device.index
    storage = torch.UntypedStorage._new_shared_cuda(index, *parts[1:])
    return torch.empty(0, dtype=dtype, device=device).set_(storage)[:elements]


class Extension:
    """Mixed into vLLM's worker; its methods are called through `/collective_rpc`."""

    # Of the worker that it is mixed into.
    model_runner: Any
    parallel_config: Any

    def medatron_abandon(self) -> None:
        """Forgets an update that a trainer began and did not finish."""
        self._weight_update_active = False

    def medatron_digests(self) -> dict[str, str]:
        """Of the weights that lie here as they came; of an embedding that workers divide there is none."""
        whole = self.parallel_config.world_size == 1
        weights = self.model_runner.get_model().named_parameters()
        found = {name: digest(name, weight) for name, weight in weights if whole or name != EMBEDDING}
        return {name: value for name, value in found.items() if value is not None}


if "medatron" not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine("medatron", Receiver)
# A worker goes with the process that started it, also when that is killed.
end_with_parent(signal.SIGKILL)
