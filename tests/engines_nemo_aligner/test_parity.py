"""Both engines are one: log-probabilities, losses, gradient norms and samples agree, at every layout.

Micro-batches hold several sequences of one or more groups throughout, and global denominators make their number and
the layout invisible.
"""

from __future__ import annotations

import pytest
import torch

from tests.engines_nemo_aligner.conftest import World
from tests.engines_nemo_aligner.models import logits

pytestmark = pytest.mark.multiprocess
LAYOUTS = ("tp2", "pp2", "dp2")


def _spread(found: list[list[float]], wanted: list[list[float]]) -> float:
    """The largest difference of two ragged tables of one shape."""
    assert [len(row) for row in found] == [len(row) for row in wanted]
    pairs = [pair for rows in zip(found, wanted, strict=True) for pair in zip(*rows, strict=True)]
    return max(abs(a - b) for a, b in pairs)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("model", ["qwen2", "qwen3", "llama"])
def test_log_probabilities_are_those_of_the_megatron_engine(world: World, layout: str, model: str) -> None:
    """Before and after training; the padded vocabulary, which NeMo's own functions give probability, gets none."""
    wanted = world.results("megatron")[0][model]
    for rank in world.results(layout):
        for key in ("before", "after", *(("reference",) if model == "qwen2" else ())):
            assert _spread(rank[model][key], wanted[key]) < 1e-4, key


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("task", "wanted"),
    [
        ("qwen2", "qwen2"),
        ("qwen2 in small micro-batches", "qwen2"),
        ("recompute", "qwen2"),
        ("llama", "llama"),
        ("qwen3", "qwen3"),
        ("gspo", "gspo"),
    ],
)
def test_steps_are_those_of_the_megatron_engine(world: World, layout: str, task: str, wanted: str) -> None:
    """Loss, gradient norm and every other figure of three steps: the second and third see what the first changed.

    At DP 2 each sample is trained on once: the loss counts tokens over all ranks, and were a sample counted twice, sums
    and gradient would be others (upstream every rank trains on the whole batch).
    """
    steps = world.results("megatron")[0][wanted]["steps"]
    for rank in world.results(layout):
        assert len(rank[task]["steps"]) == len(steps) == 3
        for found, other in zip(rank[task]["steps"], steps, strict=True):
            assert found.keys() == other.keys()
            assert {"loss", "grad_norm", "kl", "entropy", "clipped", "tokens", "stepped"} <= found.keys()
            for key, value in other.items():
                assert found[key] == pytest.approx(value, rel=1e-3, abs=1e-5), key


@pytest.mark.parametrize("layout", ["tp2", "pp2"])
def test_a_rank_alone_samples_what_the_megatron_engine_does(world: World, layout: str) -> None:
    """With a whole model on each rank, before and after updates, by the weights that a checkpoint brings back too."""
    wanted = world.results("megatron")[0]["between"]["unbroken"]
    for rank in world.results(layout):
        found = rank["between"]
        for ours, theirs in zip(found["unbroken"], wanted, strict=True):
            assert [[c[0] for c in group] for group in ours] == [[c[0] for c in group] for group in theirs]
        assert found["resumed"][0] == found["unbroken"][1]
        assert found["unbroken"][0] != found["unbroken"][1]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_sample_counts_once(world: World, layout: str) -> None:
    counts = [sum(len(s["ids"]) - s["prompt_length"] for s in batch["sequences"]) for batch in world.batches("qwen2")]
    for rank in world.results(layout):
        for task in ("qwen2", "qwen2 in small micro-batches"):
            assert [step["tokens"] for step in rank[task]["steps"]] == counts


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("sampling", ["greedy", "sampled", "filtered"])
def test_responses_are_those_of_the_megatron_engine(world: World, layout: str, sampling: str) -> None:
    """Token for token: the draws belong to the response, not to the engine or its layout."""
    wanted = world.results("megatron")[0]["generate"][sampling]
    for rank in world.results(layout):
        found = rank["generate"][sampling]
        assert found["ids"] == wanted["ids"]
        assert found["finished"] == wanted["finished"]
        rows, others = ([row for group in part["logprobs"] for row in group] for part in (found, wanted))
        assert _spread(rows, others) < 1e-4
        if sampling != "greedy":
            assert _spread(rows, found["trainer"]) < 1e-4


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("model", ["qwen2", "llama"])
def test_logits_are_those_of_transformers(world: World, layout: str, model: str) -> None:
    wanted = logits(world.hf(model), world.batches(model)[0]["sequences"][0]["ids"])
    for rank in world.results(layout):
        assert (torch.tensor(rank[model]["start"]) - wanted).abs().max() < 1e-4


def test_bfloat16_stays_near(world: World) -> None:
    """Weights in bfloat16 with float32 main weights (NeMo's O2): the same steps, at that precision."""
    for found, wanted in zip(
        world.results("tp2")[0]["bfloat16"]["steps"], world.results("tp2")[0]["qwen2"]["steps"], strict=True
    ):
        assert found["stepped"] == 1
        assert found["grad_norm"] == pytest.approx(wanted["grad_norm"], rel=0.1)
