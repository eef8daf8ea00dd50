"""Tensors in host memory that change places with those on the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class HostCopy:
    """A copy of tensors in host memory; beside it, one spare tensor of each shape, into which a swap moves.

    A swap is two copies a tensor and allocates nothing. Pinned memory is read and written by the GPU itself.
    """

    def __init__(self, tensors: Sequence[Tensor], *, pin: bool) -> None:
        """Copies the tensors, into pinned memory where `pin` says so, which takes a GPU."""
        self._pin = pin
        self._held = [self._like(tensor) for tensor in tensors]
        for held, tensor in zip(self._held, tensors, strict=True):
            held.copy_(tensor)
        self._spare = {_kind(tensor): self._like(tensor) for tensor in tensors}

    def swap(self, tensors: Sequence[Tensor]) -> None:
        """Exchanges the contents with those of the tensors that it was made of, in the same order.

        The copies follow each other and what was asked of the device before and after, on the current stream, so that
        nothing here waits for them.
        """
        for number, (tensor, held) in enumerate(zip(tensors, self._held, strict=True)):
            taken = self._spare[_kind(tensor)]
            taken.copy_(tensor, non_blocking=True)
            tensor.copy_(held, non_blocking=True)
            self._held[number], self._spare[_kind(tensor)] = taken, held

    def _like(self, tensor: Tensor) -> Tensor:
        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=self._pin)


def _kind(tensor: Tensor) -> tuple[torch.Size, torch.dtype]:
    return tensor.shape, tensor.dtype
