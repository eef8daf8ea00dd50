"""Lets NeMo 2.1 and megatron-core 0.10 train on CPU with gloo: every patch here, each with the upstream file it mends.

`recipes.engines.nemo_aligner.upstream` installs them, on MEDATRON_DEVICE=cpu alone and never where there is a GPU.
The patches of torch are those of `conversion.megatron_cpu`. What they cannot show: Transformer Engine's and Apex's
kernels, NCCL, and a tensor left on the wrong device.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

import torch

from conversion import megatron_cpu
from recipes.engines.base import EngineError


class GroupStepAdamW(torch.optim.AdamW):
    """torch's AdamW with Apex's habit of counting steps in the parameter group and not in each parameter's state.

    megatron-core's distributed optimizer saves a parameter's state as pieces of the parameter, which a number is not.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # megatron-core passes no closure
        """Decoupled weight decay, then Adam's step (Loshchilov and Hutter 2019, algorithm 2)."""
        for group in self.param_groups:
            group["step"] = count = group.get("step", 0) + 1
            low, high = group["betas"]
            rate, correction = group["lr"] / (1 - low**count), (1 - high**count) ** 0.5
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                state["exp_avg"].lerp_(parameter.grad, 1 - low)
                state["exp_avg_sq"].mul_(high).addcmul_(parameter.grad, parameter.grad, value=1 - high)
                spread = state["exp_avg_sq"].sqrt().div_(correction).add_(group["eps"])
                parameter.addcdiv_(state["exp_avg"], spread, value=-rate)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Leaves out what AdamW does for its own step tensors."""
        torch.optim.Optimizer.__setstate__(self, state)


def _patch_random() -> None:
    """megatron/core/tensor_parallel/random.py: sets CUDA's generator through a private extension."""
    from megatron.core.tensor_parallel import random

    random._set_cuda_rng_state = lambda state, *_, **__: torch.set_rng_state(state)


def _patch_optimizer() -> None:
    """megatron/core/optimizer: without Apex and Transformer Engine it takes torch's AdamW; see `GroupStepAdamW`."""
    from megatron.core import optimizer
    from megatron.core.optimizer import distrib_optimizer

    optimizer.Adam = GroupStepAdamW
    distrib_optimizer.HAVE_APEX_OR_TE = True


def _patch_checkpoint_writer() -> None:
    """megatron/core/dist_checkpointing/strategies/filesystem_async.py: calls a private function of torch before 2.7."""
    from megatron.core.dist_checkpointing.strategies import filesystem_async
    from torch.distributed.checkpoint import filesystem

    write_item: Any = filesystem._write_item
    if "transforms" not in inspect.signature(write_item).parameters:
        return

    def write(stream: Any, data: Any, item: Any, key: str) -> Any:
        transforms, form = filesystem._StorageWriterTransforms(), filesystem.SerializationFormat.TORCH_SAVE
        return write_item(transforms, stream, data, item, key, form)

    filesystem_async._write_item = write


def _patch_nemo() -> None:
    """Three places of NeMo that take Transformer Engine or Apex for granted.

    nlp_model.py asks for the names of BERT models, whose import fails without Transformer Engine; build_model.py marks
    parameters with a function of Apex that megatron-core has as well.
    """
    from megatron.core.tensor_parallel.layers import set_defaults_if_not_set_tensor_model_parallel_attributes
    from nemo.collections.nlp.models import nlp_model
    from nemo.collections.nlp.modules.common.megatron import build_model

    nlp_model.get_megatron_pretrained_bert_models = lambda: []
    build_model.set_defaults_if_not_set_tensor_model_parallel_attributes = (
        set_defaults_if_not_set_tensor_model_parallel_attributes
    )


@functools.cache
def install_torch() -> None:
    """The patches of torch, before anything imports megatron-core or NeMo.

    Raises:
        EngineError: there is a GPU.
    """
    if torch.cuda.is_available():
        raise EngineError("the CPU patches of NeMo are for machines without a GPU; unset MEDATRON_DEVICE")
    # NeMo's files hold functions for the JIT, which reads their source and meets torch's patched factories.
    torch.jit._state.disable()
    megatron_cpu.patch_torch()


@functools.cache
def install_nemo() -> None:
    """The patches of megatron-core and NeMo, which it imports."""
    _patch_random()
    _patch_optimizer()
    _patch_checkpoint_writer()
    _patch_nemo()
