"""Statistics of graded answers: pure functions of counts and of values a question.

Questions are what is drawn from a population, and answers to one question are no independent observations of it. So
every error and interval here is one over questions, whose values are means over their own answers.

Left out: tests that assume normality, and a correction for many sets; who compares twenty finds one of them
"significant" by chance. Pairs of several evaluations are corrected (`recipes.evaluation.comparison_several`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 1000
CONFIDENCE = 0.95
SEED = 0
# Drawn at a time, so that memory stays at some tens of megabytes.
_VALUES_AT_ONCE = 4_000_000

Interval = tuple[float, float]


def standard_error(values: ArrayLike) -> float:
    """Of the mean over questions: the values' standard deviation over the root of their number.

    For values 0 and 1 it is sqrt(p (1 - p) / n).
    """
    array = np.asarray(values, dtype=float)
    return float(array.std() / math.sqrt(len(array)))


def interval(values: ArrayLike, least: float = 0.0) -> Interval:
    """Percentile bootstrap interval of the mean over questions (Efron 1979).

    Where all values are alike, resamples say nothing. Then at most a share of questions is otherwise that has the
    chance of one tail not to be met, and the interval is as wide as that allows: for values that are all 0, or all 1,
    the exact one of Clopper and Pearson (1934).

    Args:
        values: one a question, from `least` to 1.
        least: 0 for shares, -1 for changes.
    """
    return intervals(np.asarray(values, dtype=float)[:, None], least)[0]


def intervals(values: ArrayLike, least: float = 0.0) -> list[Interval]:
    """`interval` of every column, with the same resamples.

    Args:
        values: [questions, quantities]; NaN where a question does not have the quantity, which then counts without it.
        least: as for `interval`.
    """
    array = np.asarray(values, dtype=float)
    ends = _ends(_resampled(array))
    return [_alike(column, least) or end for column, end in zip(array.T, ends, strict=True)]


def interval_of_values(values: Sequence[tuple[str, float]], least: float | None = 0.0) -> Interval:
    """`interval` of the mean over all values, where a question may have several: it is drawn with all of its own.

    Args:
        values: each with its question; one at least.
        least: they go from here to 1; None where they have no limits, and then must not all be alike.
    """
    sums: dict[str, list[float]] = {}
    for question, value in values:
        own = sums.setdefault(question, [0.0, 0.0])
        own[0] += value
        own[1] += 1
    return interval_of_ratio(list(sums.values()), least)


def interval_of_ratio(values: ArrayLike, least: float | None = 0.0) -> Interval:
    """`interval` of one sum over questions divided by another, as of a mean in which questions have weights.

    Args:
        values: [questions, 2], what each adds to both sums; the second is above 0.
        least: as for `interval_of_values`, of every question's own ratio.
    """
    array = np.asarray(values, dtype=float)
    drawn = _resampled(array)
    alike = None if least is None else _alike(array[:, 0] / array[:, 1], least)
    return alike or _ends((drawn[:, 0] / drawn[:, 1])[:, None])[0]


def interval_of_mean(groups: Sequence[ArrayLike], least: float = 0.0) -> Interval:
    """Bootstrap interval of the mean over groups of the mean over a group's questions; each group is resampled alone.

    A group that is alike within adds its share of its own interval on both sides, of which resamples say nothing.

    Args:
        groups: values a question, of each group.
        least: as for `interval`.
    """
    columns = [np.asarray(values, dtype=float) for values in groups]
    means = [_resampled(column[:, None], SEED + index) for index, column in enumerate(columns)]
    low, high = _ends(np.mean(means, axis=0))[0]
    for column in columns:
        if (ends := _alike(column, least)) is not None:
            low -= (float(column[0]) - ends[0]) / len(columns)
            high += (ends[1] - float(column[0])) / len(columns)
    return low, high


def _resampled(array: NDArray[np.float64], seed: int = SEED) -> NDArray[np.float64]:
    """Means of the columns, [resamples, quantities]."""
    count, width = array.shape
    known = ~np.isnan(array)
    filled = np.where(known, array, 0.0)
    at_once = max(1, _VALUES_AT_ONCE // (count * width))
    draw = np.random.default_rng(seed)
    parts = []
    for start in range(0, RESAMPLES, at_once):
        drawn = draw.integers(count, size=(min(at_once, RESAMPLES - start), count))
        # A resample may hold no question that has a rare quantity.
        parts.append(filled[drawn].sum(axis=1) / np.maximum(known[drawn].sum(axis=1), 1))
    return np.concatenate(parts)


def _ends(means: NDArray[np.float64]) -> list[Interval]:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, (tail, 1 - tail), axis=0)
    return [(float(a), float(b)) for a, b in zip(low, high, strict=True)]


def _alike(column: NDArray[np.float64], least: float) -> Interval | None:
    own = column[~np.isnan(column)]
    if not len(own) or (own != own[0]).any():
        return None
    value, others = float(own[0]), 1 - ((1 - CONFIDENCE) / 2) ** (1 / len(own))
    return value - others * (value - least), value + others * (1 - value)


def pass_at_k(answers: int, right: int, k: int) -> float:
    """Unbiased estimate of the chance that one of k answers is right: 1 - C(n - c, k) / C(n, k) (Chen et al. 2021,
    arXiv 2107.03374, equation 1).

    Args:
        answers: n, sampled and scored.
        right: c of them.
        k: at most n.
    """
    _check(answers, k)
    return 1 - math.comb(answers - right, k) / math.comb(answers, k)


def majority_at_k(right: Sequence[int], wrong: Sequence[int], invalid: int, k: int) -> float:
    """Unbiased estimate of the chance that the most frequent of k answers is right (self-consistency, Wang et al. 2022,
    arXiv 2203.11171).

    It is the mean over all ways to choose k of the n answers. Among equally frequent answers each is as likely to be
    taken. An invalid answer has no vote; where nobody votes, nothing is right.

    Args:
        right: how often each different right answer was given (two writings of one number are two).
        wrong: the same of wrong answers.
        invalid: answers that could not be read.
        k: at most n, the sum of all these.
    """
    answers = sum(right) + sum(wrong) + invalid
    _check(answers, k)
    won = 0.0
    for index, count in enumerate(right):
        others = [*right[:index], *right[index + 1 :], *wrong]
        for votes in range(max(1, k - (answers - count)), min(count, k) + 1):
            won += math.comb(count, votes) * _unbeaten(others, invalid, votes, k - votes)
    return won / math.comb(answers, k)


def _unbeaten(others: Sequence[int], invalid: int, votes: int, rest: int) -> float:
    """Ways to choose `rest` answers with none more than `votes` times, each over the number of first places."""
    rivals = [count for count in others if count >= votes]
    free = sum(others) - sum(rivals) + invalid
    # ways[t, j]: j chosen, t of the rivals drawn level.
    ways = np.zeros((len(rivals) + 1, rest + 1))
    ways[0] = [math.comb(free, chosen) for chosen in range(rest + 1)]
    for count in rivals:
        before, ways = ways, np.zeros_like(ways)
        for own in range(min(votes, rest + 1)):
            ways[:, own:] += math.comb(count, own) * before[:, : rest + 1 - own]
        if votes <= rest:
            ways[1:, votes:] += math.comb(count, votes) * before[:-1, : rest + 1 - votes]
    return float((ways[:, rest] / np.arange(1, len(rivals) + 2)).sum())


def agreement(counts: Sequence[int], answers: int) -> float | None:
    """Share of the pairs of answers to one question that are the same answer; None with less than two.

    Args:
        counts: how often each different answer was given.
        answers: all of them; invalid ones, which agree with none, are in no count.
    """
    if answers < 2:
        return None
    return sum(count * (count - 1) for count in counts) / (answers * (answers - 1))


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided p of McNemar's test in its exact, binomial form (McNemar 1947; Edwards 1948 names the alternatives).

    Only questions that changed say which side is better: by chance, each is as likely gained as lost.

    Args:
        gained: questions that the second side alone has right.
        lost: those that the first alone has right.
    """
    changed = gained + lost
    tail = sum(math.comb(changed, count) for count in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / 2**changed)


def _check(answers: int, k: int) -> None:
    if not 1 <= k <= answers:
        raise ValueError(f"k = {k}: expected 1 to {answers}, the number of answers")
