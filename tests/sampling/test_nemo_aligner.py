"""The second engine, in its own environment, as the trainer beside a vLLM server."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest

from conversion import hf_to_megatron
from conversion.checkpoint import write_manifest
from tests.conftest import REPOSITORY, finish, start
from tests.engines.words import save_tokenizer
from tests.sampling.conftest import Running
from tests.sampling.test_vllm import STOP, WHOLE

pytestmark = [pytest.mark.vllm, pytest.mark.multiprocess, pytest.mark.slow]
PROMPTS = 16


@pytest.mark.parametrize("running", ["qwen2-tied"], indirect=True)
def test_server_and_nemo_aligner_agree_before_and_after_updates(running: Running, tmp_path: Path) -> None:
    """By file and by gloo: greedy completions are its embedded sampler's, log-probabilities at 0.7 the trainer's."""
    python = os.environ.get("MEDATRON_ALIGNER_PYTHON") or str(REPOSITORY / ".venv-aligner/bin/python")
    if not Path(python).exists():
        pytest.skip("there is no environment with NeMo-Aligner: make install-aligner")
    checkpoint = hf_to_megatron.convert(running.log.with_name("hf"), tmp_path / "nemo", layout="nemo")
    save_tokenizer(checkpoint.hf_dir)
    write_manifest(checkpoint.path, source=checkpoint.manifest.source, layout="nemo")
    rng = random.Random(0)
    job = {
        "url": running.url,
        "model": str(checkpoint.path),
        "layout": ["engine=nemo_aligner", "parallel.tensor=2", "parallel.processes=2"],
        "prompts": [[rng.randrange(WHOLE) for _ in range(rng.randrange(1, 60))] for _ in range(PROMPTS)],
        "stop": STOP,
        "faults": False,
    }
    (tmp_path / "job.json").write_text(json.dumps(job))
    command = [python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "tests.sampling.worker", str(tmp_path)]
    environment = {"MEDATRON_ROLLOUT_TOKEN": running.token, "PYTHONPATH": str(REPOSITORY)}
    process = start(command, tmp_path / "log", **environment)
    said = finish(process, tmp_path / "log", 240)
    assert process.returncode == 0, said[-6000:]
    found = json.loads((tmp_path / "result.json").read_text())
    for own in (found["file"], found["gloo"]):
        assert own["differing"] == [0, 0, 0, 0]
        assert all(tokens > PROMPTS for tokens, _ in own["apart"])
        assert max(largest for _, largest in own["apart"]) < 1e-4
        assert own["limits"] == own["strings"] == 0
    assert found["left"] == []
