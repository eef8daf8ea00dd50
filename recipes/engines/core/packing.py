"""Packed rows as megatron-core carries them to core attention."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from megatron.core.packed_seq_params import PackedSeqParams
from torch import Tensor

from recipes.engines.core.pieces import Part, lay_out
from recipes.engines.core.rotary import Rotation


@dataclasses.dataclass(kw_only=True)
class Packing(PackedSeqParams):
    """Positions of a packed row's tokens, and who attends to whom.

    megatron-core hands it on as it is, since it is none of its own formats.

    Attributes:
        positions: [tokens], of each token in its sequence, where a branch begins behind its root.
        own: every root and branch over itself.
        shared: the branches of each root over it; None where there are none.
        rotation: of the positions; there during a pass.
    """

    positions: Tensor
    own: Part
    shared: Part | None = None
    rotation: Rotation | None = None

    @classmethod
    def of(
        cls, positions: Tensor, roots: Sequence[int], branches: Sequence[Sequence[int]], where: torch.device
    ) -> Packing:
        """Of roots and, behind them, branches of these lengths; see `lay_out`."""
        own, shared = lay_out(roots, branches, where)
        return cls(positions=positions.to(where), own=own, shared=shared)
