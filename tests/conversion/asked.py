"""How a run asked, as its checkpoint keeps it."""

from __future__ import annotations

from typing import Any

WORDS = {"system": "Say ```` and\n```{{x}}```.", "question": "{question}\n{options}\n", "says_target": False}
LENGTHS: list[dict[str, Any]] = [
    {"mode": "exact", "sentence": "Think for N tokens.", "low": 20, "high": 2000},
    {"mode": "max", "sentence": "Think for maximum 40 tokens.", "low": 40, "high": 40},
]
ASKED: dict[str, Any] = {
    "words": WORDS,
    "template": "chat",
    "shots": 0,
    "lengths": LENGTHS,
    "length_none_share": 0.25,
}
