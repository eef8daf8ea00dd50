"""What trainer and vLLM's workers compute alike in a hand-over of weights; imports torch alone, so that both can."""

from __future__ import annotations

import datetime
import hashlib
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# Rows of the embedding that a digest covers.
DIGEST_ROWS = 64
EMBEDDING = "model.embed_tokens.weight"


def process_group(way: str, store: Any, rank: int, size: int, timeout_s: float) -> Any:
    """A group of the trainer's rank 0 and all workers of its servers, by `gloo` or `nccl`."""
    wait = datetime.timedelta(seconds=timeout_s)
    if way == "gloo":
        return dist.ProcessGroupGloo(store, rank, size, wait)
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = wait
    return dist.ProcessGroupNCCL(store, rank, size, options)


def group_store(host: str, port: int, size: int, number: int, timeout_s: float, *, leads: bool) -> tuple[Any, int]:
    """Where the members of the `number`th group of a run meet, and its port; port 0 takes a free one."""
    wait = datetime.timedelta(seconds=timeout_s)
    store = dist.TCPStore(host, port, size, is_master=leads, timeout=wait, wait_for_workers=False)
    return dist.PrefixStore(f"weights-{number}", store), store.port


def broadcast(group: Any, flat: Tensor, timeout_s: float) -> None:
    """From rank 0 into `flat` on all others.

    Raises:
        RuntimeError: not all came in time.
    """
    options = dist.BroadcastOptions()
    options.rootRank, options.rootTensor = 0, 0
    options.timeout = datetime.timedelta(seconds=timeout_s)
    group.broadcast([flat], options).wait()


def digest(name: str, tensor: Tensor) -> str | None:
    """SHA-256 of a weight that servers hold as it was sent: norms, and the embedding's first rows; None of others."""
    if name == EMBEDDING:
        tensor = tensor[:DIGEST_ROWS]
    elif not name.endswith("norm.weight"):
        return None
    return hashlib.sha256(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
