"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864) in core attention, its angles looked up once a pass.

megatron-core computes cosines and sines of the same angles again in every layer, for queries and for keys. Left out:
interleaved pairs and YaRN's concentration factor, which no model here has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.models.common.embeddings import rope_utils
from torch import Tensor


@dataclass(frozen=True)
class Rotation:
    """What turns queries and keys at the positions of one pass.

    Attributes:
        angles: [s, b, 1, d] float32, for Transformer Engine's kernel; None where it is not used.
        cosines, sines: [s, b, 1, d] in the model's precision, the first half of the sines negative; None beside angles.
    """

    angles: Tensor | None = None
    cosines: Tensor | None = None
    sines: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """x [s, b, heads, d] with its halves (x1, x2) turned: x cos + (-x2, x1) sin."""
        if self.angles is not None:
            # The kernel wants one position for all of a batch; a token of each row is as good as a sequence.
            if self.angles.shape[1] > 1:
                turned = rope_utils.fused_apply_rotary_pos_emb(x.transpose(0, 1), self.angles.transpose(0, 1))
                return turned.transpose(0, 1)
            return rope_utils.fused_apply_rotary_pos_emb(x, self.angles)
        assert self.cosines is not None
        assert self.sines is not None
        return torch.addcmul(x * self.cosines, x.roll(x.shape[-1] // 2, -1), self.sines)


class RotaryTable:
    """Rotations at any positions, from tables made once."""

    def __init__(self, inner: Any, length: int, dtype: torch.dtype) -> None:
        """Over megatron-core's rotary module, for positions below `length` and activations of `dtype`."""
        self._inner = inner
        self._length = length
        self._dtype = dtype
        self._tables: dict[str, Tensor] | None = None

    def at(self, positions: Tensor) -> Rotation:
        """The rotation at positions [s, b]; b may be 1 for all rows alike."""
        if self._tables is None:
            self._tables = self._make(self._inner.get_emb(self._length).detach()[:, 0, 0].float())
        return Rotation(**{name: table[positions][:, :, None] for name, table in self._tables.items()})

    def _make(self, angles: Tensor) -> dict[str, Tensor]:
        # megatron-core has the function where it found Transformer Engine, which computes on a GPU alone.
        if angles.is_cuda and rope_utils.fused_apply_rotary_pos_emb is not None:
            return {"angles": angles}
        sines = angles.sin()
        sines[:, : sines.shape[1] // 2].neg_()
        return {"cosines": angles.cos().to(self._dtype), "sines": sines.to(self._dtype)}
