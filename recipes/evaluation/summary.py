"""What the answers of an evaluation come to.

Answers are the rows of NAME.jsonl (`recipes.evaluate`), their sums the numbers of NAME.json.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from recipes.data.example import REPORT_GROUPS


def summarize(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Per kind of task and their mean, with standard errors sqrt(p (1 - p) / n); unscored answers are counted apart."""
    from reward_server.client import SERVER_FAULTS

    tasks: dict[str, dict[str, Any]] = {}
    for name in REPORT_GROUPS:
        own = [row for row in rows if row["group"] == name and row["status"] not in SERVER_FAULTS]
        if not own:
            continue
        share = sum(row["status"] == "correct" for row in own) / len(own)
        compared = [row["contradicts"] for row in own if row["contradicts"] is not None]
        tasks[name] = {
            "questions": len(own),
            "accuracy": share,
            "stderr": math.sqrt(share * (1 - share) / len(own)),
            "format_error_share": sum(row["status"] in ("malformed", "no_answer") for row in own) / len(own),
            "contradiction_share": sum(compared) / len(compared) if compared else None,
            "mean_tokens": sum(row["tokens"] for row in own) / len(own),
        }
    count = max(1, len(tasks))
    return {
        "unscored": sum(row["status"] in SERVER_FAULTS for row in rows),
        "tasks": tasks,
        "mean": sum(t["accuracy"] for t in tasks.values()) / count,
        "stderr": math.sqrt(sum(t["stderr"] ** 2 for t in tasks.values())) / count,
    }


def described(result: Mapping[str, Any]) -> str:
    """The result in one line, and in a line each what it does not cover."""
    shown = "  ".join(f"{name} {task['accuracy']:.1%}" for name, task in result["tasks"].items())
    lines = [f"{result['name']}: {shown}  mean {result['mean']:.1%} (standard error {result['stderr']:.1%})"]
    asked = sum(task["questions"] for task in result["tasks"].values())
    asked += result["unscored"] + result["dropped"]
    seen = result["seen"]
    if result["dropped"]:
        lines.append(f"{result['dropped']} of {asked} questions are longer than the context allows and were left out")
    if result["unscored"]:
        lines.append(f"{result['unscored']} of {asked} answers could not be scored and count neither way")
    if seen["questions"]:
        lines.append(f"{seen['questions']} of {asked} questions are in the training data too: no held-out result")
    if seen["unread"]:
        lines.append(f"not compared with training data that is gone or was changed: {', '.join(seen['unread'])}")
    return "\n".join(lines)
