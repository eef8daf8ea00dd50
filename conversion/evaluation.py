"""What `recipes.evaluate` writes, as the release gate and the report read it: RUN/evaluation/NAME.json.

    name, checkpoint (its path then), weights (its digest), tasks, mean, stderr
    sets, distributions, all: the same by set, in and out of distribution, and over all questions, with intervals
        (`recipes.evaluation.summary`)
    scores: what further commands say of the answers (`conversion.evaluation_scores`)
    versions: of Python and the packages
    prompt: {style, sha256, words} of the prompt that questions stood in
    measured: {data: [{path, sha256}], reward: {name, version, hash}, prompts: {...}, decoding: {...}}
    dropped, unscored: questions that were too long, and answers that the server could not score
    seen: {questions, contexts, unread}: questions that training saw too, further ones of whose notes training saw under
        other questions, and training files that could not be compared

The hash of `reward` is over the preset and the version of every verifier, so that it tells servers apart that would
grade differently. `decoding` names a sampler that is not the embedded one. Two results may stand side by side when all
of `measured` is equal but for paths.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from conversion.digests import SHOWN
from conversion.errors import ConversionError
from conversion.evaluation_scores import scores_fault

AGAIN = "run `python -m recipes.evaluate` again"
# What the `weights` of a result begin with whose model stood behind an endpoint, which shows none.
ENDPOINT = "endpoint "
_SHARES = ("accuracy", "stderr", "format_error_share")


class EvaluationError(ConversionError):
    """A result is damaged, or measured nothing; the message names the file and what to do."""


def read_result(path: Path) -> dict[str, Any]:
    """A result whose numbers are numbers, of at least one question.

    Results of older releases have no `weights` and no `measured`; they are read all the same.

    Raises:
        EvaluationError: naming the file and the key.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise EvaluationError(f"{path}: cannot be read ({error}); {AGAIN}, or delete it") from error
    fault = _fault(result)
    if fault is not None:
        raise EvaluationError(f"{path}: {fault}; {AGAIN}, or delete it")
    return {**result, "name": path.stem}


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """How two results were measured otherwise, each line with both values; empty where they may be compared."""
    one, other = (_measured(result) for result in (a, b))
    return [
        f"{key}: {shown(one.get(key))} and {shown(other.get(key))}"
        for key in one | other
        if one.get(key) != other.get(key)
    ]


def _measured(result: Mapping[str, Any]) -> dict[str, Any]:
    """All that must be equal, flat: `data` as digests alone."""
    measured = result["measured"]
    found: dict[str, Any] = {"data": [file["sha256"] for file in measured["data"]], "decoding sampler": "embedded"}
    for section in ("reward", "prompts", "decoding"):
        found |= {f"{section} {key}": value for key, value in measured[section].items()}
    return found


def shown(value: Any) -> str:
    """A digest in short, and anything else as it is."""
    if isinstance(value, list):
        return " ".join(shown(each) for each in value)
    return value[:SHOWN] if isinstance(value, str) and len(value) == 64 else str(value)


def _fault(result: Any) -> str | None:
    if not isinstance(result, dict) or not isinstance(result.get("checkpoint"), str):
        return "not the result of an evaluation"
    tasks = result.get("tasks")
    if not isinstance(tasks, dict) or not tasks:
        return "no question was answered and scored"
    for name, task in tasks.items():
        count = task.get("questions") if isinstance(task, dict) else None
        if not isinstance(count, int) or count <= 0:
            return f"tasks.{name}.questions is {count!r}, expected a number of questions"
        for key in _SHARES:
            if not _is_share(task.get(key)):
                return f"tasks.{name}.{key} is {task.get(key)!r}, expected a number from 0 to 1"
    for key in ("mean", "stderr"):
        if not _is_share(result.get(key)):
            return f"{key} is {result.get(key)!r}, expected a number from 0 to 1"
    if fault := _sets_fault(result) or scores_fault(result.get("scores", {}), result.get("answers_sha256")):
        return fault
    if "weights" in result or "measured" in result:
        return proof_fault(result)
    return None


def _sets_fault(result: Mapping[str, Any]) -> str | None:
    """What is wrong with the figures that a model card shows of sets; older results have none."""
    for key in ("sets", "distributions"):
        if not isinstance(found := result.get(key, {}), dict):
            return f"{key} is {type(found).__name__}, expected an object"
    sets = {**result.get("sets", {}), **result.get("distributions", {})}
    for name, own in {**sets, "all": result.get("all")}.items() if sets else ():
        try:
            shares = [own["accuracy"], own["format_error_share"], *own["interval"]]
            shares += [point[key] for point in own["curve"] for key in ("pass", "majority")]
            shares += [] if own["cut_share"] is None else [own["cut_share"]]
            counts = [own["questions"], *(point["k"] for point in own["curve"])]
            sound = all(map(_is_share, shares)) and len(own["interval"]) == 2 and math.isfinite(own["mean_tokens"])
            sound = sound and all(isinstance(count, int) and count > 0 for count in counts)
        except (KeyError, TypeError, ValueError):
            sound = False
        if not sound:
            return f"the figures of {name} are damaged"
    return None


def proof_fault(result: Mapping[str, Any]) -> str | None:
    """What is wrong with the digests and counts that a result of this release has."""
    try:
        counts = (result["dropped"], result["unscored"], result["seen"]["questions"], len(result["seen"]["unread"]))
        sound = isinstance(result["weights"], str) and _measured(result)["data"] and all(n >= 0 for n in counts)
    except (KeyError, TypeError, AttributeError) as error:
        return f"its digests are damaged ({type(error).__name__}: {error})"
    return None if sound else "its digests are damaged"


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and 0 <= value <= 1
