"""The weights of a Megatron checkpoint, read tensor by tensor under their Hugging Face names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from conversion.checkpoint import HF_DIR, StoredWeights, check_weights, open_checkpoint
from conversion.families import Entry, Family, MegatronArchitecture
from conversion.merge import split
from conversion.torch_dist import TorchDistReader


@dataclass(frozen=True)
class MegatronModel:
    """An opened checkpoint whose weights are exactly those of its family's weight map.

    Attributes:
        family, architecture: as its config.json says.
        reader, weights: where its tensors are.
        hf_files: the files that surround the weights in a Hugging Face folder, by their names there.
        config_dtype: the weights' dtype when `config.json` was written, as it spells it.
    """

    family: Family
    architecture: MegatronArchitecture
    reader: TorchDistReader
    weights: StoredWeights
    hf_files: dict[str, Path]
    config_dtype: str

    @property
    def dtype(self) -> torch.dtype:
        """The one dtype of all weights."""
        return self.weights.dtype

    def read(self, entry: Entry) -> list[torch.Tensor]:
        """The Hugging Face tensors of an entry, in the order of its row, vocabulary padding cut."""
        merged = self.reader.read(self.weights.keys[entry.row], entry.index)
        if entry.vocabulary:
            merged = merged[: entry.megatron_shape[0]]
        return list(split(entry.row.rule, merged, self.architecture))


def open_megatron(path: Path) -> MegatronModel:
    """Open a checkpoint made by `hf_to_megatron` or saved by the training engine.

    Raises CheckpointError for a missing or truncated file, TensorMapError for a weight that is missing, left over or of
    another shape than hf/config.json says.
    """
    checkpoint = open_checkpoint(path)
    family, architecture = checkpoint.family, checkpoint.architecture
    reader = checkpoint.reader()
    inside = f"{HF_DIR}/"
    return MegatronModel(
        family=family,
        architecture=architecture,
        reader=reader,
        weights=check_weights(reader, family, architecture),
        hf_files={n.removeprefix(inside): path / n for n in checkpoint.manifest.files if n.startswith(inside)},
        config_dtype=checkpoint.manifest.source.dtype,
    )
