"""The Dockerfile against the rest of the project: what it leaves out fails hours later, on a cluster."""

from __future__ import annotations

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.slurm.cluster import REPO

# Part of the base image, where they were compiled against each other.
_FROM_BASE = {"torch", "numpy"}
_TEXT = (REPO / "Dockerfile").read_text()
_STAGES = dict(re.findall(r"^FROM \S+ AS (\w+)$(.*?)(?=^FROM|\Z)", _TEXT, re.MULTILINE | re.DOTALL))


def _pinned(text: str) -> dict[str, str]:
    return dict(re.findall(r"^ +(?:&& .* )?([a-z0-9-]+)==([0-9.]+)(?= )", text, re.MULTILINE))


def test_the_stage_that_is_built_unasked_is_the_default_engines() -> None:
    assert list(_STAGES) == ["nemo_aligner", "rollout", "megatron"]


def test_the_second_engines_pins_are_those_of_its_environment() -> None:
    locked = (REPO / "requirements" / "nemo_aligner.txt").read_text().splitlines()
    pinned = _pinned(_STAGES["nemo_aligner"])
    assert len(pinned) > 10
    assert [f"{name}=={version}" for name, version in pinned.items() if f"{name}=={version}" not in locked] == []


def test_every_dependency_is_pinned_and_none_that_the_base_image_brings() -> None:
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    needed = {r.name: r.specifier for r in map(Requirement, project["dependencies"]) if r.name not in _FROM_BASE}
    pinned = _pinned(_STAGES["megatron"])
    assert sorted(pinned) == sorted(needed)
    assert [name for name, version in pinned.items() if Version(version) not in needed[name]] == []


@pytest.mark.parametrize("stage", ["nemo_aligner", "megatron"])
def test_what_is_copied_is_all_that_runs_and_is_in_the_build_context(stage: str) -> None:
    copied = set(re.findall(r"^COPY (\S+) /opt/medatron/\1$", _STAGES[stage], re.MULTILINE))
    let_in = {line[1:] for line in (REPO / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == let_in == {"configs", "conversion", "recipes", "reward_server"}


def test_the_sampler_gets_no_more_than_its_server() -> None:
    """vLLM's image has none of the trainer's packages, so that what imports them must not be asked for there."""
    parts = "recipes/__init__.py", "recipes/sampling/__init__.py", "recipes/sampling/vllm"
    assert re.findall(r"^COPY (\S+) /opt/medatron/\1$", _STAGES["rollout"], re.MULTILINE) == list(parts)
    assert all((REPO / part).exists() for part in parts)
    tag = re.search(r"^ARG ROLLOUT_BASE=vllm/vllm-openai:v(\S+)$", _TEXT, re.MULTILINE)
    assert tag
    assert f"ARG VLLM={tag[1]}\n" in _STAGES["rollout"]


def test_the_base_image_has_a_fixed_tag() -> None:
    assert re.search(r"^ARG BASE=\S+:\d\d\.\d\d-py3$", _TEXT, re.MULTILINE)
    assert re.search(r"^ARG NEMO_BASE=\S+:\d\d\.\d\d$", _TEXT, re.MULTILINE)
