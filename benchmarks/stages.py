"""Entry points as stages of a benchmark: each a process of its own on the CPU, as a user runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DEADLINE_S = 1200


def stage(log: Path | None, module: str, *arguments: str) -> str:
    """Runs `python -m MODULE ARGUMENTS`; a failure ends the benchmark.

    Args:
        log: where what it says goes, to come back as the result; None shows it.
        module: the entry point.
        arguments: of it.
    """
    print(" ".join(["python", "-m", module, *arguments]), flush=True)
    environment = {"OMP_NUM_THREADS": "1", "MEDATRON_DEVICE": "cpu", **os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", module, *arguments]
    if log is None:
        done = subprocess.run(command, env=environment, timeout=DEADLINE_S, check=False)
    else:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as file:
            done = subprocess.run(command, stdout=file, stderr=file, env=environment, timeout=DEADLINE_S, check=False)
    if done.returncode:
        sys.exit(f"{module} failed with exit code {done.returncode}; see {log or 'above'}")
    return "" if log is None else log.read_text()
