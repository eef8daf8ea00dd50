"""Three evaluations or more of the same questions: accuracy of each, and every pair of them question by question.

Only questions with a scored answer in all of them count, so that every figure is of the same questions. Change,
interval and p of a pair are those of two evaluations (`recipes.evaluation.comparison`). The p values of one part's
pairs are also corrected together by Holm's method (Holm 1979, "A simple sequentially rejective multiple test
procedure"), which needs no independence; parts (tasks, sets) are not corrected for one another.

Left out: subjects, pass@k and the questions that changed, which a comparison of two has.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from conversion.evaluation import AGAIN
from recipes.data.example import REPORT_GROUPS
from recipes.evaluation import statistics
from recipes.evaluation.comparable import sampler_note
from recipes.evaluation.comparison import (
    ComparisonError,
    about,
    changes,
    check_alike,
    identity,
    parts,
    points,
    same_model,
    shown_p,
    tested,
)
from recipes.evaluation.questions import Question, by_question
from recipes.evaluation.reading import Evaluated
from recipes.evaluation.summary import aligned, figures

# One question as every evaluation answered it.
Answered = tuple[Question, ...]
ACCURACY_COLUMNS = ("", "questions")
PAIR_COLUMNS = ("", "", "change", "95% interval", "gained", "lost", "p", "Holm's p")


def compare_several(evaluations: Sequence[Evaluated]) -> dict[str, Any]:
    """The comparison's JSON.

    Returns:
        `evaluations`, by title; `tasks`, `sets` and `all`, each with the `figures` of every evaluation and its `pairs`
        (`a`, `b`, `change` b - a, `stderr`, `interval`, `gained`, `lost`, `p`, `p_holm`); `mean`, the same of the mean
        over tasks, without a test; `left_out`, how many questions an evaluation has that not all have.

    Raises:
        ComparisonError: an evaluation is named twice, they were not measured alike, or share no question.
    """
    named = _titled(evaluations)
    # Not only with the first: what excuses a difference of two, such as an endpoint, need not excuse the others'.
    for one, other in itertools.combinations(evaluations, 2):
        check_alike(one, other)
    answers = [{q.first["id"]: q for q in by_question(each.rows)} for each in evaluations]
    shared = [tuple(own[key] for own in answers) for key in answers[0] if all(key in own for own in answers)]
    if not shared:
        paths = ", ".join(str(each.path) for each in evaluations)
        raise ComparisonError(f"{paths}: no question has a scored answer in all of them; {AGAIN}")
    titles = list(named)
    tasks = {name: own for name in REPORT_GROUPS if (own := [q for q in shared if q[0].first["group"] == name])}
    single = all(len(question.rows) == 1 for answered in shared for question in answered)
    return {
        "evaluations": {title: identity(each) for title, each in named.items()},
        "measured": evaluations[-1].result["measured"],
        "questions": len(shared),
        "left_out": {title: len(own) - len(shared) for title, own in zip(titles, answers, strict=True)},
        "test": "McNemar's exact test" if single else "exact sign test",
        "mean": _mean(titles, list(tasks.values())),
        "tasks": {name: _part(titles, own) for name, own in tasks.items()},
        "sets": {name: _part(titles, own) for name, own in parts(shared, "source").items()},
        "all": _part(titles, shared),
        "statistics": {
            "resamples": statistics.RESAMPLES,
            "confidence": statistics.CONFIDENCE,
            "seed": statistics.SEED,
        },
    }


def _titled(evaluations: Sequence[Evaluated]) -> dict[str, Evaluated]:
    """The evaluations by their names; with the run's where that is not enough, and else by their paths."""
    twice = [path for path, count in Counter(each.path.resolve() for each in evaluations).items() if count > 1]
    if twice:
        raise ComparisonError(f"{twice[0]}: named twice; name each evaluation once")
    ways: list[Callable[[Evaluated], str]] = [
        lambda each: each.name,
        lambda each: f"{each.run.name}.{each.name}",
        lambda each: str(each.path.resolve()),
    ]
    return next(named for way in ways if len(named := {way(each): each for each in evaluations}) == len(evaluations))


def _part(titles: Sequence[str], answered: Sequence[Answered]) -> dict[str, Any]:
    pairs = [
        {"a": titles[a], "b": titles[b], **tested([(each[a], each[b]) for each in answered])}
        for a, b in itertools.combinations(range(len(titles)), 2)
    ]
    corrected = holm([pair["p"] for pair in pairs])
    return {
        "questions": len(answered),
        "figures": {title: figures([each[n] for each in answered], ()) for n, title in enumerate(titles)},
        "pairs": [{**pair, "p_holm": p} for pair, p in zip(pairs, corrected, strict=True)],
    }


def _mean(titles: Sequence[str], tasks: Sequence[Sequence[Answered]]) -> dict[str, Any]:
    shares = [[[each[n].share for each in own] for own in tasks] for n in range(len(titles))]
    means = [sum(sum(values) / len(values) for values in own) / len(own) for own in shares]
    found = {
        title: {"accuracy": mean, "interval": statistics.interval_of_mean(own)}
        for title, mean, own in zip(titles, means, shares, strict=True)
    }
    pairs = []
    for a, b in itertools.combinations(range(len(titles)), 2):
        moved = [changes([(each[a], each[b]) for each in own]) for own in tasks]
        interval = statistics.interval_of_mean(moved, least=-1)
        pairs.append({"a": titles[a], "b": titles[b], "change": means[b] - means[a], "interval": interval})
    return {"figures": found, "pairs": pairs}


def holm(p_values: Sequence[float]) -> list[float]:
    """p values corrected for one another by Holm's method: the k-th smallest of n times n - k + 1, never falling."""
    corrected, least = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        least = corrected[index] = max(least, min(1.0, (len(p_values) - rank) * p_values[index]))
    return corrected


def shown_parts(comparison: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The parts that say something: of a single task or set, all questions do."""
    found: dict[str, Mapping[str, Any]] = {}
    if len(comparison["tasks"]) > 1:
        found |= {**comparison["tasks"], "mean of tasks": comparison["mean"]}
    if len(comparison["sets"]) > 1:
        found |= comparison["sets"]
    return {**found, "all questions": comparison["all"]}


def accuracy_rows(comparison: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row of text for each part, with the accuracy of every evaluation; ACCURACY_COLUMNS and the titles head it."""
    found = []
    for name, part in shown_parts(comparison).items():
        cells = []
        for own in part["figures"].values():
            low, high = own["interval"]
            cells.append(f"{own['accuracy']:.1%} ({100 * low:.1f} to {100 * high:.1f})")
        found.append((name, f"{part['questions']:,}" if "questions" in part else "", *cells))
    return found


def pair_rows(comparison: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row of text for each pair of each part; PAIR_COLUMNS heads it."""
    found = []
    for name, part in shown_parts(comparison).items():
        for pair in part["pairs"]:
            low, high = pair["interval"]
            cells = [points(pair["change"]), f"{points(low)} to {points(high)}"]
            counted = "p" in pair
            cells += [str(pair["gained"]), str(pair["lost"])] if counted else ["", ""]
            cells += [shown_p(pair["p"]), shown_p(pair["p_holm"])] if counted else ["", ""]
            found.append((name, f"{pair['b']} against {pair['a']}", *cells))
    return found


def described_several(comparison: Mapping[str, Any]) -> str:
    """The comparison for a terminal."""
    titles = list(comparison["evaluations"])
    head = f"{len(titles)} evaluations: {comparison['questions']:,} questions with a scored answer of all"
    accuracy = aligned([(*ACCURACY_COLUMNS, *titles), *accuracy_rows(comparison)])
    pairs = aligned([PAIR_COLUMNS, *pair_rows(comparison)])
    return "\n".join([head, *accuracy, "", *pairs, "", *notes_of_several(comparison)])


def notes_of_several(comparison: Mapping[str, Any]) -> list[str]:
    """What the numbers are, and what they do not cover."""
    found = [
        "accuracy has a bootstrap interval over questions; gained and lost count questions; p is two-sided, "
        f"{comparison['test']}; Holm's p is corrected for all pairs of its part, parts are not corrected for one "
        "another; changes are percentage points with paired bootstrap intervals over questions"
    ]
    evaluations = comparison["evaluations"]
    by_weights: dict[str, list[str]] = {}
    for title, each in evaluations.items():
        by_weights.setdefault(str(each["weights"]), []).append(title)
    found += [same_model(", ".join(own), evaluations[own[0]]) for own in by_weights.values() if len(own) > 1]
    (first, start), *later = evaluations.items()
    found += [note for title, each in later for note in sampler_note(start, each, (first, title))]
    for title, each in evaluations.items():
        if count := comparison["left_out"][title]:
            found.append(f"{count} questions of {title} are left out: not all have a scored answer to them")
        found += about(each, title)
    return found
