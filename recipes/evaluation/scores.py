"""Scores that further commands give the answers of an evaluation, as its page, Markdown and JSON show them.

    context    of questions with passages      recipes.evaluation.context_scores
    reasoning  by a judge                      recipes.reasoning
    gain       by the policy's likelihoods     recipes.information_gain
    medcalc    by MedCalc-Bench's own script   recipes.medcalc
    warmup     what training has to bring      recipes.warmup_needed

Each lies in RUN/evaluation/KIND/NAME.json with the digest of the answers that it scores. What scores other answers, as
of an earlier evaluation of that name, is not shown, and the page says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_COMMANDS = {
    "context": "recipes.evaluation.context_scores",
    "reasoning": "recipes.reasoning",
    "gain": "recipes.information_gain",
    "medcalc": "recipes.medcalc",
    "warmup": "recipes.warmup_needed",
}
_CONTEXT = {
    "accuracy": "right answers",
    "refused": "answers that the passages do not suffice",
    "answered_right": "the question's own answer, which no passage has",
    "misled": "the wrong answer that passages state",
    "noise_detection": "unrelated passages that are named",
    "error_detection": "false passages that are named",
    "false_alarms": "other passages that are named",
    "exact_match": "sub-answers that are right to the word",
    "f1": "F1 of the sub-answers' words",
    "told": "named at all",
}
_COLUMNS = {
    "server": "reward server",
    "script": "official script",
    "corrected_server": "server, corrected labels",
    "corrected_script": "script, corrected labels",
}

VERDICTS = {
    "missing": "missing: SFT first",
    "misapplied": "misapplied: RL is enough",
    "undecided": "undecided",
    "too few": "too few questions",
}


@dataclass(frozen=True)
class ScoreTable:
    """One table of plain text.

    Attributes:
        heading: of its section.
        about: what the figures are, in sentences.
        head: names of the columns, the first that of the rows' names.
        rows: of cells.
        bars: of each row the share and interval that its last but one and last cell say; empty where rows have several.
    """

    heading: str
    about: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    bars: Sequence[tuple[float, Sequence[float]]] = ()


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
                own = scores["answers"]["sha256"] == digest
            except (OSError, ValueError, LookupError, TypeError, RecursionError):
                own = False
            if own:
                found[kind] = scores
            else:
                left_out.append(
                    f"{kind}/{path.name} does not score these answers and is left out; run `python -m {command}` again"
                )
    return found, left_out


def score_tables(scores: Mapping[str, Any]) -> list[ScoreTable]:
    """The tables of `read_scores`."""
    tables = {"context": _context, "reasoning": _reasoning, "gain": _gain, "medcalc": _medcalc, "warmup": _warmup}
    return [table(scores[kind]) for kind, table in tables.items() if kind in scores]


def _context(found: Mapping[str, Any]) -> ScoreTable:
    rows, bars = [], []
    for name, own in _conditions(found["scores"]):
        count = own.get("answers", own.get("sub_questions"))
        for key, label in _CONTEXT.items():
            if own.get(key) is not None:
                low, high = own["intervals"][key]
                rows.append((f"{name}: {label}", f"{count:,}", f"{own[key]:.1%}", f"{low:.1%} to {high:.1%}"))
                bars.append((own[key], own["intervals"][key]))
    return ScoreTable(
        "With passages",
        "MedRGB's four scores (arXiv 2411.09213). A policy that suspects every passage detects all of them: the other "
        "passages that it names say whether it does. Intervals are 95% bootstrap intervals over questions.",
        ("Share of", "n", "Share", "95% interval"),
        rows,
        bars,
    )


def _conditions(scores: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, own in scores.items():
        if name == "sufficiency":
            yield from ((f"sufficiency, {condition} passages", part) for condition, part in own.items())
        else:
            yield name, own


def _reasoning(found: Mapping[str, Any]) -> ScoreTable:
    measures = ("efficiency", "factuality", "completeness")
    rows = [
        (name, f"{own['responses']:,}", f"{own['mean_steps']:.1f}", *(_measure(own[measure]) for measure in measures))
        for name, own in found["scores"].items()
    ]
    unjudged = found["scores"]["all"]["unjudged"]
    left = f" {unjudged:,} responses lack a verdict, and count only where none is missing." if unjudged else ""
    return ScoreTable(
        "Reasoning, by a judge",
        f"MedR-Bench's scores (arXiv 2503.04691) by {found['judge']['model']}: the share of steps that reason, of "
        "those the share that is right, and the share of an expert's steps that the response has; beside each, of how "
        f"many responses. Another judge's scores are not comparable.{left}",
        ("Task", "Responses", "Steps", *(measure.capitalize() for measure in measures)),
        rows,
    )


def _measure(own: Mapping[str, Any]) -> str:
    return "–" if own["mean"] is None else f"{own['mean']:.1%} of {own['responses']:,}"


def _gain(found: Mapping[str, Any]) -> ScoreTable:
    rows = [
        (
            *(name, f"{own['responses']:,}", f"{own['mean_steps']:.1f}", f"{own['info_gain']:.4f}"),
            *(f"{own['median_info_gain']:.4f}", f"{own['nats']:.3f}", f"{own['gaining']:.1%}"),
        )
        for name, own in found["gain"].items()
        if own["responses"]
    ]
    whose = "its own likelihoods" if found["own"] else f"the likelihoods of {found['checkpoint']}"
    return ScoreTable(
        "Information gain",
        f"How much likelier the reasoning makes the right answer, by {whose}: InfoGain (arXiv 2506.02126), and the "
        "gain in nats a token, which one unlikely token does not rule.",
        ("Responses that are", "n", "Steps", "InfoGain", "Median", "Nats", "Gaining"),
        rows,
    )


def _medcalc(found: Mapping[str, Any]) -> ScoreTable:
    columns = [column for column in _COLUMNS if column in found["categories"]["all"]]
    rows = [(name, *(_verdict(own.get(column)) for column in columns)) for name, own in found["categories"].items()]
    return ScoreTable(
        "MedCalc-Bench",
        "Right answers by the reward server and by the benchmark's released script, whose scores can stand beside "
        "published ones; beside each, of how many answers, and the 95% bootstrap interval over questions.",
        ("Category", *(_COLUMNS[column].capitalize() for column in columns)),
        rows,
    )


def _verdict(own: Mapping[str, Any] | None) -> str:
    if own is None:
        return "–"
    low, high = own["interval"]
    return f"{own['right']:.1%} of {own['answers']:,} ({low:.1%} to {high:.1%})"


def _warmup(found: Mapping[str, Any]) -> ScoreTable:
    rows, bars = [], []
    for kind, parts in found["parts"].items():
        for name, own in parts.items():
            low, high = own["interval"]
            cells = (f"{own[key]:.1%}" for key in ("pass_1", "pass_k", "chance", "beyond"))
            title = name if kind == "all" else f"{kind} {name}"
            questions = f"{own['questions']:,}"
            rows.append((title, VERDICTS[own["verdict"]], questions, *cells, f"{low:.1%} to {high:.1%}"))
            # Below 0 are those who are right less often than by chance.
            bars.append((max(0.0, own["beyond"]), (max(0.0, low), max(0.0, high))))
    return ScoreTable(
        "Missing or misapplied",
        f"EHRMind's question (arXiv 2505.24105): knowledge is missing where less than {found['threshold']:.0%} of "
        f"questions have a right answer among {found['k']}, beyond what chance brings where there are options, and SFT "
        "comes first; where more have, it is misapplied, and reinforcement learning is enough. Decided is what the "
        "whole 95% bootstrap interval over questions agrees on.",
        ("Questions on", "Verdict", "n", "pass@1", f"pass@{found['k']}", "By chance", "Beyond it", "95% interval"),
        rows,
        bars,
    )
