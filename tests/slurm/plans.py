"""What a job script would do, read from its dry run."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

from recipes.runtime.config import Config
from recipes.runtime.loading import load
from tests.slurm.cluster import REPO, SCRIPT, environment


def run_script(
    *arguments: str, script: Path = SCRIPT, folder: Path = REPO, **settings: object
) -> subprocess.CompletedProcess[str]:
    command = [str(script), *arguments]
    return subprocess.run(command, cwd=folder, env=environment(settings), capture_output=True, text=True, timeout=300)


def steps(script: Path = SCRIPT, folder: Path = REPO, **settings: object) -> list[list[str]]:
    """The srun command lines of a dry run, as a shell would read them."""
    done = run_script(script=script, folder=folder, DRY_RUN=1, **settings)
    assert (done.returncode, done.stderr) == (0, "")
    return [_words(line) for line in done.stdout.splitlines() if line.startswith("srun ")]


def planned(script: Path = SCRIPT, folder: Path = REPO, **settings: object) -> dict[str, list[str]]:
    """The same by the module that each starts."""
    commands = steps(script, folder, **settings)
    return {words_after("-m", command)[0] if "-m" in command else "vllm": command for command in commands}


def _words(line: str) -> list[str]:
    if "$'" not in line:  # which shlex does not know, and bash does
        return shlex.split(line)
    read = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {line}"], env=environment({}), capture_output=True, check=True
    )
    return read.stdout.decode().split("\0")[:-1]


def words_after(word: str, command: list[str]) -> list[str]:
    return command[command.index(word) + 1 :]


def config_of(command: list[str]) -> Config:
    """What a step is told, with ports for those that are known when the job runs."""
    settings = [word for word in command[command.index("-m") + 2 :] if not word.startswith("name=")]
    return load([word.replace("REWARD_PORT", "8000").replace("ROLLOUT_PORT", "8001") for word in settings])
