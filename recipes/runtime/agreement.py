"""What ranks agree on before they act: its own clock, signal or failure must not steer one apart from the others."""

from __future__ import annotations

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
