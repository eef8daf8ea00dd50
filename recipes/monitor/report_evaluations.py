"""The evaluations that a report sets side by side, and those that it leaves out since they do not belong there.

Three may stand beside one another: `before` (the model that the run started from), `after` (a checkpoint of the run)
and `sft_control`. Which is which is told by digests, and a difference is shown only between results of the same data,
reward, prompts and decoding (`conversion.evaluation`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conversion.checkpoint import CheckpointError, open_checkpoint
from conversion.digests import SHOWN
from conversion.errors import ConversionError
from conversion.evaluation import AGAIN, differences, proof_fault
from recipes.monitor.run_folder import RunFolderError, evaluation_path, read_json
from recipes.runtime.origin import read_state
from recipes.runtime.run_folder import RunFolder


@dataclass(frozen=True)
class TaskResult:
    """One task in one evaluation; shares and the accuracy lie in [0, 1], None where not measured."""

    questions: int
    accuracy: float | None
    stderr: float | None
    format_error_share: float | None
    contradiction_share: float | None
    mean_tokens: float | None


@dataclass(frozen=True)
class Evaluation:
    """One file of ``RUN/evaluation``: results by task and the mean over tasks.

    Attributes:
        distributions: of the sets in and out of the distribution that was trained on, where questions say which.
        gaps: what the numbers do not cover, or why they are no held-out result.
    """

    name: str
    split: str
    tasks: Mapping[str, TaskResult]
    mean: float | None
    stderr: float | None
    distributions: Mapping[str, TaskResult] = field(default_factory=dict)
    gaps: tuple[str, ...] = ()


def read_evaluations(folder: Path) -> tuple[dict[str, Evaluation], list[str]]:
    """The evaluations of a run that may be compared, by name, and a sentence on each that may not.

    Raises:
        RunFolderError: a file is damaged.
    """
    found, left_out = {}, []
    contents: dict[str, dict[str, Any]] = {}
    for name in ("after", "before", "sft_control"):
        path = evaluation_path(folder, name)
        if not path.is_file():
            continue
        content = read_json(path)
        evaluation = _read_evaluation(path)
        reason = _stranger(folder, name, content) or _unlike(content, contents)
        if reason is None:
            found[name], contents[name] = evaluation, content
        else:
            left_out.append(f"{path.name} is left out: {reason}; {AGAIN}")
    return {name: found[name] for name in ("before", "after", "sft_control") if name in found}, left_out


def evaluation_pages(folder: Path) -> list[str]:
    """The names of all evaluations of a run, whatever they measured, that have a page of their own."""
    paths = evaluation_path(folder, "*")
    return sorted(path.stem for path in paths.parent.glob(paths.name) if path.with_suffix(".html").is_file())


def _stranger(folder: Path, name: str, content: Mapping[str, Any]) -> str | None:
    """Why a result is none of this run's; None where it is, or where nobody can say."""
    if not content["tasks"]:
        return "no question was answered and scored"
    if "weights" not in content:
        return "an older release made it, which kept no digest of what it measured"
    fault = proof_fault(content)
    if fault is not None:
        return fault
    latest = RunFolder(folder).latest()
    if latest is None or name == "sft_control":
        return None
    measured = f"it measured weights of sha256 {content['weights'][:SHOWN]}"
    if name == "after":
        there = _digest(Path(str(content.get("checkpoint"))))
        if there not in (None, content["weights"]):
            return f"{measured}, and at {content['checkpoint']} now lie {there[:SHOWN]}"
        return None
    try:
        start = (read_state(latest).get("origin") or {}).get("model")
    except CheckpointError as error:
        return str(error)
    return f"{measured}, and the run started from {start[:SHOWN]}" if start not in (None, content["weights"]) else None


def _digest(path: Path) -> str | None:
    """What lies at a path by its manifest; None where there is nothing, or nothing whose digest is known."""
    try:
        checkpoint = open_checkpoint(path)
    except (ConversionError, OSError):
        return None
    return checkpoint.digest(read=False) if checkpoint.has_digests else None


def _unlike(content: Mapping[str, Any], others: Mapping[str, Mapping[str, Any]]) -> str | None:
    for name, other in others.items():
        if unlike := differences(content, other):
            return f"it was measured otherwise than {name} ({'; '.join(unlike)})"
    return None


def _gaps(content: Mapping[str, Any]) -> tuple[str, ...]:
    seen = content.get("seen") or {}
    found = {
        "questions too long and left out": content.get("dropped"),
        "answers without a score": content.get("unscored"),
        "questions that are in the training data too": seen.get("questions"),
        "questions about notes that the training data ask about too": seen.get("contexts"),
        "training files that could not be compared with the questions": len(seen.get("unread") or ()),
    }
    return tuple(f"{count:,} {what}" for what, count in found.items() if isinstance(count, int) and count)


def _read_evaluation(path: Path) -> Evaluation:
    content = read_json(path)
    try:
        return Evaluation(
            name=str(content.get("name", path.stem)),
            split=str(content.get("split", "")),
            tasks=_results(content["tasks"]),
            mean=_share(content["mean"]),
            stderr=_share(content.get("stderr")),
            distributions=_results(content.get("distributions") or {}),
            gaps=_gaps(content),
        )
    except KeyError as error:
        raise RunFolderError(f"{path}: the key {error} is missing; run the evaluation again") from error
    except (AttributeError, OverflowError, TypeError, ValueError) as error:
        raise RunFolderError(f"{path}: not an evaluation result ({error}); run the evaluation again") from error


def _results(parts: Mapping[str, Any]) -> dict[str, TaskResult]:
    return {
        str(name): TaskResult(
            questions=int(result["questions"]),
            accuracy=_share(result["accuracy"]),
            stderr=_share(result.get("stderr")),
            format_error_share=_share(result.get("format_error_share")),
            contradiction_share=_share(result.get("contradiction_share")),
            mean_tokens=_optional(result.get("mean_tokens")),
        )
        for name, result in parts.items()
    }


def _share(value: Any) -> float | None:
    number = _optional(value)
    if number is not None and not 0 <= number <= 1:
        raise ValueError(f"{number!r} is no share from 0 to 1")
    return number


def _optional(value: Any) -> float | None:
    if value is None:
        return None
    number = float(value)
    return number if math.isfinite(number) else None
