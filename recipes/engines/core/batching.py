"""Divides a batch over data parallel ranks and into packed micro-batches, a group's prompt in each only once.

A micro-batch is one row of tokens without padding: the prompts of its groups, then their responses, each of which
attends to its prompt and itself, at the positions it would have behind the prompt. Sequences that share no prompt stand
alone. What a token sees is what it would see in a row of its own, so the gradient is the same, at a fraction of the
tokens. Left out: prompts that share only their beginning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recipes.engines.base import TokenSequence
from recipes.engines.core.packing import Packing


@dataclass(frozen=True)
class Share:
    """Sequences of one prompt that go into one micro-batch; `cost` is how many tokens they take there."""

    members: tuple[int, ...]
    cost: int


@dataclass(frozen=True)
class PackedBatch:
    """One micro-batch: packed model inputs, and where in a table of responses each prediction belongs.

    Attributes:
        indices: of the sequences in the batch, one for each row of the table.
        inputs: [1, tokens], token ids.
        packing: who attends to whom, and at which positions.
        sources: [predictions], the packed token whose output predicts the response token.
        targets: [predictions], the response tokens.
        places: [predictions], their places in the flattened table.
        mask: [rows, width], 1 at response tokens.
        advantages, old_logprobs, weights: [rows, width].
        positive: [rows, width], 1 at tokens of responses that are imitated.
    """

    indices: tuple[int, ...]
    inputs: Tensor
    packing: Packing
    sources: Tensor
    targets: Tensor
    places: Tensor
    mask: Tensor
    advantages: Tensor
    old_logprobs: Tensor
    weights: Tensor
    positive: Tensor

    def table(self, values: Tensor) -> Tensor:
        """Values of the predictions as a [rows, width] table, 0 elsewhere."""
        return values.new_zeros(self.mask.numel()).index_put((self.places,), values).view_as(self.mask)


def divide(sequences: Sequence[TokenSequence], *, tokens: int) -> list[Share]:
    """Groups sequences by their prompt; a group of more than `tokens` is divided, its prompt repeated."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, sequence in enumerate(sequences):
        groups.setdefault(sequence.ids[: sequence.prompt_length], []).append(index)
    shares = []
    for prompt, members in groups.items():
        # Long ones first: what shares a micro-batch is then of about one length, for kernels that pad.
        ordered = sorted(members, key=lambda i: (-len(sequences[i].ids), i))
        chosen: list[int] = []
        cost = len(prompt)
        for index in ordered:
            # The last token of a response predicts nothing and is left out.
            own = sequences[index].response_length - 1
            if chosen and cost + own > tokens:
                shares.append(Share(tuple(chosen), cost))
                chosen, cost = [], len(prompt)
            chosen.append(index)
            cost += own
        shares.append(Share(tuple(chosen), cost))
    return shares


def deal(costs: Sequence[int], ranks: int) -> list[list[int]]:
    """Share numbers for each data parallel rank: the largest first, each to the rank with the least so far."""
    dealt: list[list[int]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    for index in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        rank = loads.index(min(loads))
        dealt[rank].append(index)
        loads[rank] += costs[index]
    return dealt


def fill(costs: Sequence[int], own: Sequence[int], *, tokens: int) -> list[list[int]]:
    """Puts a rank's shares into micro-batches of at most `tokens` (a larger share is alone): first fit, largest first.

    At least one micro-batch comes out, empty where the rank has no share: all ranks take part in a step.
    """
    bins: list[list[int]] = []
    loads: list[int] = []
    for index in sorted(own, key=lambda i: (-costs[i], i)):
        place = next((i for i, load in enumerate(loads) if load + costs[index] <= tokens), len(bins))
        if place == len(bins):
            bins.append([])
            loads.append(0)
        bins[place].append(index)
        loads[place] += costs[index]
    return bins or [[]]


def pack(
    sequences: Sequence[TokenSequence], shares: Sequence[Share], *, length: int, where: torch.device
) -> PackedBatch:
    """One micro-batch of the given shares, filled up with tokens that nobody sees to `length`."""
    inputs, positions = np.zeros(length, np.int64), np.zeros(length, np.int64)
    cursor = 0

    def place(ids: tuple[int, ...], first: int) -> int:
        nonlocal cursor
        start, cursor = cursor, cursor + len(ids)
        inputs[start:cursor], positions[start:cursor] = ids, np.arange(first, first + len(ids))
        return start

    # As attention wants them: first the roots that have branches, then those without, then all branches.
    ordered = sorted(shares, key=lambda share: not any(_tails(sequences, share)))
    roots = [_root(sequences, share) for share in ordered]
    starts = [place(ids, 0) for ids in roots]
    branches = [[held for held in _tails(sequences, share) if held] for share in ordered]

    indices = [index for share in ordered for index in share.members]
    width = max((sequences[i].response_length for i in indices), default=1)
    mask, advantages, old, weights, positive = np.zeros((5, max(1, len(indices)), width), np.float32)
    sources, targets, places = [], [], []
    row = 0
    for share, start in zip(ordered, starts, strict=True):
        for index in share.members:
            sequence = sequences[index]
            prompt, count = sequence.prompt_length, sequence.response_length
            alone = len(share.members) == 1
            after_prompt = start + prompt if alone else place(sequence.ids[prompt:-1], prompt)
            own = np.arange(after_prompt - 1, after_prompt - 1 + count)
            # The first token of the response is predicted by the last one of the prompt.
            own[0] = start + prompt - 1
            sources.append(own)
            targets.append(np.array(sequence.ids[prompt:]))
            places.append(np.arange(row * width, row * width + count))
            mask[row, :count], positive[row, :count] = 1, sequence.positive
            for table, values in (
                (advantages, sequence.advantages),
                (old, sequence.old_logprobs),
                (weights, sequence.weights or (1.0,)),
            ):
                if values:
                    table[row, :count] = values
            row += 1
    columns = [np.concatenate(parts) if parts else np.zeros(0, np.int64) for parts in (sources, targets, places)]
    tensors = [torch.from_numpy(array).to(where) for array in (*columns, mask, advantages, old, weights, positive)]
    # Of a rank without a share one token, so that its weights take part in the step.
    lengths = [len(ids) for ids in roots] or [1]
    packing = Packing.of(torch.from_numpy(positions), lengths, [own for own in branches if own], where)
    return PackedBatch(tuple(indices), torch.from_numpy(inputs)[None].to(where), packing, *tensors)


def _root(sequences: Sequence[TokenSequence], share: Share) -> tuple[int, ...]:
    """The prompt, or a sequence that is alone with its prompt but for its last token, which predicts nothing."""
    shown = sequences[share.members[0]]
    return shown.ids[:-1] if len(share.members) == 1 else shown.ids[: shown.prompt_length]


def _tails(sequences: Sequence[TokenSequence], share: Share) -> list[int]:
    """Tokens of each response that stand behind the shared prompt."""
    if len(share.members) == 1:
        return []
    return [sequences[index].response_length - 1 for index in share.members]
