"""Reward functions for frameworks that call Python: TRL's GRPOTrainer and verl.

Both take the URL from MEDATRON_REWARD_URL (several with commas between), the token from MEDATRON_REWARD_TOKEN and the
preset from MEDATRON_REWARD_PRESET (default gated). Left out: frameworks that speak HTTP; see `reward_server.adapters`.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from reward_server.client.blocking import RewardClient
from reward_server.client.wire import RewardClientError, Score, ScoreItem, Task
from reward_server.foreign import content_of, response_to, without_end, without_nulls


def trl_reward(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    task: Sequence[Task],
    reference: Sequence[Any],
    format: Sequence[Any] | None = None,
    match: Sequence[Any] | None = None,
    **_: Any,
) -> list[float | None]:
    """A TRL reward function; the data set has the columns `task` and `reference` (a mapping, or JSON text of one).

    The columns `format` and `match`, as a ScoreItem's, are optional. Of a completion in messages the last one counts
    where it is the assistant's, with the thinking that TRL has parsed out of it put back.

    Returns:
        one reward a completion; None, which TRL leaves out, where the server could not score.

    Raises:
        ValueError: a completion or reference is none; the message names it by column and row.
    """
    columns = {"task": task, "reference": reference, "format": format, "match": match}
    labels = [
        {name: column[row] for name, column in columns.items() if column is not None} for row in range(len(completions))
    ]
    responses = [
        response_to(prompt, _written(row, c)) for row, (prompt, c) in enumerate(zip(prompts, completions, strict=True))
    ]
    return [score.reward for score in _score(responses, labels, [f"row {row}" for row in range(len(labels))])]


def compute_score(
    data_source: str, solution_str: str, ground_truth: Any, extra_info: Mapping[str, Any] | None = None, **_: Any
) -> dict[str, float]:
    """verl's `compute_score`; `ground_truth` is {"task", "reference"} (a mapping, or JSON text of one).

    Optional beside them: `format` ("lenient" where the chat template opens `<think>`, which verl does not hand over)
    and `match`.

    Raises:
        RewardClientError: where the server could not score; verl takes every number for a reward.
        ValueError: `ground_truth` or `solution_str` is no such thing.
    """
    if not isinstance(solution_str, str):
        raise ValueError(f"solution_str of {data_source}: expected a text, got {type(solution_str).__name__}")
    (score,) = _score([without_end(solution_str)], [ground_truth], [f"ground_truth of {data_source}"])
    if score.reward is None:
        raise RewardClientError(f"the reward server could not score a response of {data_source}: {score.status}")
    return {"score": score.reward, **score.components}


def _score(responses: Sequence[str], labels: Sequence[Any], names: Sequence[str]) -> list[Score]:
    items: list[ScoreItem] = []
    for response, given, name in zip(responses, labels, names, strict=True):
        label = _mapping(given, name)
        missing = {"task", "reference"} - set(label)
        if missing:
            raise ValueError(f"{name}: no {' and no '.join(sorted(missing))}; expected task and reference")
        form, match = label.get("format", "strict"), label.get("match")
        reference = _mapping(label["reference"], f"{name}: reference")
        items.append(ScoreItem(str(len(items)), label["task"], response, reference, match=match, format=form))
    return _client().score(os.environ.get("MEDATRON_REWARD_PRESET", "gated"), items)[1]


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
    found = value
    if isinstance(value, str):
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError(f"{name}: expected a mapping or JSON text of one, got text that is no JSON") from None
    try:
        found = without_nulls(found)
    except ValueError as error:
        raise ValueError(f"{name}: expected a mapping, got one {error}") from None
    if not isinstance(found, Mapping):
        raise ValueError(f"{name}: expected a mapping or JSON text of one, got {type(found).__name__}")
    return found


def _written(row: int, completion: Any) -> str:
    """What the model wrote last in a completion of TRL's: a text, or messages."""
    if isinstance(completion, str):
        return completion
    if not isinstance(completion, Sequence) or not all(isinstance(message, Mapping) for message in completion):
        raise ValueError(f"completions, row {row}: expected a text or messages, got {type(completion).__name__}")
    # Without one of its own last, the model has not answered: it was stopped after a tool's.
    message = completion[-1] if completion and completion[-1].get("role", "assistant") == "assistant" else {}
    thinking = message.get("reasoning_content") or message.get("thinking")
    return (f"<think>{thinking}</think>" if thinking else "") + content_of(message)


@functools.cache
def _client() -> RewardClient:
    urls = os.environ.get("MEDATRON_REWARD_URL", "http://127.0.0.1:8000").split(",")
    return RewardClient([url.strip() for url in urls], token=os.environ.get("MEDATRON_REWARD_TOKEN"))
