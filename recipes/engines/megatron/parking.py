"""A model's memory on the device, given up while it does not compute: policy and critic take turns there.

Weights and the optimizer's state wait in host memory, pinned for a GPU; gradients are nobody's between two steps. What
is a view of a buffer stays one: the storage is made empty and filled again, and must not be touched in between.
Transformer Engine's FP8 copies of the weights go with them; its next pass makes them again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from recipes.runtime import platform


class Parking:
    """The host memory of one model in its data parallel wrapper.

    Attributes:
        weights, training: whether its weights are on the device, and its gradients and optimizer.
    """

    def __init__(self, model: Any, parts: list[Any]) -> None:
        """Moves nothing yet.

        Args:
            model: megatron-core's DistributedDataParallel.
            parts: its distributed optimizers.
        """
        self._model = model
        self._buffers = [*model.buffers, *model.expert_parallel_buffers]
        self._parts = parts
        self._sizes = [buffer.grad_data.untyped_storage().nbytes() for buffer in self._buffers]
        self._weights = [_host_like(buffer.param_data) for buffer in self._buffers]
        self._states: dict[Tensor, Tensor] = {}
        self.weights = self.training = True

    def take(self, *, weights: bool, training: bool) -> None:
        """Brings to the device what is wanted there, and takes away what is not; training wants weights."""
        if self.training and not training:
            self._park_training()
        if self.weights and not weights:
            for buffer, host in zip(self._buffers, self._weights, strict=True):
                host.copy_(buffer.param_data)
                buffer.param_data.untyped_storage().resize_(0)
            for part in self._model.modules():
                # By name, row-wise and column-wise: kept from one micro-batch to the next, made where there is none.
                if copies := getattr(part, "_fp8_workspaces", None):
                    copies.clear()
        if weights and not self.weights:
            for buffer, host in zip(self._buffers, self._weights, strict=True):
                buffer.param_data.untyped_storage().resize_(host.nbytes)
                buffer.param_data.copy_(host)
        if training and not self.training:
            self._bring_training()
        self.weights, self.training = weights, training

    def _park_training(self) -> None:
        for buffer in self._buffers:
            buffer.grad_data.untyped_storage().resize_(0)
        before, self._states = self._states, {}
        for tensor in self._optimizer_tensors():
            host = before.pop(tensor) if tensor in before else _host_like(tensor)
            host.copy_(tensor)
            tensor.data = self._states[tensor] = host

    def _bring_training(self) -> None:
        for buffer, size in zip(self._buffers, self._sizes, strict=True):
            buffer.grad_data.untyped_storage().resize_(size)
        device = self._buffers[0].grad_data.device
        # Moments that were begun while the others waited are among them.
        for tensor in self._optimizer_tensors():
            tensor.data = tensor.detach().to(device, copy=True)

    def _optimizer_tensors(self) -> Iterator[Tensor]:
        """Moments, and main weights where they are not the model's own."""
        for part in self._parts:
            for group in part.shard_fp32_from_float16_groups:
                yield from (tensor for tensor in group if tensor is not None)
            for state in part.optimizer.state.values():
                # A count of steps is a scalar.
                yield from (value for value in state.values() if isinstance(value, Tensor) and value.dim())


def _host_like(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=platform.on_gpu())
