"""What a training step holds on a GPU beside what `recipes.plan` says of the same shape."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.gpu.conftest import GpuWorld
from tests.gpu.place import ON_GPU, gpu_tests

pytestmark = gpu_tests


def test_peak_memory_is_what_the_plan_says(gpu_world: GpuWorld, record_property: Callable[[str, object], None]) -> None:
    found = gpu_world.found("engine", "peak")
    record_property("bytes held, planned", [found["held"], found["planned"]])
    assert [step["stepped"] for step in found["steps"]] == [1]
    assert found["planned"] > 0
    # A CPU's memory is not counted.
    assert found["held"] == (pytest.approx(found["planned"], rel=0.15) if ON_GPU else 0)
