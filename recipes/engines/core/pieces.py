"""Who attends to whom in a row of packed tokens, as cumulated lengths and as padded blocks.

A row holds roots, then branches, then tokens that do not count. Roots are sequences that see themselves alone: prompts,
and sequences that share no prompt. The branches of a root are responses, which see it and themselves. So attention is
two parts over the row as it lies: every piece over itself, causally, and all branches of a root at once over the root,
without a mask. No key is copied for a response, and a kernel that takes cumulated lengths computes no padding. Imports
no megatron-core.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor

# Pieces of up to this many tokens are padded to each other.
_SMALLEST = 16
# Scores of one block and head, where a kernel holds them: 16 MiB in float32.
_BLOCK_SCORES = 2**22


@dataclass(frozen=True)
class Block:
    """Pieces of about one length, padded to the longest.

    Attributes:
        queries: [rows, columns], tokens among the part's queries; a padded cell repeats the last one of its row.
        keys: [rows, key columns], likewise among the part's keys.
        cells, tokens: [tokens of the block], places in the flattened block and among the part's queries.
        key_cells, key_tokens: likewise of keys.
        padded: [rows, 1, columns, 1], true at padded cells.
        hidden: [rows, 1, 1, key columns], true at padded keys; None where a causal mask hides them or none is padded.
    """

    queries: Tensor
    keys: Tensor
    cells: Tensor
    tokens: Tensor
    key_cells: Tensor
    key_tokens: Tensor
    padded: Tensor
    hidden: Tensor | None


class Part:
    """Pieces of queries, each of which attends to its own piece of keys.

    Attributes:
        queries, keys: where in the packed row all of them lie, end to end.
        query_ends, key_ends: [pieces + 1] int32, cumulated lengths.
        longest_query, longest_key: of a piece.
        causal: whether queries see only keys up to their own place; pieces of queries and keys are then the same.
    """

    def __init__(
        self,
        first: tuple[int, int],
        query_lengths: Sequence[int],
        key_lengths: Sequence[int],
        *,
        causal: bool,
        where: torch.device,
    ) -> None:
        """Pieces from token `first` of the row on, (query, key), in order."""
        self.queries = slice(first[0], first[0] + sum(query_lengths))
        self.keys = slice(first[1], first[1] + sum(key_lengths))
        self.longest_query, self.longest_key = max(query_lengths), max(key_lengths)
        self.causal = causal
        self.query_ends, self.key_ends = (
            torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=where)
            for lengths in (query_lengths, key_lengths)
        )
        self._lengths = list(zip(query_lengths, key_lengths, strict=True))

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The pieces as padded blocks, for kernels that want such: no length in one is below half the longest."""
        like: dict[tuple[int, int], list[int]] = {}
        for number, (queries, keys) in enumerate(self._lengths):
            size = [(max(length, _SMALLEST) - 1).bit_length() for length in (queries, keys)]
            like.setdefault((size[0], size[1]), []).append(number)
        made = []
        for (queries, keys), pieces in like.items():
            rows = max(1, _BLOCK_SCORES >> (queries + keys))
            made += [self._block(pieces[start : start + rows]) for start in range(0, len(pieces), rows)]
        return tuple(made)

    def _block(self, pieces: Sequence[int]) -> Block:
        where = self.query_ends.device
        chosen = torch.tensor(pieces, device=where)
        longest = [max(self._lengths[piece][side] for piece in pieces) for side in (0, 1)]
        queries, cells, tokens, padded = _pad(self.query_ends.long(), chosen, longest[0])
        keys, key_cells, key_tokens, key_padded = _pad(self.key_ends.long(), chosen, longest[1])
        even = len({self._lengths[piece][1] for piece in pieces}) == 1
        hidden = None if self.causal or even else key_padded[:, None, None]
        return Block(queries, keys, cells, tokens, key_cells, key_tokens, padded[:, None, :, None], hidden)


def _pad(ends: Tensor, chosen: Tensor, columns: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens [rows, columns], and the cells, the tokens of these and the padding [rows, columns] of chosen pieces."""
    starts, lengths = ends[chosen, None], (ends[chosen + 1] - ends[chosen])[:, None]
    places = torch.arange(columns, device=ends.device)
    table = starts + torch.minimum(places, lengths - 1)
    padded = places >= lengths
    cells = (~padded).flatten().nonzero()[:, 0]
    return table, cells, table.flatten()[cells], padded


def lay_out(roots: Sequence[int], branches: Sequence[Sequence[int]], where: torch.device) -> tuple[Part, Part | None]:
    """Every piece over itself, and the branches of each root over it; None where there are none.

    Args:
        roots: their lengths, at least one.
        branches: of the first roots, the lengths of all that belong to it; they lie behind all roots.
        where: the lengths are wanted.
    """
    lengths = [*roots, *(length for own in branches for length in own)]
    own = Part((0, 0), lengths, lengths, causal=True, where=where)
    if not branches:
        return own, None
    together = [sum(lengths) for lengths in branches]
    return own, Part((sum(roots), 0), together, roots[: len(branches)], causal=False, where=where)
