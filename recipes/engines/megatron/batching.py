"""Divides a batch over data parallel ranks and into padded micro-batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recipes.engines.base import TokenSequence


@dataclass(frozen=True)
class MicroBatch:
    """Right-padded sequences; position t of every field belongs to the prediction of token t + 1.

    Attributes:
        indices: of the sequences in the batch, -1 for a filler row.
        inputs, targets: [rows, length] token ids.
        mask: [rows, length], 1 where the target is a response token.
        advantages, old_logprobs: [rows, length].
    """

    indices: tuple[int, ...]
    inputs: Tensor
    targets: Tensor
    mask: Tensor
    advantages: Tensor
    old_logprobs: Tensor


def deal(lengths: Sequence[int], ranks: int) -> list[list[int]]:
    """Sequence numbers for each data parallel rank, by falling length in turn, so that all get like loads."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    return [order[rank::ranks] for rank in range(ranks)]


def plan(lengths: Sequence[int], own: Sequence[int], *, tokens: int, uniform: bool) -> list[list[int]]:
    """Groups a rank's sequences into micro-batches of at most `tokens` padded tokens (at least one sequence each).

    With `uniform` all have as many rows and will be padded to the longest sequence, as pipeline stages that exchange
    activations of one shape need; missing rows are -1.
    """
    if not own:
        return [[-1]]
    ordered = sorted(own, key=lambda i: (-lengths[i], i))
    if uniform:
        rows = min(len(ordered), max(1, tokens // max(lengths)))
        count = -(-len(ordered) // rows)
        padded = [*ordered, *[-1] * (count * rows - len(ordered))]
        return [padded[i * rows : (i + 1) * rows] for i in range(count)]
    groups: list[list[int]] = []
    for index in ordered:
        # Lengths fall, so the first sequence of a group sets the padding of all.
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= tokens:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def collate(
    sequences: Sequence[TokenSequence],
    indices: Sequence[int],
    *,
    length: int | None,
    multiple: int,
    where: torch.device,
) -> MicroBatch:
    """Pads the chosen sequences on the right.

    Args:
        sequences: the whole batch.
        indices: which of them; -1 makes an empty row.
        length: positions to pad to; None for the longest of the chosen.
        multiple: round the length up to a multiple of this (sequence parallelism divides it).
    """
    chosen = [sequences[i] if i >= 0 else None for i in indices]
    width = length or max((len(s.ids) - 1 for s in chosen if s), default=1)
    width = -(-width // multiple) * multiple
    inputs, targets = (
        torch.zeros(len(chosen), width, dtype=torch.long),
        torch.zeros(len(chosen), width, dtype=torch.long),
    )
    mask, advantages, old = (torch.zeros(len(chosen), width) for _ in range(3))
    for row, sequence in enumerate(chosen):
        if sequence is None:
            continue
        ids = torch.tensor(sequence.ids)
        count, first = len(ids) - 1, sequence.prompt_length - 1
        inputs[row, :count], targets[row, :count] = ids[:-1], ids[1:]
        mask[row, first:count] = 1
        advantages[row, first:count] = sequence.advantage
        if sequence.old_logprobs:
            old[row, first:count] = torch.tensor(sequence.old_logprobs)
    return MicroBatch(tuple(indices), *(t.to(where) for t in (inputs, targets, mask, advantages, old)))
