"""The folder of a run: its resolved configuration and its published checkpoints."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from conversion.checkpoint import CheckpointError, open_checkpoint
from recipes.monitor.run_folder import replace_file
from recipes.runtime.config import Config, ConfigError, from_yaml, to_yaml
from recipes.runtime.origin import check_same_origin, read_state

_STEP = re.compile(r"step_(\d{6})")
# What a run may change when it is resumed without becoming another run.
_FREE_TO_CHANGE = (
    *("output=", "trainer.", "parallel.", "cluster.", "reward.url", "reward.allow_change", "rollout.samples_every"),
    *("rollout.vllm.", "rollout.tensor", "rollout.mismatch_", "rollout.ahead", "data.validation", "data.test"),
    *("data.allow_contamination", "evaluation.", "monitor.", "critic.offload"),
)
# Of these the checkpoint's state holds digests.
_PROVEN_BY_CONTENT = ("model.path", "data.train")


class RunFolder:
    """Paths and bookkeeping of one run; only rank 0 writes."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self._told: set[str] = set()

    def prepare(self, config: Config, origin: Mapping[str, Any]) -> None:
        """Creates the folder, refuses a resume of another run, and clears leftovers of a killed save.

        Args:
            config: of the run.
            origin: its model and data, by content.

        Raises:
            ConfigError: when the folder holds a run with other settings, another model or other data, naming them.
            CheckpointError: the state of its last checkpoint is damaged.
        """
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        for replaced in self.checkpoints.glob("*.replaced-*"):
            # A save killed between its two renames left here what made room for it, and has put nothing in its place.
            target = replaced.with_name(replaced.name.split(".replaced-")[0])
            newest = self.latest()
            if newest is None or newest.name < target.name:
                replaced.rename(target)
        for pattern in ("*.replaced-*", "*.partial-*"):
            for leftover in self.checkpoints.glob(pattern):
                self._delete(leftover)
        written = self.path / "config.yaml"
        if (latest := self.latest()) is not None:
            if not written.is_file():
                raise ConfigError(
                    f"{written}: missing, though the run has checkpoints; restore it, since nobody can say under which "
                    "settings they were made, or choose another output folder"
                )
            state = read_state(latest)
            differences = _differences(from_yaml(written.read_text()), config)
            free = _FREE_TO_CHANGE + (_PROVEN_BY_CONTENT if "origin" in state else ())
            free += ("data.style",) if "prompt" in state.get("origin", {}) else ()
            changed = [line for line in differences if not line.startswith(free)]
            if changed:
                raise ConfigError(
                    f"{self.path}: holds a run with other settings ({'; '.join(changed)}); resume it with the same "
                    "ones, or choose another output folder"
                )
            check_same_origin(self.path, state, origin, config)
            if layout := [line for line in differences if line.startswith("parallel.")]:
                print(
                    f"{self.path}: goes on under another layout ({'; '.join(layout)}); sums are added up in another "
                    "order from here on, so its figures equal those of the old layout up to rounding, not bit for bit",
                    file=sys.stderr,
                )
            if ahead := [line for line in differences if line.startswith("rollout.ahead")]:
                print(
                    f"{self.path}: {ahead[0]}; from here on its responses are of another age, and its figures those of "
                    "neither",
                    file=sys.stderr,
                )
        replace_file(written, to_yaml(config).encode())

    def step_path(self, step: int) -> Path:
        """Where the checkpoint after `step` belongs."""
        return self.checkpoints / f"step_{step:06d}"

    def steps(self) -> list[int]:
        """Steps with a published checkpoint, in order."""
        if not self.checkpoints.is_dir():
            return []
        return sorted(int(m[1]) for path in self.checkpoints.iterdir() if (m := _STEP.fullmatch(path.name)))

    def latest(self) -> Path | None:
        """The last published checkpoint."""
        steps = self.steps()
        return self.step_path(steps[-1]) if steps else None

    def best(self) -> int | None:
        """The step of the kept checkpoint with the highest score, the later of equal ones; None without scores."""
        return _best(self._scores())

    def make_room(self, keep: int, step: int, score: float | None) -> None:
        """Takes so many checkpoints out of the way that with the one of `step` there are at most `keep` and the best.

        Call it right before that one appears, and `prune` afterwards: killed in between, `prepare` puts back what is
        still needed. What cannot be moved stays, with a word.
        """
        scores = self._scores()
        old = [each for each in _outlived({**scores, step: score}, keep) if each != step]
        for each in old[: max(0, len(scores) - max(1, keep))]:
            path = self.step_path(each)
            with self._tolerating(path):
                path.rename(path.with_name(f"{path.name}.replaced-{os.getpid()}"))

    def prune(self, keep: int) -> None:
        """Deletes all but the last `keep` checkpoints and the best, to which `checkpoints/best` is made to point.

        What cannot be deleted stays, with a word: no run ends for want of order.
        """
        scores = self._scores()
        best = _best(scores)
        if best is not None:
            with self._tolerating(self.checkpoints / "best"):
                self._point_to(best)
        for step in _outlived(scores, keep):
            self._delete(self.step_path(step))
        for replaced in self.checkpoints.glob("*.replaced-*"):
            self._delete(replaced)

    def _scores(self) -> dict[int, float | None]:
        """The score of every published checkpoint, in order; None where it has none that can be read."""
        scores: dict[int, float | None] = {}
        for step in self.steps():
            path, scores[step] = self.step_path(step) / "state.json", None
            try:
                score = json.loads(path.read_bytes()).get("score")
                scores[step] = None if score is None else float(score)
            except (OSError, ValueError, AttributeError, TypeError) as error:
                self._tell(path, f"cannot be read ({error}); this checkpoint is no candidate for the best")
        return scores

    def _point_to(self, best: int) -> None:
        link = self.checkpoints / f"best.partial-{os.getpid()}"
        link.unlink(missing_ok=True)
        link.symlink_to(self.step_path(best).name)
        pointer = self.checkpoints / "best"
        if pointer.is_dir() and not pointer.is_symlink():
            shutil.rmtree(pointer)  # a copy of the run that followed links
        link.replace(pointer)

    def _delete(self, path: Path) -> None:
        """Deletes a checkpoint or what is left of one; from the first moment on nothing half deleted has its name."""
        with self._tolerating(path):
            if path.is_symlink() or not path.is_dir():
                path.unlink()
            elif ".partial-" in path.name:
                shutil.rmtree(path)
            else:
                shutil.rmtree(path.rename(path.with_name(f"{path.name.split('.')[0]}.partial-{os.getpid()}")))

    @contextlib.contextmanager
    def _tolerating(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._tell(path, f"not deleted or replaced ({error.strerror}: {error.filename}); it stays, look after it")

    def _tell(self, path: Path, said: str) -> None:
        """Says it once of each path."""
        if str(path) not in self._told:
            self._told.add(str(path))
            print(f"{path}: {said}", file=sys.stderr, flush=True)


def _best(scores: Mapping[int, float | None]) -> int | None:
    known = {step: score for step, score in scores.items() if score is not None}
    return max(known, key=lambda step: (known[step], step)) if known else None


def _outlived(scores: Mapping[int, float | None], keep: int) -> list[int]:
    """Of the steps those that are neither among the last `keep` nor the best, the oldest first."""
    best = _best(scores)
    return [step for step in sorted(scores)[: -max(1, keep)] if step != best]


def last_checkpoint(run: str | Path) -> Path:
    """The last checkpoint of a run's folder, checked.

    Raises:
        CheckpointError: when there is none or it is damaged.
    """
    latest = RunFolder(run).latest()
    if latest is None:
        raise CheckpointError(f"{Path(run) / 'checkpoints'}: holds no checkpoint; has the run finished a save?")
    return open_checkpoint(latest).path


def _differences(old: Config, new: Config) -> list[str]:
    before, after = (dict(_flat(to_yaml(c))) for c in (old, new))
    keys = [key for key in before | after if before.get(key) != after.get(key)]
    return [f"{key}={before.get(key)} became {after.get(key)}" for key in keys]


def _flat(text: str, prefix: str = "") -> list[tuple[str, str]]:
    from omegaconf import OmegaConf

    def walk(node: object, path: str) -> list[tuple[str, str]]:
        if isinstance(node, dict):
            return [pair for key, value in node.items() for pair in walk(value, f"{path}.{key}" if path else str(key))]
        return [(path, repr(node))]

    return walk(OmegaConf.to_container(OmegaConf.create(text)), prefix)
