"""A Slurm cluster, a tiny model and a few questions, shared by this folder's tests.

The cluster needs root and Debian's packages slurmctld slurmd slurm-client munge iproute2 util-linux procps, installed
with `apt-get install --no-install-recommends`; their services need not run. Linting the scripts needs shellcheck and
shfmt. What is missing skips the tests that need it.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster

_LOCAL = str(Path(__file__).with_name("slurm_local.sh"))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes that claim eight H100 each, and a file system of 32 MB."""
    # Not pytest's folder: munged refuses one below a directory of another user, and `down` must find what a killed
    # session left.
    folder = Path(os.environ.get("SLURM_LOCAL_DIR", "/tmp/medatron-slurm"))
    environ = {**os.environ, "SLURM_LOCAL_DIR": str(folder)}
    can = subprocess.run([_LOCAL, "check"], env=environ, capture_output=True, text=True, timeout=60)
    if can.returncode:
        pytest.skip(f"no local Slurm cluster: {can.stderr.strip()}")
    small = folder / "small-disk"
    small.mkdir(parents=True, exist_ok=True)
    # Before the nodes start: a later mount would not be seen in theirs.
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(small)], check=True, timeout=30)
    try:
        up = subprocess.run([_LOCAL, "up", "2"], env=environ, capture_output=True, text=True, timeout=120)
        assert up.returncode == 0, up.stderr
        yield Cluster(folder / "etc" / "slurm.conf", tmp_path_factory.mktemp("jobs"), small)
    finally:
        subprocess.run([_LOCAL, "down"], env=environ, check=True, timeout=120)
        subprocess.run(["umount", str(small)], check=True, timeout=30)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder with the quickstart's architecture and tokenizer and random weights."""
    from recipes.pretrain_tiny import make_model, make_tokenizer

    folder = tmp_path_factory.mktemp("tiny") / "hf"
    tokenizer = make_tokenizer(random.Random(1))
    make_model(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.jsonl and test.jsonl."""
    from recipes.prepare_data import embedded

    folder = tmp_path_factory.mktemp("questions")
    embedded(folder, seed=0, train=20, sft=1, heldout=2, calculators="elementary")
    return folder


@pytest.fixture
def given(tmp_path: Path) -> dict[str, object]:
    """Settings of a job that pass the checks of input; shared by tests without a cluster."""
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text("{}")
    for name in ("train.jsonl", "more.jsonl", "test.jsonl"):
        (tmp_path / name).write_text("")
    return {
        "MODEL": tmp_path / "hf",
        "DATA": tmp_path / "train.jsonl",
        "RUN": tmp_path / "run",
        "CONTAINER": "none",
        "VENV": sys.prefix,
        "ROLLOUT": "embedded",
    }
