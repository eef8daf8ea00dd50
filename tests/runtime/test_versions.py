"""The table of what is installed: it names what is there, and calls by name what cannot train."""

from __future__ import annotations

import subprocess
import sys
import tomllib

import torch

from recipes.runtime import versions
from tests.conftest import REPOSITORY


def test_the_pin_is_the_projects() -> None:
    needed = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["dependencies"]
    assert f"megatron-core=={versions.MEGATRON_CORE}" in needed


def test_this_environment_can_train() -> None:
    found = {part.name: part for part in versions.parts()}
    assert found["torch"].version == torch.__version__
    assert found["megatron-core"].version == versions.MEGATRON_CORE
    assert [part.problem for part in found.values() if part.problem] == []
    assert found["vllm"].version is None
    assert "without it: responses come from the embedded sampler" in versions.table(list(found.values()))


def test_a_result_names_what_it_depends_on() -> None:
    found = versions.versions()
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert (found["torch"], found["megatron-core"]) == (torch.__version__, versions.MEGATRON_CORE)
    assert "vllm" not in found


def test_the_command_fails_for_a_part_that_must_be_there() -> None:
    command = [sys.executable, "-m", "recipes.runtime.versions", "torch", "no-such-part"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.strip() == "missing: no-such-part"


def test_versions_that_do_not_fit_say_what_would() -> None:
    assert versions._transformer_engine_problem("2.9.0") is None
    assert versions._transformer_engine_problem("2.12.0+abc") is not None
    assert versions._megatron_problem("0.10.0", aligner=True) is None
    assert "wants 0.10" in str(versions._megatron_problem("0.16.1", aligner=True))
    assert "pip install --no-deps megatron-core==0.16.1" in str(versions._megatron_problem("0.15.0", aligner=False))
