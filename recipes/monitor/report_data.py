"""What the report shows, read from a run's folder: the run's identity, evaluations, curves, and chosen samples.

Left out: everything visual (:mod:`report_charts`, :mod:`report_samples`, :mod:`report`).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from recipes.monitor.lessons import without_lesson
from recipes.monitor.loggers import read_metrics
from recipes.monitor.phase_watch import Drift, last_drift
from recipes.monitor.report_evaluations import Evaluation, evaluation_pages, read_evaluations
from recipes.monitor.rollouts import RolloutRecord, read_rollout_file, rollout_files
from recipes.monitor.run_folder import RunFolderError, config_path, metrics_path, read_json, summary_path

_T = TypeVar("_T")
# More points than a chart has pixels only make the page heavy.
POINTS = 600
SAMPLES = 20
# Beyond it a value is as good as infinite, and sums of values might be.
_LARGEST = 1e100
# Files opened for the samples: a long run keeps gigabytes of rollouts, and twenty cards need only a few steps.
_SAMPLED_STEPS = 10
_TASK_ORDER = ("choice", "calculation", "number", "date", "duration", "text")
_TASK_NAMES = {
    "choice": "Multiple choice",
    "calculation": "Calculation",
    "number": "Number",
    "date": "Date",
    "duration": "Duration",
    "text": "Open-ended",
}


@dataclass(frozen=True)
class RunData:
    """All that the report shows.

    Attributes:
        rows: metrics by step, averaged into at most :data:`POINTS` buckets.
        bucket: number of steps averaged into one row.
        steps: number of steps recorded.
        seconds: training time up to the last step, all restarts together.
        not_finite: how many steps had no finite value, by metric.
        evaluations: those among ``before``, ``after``, ``sft_control`` that belong together.
        left_out: a sentence on each that does not.
        pages: names of all evaluations that have a page of their own.
        synthetic: whether the configuration says that the questions were generated.
        without_lesson: how many of the last steps taught nothing, and why; None where the last one did.
        drift: the last alarm on a phase that cheats; None where there was none.
    """

    name: str
    model: str
    config_text: str
    rows: Sequence[Mapping[str, float | None]]
    bucket: int
    steps: int
    first_step: int
    last_step: int
    seconds: float
    not_finite: Mapping[str, int]
    evaluations: Mapping[str, Evaluation]
    left_out: Sequence[str]
    pages: Sequence[str]
    samples: Sequence[RolloutRecord]
    summary: Mapping[str, Any]
    synthetic: bool
    without_lesson: tuple[int, str] | None
    drift: Drift | None


def read_run(run_dir: Path | str) -> RunData:
    """Read a run's folder.

    Raises:
        RunFolderError: the folder, ``config.yaml`` or ``metrics.jsonl`` is missing or empty, or a file is damaged.
    """
    folder = Path(run_dir)
    if not folder.is_dir():
        raise RunFolderError(f"{folder} is no folder; expected a run folder with config.yaml and metrics.jsonl")
    if missing := [str(path) for path in (config_path(folder), metrics_path(folder)) if not path.is_file()]:
        raise RunFolderError(f"missing: {', '.join(missing)}; a training run writes them, is {folder} a run folder?")
    rows = [_numbers(folder, row) for row in read_metrics(folder)]
    if not rows:
        raise RunFolderError(f"{metrics_path(folder)} holds no step yet; report after the first training step")
    text = config_path(folder).read_text(encoding="utf-8", errors="replace")
    config = _parse_config(config_path(folder), text)
    summary = read_json(summary_path(folder)) if summary_path(folder).is_file() else {}
    bucketed, bucket = bucket_rows(rows)
    evaluations, left_out = read_evaluations(folder)
    kept = dict(rollout_files(folder))
    return RunData(
        name=_first(summary, config, ("name", "run.name", "experiment.name", "run_name", "experiment"))
        or folder.resolve().name,
        model=_first(summary, config, ("model.name", "model.path", "model.hf_path", "model.pretrained", "model"))
        or "unnamed model",
        config_text=text,
        rows=bucketed,
        bucket=bucket,
        steps=len(rows),
        first_step=rows[0]["step"],
        last_step=rows[-1]["step"],
        seconds=rows[-1].get("seconds") or 0.0,
        not_finite=Counter(key for row in rows for key, value in row.items() if value is None),
        evaluations=evaluations,
        left_out=left_out,
        pages=evaluation_pages(folder),
        samples=choose_samples(folder),
        summary=summary,
        synthetic=_is_synthetic(config.get("data")),
        without_lesson=without_lesson(rows),
        drift=last_drift(rows, lambda step: read_rollout_file(kept[step]) if step in kept else []),
    )


def _numbers(folder: Path, row: Mapping[str, Any]) -> dict[str, Any]:
    """A step's metrics with None for what no chart can hold."""
    for name, value in row.items():
        if not isinstance(value, int | float | None):
            raise RunFolderError(
                f"{metrics_path(folder)}: {name} of step {row['step']} is {value!r}, expected a number or null; "
                "restore the file or delete that line"
            )
    return {name: value if value is None or abs(value) <= _LARGEST else None for name, value in row.items()}


def bucket_rows(
    rows: Sequence[Mapping[str, float | None]], limit: int = POINTS
) -> tuple[list[dict[str, float | None]], int]:
    """Average neighbouring steps until at most ``limit`` rows are left.

    Returns:
        The rows, each under the last step of its bucket, and the number of steps in a bucket (1: unchanged). A metric
        is averaged over the steps that have it.
    """
    size = math.ceil(len(rows) / limit)
    result = []
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        mean: dict[str, float | None] = {}
        for key in dict.fromkeys(key for row in part for key in row):
            values = [value for row in part if (value := row.get(key)) is not None]
            mean[key] = sum(values) / len(values) if values else None
        mean["step"] = part[-1]["step"]
        result.append(mean)
    return result, size


def choose_samples(run_dir: Path | str, count: int = SAMPLES) -> list[RolloutRecord]:
    """Choose rollouts spread over steps, tasks and outcomes; the same files always give the same choice.

    The steps take turns, and each turn takes what is rarest among the chosen so far: outcome, then task, then the two
    together, then the question. The shares of outcomes on the page therefore say nothing about the run's accuracy.
    """
    files = _spread(rollout_files(run_dir), _SAMPLED_STEPS)
    pools = [sorted(read_rollout_file(path), key=lambda record: (record.group, record.id)) for _, path in files]
    chosen: list[RolloutRecord] = []
    outcomes: Counter[str] = Counter()
    tasks: Counter[str] = Counter()
    pairs: Counter[tuple[str, str]] = Counter()
    questions: Counter[str] = Counter()

    def crowd(record: RolloutRecord) -> tuple[int, int, int]:
        outcome = outcome_of(record)
        return (
            outcomes[outcome] + tasks[record.task],
            pairs[outcome, record.task],
            questions[record.prompt],
        )

    while len(chosen) < count and any(pools):
        for pool in pools:
            if pool and len(chosen) < count:
                record = min(pool, key=crowd)
                pool.remove(record)
                chosen.append(record)
                outcomes[outcome_of(record)] += 1
                tasks[record.task] += 1
                pairs[outcome_of(record), record.task] += 1
                questions[record.prompt] += 1
    return sorted(chosen, key=lambda record: (record.step, record.group, record.id))


def outcome_of(record: RolloutRecord) -> str:
    """Return ``correct``, ``incorrect``, ``malformed`` (no readable answer) or ``fault`` (the server's own)."""
    if record.status in ("correct", "incorrect"):
        return record.status
    return "malformed" if record.status in ("malformed", "no_answer") else "fault"


def task_name(task: str) -> str:
    """Return a task's name for people."""
    return _TASK_NAMES.get(task, task.replace("_", " ").capitalize())


def in_task_order(tasks: Sequence[str]) -> list[str]:
    """Return task keys without repetition, known tasks first in their usual order."""
    known = {task: index for index, task in enumerate(_TASK_ORDER)}
    return sorted(set(tasks), key=lambda task: (known.get(task, len(known)), task))


def _spread(items: Sequence[_T], count: int) -> list[_T]:
    if len(items) <= count:
        return list(items)
    return [items[round(index * (len(items) - 1) / (count - 1))] for index in range(count)]


def _parse_config(path: Path, text: str) -> dict[str, Any]:
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RunFolderError(f"{path}: expected YAML ({error}); write the resolved configuration again") from error
    if not isinstance(config, dict):
        raise RunFolderError(f"{path}: expected a YAML mapping, got {type(config).__name__}")
    return config


def _first(summary: Mapping[str, Any], config: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    """Return the first of the dotted keys that holds a plain value, in the summary before the configuration."""
    for source in (summary, config):
        for key in keys:
            value: Any = source
            for part in key.split("."):
                value = value.get(part) if isinstance(value, Mapping) else None
            if isinstance(value, str | int) and str(value):
                return str(value)
    return None


def _is_synthetic(data: Any) -> bool:
    """Tell whether the ``data`` part of the configuration names the embedded generator.

    An explicit ``data.synthetic`` decides; otherwise one of the words "synthetic", "generator" or "embedded" does.
    """
    if isinstance(data, Mapping) and isinstance(data.get("synthetic"), bool):
        return bool(data["synthetic"])
    words = json.dumps(data, default=str).lower()
    return any(word in words for word in ("synthetic", "generator", "embedded"))
