"""Prompts in packed rows, where those that begin alike have their beginning computed once.

A chat template, an instruction, worked examples or a case with several questions stand at the front of many prompts.
A packed row holds such a beginning as a root and the rest of each prompt as a branch (`pieces`), so that there is no
padding either. Imports no megatron-core. Left out: beginnings within beginnings, of which those are taken that save
most.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Ids = Sequence[int]


@dataclass(frozen=True)
class PromptRow:
    """A packed row of some of the prompts.

    Attributes:
        ids, positions: [tokens].
        roots, branches: their lengths, as attention wants them: branches of the first roots, behind all roots.
        numbers: [prompts], which prompts they are.
        places: [prompts, tokens of the longest of all], where each one's tokens lie in the row; behind its end 0.
        ends: [prompts], where its last token lies.
    """

    ids: Tensor
    positions: Tensor
    roots: list[int]
    branches: list[list[int]]
    numbers: Tensor
    places: Tensor
    ends: Tensor


@dataclass(frozen=True)
class Family:
    """Prompts by number, and how many tokens they all begin with; each has more than these."""

    members: list[int]
    shared: int

    @property
    def saved(self) -> int:
        """Tokens that need not be computed."""
        return (len(self.members) - 1) * self.shared


def families(prompts: Sequence[Ids]) -> list[Family]:
    """Every prompt in one family, so that as many tokens as can be are saved.

    Sorted prompts that begin alike are neighbours, and their common beginnings are a tree, which is built from the left
    while its open nodes wait on a stack. A node is one family where that saves more than its parts do.
    """
    order = sorted(range(len(prompts)), key=lambda number: tuple(prompts[number]))
    opened: list[tuple[int, list[Family]]] = [(0, [])]
    for number, after in zip(order, [*order[1:], None], strict=True):
        alike = 0 if after is None else _alike(prompts[number], prompts[after])
        parts = [Family([number], 0)]
        while opened[-1][0] > alike:
            shared, before = opened.pop()
            parts = before + parts
            whole = Family([member for part in parts for member in part.members], shared)
            parts = [whole] if whole.saved >= sum(part.saved for part in parts) else parts
        if opened[-1][0] < alike:
            opened.append((alike, []))
        opened[-1][1].extend(parts)
    return opened[0][1]


def _alike(one: Ids, other: Ids) -> int:
    """How many tokens both begin with, of all but their last."""
    most = min(len(one), len(other)) - 1
    return next((place for place in range(most) if one[place] != other[place]), most)


def prompt_rows(prompts: Sequence[Ids], most: int, where: torch.device) -> Iterator[PromptRow]:
    """All prompts, none of them empty, in rows of at most `most` tokens, or of one longer prompt."""
    width, row, tokens = max(map(len, prompts)), list[Family](), 0
    for family in families(prompts):
        # Of this family in this row.
        members: list[int] = []
        for number in family.members:
            added = len(prompts[number]) - (family.shared if members else 0)
            if tokens and tokens + added > most:
                yield _row(prompts, [*row, Family(members, family.shared)] if members else row, width, where)
                row, members, tokens, added = [], [], 0, len(prompts[number])
            members.append(number)
            tokens += added
        row.append(Family(members, family.shared))
    yield _row(prompts, row, width, where)


def _row(prompts: Sequence[Ids], row: Sequence[Family], width: int, where: torch.device) -> PromptRow:
    ids: list[int] = []
    positions: list[np.ndarray] = []

    def place(tokens: Ids, first: int) -> np.ndarray:
        start = len(ids)
        ids.extend(tokens)
        positions.append(np.arange(first, first + len(tokens)))
        return np.arange(start, len(ids))

    # First the roots that have branches, then those without, then all branches.
    row = sorted(row, key=lambda family: len(family.members) == 1)
    roots = [prompts[f.members[0]][: f.shared if len(f.members) > 1 else None] for f in row]
    starts = [place(root, 0) for root in roots]
    numbers = [number for family in row for number in family.members]
    places = np.zeros((len(numbers), width), np.int64)
    held = [start for family, start in zip(row, starts, strict=True) for _ in family.members]
    for number, root, own in zip(numbers, held, places, strict=True):
        own[: len(root)] = root
        own[len(root) : len(prompts[number])] = place(prompts[number][len(root) :], len(root))
    ends = places[range(len(numbers)), [len(prompts[number]) - 1 for number in numbers]]
    return PromptRow(
        torch.tensor(ids, device=where),
        torch.from_numpy(np.concatenate(positions)).to(where),
        [len(root) for root in roots],
        [[len(prompts[n]) - f.shared for n in f.members] for f in row if len(f.members) > 1],
        torch.tensor(numbers, device=where),
        torch.from_numpy(places).to(where),
        torch.from_numpy(ends).to(where),
    )
