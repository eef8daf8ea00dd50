"""What ranks agree on before they act: its own clock, signal or failure must not steer one apart from the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from recipes.runtime import platform


def from_leader(value: float) -> float:
    """Rank 0's value on every rank; collective."""
    shared = torch.tensor([value], dtype=torch.float64, device=platform.device())
    dist.broadcast(shared, 0)
    return float(shared)


def any_rank(*facts: bool) -> list[bool]:
    """Of each fact, whether it holds on any rank; collective."""
    shared = torch.tensor([int(fact) for fact in facts], device=platform.device())
    dist.all_reduce(shared, op=dist.ReduceOp.MAX)
    return [bool(value) for value in shared.tolist()]


def told_by_leader(ask: Callable[[], Any] | None) -> tuple[Any, str | None]:
    """What `ask` returns on rank 0, or what its error says, on every rank; collective.

    A rank left alone with an error would keep the others waiting for the deadline. Not every error can be sent whole.

    Args:
        ask: None on all ranks but 0.
    """
    told: list[Any] = [None, None]
    if ask is not None:
        try:
            told[0] = ask()
        except Exception as error:
            told[1] = str(error) or type(error).__name__
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.broadcast_object_list(told, 0)
    return told[0], told[1]
