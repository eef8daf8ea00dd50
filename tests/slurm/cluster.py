"""Submits the project's own scripts to the local cluster of slurm_local.sh, and says what became of them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
SCRIPTS = sorted((REPO / "slurm").glob("*.sh"))
SCRIPT = REPO / "slurm" / "grpo_70b.sh"
_LOCAL = str(Path(__file__).with_name("slurm_local.sh"))
_OVER = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}


@dataclass(frozen=True)
class Ended:
    """How a job ended: Slurm's state, the script's exit code, and what it printed."""

    state: str
    exit_code: int
    output: str

    @property
    def last_line(self) -> str:
        return self.output.rstrip().rsplit("\n", 1)[-1]


def environment(settings: Mapping[str, object]) -> dict[str, str]:
    """A user's plain environment and the script's settings; nothing of the test's own leaks into the job."""
    plain = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return {**plain, **{name: str(value) for name, value in settings.items()}}


class Cluster:
    """The running cluster; `folder` takes the jobs' output, `small_disk` has no room for a run."""

    def __init__(self, configuration: Path, folder: Path, small_disk: Path) -> None:
        self._configuration, self._folder, self.small_disk = configuration, folder, small_disk

    def submit(self, *flags: str, script: Path = SCRIPT, **settings: object) -> int:
        """The id of a job of `script` with sbatch's `flags` and `settings` as environment."""
        environ = environment({"SLURM_CONF": self._configuration, **settings})
        command = ["sbatch", "--parsable", f"--output={self._folder}/%j.log", *flags, str(script.relative_to(REPO))]
        done = subprocess.run(command, cwd=REPO, env=environ, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    def node(self, action: str, name: str) -> None:
        """kill-node or start-node of slurm_local.sh."""
        environ = {**os.environ, "SLURM_LOCAL_DIR": str(self._configuration.parents[1])}
        subprocess.run([_LOCAL, action, name], env=environ, check=True, timeout=120)

    def log(self, job: int) -> str:
        path = self._folder / f"{job}.log"
        return path.read_text() if path.exists() else ""

    def wait(self, job: int, seconds: float) -> Ended:
        """The job's end; after `seconds` it is cancelled and the test fails with what it printed."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            state, code = self.state(job)
            if state in _OVER:
                return Ended(state, code, self.log(job))
            time.sleep(0.3)
        self.cancel(job)
        raise AssertionError(f"job {job} did not end in {seconds} s; it printed:\n{self.log(job)}")

    def state(self, job: int) -> tuple[str, int]:
        """Slurm's state of the job and the exit code so far."""
        shown = self._scontrol("show", "job", str(job), "--oneliner")
        state, code = (re.search(rf"\b{key}=(\w+)", shown) for key in ("JobState", "ExitCode"))
        assert state, shown
        assert code, shown
        return state[1], int(code[1])

    def cancel(self, job: int, *flags: str) -> None:
        """scancel, as a user does it."""
        environ = environment({"SLURM_CONF": self._configuration})
        subprocess.run(["scancel", *flags, str(job)], env=environ, check=True, timeout=30)

    def _scontrol(self, *arguments: str) -> str:
        environ = environment({"SLURM_CONF": self._configuration})
        return subprocess.run(["scontrol", *arguments], env=environ, capture_output=True, text=True, timeout=30).stdout


def processes_of(run: Path) -> list[str]:
    """Command lines of live processes that were started for the job with this run folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            environ, command = (entry / "environ").read_bytes(), (entry / "cmdline").read_bytes()
        except OSError:
            continue  # it ended meanwhile
        if f"RUN={run}\0".encode() in environ + b"\0" or str(run).encode() in command:
            found.append(command.replace(b"\0", b" ").decode(errors="replace"))
    return found


def eventually(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether `condition` holds within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def fake_venv(folder: Path, grpo: str) -> Path:
    """A virtual environment whose python3 runs the shell line `grpo` in place of recipes.grpo, all else as it is."""
    python = folder / "bin" / "python3"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\n[ "$2" != recipes.grpo ] || {{ {grpo}; }}\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return folder
