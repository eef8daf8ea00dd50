"""Two evaluations of the same questions, question by question.

Only questions with a scored answer on both sides are compared. What both got right or wrong says nothing about which is
better, so the change has a paired interval, which is narrower than that of two independent evaluations.

With one answer a question, p is McNemar's; with several, a question counts as gained where the second side has the
larger share right, which makes it the sign test, the same sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from conversion.errors import ConversionError
from conversion.evaluation import AGAIN, ENDPOINT, shown
from recipes.data.example import REPORT_GROUPS
from recipes.evaluation import statistics
from recipes.evaluation.comparable import sampler_note, sampler_of, unlike
from recipes.evaluation.questions import Question, by_question
from recipes.evaluation.reading import Evaluated
from recipes.evaluation.summary import aligned, figures, k_grid

Pair = tuple[Question, Question]
# A question as every side answered it.
Sides = TypeVar("Sides", bound=tuple[Question, ...])


class ComparisonError(ConversionError):
    """Two evaluations that may not stand side by side; the message says why and what to do."""


def compare(a: Evaluated, b: Evaluated) -> dict[str, Any]:
    """The comparison's JSON: figures of both sides over the same questions, and which of these changed.

    Returns:
        `tasks`, `sets` (with `subjects`) and `all`, each with the `figures` of `a` and `b`, the `change` b - a with its
        standard error and bootstrap `interval`, questions `gained` and `lost`, and `p`; `mean`, the change of the mean
        over tasks; `changed`, the ids; `left_out`, how many questions lack a scored answer of one side.

    Raises:
        ComparisonError: they were not measured alike, or share no question.
    """
    check_alike(a, b)
    one, other = ({q.first["id"]: q for q in by_question(each.rows)} for each in (a, b))
    pairs = [(question, other[key]) for key, question in one.items() if key in other]
    if not pairs:
        raise ComparisonError(f"{a.path} and {b.path}: no question has a scored answer in both; {AGAIN}")
    # Both sides at the same k, of answers that both have.
    grid = k_grid([min(pair, key=lambda question: len(question.rows)) for pair in pairs])
    tasks = {name: own for name in REPORT_GROUPS if (own := [p for p in pairs if p[0].first["group"] == name])}
    moved = [changes(own) for own in tasks.values()]
    single = all(len(question.rows) == 1 for pair in pairs for question in pair)
    means = [sum(sum(pair[side].share for pair in own) / len(own) for own in tasks.values()) for side in (0, 1)]
    return {
        "a": identity(a),
        "b": identity(b),
        "measured": b.result["measured"],
        "questions": len(pairs),
        "left_out": {"a": len(other.keys() - one.keys()), "b": len(one.keys() - other.keys())},
        "test": "McNemar's exact test" if single else "exact sign test",
        "mean": {
            **{side: mean / len(tasks) for side, mean in zip(("a", "b"), means, strict=True)},
            "change": (means[1] - means[0]) / len(tasks),
            "interval": statistics.interval_of_mean(moved, least=-1),
        },
        "tasks": {name: _paired(own, grid) for name, own in tasks.items()},
        "sets": {
            name: {
                **_paired(own, grid),
                "subjects": {subject: _paired(part, grid) for subject, part in parts(own, "subject").items()},
            }
            for name, own in parts(pairs, "source").items()
        },
        "all": _paired(pairs, grid),
        "changed": {
            "gained": [x.first["id"] for x, y in pairs if y.share > x.share],
            "lost": [x.first["id"] for x, y in pairs if y.share < x.share],
        },
        "statistics": {
            "resamples": statistics.RESAMPLES,
            "confidence": statistics.CONFIDENCE,
            "seed": statistics.SEED,
        },
    }


def check_alike(a: Evaluated, b: Evaluated) -> None:
    """Raises ComparisonError unless both were measured alike."""
    if others := unlike(a.result, b.result):
        raise ComparisonError(
            f"{a.path} and {b.path} were not measured alike, so no difference between them is one of the models: "
            f"{'; '.join(others)}. Evaluate one of them again as the other was"
        )


def identity(each: Evaluated) -> dict[str, Any]:
    """Which evaluation it is, of which weights, and what it does not cover."""
    return {"name": each.name, "path": str(each.path.resolve()), "sampler": sampler_of(each.result)} | {
        key: each.result.get(key) for key in ("checkpoint", "weights", "seen", "dropped", "unscored")
    }


def _paired(pairs: Sequence[Pair], grid: Sequence[int]) -> dict[str, Any]:
    return {
        "questions": len(pairs),
        "a": figures([pair[0] for pair in pairs], grid),
        "b": figures([pair[1] for pair in pairs], grid),
        **tested(pairs),
    }


def tested(pairs: Sequence[Pair]) -> dict[str, Any]:
    """The change from the first to the second side, its error, interval and test."""
    moved = changes(pairs)
    gained, lost = int((moved > 0).sum()), int((moved < 0).sum())
    return {
        "change": float(moved.mean()),
        "stderr": statistics.standard_error(moved),
        "interval": statistics.interval(moved, least=-1),
        "gained": gained,
        "lost": lost,
        "p": statistics.mcnemar(gained, lost),
    }


def changes(pairs: Sequence[Pair]) -> np.ndarray:
    """Of each question's share of right answers, [questions]."""
    return np.array([after.share - before.share for before, after in pairs])


def parts(answered: Sequence[Sides], key: str) -> dict[str, list[Sides]]:
    """Questions, each as all sides answered it, by a key of theirs; those without it are in none."""
    found: dict[str, list[Sides]] = {}
    for each in answered:
        if each[0].first.get(key) is not None:
            found.setdefault(str(each[0].first[key]), []).append(each)
    return dict(sorted(found.items()))


def described(comparison: Mapping[str, Any]) -> str:
    """The comparison for a terminal."""
    a, b = titles(comparison)
    head = f"{b} against {a}: {comparison['questions']:,} questions with a scored answer of both"
    return "\n".join([head, *aligned([columns(comparison), *rows(comparison)]), *notes(comparison)])


def titles(comparison: Mapping[str, Any]) -> tuple[str, str]:
    """Both evaluations' names; where these are the same, with the weights."""
    a, b = comparison["a"], comparison["b"]
    if a["name"] != b["name"]:
        return a["name"], b["name"]
    one, other = (f"{each['name']} ({shown(each['weights'])})" for each in (a, b))
    return one, other


def columns(comparison: Mapping[str, Any]) -> tuple[str, ...]:
    """The head of `rows`."""
    return ("", "questions", *titles(comparison), "change", "95% interval", "gained", "lost", "p")


def rows(comparison: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row of text for each task, their mean, each set with its subjects, and all questions."""
    found = [(name, _cells(own)) for name, own in comparison["tasks"].items()]
    mean = comparison["mean"]
    low, high = mean["interval"]
    shares = [f"{mean[side]:.1%}" for side in ("a", "b")]
    found.append(
        ("mean of tasks", ["", *shares, points(mean["change"]), f"{points(low)} to {points(high)}", "", "", ""])
    )
    for name, own in comparison["sets"].items():
        found += [(name, _cells(own)), *((f"  {subject}", _cells(part)) for subject, part in own["subjects"].items())]
    found.append(("all questions", _cells(comparison["all"])))
    return [(name, *cells) for name, cells in found]


def _cells(own: Mapping[str, Any]) -> list[str]:
    low, high = own["interval"]
    return [
        *(f"{own['questions']:,}", f"{own['a']['accuracy']:.1%}", f"{own['b']['accuracy']:.1%}"),
        *(points(own["change"]), f"{points(low)} to {points(high)}", str(own["gained"]), str(own["lost"])),
        shown_p(own["p"]),
    ]


def points(change: float) -> str:
    """A change in percentage points, with its sign."""
    return f"{100 * change:+.1f}"


def shown_p(p: float) -> str:
    """A p-value to two significant digits, or that it is small."""
    return "<0.0001" if p < 0.0001 else f"{p:.2g}"


def notes(comparison: Mapping[str, Any]) -> list[str]:
    """What the numbers are, and what they do not cover."""
    found = [
        f"gained and lost count questions; p is two-sided, {comparison['test']}; changes are percentage points with "
        "paired bootstrap intervals over questions"
    ]
    if comparison["a"]["weights"] == comparison["b"]["weights"]:
        found.append(same_model("both", comparison["a"]))
    found += sampler_note(comparison["a"], comparison["b"], titles(comparison))
    for side, title in zip(("a", "b"), titles(comparison), strict=True):
        if count := comparison["left_out"][side]:
            found.append(f"{count} questions are left out: {title} has no scored answer to them")
        found += about(comparison[side], title)
    return found


def same_model(who: str, each: Mapping[str, Any]) -> str:
    """That evaluations are of the same weights, or endpoint, by the `identity` of one of them."""
    if str(each["weights"]).startswith(ENDPOINT):
        return (
            f"{who} asked the same model at the same endpoint, which shows no weights: what differs is sampling, or "
            "the model behind it"
        )
    return f"{who} measured the same weights: what differs is sampling"


def about(each: Mapping[str, Any], title: str) -> list[str]:
    """What an evaluation's training has seen of the questions, or cannot tell, of its `identity`."""
    found = []
    seen = each["seen"] or {}
    if count := seen.get("questions"):
        found.append(f"{count} questions are in the training data of {title}: no held-out result")
    if count := seen.get("contexts"):
        found.append(f"{count} questions ask about notes that the training data of {title} ask about too")
    if unread := seen.get("unread"):
        found.append(f"training data of {title} that the questions were not compared with: {', '.join(unread)}")
    return found
