"""Weights must be numbers: a model with one NaN answers with nothing but NaN."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from conversion.errors import NonFiniteError

if TYPE_CHECKING:
    import torch


def count_non_finite(tensor: torch.Tensor) -> int:
    """How many values are NaN or infinite. Where none is, it is one pass without a copy."""
    import torch

    if not tensor.numel():
        return 0
    # A NaN is both the least and the greatest; a mask of all values would take thirty times as long.
    if all(bool(end.isfinite()) for end in tensor.aminmax()):
        return 0
    return int((~torch.isfinite(tensor)).sum())


def check_finite(name: str, tensor: torch.Tensor, source: Path) -> None:
    """Raise NonFiniteError naming the tensor and where it lies."""
    if count := count_non_finite(tensor):
        raise NonFiniteError(
            f"{source}: {name}: {count:,} of {tensor.numel():,} values are NaN or infinite; use a checkpoint from "
            "before training diverged, or fetch the model again"
        )
