"""What the same questions show when they are asked otherwise: options in another order, or without options.

A score on multiple choice may rest on the place of an option rather than on its content, and need not carry over to
the same question without options (arXiv 2509.20866).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from recipes.data.variants import PLAIN, SHORT, SHUFFLED
from recipes.evaluation import statistics
from recipes.evaluation.questions import Question, Row, answer_of, by_question, is_valid, variant_of


def order_bias(rows: Sequence[Row]) -> dict[str, Any] | None:
    """What the order of options does, over the questions that have scored answers in every order.

    Returns:
        `accuracy` in each order and their `spread`, largest less smallest; `same_choice`, the share of pairs of answers
        in different orders that name the same option (an invalid one names none); `right_in_all`, the share of
        questions with every answer in every order right; `positions`, the share of valid answers that chose the option
        at each letter's place, beside the share of right options there. None without shuffled options.
    """
    orders = sorted({v for row in rows if (v := variant_of(row)).startswith(SHUFFLED)}, key=lambda v: (len(v), v))
    asked = {variant: {q.first["id"]: q for q in by_question(rows, variant)} for variant in (PLAIN, *orders)}
    ids = [key for key in asked[PLAIN] if all(key in asked[variant] for variant in orders)]
    if not orders or not ids:
        return None
    kept = {variant: [found[key] for key in ids] for variant, found in asked.items()}
    accuracy = {variant: sum(q.share for q in own) / len(ids) for variant, own in kept.items()}
    answers = [row for own in kept.values() for question in own for row in question.rows]
    return {
        "questions": len(ids),
        "accuracy": accuracy,
        "spread": max(accuracy.values()) - min(accuracy.values()),
        "same_choice": sum(_same_choice([own[index] for own in kept.values()]) for index in range(len(ids))) / len(ids),
        "right_in_all": sum(all(own[index].share == 1 for own in kept.values()) for index in range(len(ids)))
        / len(ids),
        "positions": _positions(answers),
    }


def _same_choice(orders: Sequence[Question]) -> float:
    """Of one question: the share of pairs of answers in different orders that name the same option."""
    counts = [Counter(answer_of(row) for row in question.rows if is_valid(row)) for question in orders]
    same = pairs = 0
    for index, one in enumerate(counts):
        for later, other in enumerate(counts[index + 1 :], start=index + 1):
            same += sum(count * other[choice] for choice, count in one.items())
            pairs += len(orders[index].rows) * len(orders[later].rows)
    return same / pairs


def _positions(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    valid = [row for row in rows if is_valid(row)]
    chosen, right = Counter(str(row["extracted"]) for row in valid), Counter(str(row["answer"]) for row in rows)
    return {
        letter: {"chosen": chosen[letter] / max(1, len(valid)), "right": right[letter] / len(rows)}
        for letter in sorted(chosen | right)
    }


def transfer(rows: Sequence[Row]) -> dict[str, Any] | None:
    """Choice questions asked again without their options, over those with scored answers in both forms.

    Returns:
        accuracy as `choice` and as `short` answer, their `change` with its paired bootstrap `interval`, and `kept`: of
        the right answers with options, the share that is right without. None where nothing was asked without options.
    """
    choice, short = ({q.first["id"]: q for q in by_question(rows, variant)} for variant in (PLAIN, SHORT))
    both = [(choice[key].share, short[key].share) for key in short if key in choice]
    if not both:
        return None
    with_options, without = np.array(both).T
    right = float(with_options.sum())
    return {
        "questions": len(both),
        "choice": float(with_options.mean()),
        "short": float(without.mean()),
        "change": float((without - with_options).mean()),
        "interval": statistics.interval(without - with_options, least=-1),
        "kept": float((with_options * without).sum()) / right if right else None,
    }
