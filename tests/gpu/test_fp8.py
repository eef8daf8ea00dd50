"""FP8 by its three recipes: that its kernels ran, and how far from bfloat16 they lead.

On a CPU both factors of every product of the layers are rounded to E4M3 instead, which is what the bounds were set by.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from tests.gpu.conftest import RECIPES, GpuWorld, differences
from tests.gpu.place import ON_GPU, gpu_tests

pytestmark = gpu_tests
# E4M3 has a mantissa of three bits. A number is off by 1/16 of itself at most, 2.6 % as a root mean square; a product
# of two sets of them by the root of two times that, 3.7 %. bfloat16 rounds to 0.2 %.
LEAST, MOST = 0.015, 0.06
# From bfloat16: mean difference of a log-probability in nats, share of a gradient norm, and a loss.
# On a CPU: 0.21, 0.08, 0.08.
MEAN_NATS, NORM, LOSS = (0.03, 0.5), 0.2, 0.2


def test_without_a_recipe_products_are_bfloat16s(gpu_world: GpuWorld) -> None:
    """Guards the tests below: what they take for FP8's rounding is not there without it."""
    products = gpu_world.found("engine", "fp8 none")["products"]
    assert len(products) == 8
    for name, calls in products.items():
        assert all(found < LEAST / 2 for found, _ in calls), name


@pytest.mark.parametrize("recipe", RECIPES)
def test_products_were_rounded_to_fp8_and_by_no_more(recipe: str, gpu_world: GpuWorld) -> None:
    found = gpu_world.found("engine", f"fp8 {recipe}")
    assert len(found["products"]) == 8
    for name, calls in found["products"].items():
        for measured, emulated in calls:
            assert LEAST < measured < MOST, name
            # Blocks, and scales that come a step late, round other numbers by as much.
            assert measured < 1.5 * emulated, name
    assert len(found["weights"]) == 16
    for name, (rounded, scales) in found["weights"].items():
        assert 0.005 < rounded < 0.04, name
        # By blocks they are filled up to a multiple of four, with anything.
        assert any(0 < scale != 1 and math.isfinite(scale) for scale in scales), name
    if recipe == "delayed" and ON_GPU:
        assert found["amax"] > 0


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_step_in_fp8_is_near_bfloat16s(
    recipe: str, gpu_world: GpuWorld, record_property: Callable[[str, object], None]
) -> None:
    found, wanted = (gpu_world.found("engine", f"fp8 {name}") for name in (recipe, "none"))
    assert all(step["stepped"] == 1 for step in found["steps"])
    nats = float(differences(found["logprobs"], wanted["logprobs"]).mean())
    # The second step, since delayed scaling may have no scales in the first.
    steps = [each["steps"][1] for each in (found, wanted)]
    norms, losses = ([step[name] for step in steps] for name in ("grad_norm", "loss"))
    for name, value in (("nats", nats), ("grad norms", norms), ("losses", losses)):
        record_property(f"{recipe} {name}", value)
    assert MEAN_NATS[0] < nats < MEAN_NATS[1]
    assert norms[0] == pytest.approx(norms[1], rel=NORM)
    assert losses[0] == pytest.approx(losses[1], abs=LOSS)
    assert norms[0] != norms[1]
