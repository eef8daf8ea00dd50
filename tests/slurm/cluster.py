"""Submits the project's own scripts to the local cluster of slurm_local.sh, and says what became of them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
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

    def submit(self, *flags: str, script: Path = SCRIPT, checkout: Path = REPO, **settings: object) -> int:
        """The id of a job of `script` with sbatch's `flags` and `settings` as environment."""
        return self._submitted(["sbatch"], [*flags, str(script.relative_to(REPO))], checkout, settings)

    def submit_code(self, checkout: Path, *flags: str, **settings: object) -> int:
        """The id of a job that `grpo_70b.sh --submit` of another checkout submits."""
        script = checkout / SCRIPT.relative_to(REPO)
        return self._submitted([str(script), "--submit"], flags, checkout, settings)

    def _submitted(
        self, command: Sequence[str], arguments: Sequence[str], folder: Path, settings: Mapping[str, object]
    ) -> int:
        environ = environment({"SLURM_CONF": self._configuration, **settings})
        whole = [*command, "--parsable", f"--output={self._folder}/%j.log", *arguments]
        done = subprocess.run(whole, cwd=folder, env=environ, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        return int(done.stdout.split()[-1])

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

    def release(self, job: int) -> None:
        """Lets a job begin that was submitted with --hold."""
        self._scontrol("release", str(job))

    def _scontrol(self, *arguments: str) -> str:
        environ = environment({"SLURM_CONF": self._configuration})
        command = ["scontrol", *arguments]
        return subprocess.run(command, env=environ, check=True, capture_output=True, text=True, timeout=30).stdout


def processes_of(run: Path) -> dict[int, list[str]]:
    """Process id and words of the command of what runs for the job with this run folder."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            environ, command = (entry / "environ").read_bytes(), (entry / "cmdline").read_bytes()
        except OSError:
            continue  # it ended meanwhile
        if f"RUN={run}\0".encode() in environ + b"\0" or str(run).encode() in command:
            found[int(entry.name)] = command.decode(errors="replace").split("\0")
    return found


def eventually(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether `condition` holds within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def fake_venv(folder: Path, instead: Mapping[str, str]) -> Path:
    """A virtual environment whose python3 runs a shell line in place of each of these modules, all else as it is."""
    python = folder / "bin" / "python3"
    python.parent.mkdir(parents=True)
    cases = "".join(f"{module}) {line} ;;\n" for module, line in instead.items())
    python.write_text(f'#!/bin/sh\ncase "$2" in\n{cases}esac\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return folder
