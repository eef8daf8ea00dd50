"""Numbers that the worker and the reference share; apart, since importing the worker patches torch for Megatron."""

from __future__ import annotations

from typing import Any

CLIP_LOW, CLIP_HIGH = 0.2, 0.28
# What differs from GRPO's objective, by name.
OBJECTIVES: dict[str, dict[str, Any]] = {
    "grpo": {},
    "gspo": {"ratio": "sequence", "reduction": "sequence"},
    "cispo with entropy": {"surrogate": "cispo", "entropy_coef": 0.2},
    "dual clip": {"dual_clip": 1.1, "reduction": "sequence"},
}
# Bytes of a bucket in which weights are handed over: a layer each, two layers, everything.
BUCKETS = (1, 200_000, 2**30)
