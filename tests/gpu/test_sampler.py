"""The embedded sampler on a GPU: greedy decoding is transformers', and its log-probabilities are the trainer's."""

from __future__ import annotations

import pytest

from tests.engines import reference
from tests.engines.conftest import LIMIT
from tests.gpu.conftest import MODELS, GpuWorld, differences
from tests.gpu.place import gpu_tests

pytestmark = gpu_tests
# In bfloat16, nats between the sampler's and the trainer's log-probability of a token: mean, and largest.
# On a CPU: 0.014, 0.10.
MEAN_NATS, LARGEST_NATS = 0.04, 0.3


@pytest.mark.parametrize("model", MODELS)
def test_greedy_is_transformers_generate(model: str, gpu_world: GpuWorld) -> None:
    found = gpu_world.found("local", f"sample float32 {model}")["greedy"]
    assert [ids for [ids] in found["ids"]] == reference.greedy(gpu_world.hf(model), gpu_world.prompts(), LIMIT)


@pytest.mark.parametrize("sampling", ["greedy", "sampled"])
@pytest.mark.parametrize(("launch", "precision"), [("local", "float32"), ("local", "bfloat16"), ("engine", "bfloat16")])
@pytest.mark.parametrize("model", MODELS)
def test_the_samplers_logprobs_are_the_trainers(
    model: str, launch: str, precision: str, sampling: str, gpu_world: GpuWorld
) -> None:
    found = gpu_world.found(launch, f"sample {precision} {model}")[sampling]
    off = differences([values for group in found["logprobs"] for values in group], found["trainer"])
    mean, largest = (1e-5, 1e-4) if precision == "float32" else (MEAN_NATS, LARGEST_NATS)
    assert float(off.mean()) < mean
    assert float(off.max()) < largest
