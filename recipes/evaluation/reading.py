"""An evaluation as it lies on the disk, result and answers together, for what compares and shows it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from conversion.digests import file_digest
from conversion.evaluation import AGAIN, EvaluationError, read_result
from recipes.data.errors import ExampleError
from recipes.data.example import Example, iterate_examples
from recipes.data.variants import PLAIN
from recipes.evaluation.questions import by_question, variant_of

_KEYS: dict[str, tuple[type, ...]] = {"id": (str,), "group": (str,), "status": (str,), "tokens": (int,)}
_KEYS |= {"response": (str,), "answer": (str,)}
# Of later releases, where a row has them.
_LATER: dict[str, tuple[type, ...]] = {"variant": (str,), "sample": (int,), "cut": (bool,)}
_LATER |= {"extracted": (str, NoneType), "order": (str,), "budget": (int,), "budget_mode": (str,)}


@dataclass(frozen=True)
class Evaluated:
    """One evaluation.

    Attributes:
        path: NAME.json.
        result: its content.
        rows: of NAME.jsonl.
    """

    path: Path
    result: dict[str, Any]
    rows: list[dict[str, Any]]

    @property
    def name(self) -> str:
        """NAME."""
        return self.path.stem

    @property
    def model(self) -> str:
        """Who answered: the checkpoint's own name, or the endpoint's."""
        checkpoint = str(self.result["checkpoint"])
        return Path(checkpoint).name if checkpoint.startswith("/") else checkpoint

    @property
    def run(self) -> Path:
        """The run's folder."""
        return self.path.resolve().parent.parent


def read_evaluated(path: Path) -> Evaluated:
    """Reads NAME.json and NAME.jsonl, by the path of either.

    Raises:
        EvaluationError: one of them is missing or damaged, an older release made it, or the answers are not those that
            the result counts.
    """
    if path.suffix not in (".json", ".jsonl"):
        raise EvaluationError(f"{path}: expected the NAME.json or NAME.jsonl of an evaluation, in RUN/evaluation")
    result_path, answers = path.with_suffix(".json"), path.with_suffix(".jsonl")
    result = read_result(result_path)
    if "measured" not in result:
        raise EvaluationError(f"{path}: an older release made it, which kept no digest of what it measured; {AGAIN}")
    found = Evaluated(result_path, result, read_answers(answers))
    # Results of older releases have no digest of their answers.
    if result.get("answers_sha256") not in (None, file_digest(answers)):
        raise EvaluationError(f"{answers}: not the answers that {result_path.name} counts, by their digest; {AGAIN}")
    for task, counted in found.result["tasks"].items():
        own = [question for question in by_question(found.rows) if question.first["group"] == task]
        share = sum(question.share for question in own) / max(1, len(own))
        if len(own) != counted["questions"] or not math.isclose(share, counted["accuracy"], abs_tol=1e-9):
            raise EvaluationError(
                f"{answers}: {len(own)} questions of task {task} with accuracy {share:.4f}, and {result_path.name} "
                f"counts {counted['questions']} with {counted['accuracy']:.4f}, so they are not of one evaluation; "
                f"{AGAIN}"
            )
    return found


def read_answers(path: Path) -> list[dict[str, Any]]:
    """The rows of NAME.jsonl.

    Raises:
        EvaluationError: naming file, line and key.
    """
    if path.suffix == ".json":
        raise EvaluationError(f"{path}: is the result, without the answers; name {path.with_suffix('.jsonl')}")
    rows = []
    seen: set[tuple[str, str, int]] = set()
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                rows.append(row := _row(line, f"{path}:{number}"))
                key = (row["id"], variant_of(row), row.get("sample", 0))
                if key in seen:
                    raise EvaluationError(f"{path}:{number}: a second row of sample {key[2]} of {key[0]!r}; {AGAIN}")
                seen.add(key)
    except OSError as error:
        raise EvaluationError(f"{path}: cannot be read ({error.strerror}); {AGAIN}") from error
    return rows


def plain_answers(path: Path, wanted: Mapping[str, Example]) -> tuple[list[dict[str, Any]], int]:
    """The answers to questions as they stand in their files, and how many are to questions that are not wanted.

    Args:
        path: NAME.jsonl.
        wanted: questions by id.

    Raises:
        EvaluationError: see `read_answers`; when none is left, or one was graded by another label than its question's.
    """
    plain = [row for row in read_answers(path) if variant_of(row) == PLAIN]
    found = [row for row in plain if row["id"] in wanted]
    if not found:
        raise EvaluationError(
            f"{path}: answers none of the questions in the files named; name the files that were asked"
        )
    for row in found:
        if row["answer"] != (gold := wanted[row["id"]].gold()):
            raise EvaluationError(
                f"{path}: {row['id']!r} was graded by the label {row['answer']!r}, and in the files named it is "
                f"{gold!r}; name the files that were asked"
            )
    return found, len(plain) - len(found)


def _row(line: bytes, where: str) -> dict[str, Any]:
    from reward_server.client.wire import STATUSES

    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise EvaluationError(f"{where}: expected a JSON object ({error}); {AGAIN}") from error
    if not isinstance(row, dict):
        raise EvaluationError(f"{where}: expected a JSON object, found {type(row).__name__}; {AGAIN}")
    for key, kinds in (*_KEYS.items(), *((key, kinds) for key, kinds in _LATER.items() if key in row)):
        if not isinstance(row.get(key), kinds):
            raise EvaluationError(f"{where}: {key} is {row.get(key)!r}, expected {kinds[0].__name__}; {AGAIN}")
    if row["status"] not in STATUSES:
        raise EvaluationError(f"{where}: status is {row['status']!r}, expected one of {', '.join(STATUSES)}; {AGAIN}")
    return row


def asked_files(result: Mapping[str, Any]) -> list[Path]:
    """The files of questions that are still what was asked."""
    found = []
    for file in result["measured"]["data"]:
        path = Path(file["path"])
        try:
            if path.is_file() and file_digest(path) == file["sha256"]:
                found.append(path)
        except OSError:
            continue
    return found


def asked_questions(result: Mapping[str, Any]) -> dict[str, Example]:
    """The questions by id, of those files that are still what was asked."""
    found: dict[str, Example] = {}
    for path in asked_files(result):
        try:
            found |= {example.id: example for example in iterate_examples(path)}
        except (OSError, ExampleError):
            continue
    return found
