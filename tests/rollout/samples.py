"""Prompts and trajectories written by hand."""

from __future__ import annotations

from collections.abc import Sequence

from recipes.data.example import Example, Task
from recipes.engines.base import Completion
from recipes.rollout.prompts import Prompt
from recipes.rollout.scoring import Trajectory
from reward_server.client import Score, Status

_ANSWERS: dict[Task, str | float] = {"choice": "A", "number": 1.0, "text": "x"}


def prompt(identity: str, task: Task = "text", skill: str | None = None, ids: Sequence[int] = (1, 2)) -> Prompt:
    options = {"A": "one", "B": "two"} if task == "choice" else None
    limits = {"lower": 1.0, "upper": 1.0} if task == "number" else {}
    meta = {} if skill is None else {"skill": skill}
    example = Example(identity, "s", task, "?", _ANSWERS[task], options=options, meta=meta, **limits)
    return Prompt(example, f"prompt {identity}", tuple(ids))


def trajectory(
    of: Prompt,
    reward: float | None,
    *,
    status: Status = "correct",
    tokens: int = 3,
    finished: bool = True,
    components: dict[str, float] | None = None,
    group: int = 0,
) -> Trajectory:
    completion = Completion(tuple(range(10, 10 + tokens)), tuple(-0.1 * (i + 1) for i in range(tokens)), finished)
    score = Score("i", reward, status, "x", components or {}, None, "text", "1")
    return Trajectory(of, completion, "response", score, group)
