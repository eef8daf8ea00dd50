"""Whether this process computes on a CUDA device."""

from __future__ import annotations

import os
from functools import cache

import torch


@cache
def on_gpu() -> bool:
    """Whether there is a CUDA device to use; MEDATRON_DEVICE=cpu says no even where there is one."""
    return torch.cuda.is_available() and os.environ.get("MEDATRON_DEVICE", "") != "cpu"
