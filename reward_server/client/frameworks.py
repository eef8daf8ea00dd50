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


def trl_reward(
    prompts: Sequence[Any], completions: Sequence[Any], task: Sequence[Task], reference: Sequence[Any], **_: Any
) -> list[float | None]:
    """A TRL reward function; the data set has the columns `task` and `reference` (a mapping, or JSON text of one).

    Returns:
        one reward a completion; None, which TRL leaves out, where the server could not score.
    """
    responses = [c if isinstance(c, str) else c[-1]["content"] for c in completions]
    return [score.reward for score in _score(responses, task, reference)]


def compute_score(
    data_source: str, solution_str: str, ground_truth: Any, extra_info: Mapping[str, Any] | None = None, **_: Any
) -> dict[str, float]:
    """verl's `compute_score`; `ground_truth` is {"task", "reference"} (a mapping, or JSON text of one).

    Raises:
        RewardClientError: where the server could not score; verl takes every number for a reward.
    """
    truth = _mapping(ground_truth)
    (score,) = _score([solution_str], [truth["task"]], [truth["reference"]])
    if score.reward is None:
        raise RewardClientError(f"the reward server could not score a response of {data_source}: {score.status}")
    return {"score": score.reward, **score.components}


def _score(responses: Sequence[str], tasks: Sequence[Task], references: Sequence[Any]) -> list[Score]:
    items = [
        ScoreItem(str(i), task, response, _mapping(reference))
        for i, (response, task, reference) in enumerate(zip(responses, tasks, references, strict=True))
    ]
    return _client().score(os.environ.get("MEDATRON_REWARD_PRESET", "gated"), items)[1]


def _mapping(value: Any) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(value) if isinstance(value, str) else value
    # Arrow gives every row of a column the same keys, the absent ones as None.
    return {
        key: _mapping(part) if isinstance(part, Mapping) else part for key, part in found.items() if part is not None
    }


@functools.cache
def _client() -> RewardClient:
    urls = os.environ.get("MEDATRON_REWARD_URL", "http://127.0.0.1:8000").split(",")
    return RewardClient(urls, token=os.environ.get("MEDATRON_REWARD_TOKEN"))
