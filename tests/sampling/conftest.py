"""Servers that the tests share: vLLM takes half a minute to start."""

from __future__ import annotations

import os
import secrets
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from conversion import hf_to_megatron
from conversion.checkpoint import write_manifest
from recipes.runtime.launch import free_port
from recipes.sampling.vllm import serve
from tests.conftest import REPOSITORY, finish, start
from tests.conversion.models import save_folder
from tests.engines.words import save_tokenizer

START_S = 300.0


@dataclass(frozen=True)
class Running:
    """A server and the model that it was started for."""

    url: str
    token: str
    hf: Path
    checkpoint: Path
    process: subprocess.Popen[bytes]
    log: Path


@pytest.fixture(scope="session")
def vllm_python() -> str:
    """The Python of the environment with vLLM."""
    python = os.environ.get("MEDATRON_VLLM_PYTHON") or str(REPOSITORY / ".venv-vllm/bin/python")
    if not Path(python).exists():
        pytest.skip("there is no environment with vLLM: make install-vllm")
    return python


def serving(python: str, hf: Path, checkpoint: Path, log: Path, token: str) -> Iterator[Running]:
    """A server whose extension can be made to fail, ready; gone afterwards."""
    port = free_port()
    options = serve.parser().parse_args([str(hf), "--port", str(port), "--precision", "float32", "--eager"])
    line = [
        part.replace("recipes.sampling.vllm.worker", "tests.sampling.faulty") for part in serve.command(options, python)
    ]
    process = start(line, log, **serve.environment(), MEDATRON_ROLLOUT_TOKEN=token)
    url, until = f"http://127.0.0.1:{port}", time.monotonic() + START_S
    try:
        while True:
            try:
                if httpx.get(f"{url}/health").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            if process.poll() is not None or time.monotonic() > until:
                pytest.fail(f"the server did not start:\n{log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.2)
        yield Running(url, token, hf, checkpoint, process, log)
    finally:
        process.terminate()
        finish(process, log, 30)


@pytest.fixture(scope="session", params=["qwen2-tied", "mistral-untied"])
def running(
    request: pytest.FixtureRequest, vllm_python: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """A server for a tied model with biases, and for an untied one of another family."""
    root = tmp_path_factory.mktemp(request.param)
    # vLLM's attention for CPUs takes heads of 32 at least; 99 tokens are padded both there and here.
    hf = save_folder(request.param, root / "hf", hidden_size=128)
    checkpoint = hf_to_megatron.convert(hf, root / "megatron")
    # Put there afterwards: the conversion refuses a tokenizer that knows no more than seven letters.
    save_tokenizer(checkpoint.hf_dir)
    write_manifest(checkpoint.path, source=checkpoint.manifest.source)
    yield from serving(vllm_python, checkpoint.hf_dir, checkpoint.path, root / "vllm.log", secrets.token_hex(8))
