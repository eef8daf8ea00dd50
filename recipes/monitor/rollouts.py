"""Samples of what the model wrote during training, one parquet file a sampled step.

Left out: choosing which rollouts to keep (the trainer's sampling interval decides) and token ids or log-probabilities
(they belong to the training batch; these files are for people).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from recipes.monitor.run_folder import RunFolderError, replace_file, rollouts_dir

_SCHEMA = pa.schema(
    [
        pa.field("step", pa.int64(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("response", pa.string(), nullable=False),
        pa.field("answer", pa.string(), nullable=False),
        pa.field("extracted", pa.string()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reward", pa.float64()),
        pa.field("components", pa.string(), nullable=False),
        pa.field("tokens", pa.int64(), nullable=False),
        pa.field("group", pa.int64(), nullable=False),
        pa.field("version", pa.int64()),
        pa.field("question", pa.string()),
    ]
)
# Files of older releases lack them.
_LATER = ("version", "question")
_FILE_NAME = re.compile(r"step_(\d+)\.parquet")


@dataclass(frozen=True)
class RolloutRecord:
    """One completion and its score.

    Attributes:
        step: training step that sampled it.
        id: the score's id, ``question/completion``.
        task: ``choice``, ``calculation``, ``text`` or the Example's own task name.
        prompt: what the model was given, as text.
        response: what the model wrote, as text.
        answer: the gold answer, as text.
        extracted: what the verifier took for the model's answer; None when it found none.
        status: the reward server's word (``correct``, ``incorrect``, ``no_answer``, ``malformed``, ``timeout``,
            ``verifier_error``).
        reward: the reward, or None when the fault was the server's.
        components: the reward's parts by name.
        tokens: length of the response in tokens.
        group: number of the group (all completions of one prompt in one step).
        version: steps that the policy had taken when it began to write this; None in files without that column.
        question: what the prompt asks, without the words around it; None in files without that column.
    """

    step: int
    id: str
    task: str
    prompt: str
    response: str
    answer: str
    extracted: str | None
    status: str
    reward: float | None
    components: Mapping[str, float] = field(hash=False)
    tokens: int
    group: int
    version: int | None = None
    question: str | None = None

    def __post_init__(self) -> None:
        values = {"reward": self.reward, **self.components}
        if bad := sorted(name for name, value in values.items() if value is not None and not math.isfinite(value)):
            raise ValueError(f"rollout {self.id!r}: {bad} must be finite; a server fault is reward None, not NaN")


def write_rollouts(run_dir: Path | str, step: int, records: Sequence[RolloutRecord]) -> Path:
    """Write ``RUN/rollouts/step_NNNNNN.parquet`` in one atomic rename; an older file of the step is replaced.

    Returns:
        The path written.

    Raises:
        ValueError: a record of another step.
    """
    if strangers := [record.id for record in records if record.step != step]:
        raise ValueError(
            f"rollouts of step {step}: records {strangers[:3]} carry another step; write each step by itself"
        )
    table = pa.Table.from_pylist([_row(record) for record in records], schema=_SCHEMA)
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd")
    path = rollouts_dir(run_dir) / f"step_{step:06d}.parquet"
    replace_file(path, buffer.getvalue().to_pybytes())
    return path


def rollout_files(run_dir: Path | str) -> list[tuple[int, Path]]:
    """Return ``(step, path)`` of every sampled step in order of steps; empty when the run kept no samples."""
    found = []
    for path in rollouts_dir(run_dir).glob("step_*.parquet"):
        if match := _FILE_NAME.fullmatch(path.name):
            found.append((int(match.group(1)), path))
    return sorted(found)


def read_rollout_file(path: Path) -> list[RolloutRecord]:
    """Read one sampled step.

    Raises:
        RunFolderError: the file is no parquet file or lacks a column.
    """
    try:
        there = pq.read_schema(path).names
        names = [name for name in _SCHEMA.names if name not in _LATER or name in there]
        rows = pq.read_table(path, columns=names).select(names).to_pylist()
        return [RolloutRecord(**{**row, "components": json.loads(row["components"])}) for row in rows]
    except (pa.ArrowException, ValueError, KeyError, TypeError) as error:
        raise RunFolderError(
            f"{path}: expected a parquet file with the columns {', '.join(_SCHEMA.names)} ({error}); "
            "delete it to go on without this step's samples"
        ) from error


def read_rollouts(run_dir: Path | str) -> list[RolloutRecord]:
    """Read the samples of every step into memory, in order of steps; empty when the run kept none.

    Raises:
        RunFolderError: a damaged file.
    """
    return [record for _, path in rollout_files(run_dir) for record in read_rollout_file(path)]


def _row(record: RolloutRecord) -> dict[str, Any]:
    row = {item.name: getattr(record, item.name) for item in fields(record)}
    row["components"] = json.dumps(dict(record.components), allow_nan=False)
    # Half a surrogate pair is a legal str but not legal UTF-8, and one such completion must not stop a training run.
    return {name: _utf8(value) if isinstance(value, str) else value for name, value in row.items()}


def _utf8(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
