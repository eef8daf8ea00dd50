"""What is gathered and derived for a visit to a GPU; nothing here downloads or measures."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu
from recipes.planning import hardware
from recipes.runtime.config import ClusterConfig
from tests.conftest import REPOSITORY

# Figures for an easy sum: 98.94 TFLOP of products in 200 ms are 494.7 TFLOP/s, half of the card's peak.
_STEP = {"step_ms": 300.0, "tflops": 400.0, "peak_gb": 9.0, "planned_gb": 10.0, "product_tflop": 98.94}
_SECTIONS: dict[str, dict[str, Any]] = {
    "ceilings": {"bf16_tflops": 800.0, "copy_gb_s": 2680.0, "seconds": 3.0},
    "train": {
        "70B/8 bfloat16": _STEP
        | {"outside_torch_gb": 2.5, "kernels": {"products": {"ms": 200.0}, "other": {"ms": 40.0}}},
        "70B/8 blockwise": {"kernels": {"other": {"ms": 50.0}}},
        "3B bfloat16": {"out of memory": "with recompute"},
    },
    "attention": {"ours": {"tflops": 346.29}},
    "sampler": {"70B/8 64 rows": {"layer_token_ms": 0.25}},
    "host": {"swap": {"gb_s": 40.0}},
}


def test_the_planners_constants_follow_from_the_figures() -> None:
    """Each under a name that the planner or a cluster's file really has."""
    result = {"card": "NVIDIA H100 80GB HBM3", "date": "2026-01-01", "command": "c", "sections": _SECTIONS}
    gpu.derive(result)
    found = result["planner"]["recipes/planning/hardware.py"]
    assert found == {
        "MATMUL_SHARE": 0.5,
        "OVERHEAD_BYTES": 2.5e9,
        "FP8_ELEMENTS": 1.25,
        "HBM_SHARE": 0.8,
        "OURS.attention": 0.35,
        "EAGER_LAYER_S": 0.25e-3,
    }
    for name in found:
        where: Any = hardware
        for part in name.split("."):
            where = getattr(where, part)
    cluster = result["planner"]["configs/cluster/h100.yaml"]
    assert cluster["host_gb_s"] == 40.0
    assert set(cluster) <= {field.name for field in dataclasses.fields(ClusterConfig)}
    lines = gpu.table(result)
    assert (
        "| 2026-01-01 | NVIDIA H100 80GB HBM3 | train step, 70B/8 bfloat16 | 300.0 ms, 400 TFLOP/s (50% of the bf16 "
        "ceiling), 9.0 GB (plan: 10.0) | `c` |"
    ) in lines
    assert not [line for line in lines if "seconds" in line]


@pytest.mark.parametrize("name", list(gpu.SECTIONS))
def test_every_section_is_written_where_it_says(name: str) -> None:
    module, limit = gpu.SECTIONS[name]
    assert f"\ndef {name}(bench: Bench) -> None:" in (REPOSITORY / "benchmarks" / f"{module}.py").read_text()
    assert 0 < limit <= 120


def _bundle(*arguments: str) -> subprocess.CompletedProcess[str]:
    script = str(REPOSITORY / "requirements" / "gpu_bundle.py")
    return subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=False, timeout=60)


def test_the_bundle_holds_what_the_machine_lacks(tmp_path: Path) -> None:
    """All of the lock files where nothing is there, whatever way its names are written, and torch never."""
    (tmp_path / "bare").write_text("torch==2.11.0+cu130\nPyYAML==6\nhttpcore @ file:///build/httpcore\n")
    bare = _bundle("--list", "--target", str(tmp_path / "bare")).stdout.splitlines()
    locked = (REPOSITORY / "requirements" / "runtime.txt").read_text().splitlines()
    wanted = {line for line in locked if not line.startswith(("#", "pyyaml==", "httpcore=="))}
    assert wanted < set(bare)
    assert {line.split("==")[0] for line in set(bare) - wanted} == {
        *("iniconfig", "pluggy", "pytest", "pytest-timeout"),
        *("transformer-engine", "transformer-engine-cu13", "transformer-engine-torch"),
    }
    usual = {line.split("==")[0] for line in _bundle("--list").stdout.splitlines()}
    assert {"megatron-core", "hydra-core", "fastapi", "transformer-engine"} <= usual
    assert not {"torch", "numpy", "transformers", "pytest"} & usual


def test_a_bundle_is_refused_before_anything_is_fetched(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    done = _bundle(str(tmp_path / "mine"))
    assert (done.returncode, done.stderr) == (
        1,
        f"{tmp_path / 'mine'}: exists and is no bundle; choose another folder\n",
    )
    done = _bundle(str(tmp_path / "new"), "--te-wheels", str(tmp_path))
    assert done.returncode == 1
    assert f"{tmp_path}: 0 wheels of transformer-engine 2.11.0, expected one" in done.stderr
    assert not (tmp_path / "new").exists()
