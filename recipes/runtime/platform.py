"""What the ranks run on: NVIDIA GPUs with NCCL, or CPU with gloo for development and tests."""

from __future__ import annotations

import os
from functools import cache

import torch


@cache
def on_gpu() -> bool:
    """Whether this process trains on a CUDA device; MEDATRON_DEVICE=cpu says no even where there is one."""
    return torch.cuda.is_available() and os.environ.get("MEDATRON_DEVICE", "") != "cpu"


def device() -> torch.device:
    """The device of this rank's tensors."""
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu() else torch.device("cpu")


def backend() -> str:
    """The torch.distributed backend that fits the device."""
    return "nccl" if on_gpu() else "gloo"
