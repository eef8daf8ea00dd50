"""What the ranks run on: NVIDIA GPUs with NCCL, or CPU with gloo for development and tests."""

from __future__ import annotations

import resource

import torch

from conversion.device import on_gpu

__all__ = ["backend", "device", "on_gpu", "peak_memory"]


def device() -> torch.device:
    """The device of this rank's tensors."""
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu() else torch.device("cpu")


def backend() -> str:
    """The torch.distributed backend that fits the device."""
    return "nccl" if on_gpu() else "gloo"


def peak_memory() -> int:
    """Most bytes that this rank has held so far: of its GPU through torch, or resident in host memory."""
    if on_gpu():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
