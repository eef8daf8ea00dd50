"""Per-token values of sequences as tables, a response a row, and back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from recipes.engines.base import TokenSequence


def table(rows: Sequence[Sequence[float]]) -> Tensor:
    """[responses, longest one], 0 behind a response's end."""
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True)


def token_mask(sequences: Sequence[TokenSequence]) -> Tensor:
    """[responses, longest one], 1 at tokens of the response."""
    return table([(1.0,) * s.response_length for s in sequences])


def rows(values: Tensor, sequences: Sequence[TokenSequence]) -> list[tuple[float, ...]]:
    """Each response's values."""
    return [tuple(row[: s.response_length]) for row, s in zip(values.tolist(), sequences, strict=True)]
