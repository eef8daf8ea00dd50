"""One step of megatron-core's optimizer, taken only where loss and gradient are finite."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from recipes.engines.core import finite


def take_step(
    module: Any,
    optimizer: Any,
    sums: Mapping[str, float],
    *,
    learning_rate: float,
    weight_decay: float,
    where: str = "after the update",
) -> dict[str, float]:
    """Steps along the gradient that lies in the model; returns the sums with `grad_norm` and `stepped` (1.0 or 0.0).

    Args:
        module: of this rank.
        optimizer: megatron-core's, of the module.
        sums: of the loss over the batch; where `loss` is not finite nothing changes.
        learning_rate, weight_decay: of this step.
        where: completes the message of a weight that is not finite.

    Raises:
        NonFiniteError: a weight is not finite after the step.
    """
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group.get("lr_mult", 1.0)
        # megatron-core leaves this to its own scheduler; without it biases and norms would be decayed as well.
        group["weight_decay"] = weight_decay * group.get("wd_mult", 1.0)
    optimizer.prepare_grads()
    grad_norm = float(optimizer.get_grad_norm())
    # megatron-core's float32 and bfloat16 optimizers would step into whatever they are given.
    stepped = math.isfinite(grad_norm) and math.isfinite(sums["loss"])
    if stepped:
        optimizer.step()
        finite.check_weights(module, where)
    return {**sums, "grad_norm": grad_norm, "stepped": float(stepped)}
