"""The arithmetic of a weight map row: Hugging Face tensors into one Megatron tensor, and back.

Only copies of elements, so both directions are exact in every dtype. A merged QKV tensor holds, for each query group,
the group's queries, then its key, then its value, which is what lets tensor parallelism cut it along the leading axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from conversion.architecture import MegatronArchitecture
from conversion.families import Rule

if TYPE_CHECKING:
    import torch

# Rules that only stack their parts can be applied to some rows at a time; pieces of this size keep memory flat.
STACKED = (Rule.IDENTITY, Rule.GATE_UP)
PIECE_BYTES = 64 * 2**20


def merge(rule: Rule, parts: Sequence[torch.Tensor], architecture: MegatronArchitecture) -> torch.Tensor:
    """Join the Hugging Face tensors of one row into its Megatron tensor, whose leading axis is the sum of theirs.

    Rule.QKV takes q `[heads * d, ...]`, k and v `[groups * d, ...]`; Rule.GATE_UP takes gate and up `[ffn, ...]`.
    """
    import torch

    if rule is Rule.IDENTITY:
        (only,) = parts
        return only
    if rule is Rule.GATE_UP:
        return torch.cat(tuple(parts))
    groups = architecture.num_query_groups
    return torch.cat([part.unflatten(0, (groups, -1)) for part in parts], dim=1).flatten(0, 1)


def split(rule: Rule, merged: torch.Tensor, architecture: MegatronArchitecture) -> tuple[torch.Tensor, ...]:
    """The exact inverse of `merge`; the parts may be views of `merged`.

    Of Rule.QKV, `merged` may also be the rows of some query groups, as a tensor parallel rank holds them.
    """
    if rule is Rule.IDENTITY:
        return (merged,)
    if rule is Rule.GATE_UP:
        return merged.chunk(2)
    groups, head = architecture.num_query_groups, architecture.kv_channels
    queries = architecture.num_attention_heads // groups * head
    parts = merged.unflatten(0, (-1, queries + 2 * head)).split([queries, head, head], dim=1)
    return tuple(part.flatten(0, 1) for part in parts)
