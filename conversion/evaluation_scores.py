"""Tables of the scores that further commands give an evaluation's answers, for pages and model cards.

They stand under `scores` in NAME.json, by kind; `recipes.evaluation.scores` says which command writes which. Those of
older releases may lack intervals.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

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


def scores_fault(scores: Any, answers: str | None) -> str | None:
    """What is wrong with a result's `scores`.

    Args:
        scores: as they stand there.
        answers: digest of the answers that the result counts; None where it keeps none.
    """
    try:
        score_tables(scores)
        strange = [kind for kind, own in scores.items() if own["answers"]["sha256"] != answers and answers]
    except (LookupError, TypeError, ValueError, AttributeError):
        return "its scores are damaged"
    return f"scores.{strange[0]} are of other answers" if strange else None


def score_tables(scores: Mapping[str, Any]) -> list[ScoreTable]:
    """The tables of a result's `scores`."""
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
        "many responses, and the 95% bootstrap interval over questions. Another judge's scores are not "
        f"comparable.{left}",
        ("Task", "Responses", "Steps", *(measure.capitalize() for measure in measures)),
        rows,
    )


def _measure(own: Mapping[str, Any]) -> str:
    if own["mean"] is None:
        return "–"
    return f"{own['mean']:.1%} of {own['responses']:,}{_between(own.get('interval'), '.1%')}"


def _between(interval: Sequence[float] | None, form: str) -> str:
    """An interval behind its figure."""
    return "" if interval is None else f" ({interval[0]:{form}} to {interval[1]:{form}})"


def _gain(found: Mapping[str, Any]) -> ScoreTable:
    rows = [
        (
            *(name, f"{own['responses']:,}", f"{own['mean_steps']:.1f}", _gained(own, "info_gain", ".4f")),
            *(f"{own['median_info_gain']:.4f}", _gained(own, "nats", ".3f"), _gained(own, "gaining", ".1%")),
        )
        for name, own in found["gain"].items()
        if own["responses"]
    ]
    whose = "its own likelihoods" if found["own"] else f"the likelihoods of {PurePath(found['checkpoint']).name}"
    return ScoreTable(
        "Information gain",
        f"How much likelier the reasoning makes the right answer, by {whose}: InfoGain (arXiv 2506.02126), and the "
        "gain in nats a token, which one unlikely token does not rule; with 95% bootstrap intervals over questions.",
        ("Responses that are", "n", "Steps", "InfoGain", "Median", "Nats", "Gaining"),
        rows,
    )


def _gained(own: Mapping[str, Any], key: str, form: str) -> str:
    return f"{own[key]:{form}}{_between(own.get('intervals', {}).get(key), form)}"


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
    return f"{own['right']:.1%} of {own['answers']:,}{_between(own['interval'], '.1%')}"


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
