"""megatron-core's distributed optimizer on torch's AdamW, which it takes where neither Transformer Engine nor Apex is.

It was written for their Adam, whose state has no `step`: with torch's, saving asserts on it before the first step,
loading raises KeyError on it, and leaves all parameters with one shared tensor. True on a GPU as on a CPU.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.optimizer import distrib_optimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer


class TorchAdamOptimizer(DistributedOptimizer):
    """The distributed optimizer with a `step` in every parameter's state."""

    def state_dict(self) -> Any:
        """As upstream's, also before the first step."""
        for group in self.optimizer.param_groups if self.optimizer is not None else ():
            for parameter in group["params"]:
                state = self.optimizer.state[parameter]
                for moment in ("exp_avg", "exp_avg_sq"):
                    state.setdefault(moment, torch.zeros_like(parameter.data))
                state.setdefault("step", torch.tensor(0.0))
        return super().state_dict()

    def load_state_dict(self, state_dict: Any) -> None:
        """As upstream's, with a step tensor for each parameter."""
        super().load_state_dict(state_dict)
        for entry in self.optimizer.state.values():
            if "step" in entry:
                entry["step"] = entry["step"].clone()

    def _set_main_param_and_optimizer_states(self, model_param: Any, tensors: dict[str, torch.Tensor]) -> None:
        group, order = self.model_param_group_index_map[model_param]
        main = self.optimizer.param_groups[group]["params"][order]
        for key, target in {"param": main, **self.optimizer.state[main]}.items():
            if key in tensors:
                target.copy_(tensors[key])


def adopt(optimizers: list[Any]) -> None:
    """Makes TorchAdamOptimizers of megatron-core's distributed optimizers where they hold torch's AdamW."""
    if not distrib_optimizer.HAVE_APEX_OR_TE:
        for optimizer in optimizers:
            optimizer.__class__ = TorchAdamOptimizer
