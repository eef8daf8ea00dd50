"""What the ranks run on: NVIDIA GPUs with NCCL, or CPU with gloo for development and tests."""

from __future__ import annotations

import ctypes
import resource

import torch

from conversion.device import on_gpu

__all__ = ["backend", "device", "keep_freed_memory", "on_gpu", "peak_memory"]

# malloc.h of glibc.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


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


def keep_freed_memory() -> None:
    """Has glibc keep the memory of freed tensors for this process's next ones; other C libraries are left as they are.

    It gives large ones back to the system at once, and the first write to each page of a new one then costs more than
    most of what is computed into it. The process's memory stays at its peak, as torch's does on a GPU, and that is some
    higher, since glibc seldom fits an aligned tensor into the place of another of its size.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)
