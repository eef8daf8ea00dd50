"""Whether weights and optimizer are finite: one norm over all of them, and a look at each where that is not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from recipes.engines.base import NonFiniteError


def check_weights(module: Any, where: str) -> None:
    """Raises NonFiniteError naming the first parameter of this rank that is not finite.

    Args:
        module: of this rank.
        where: completes the message, such as "after the update".
    """
    _check(((name, parameter.detach()) for name, parameter in module.named_parameters()), where)


def check_optimizer(optimizer: Any, where: str) -> None:
    """Raises NonFiniteError where a moment is not finite: an infinite second one would stop its weight for good.

    Args:
        optimizer: megatron-core's, of this rank.
        where: completes the message.
    """
    states = (state for each in getattr(optimizer, "chained_optimizers", [optimizer]) for state in _states(each))
    moments = ((f"optimizer.{key}", value) for state in states for key, value in state.items())
    _check(((name, value) for name, value in moments if isinstance(value, Tensor)), where)


def _states(optimizer: Any) -> Iterable[dict[str, Any]]:
    return optimizer.optimizer.state.values()


def _check(named: Iterable[tuple[str, Tensor]], where: str) -> None:
    tensors = [(name, tensor) for name, tensor in named if tensor.is_floating_point() and tensor.numel()]
    # A norm may overflow where no value has, so it only says where to look.
    if bool(torch.nn.utils.get_total_norm([tensor for _, tensor in tensors]).isfinite()):
        return
    for name, tensor in tensors:
        if bad := tensor.numel() - int(tensor.isfinite().sum()):
            raise NonFiniteError(f"{name}: {bad} of its {tensor.numel()} values are not finite {where}")
