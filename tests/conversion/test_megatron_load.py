"""megatron-core itself loads the converted checkpoints at TP1, TP2 and PP2, in real processes over gloo.

The logits must be transformers' within 1e-5 in float32, and a checkpoint that megatron-core then saves at that layout,
with a padded vocabulary, must convert back to the very bits of the source.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from conversion import megatron_to_hf
from conversion.checkpoint import open_checkpoint, publish, write_manifest
from conversion.verify import compare
from tests.conversion.models import CASES, VOCABULARY

Make = Callable[..., Path]
_REPOSITORY = Path(__file__).parents[2]


def _reference(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Random tokens [2, 96] and transformers' logits on them."""
    tokens = torch.randint(0, VOCABULARY, (2, 96), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return tokens, AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")(tokens).logits


@pytest.mark.multiprocess
@pytest.mark.parametrize(
    ("tensor", "pipeline", "saved"),
    [(1, 1, ()), (2, 1, ("qwen2-tied",)), (1, 2, ("qwen3-untied",))],
    ids=["tp1", "tp2", "pp2"],
)
def test_megatron_loads_computes_and_saves(
    tensor: int, pipeline: int, saved: tuple[str, ...], hf_folder: Make, megatron_folder: Make, tmp_path: Path
) -> None:
    for case in CASES:
        (tmp_path / case).symlink_to(megatron_folder(case))
        torch.save(_reference(hf_folder(case)), tmp_path / f"{case}.pt")
    (tmp_path / "save.json").write_text(json.dumps(saved))
    _torchrun(tensor, pipeline, tmp_path)
    results = json.loads((tmp_path / "result.json").read_text())
    assert set(results) == set(CASES)
    for case, result in results.items():
        assert result["not_stored"] == [], case
        # Transformer Engine's norms ask for these, megatron-core's local ones do not.
        assert all("norm._extra_state" in key for key in result["not_asked"]), (case, result["not_asked"])
        assert result["difference"] < 1e-5, case
    for case in saved:
        _assert_converts_back(tmp_path, case, hf_folder(case))


def _torchrun(tensor: int, pipeline: int, root: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={tensor * pipeline}"]
    command += ["-m", "tests.conversion.megatron_worker", str(tensor), str(pipeline), str(root)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=_REPOSITORY, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-4000:]


def _assert_converts_back(root: Path, case: str, source: Path) -> None:
    """Seal and publish what megatron-core saved, as the engine does, and export it."""
    started_from = open_checkpoint(root / case)
    saved = root / f"{case}-saved"
    shutil.copytree(started_from.hf_dir, saved / "hf")
    (saved / "state.json").write_text("{}")
    manifest = write_manifest(saved, source=started_from.manifest.source, extra={"step": 1})
    assert manifest.parameter_count == started_from.manifest.parameter_count
    publish(saved, root / f"{case}-step")
    assert open_checkpoint(root / f"{case}-step").manifest.extra == {"step": 1}
    back = megatron_to_hf.convert(root / f"{case}-step", root / f"{case}-back")
    expected, found = load_file(source / "model.safetensors"), load_file(back / "model.safetensors")
    assert expected.keys() == found.keys()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
    assert (back / "config.json").read_bytes() == (source / "config.json").read_bytes()
    assert compare(source, root / f"{case}-step").differences == ()


def test_rope_scaling_matters_in_the_reference(hf_folder: Make) -> None:
    """Guards the logits test: a converter that dropped the scaling would be off by far more than 1e-5 on its tokens."""
    folder = hf_folder("llama-scaled-tied")
    tokens, scaled = _reference(folder)
    plain = {"rope_type": "default", "rope_theta": 10000.0}
    model = AutoModelForCausalLM.from_pretrained(folder, rope_parameters=plain)
    with torch.no_grad():
        assert (model(tokens).logits - scaled).abs().max() > 1e-2
