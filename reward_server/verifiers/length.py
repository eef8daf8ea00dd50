"""Length terms of a response: pure arithmetic on token counts.

Presets use Med-U1's term or the relative cost; an item can ask for L1's, DAPO's or the relative one instead. Left out:
L1's sigmoid.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

VERSION = "3"

LengthMode = Literal["none", "exact", "max"]

LengthShape = Literal["preset", "l1", "dapo", "relative", "relative_all"]

EXACT_SCALE = 1500  # tokens; Med-U1, alpha = 1/1500
MAX_SCALE = 500  # tokens; Med-U1


def med_u1_term(mode: LengthMode, tokens: int, target: int) -> float:
    """Med-U1's length term, in [-1, 1] (arXiv 2506.12307, released `verl/utils/reward_score/medical_score.py`).

    With y = `tokens` of the whole response without its prompt, and n = `target`:
    exact: clip(1 - |y - n| / 1500, -1, 1);  max: clip(-(y - n) / 500, -1, 1);  none: 0.
    """
    if mode == "exact":
        return _clip(1 - abs(tokens - target) / EXACT_SCALE, -1.0, 1.0)
    if mode == "max":
        return _clip((target - tokens) / MAX_SCALE, -1.0, 1.0)
    return 0.0


L1_EXACT_ALPHA = 0.0003  # a token; L1's released math_reward.py
L1_MAX_ALPHA = 0.002


def l1_term(mode: LengthMode, tokens: int, target: int) -> float:
    """L1's length terms (arXiv 2503.04697; cmu-l3/l1, released `math_reward.py`).

    With y = `tokens`, n = `target`: exact: -0.0003 |y - n|, which is added for right and wrong answers alike; max:
    (clip(-0.002 (y - n), -1, 1) + 1) / 2, which multiplies 1[correct], so that a wrong answer earns nothing by being
    short; none: 0. The paper's max has another slope, clip(0.0003 (n - y) + 0.5, 0, 1).
    """
    if mode == "exact":
        return -L1_EXACT_ALPHA * abs(tokens - target)
    if mode == "max":
        return (_clip(-L1_MAX_ALPHA * (tokens - target), -1.0, 1.0) + 1) / 2
    return 0.0


def dapo_term(tokens: int, target: int, buffer: int) -> float:
    """DAPO's soft overlong punishment, in [-1, 0].

    With y = `tokens`, L = `target` (the longest response) and c = `buffer`: 0 up to L - c, then (L - c - y) / c, and -1
    beyond L.
    """
    return _clip((target - buffer - tokens) / buffer, -1.0, 0.0)


def excess(mode: LengthMode, tokens: int, target: int) -> float:
    """How far a response misses its target, as a share of the target, in [0, 1].

    With y = `tokens` and n = `target`: max: clip((y - n) / n, 0, 1);  exact: clip(|y - n| / n, 0, 1);  none: 0.
    """
    if mode == "exact":
        return _clip(abs(tokens - target) / target, 0.0, 1.0)
    if mode == "max":
        return _clip((tokens - target) / target, 0.0, 1.0)
    return 0.0


RELATIVE_WEIGHT = 0.2


def relative_cost(mode: LengthMode, tokens: int, target: int) -> float:
    """What a right answer pays for its length, -0.2 e in [-0.2, 0] with e its `excess`; a wrong one pays nothing.

    Ours. Relative, so that 100 tokens too many cost more of 200 than of 2,000; and for right answers alone, because in
    Med-U1's sum and L1-Exact's a wrong answer of the right length outbids an effort.
    """
    return -RELATIVE_WEIGHT * excess(mode, tokens, target) + 0.0


_WORD_OR_MARK = re.compile(r"\w+|[^\w\s]")


def token_gap(answer: str, right: Sequence[str]) -> int:
    """|words and marks of `answer` - those of a right answer|, the least over `right`; 0 where there is none.

    General-Reasoner counts the tokens of the policy's tokenizer, which the server does not have.
    """
    count = len(_WORD_OR_MARK.findall(answer))
    return min((abs(count - len(_WORD_OR_MARK.findall(each))) for each in right), default=0)


def _clip(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)
