"""Scores that further commands give the answers of an evaluation, for its page, Markdown and JSON.

    context    of questions with passages      recipes.evaluation.context_scores
    reasoning  by a judge                      recipes.reasoning
    gain       by the policy's likelihoods     recipes.information_gain
    medcalc    by MedCalc-Bench's own script   recipes.medcalc
    warmup     what training has to bring      recipes.warmup_needed

Each lies in RUN/evaluation/KIND/NAME.json with the digest of the answers that it scores. What scores other answers, as
of an earlier evaluation of that name, is not shown, and the page says so. The tables: `conversion.evaluation_scores`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from conversion.evaluation_scores import scores_fault

_COMMANDS = {
    "context": "recipes.evaluation.context_scores",
    "reasoning": "recipes.reasoning",
    "gain": "recipes.information_gain",
    "medcalc": "recipes.medcalc",
    "warmup": "recipes.warmup_needed",
}


def scores_path(answers: Path, kind: str) -> Path:
    """Where the scores of one kind lie, of the answers in NAME.jsonl (or NAME.json)."""
    return answers.parent / kind / f"{answers.stem}.json"


def read_scores(answers: Path, digest: str) -> tuple[dict[str, Any], list[str]]:
    """All scores of the answers, by kind, and a sentence on each file that is left out.

    Args:
        answers: NAME.jsonl or NAME.json.
        digest: SHA-256 of NAME.jsonl.
    """
    found, left_out = {}, []
    for kind, command in _COMMANDS.items():
        path = scores_path(answers, kind)
        if path.is_file():
            try:
                scores = json.loads(path.read_text(encoding="utf-8"))
                own = scores_fault({kind: scores}, digest) is None
            except (OSError, ValueError, RecursionError):
                own = False
            if own:
                found[kind] = scores
            else:
                left_out.append(
                    f"{kind}/{path.name} does not score these answers and is left out; run `python -m {command}` again"
                )
    return found, left_out
