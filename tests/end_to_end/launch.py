"""Starts the entry points as a user does, and looks at what their processes leave behind."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from conversion import megatron_to_hf
from tests.conftest import alive, children, finish, start

# Against hanging alone: the longest stage takes 60 s, and machines differ twofold and run two tests at a time.
DEADLINE_S = 360
# Metrics of what a clock or a process's history says of a step, and not the step itself.
MEASURED = ("seconds", "time/", "speed/", "memory/")


def run(module: str, *overrides: str, log: Path, fails: bool = False) -> str:
    """`python -m MODULE OVERRIDES` to its end; returns its output and checks how it ended."""
    process = start([sys.executable, "-m", module, *overrides], log)
    output = finish(process, log, DEADLINE_S)
    assert (process.returncode != 0) == fails, output[-6000:]
    return output


def started(module: str, *overrides: str, log: Path) -> subprocess.Popen[bytes]:
    return start([sys.executable, "-m", module, *overrides], log)


def same_weights(one: Path, other: Path, folder: Path) -> bool:
    """Whether two Megatron checkpoints of one model hold the same tensors; `folder`, a new one, takes their exports."""
    exported = (megatron_to_hf.convert(each, folder / name) for each, name in ((one, "one"), (other, "other")))
    first, second = (load_file(each / "model.safetensors") for each in exported)
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


def steps(folder: Path) -> list[int]:
    """Steps in metrics.jsonl, in the order of its lines."""
    return [row["step"] for row in metrics(folder)]


def metrics(folder: Path) -> list[dict[str, Any]]:
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return []
    # The last line may be half written while the run goes on.
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


def figures(folder: Path) -> list[dict[str, Any]]:
    """What metrics.jsonl says of each step itself, which a resumed run repeats to the last bit."""
    return [{k: v for k, v in row.items() if not k.startswith(MEASURED)} for row in metrics(folder)]


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[bytes], log: Path) -> Any:
    """Polls until the condition holds; fails the test when the process ends first or the deadline passes."""
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        if found := condition():
            return found
        if process.poll() is not None:
            pytest.fail(f"ended with {process.returncode} too early:\n{log.read_text(errors='replace')[-6000:]}")
        time.sleep(0.005)
    pytest.fail(f"waited in vain:\n{log.read_text(errors='replace')[-6000:]}")


def ranks(launcher: int) -> dict[int, int]:
    """Process ids of the launcher's ranks by number: its own children, not the processes that these fork in a save."""
    found = {}
    for pid in children(launcher):
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        rank = next((int(entry[5:]) for entry in environment if entry.startswith(b"RANK=")), None)
        if rank is not None and alive(pid):
            found[rank] = pid
    return found
