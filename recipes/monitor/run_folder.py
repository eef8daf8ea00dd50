"""Where each file of a run's folder lies, and how it is written without ever being seen half done.

Left out: checkpoints (the engine publishes them) and ``config.yaml`` (the runtime writes it before training starts).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from conversion.command import naming
from conversion.lock import RUN_LOCK


class RunFolderError(ValueError):
    """A file of the run folder is missing or does not hold what the contract says; the message names the file."""


def config_path(run_dir: Path | str) -> Path:
    """Return the path of the resolved configuration, YAML."""
    return Path(run_dir) / "config.yaml"


def lock_path(run_dir: Path | str) -> Path:
    """Return the path of the lock file of whoever trains there."""
    return Path(run_dir) / RUN_LOCK


def metrics_path(run_dir: Path | str) -> Path:
    """Return the path of the step metrics, one JSON object a line."""
    return Path(run_dir) / "metrics.jsonl"


def tensorboard_dir(run_dir: Path | str) -> Path:
    """Return the folder of TensorBoard's event files."""
    return Path(run_dir) / "tensorboard"


def trackers_path(run_dir: Path | str) -> Path:
    """Return the path of the trackers' own ids of the run, JSON."""
    return Path(run_dir) / "trackers.json"


def profile_dir(run_dir: Path | str) -> Path:
    """Return the folder of the profiler's traces and tables, two files a profiled step and rank."""
    return Path(run_dir) / "profile"


def rollouts_dir(run_dir: Path | str) -> Path:
    """Return the folder of the rollout samples, one parquet file a sampled step."""
    return Path(run_dir) / "rollouts"


def evaluation_path(run_dir: Path | str, name: str) -> Path:
    """Return the path of one evaluation (``before``, ``after`` or ``sft_control``), JSON."""
    return Path(run_dir) / "evaluation" / f"{name}.json"


def evaluation_lock_path(run_dir: Path | str, name: str) -> Path:
    """Return the path of the lock file of whoever makes that evaluation."""
    return evaluation_path(run_dir, name).with_suffix(".lock")


def summary_path(run_dir: Path | str) -> Path:
    """Return the path of the optional run summary, JSON."""
    return Path(run_dir) / "summary.json"


def report_path(run_dir: Path | str) -> Path:
    """Return the path of the HTML report."""
    return Path(run_dir) / "report.html"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises RunFolderError naming the file when it is none, OSError when it cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise RunFolderError(f"{path}: expected a JSON object ({error}); write it again or delete it") from error
    if not isinstance(content, dict):
        raise RunFolderError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def replace_file(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` so that a reader sees the old file or the whole new one, even after a power cut.

    The temporary file is a hidden sibling (a rename is atomic only inside one file system), and it is removed when the
    write fails.

    Raises:
        OSError: the folder cannot be written or the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming(path), temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
