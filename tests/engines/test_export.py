"""Weights handed over in Hugging Face names: those of the checkpoint, bit for bit, whatever the layout."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.engines.conftest import EXPORTS, World
from tests.engines.exports import check_exports

pytestmark = pytest.mark.multiprocess
CASES = [(launch, model, precision) for launch, cases in EXPORTS.items() for model, precision in cases]


@pytest.mark.parametrize(("launch", "model", "precision"), CASES)
def test_weights_are_those_of_the_checkpoint(
    world: World, launch: str, model: str, precision: str, tmp_path: Path
) -> None:
    """Of the source at the start; after a step, and when loaded after another, of what was saved and converted.

    Fails for values kept from an earlier time, among them the reference's, which change places with the policy's in
    every step here, and for a shard, a tied matrix or the vocabulary's padding in the wrong place.
    """
    check_exports(
        [rank[f"export {model}"] for rank in world.results(launch)],
        source=world.hf(model),
        saved=world.exported(launch, model),
        precision=getattr(torch, precision),
        scratch=tmp_path,
    )


def test_what_cannot_be_handed_over_is_named_on_every_rank(world: World) -> None:
    """The reason is the last rank's alone; were it not told to the others, they would wait for its parts."""
    for found in (rank["refused export"] for rank in world.results("tp2")):
        assert "rank 1: embedding.extra has no place in the family's weight map" in found["unknown"]
        assert "rank 1: embedding.word_embeddings.weight is Parameter of torch.float64" in found["precision"]
        assert "rank 1: embedding.word_embeddings.weight is Quantized of torch.float32" in found["kind"]
        assert "model.embed_tokens.weight: ranks [0, 1] hold" in found["incomplete"]
        assert "rank 0: " not in " ".join(found.values())
