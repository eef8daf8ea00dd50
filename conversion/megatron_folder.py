"""The weights of a Megatron checkpoint folder, read tensor by tensor under their Hugging Face names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from conversion.checkpoint import Checkpoint, check_weights, open_checkpoint
from conversion.families import Entry, Family, MegatronArchitecture
from conversion.merge import split
from conversion.torch_dist import TorchDistReader


@dataclass(frozen=True)
class MegatronModel:
    """An opened checkpoint whose weights are exactly those of its family's weight map."""

    checkpoint: Checkpoint
    reader: TorchDistReader
    dtype: torch.dtype

    @property
    def family(self) -> Family:
        """The model family."""
        return self.checkpoint.family

    @property
    def architecture(self) -> MegatronArchitecture:
        """The model in megatron-core's names."""
        return self.checkpoint.architecture

    def read(self, entry: Entry) -> list[torch.Tensor]:
        """The Hugging Face tensors of an entry, in the order of its row, vocabulary padding cut."""
        merged = self.reader.read(entry.row.megatron, entry.layer)
        if entry.vocabulary:
            merged = merged[: entry.megatron_shape[0]]
        return list(split(entry.row.rule, merged, self.architecture))


def open_megatron(path: Path) -> MegatronModel:
    """Open a checkpoint made by `hf_to_megatron` or saved by the training engine.

    Raises CheckpointError for a missing or truncated file, TensorMapError for a weight that is missing, left over or of
    another shape than hf/config.json says.
    """
    checkpoint = open_checkpoint(path)
    reader = TorchDistReader(checkpoint.model_dir)
    dtype: torch.dtype = getattr(torch, check_weights(reader, checkpoint.family, checkpoint.architecture))
    return MegatronModel(checkpoint, reader, dtype)
