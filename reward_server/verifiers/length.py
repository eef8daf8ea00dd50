"""Length terms of a response: pure arithmetic on token counts.

Left out: DAPO's soft overlong punishment, and LCPO's multiplicative forms; no preset uses them yet.
"""

from __future__ import annotations

from typing import Literal

VERSION = "1"

LengthMode = Literal["none", "exact", "max"]

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


def excess(mode: LengthMode, tokens: int, target: int) -> float:
    """How far a response misses its target, as a share of the target, in [0, 1].

    With y = `tokens` and n = `target`: max: clip((y - n) / n, 0, 1);  exact: clip(|y - n| / n, 0, 1);  none: 0.
    """
    if mode == "exact":
        return _clip(abs(tokens - target) / target, 0.0, 1.0)
    if mode == "max":
        return _clip((tokens - target) / target, 0.0, 1.0)
    return 0.0


def _clip(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)
