"""The weights of a Megatron checkpoint, read tensor by tensor under their Hugging Face names."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from conversion.checkpoint import HF_DIR, StoredWeights, check_weights, open_checkpoint
from conversion.families import Entry, Family, MegatronArchitecture
from conversion.merge import PIECE_BYTES, STACKED, split

if TYPE_CHECKING:
    import torch

    from conversion.torch_dist import TorchDistReader


@dataclass(frozen=True)
class MegatronModel:
    """An opened checkpoint whose weights are exactly those of its family's weight map.

    Attributes:
        family, architecture: as its config.json says.
        reader, weights: where its tensors are.
        hf_files: the files that surround the weights in a Hugging Face folder, by their names there.
        origin: the Hugging Face folder that it was converted from, where that is known.
        config_dtype: the weights' dtype when `config.json` was written, as it spells it.
    """

    family: Family
    architecture: MegatronArchitecture
    reader: TorchDistReader
    weights: StoredWeights
    hf_files: dict[str, Path]
    config_dtype: str
    origin: tuple[Path, ...] = ()

    @property
    def dtype(self) -> torch.dtype:
        """The one dtype of all weights."""
        return self.weights.dtype

    def pieces(self, entry: Entry) -> Iterator[tuple[str, torch.Tensor]]:
        """The Hugging Face tensors of an entry with their names, in order, as rows after rows where they are large."""
        if entry.row.rule not in STACKED:
            yield from zip(entry.hf_names, self.read(entry), strict=True)
            return
        key = self.weights.keys[entry.row]
        starts = self.reader.row_starts(key, entry.index)
        base = 0
        for name, shape in zip(entry.hf_names, entry.hf_shapes, strict=True):
            least = PIECE_BYTES // max(1, math.prod(shape[1:]) * self.dtype.itemsize)
            start, end = base, base + shape[0]
            for cut in (*(row for row in starts if base < row < end), end):
                # A record is read whole, so pieces are those that were stored, as many as fit.
                if cut == end or cut - start >= least:
                    yield name, self.reader.read(key, entry.index, start, cut)
                    start = cut
            base = end

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
        origin=(Path(checkpoint.manifest.source.path),),
    )
