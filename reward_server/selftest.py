"""Golden items: one right and one wrong answer per task, and the ways to have none.

The service answers /readyz with 200 only after scoring them as written here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from reward_server.presets import PRESETS
from reward_server.schema import parse_request
from reward_server.service import Verifier, score

_OPTIONS = {"A": "Aspirin", "B": "E. coli", "C": "Heparin", "D": "Warfarin"}
_CHOICE: dict[str, object] = {"answer": "C", "options": _OPTIONS}
_NUMBER: dict[str, object] = {"answer": 23.5, "lower": 22.325, "upper": 24.675}

# Name, task, answer block, reference, status, gated reward.
GOLDEN: tuple[tuple[str, str, str, dict[str, object], str, float], ...] = (
    ("choice right", "choice", "<answer>(C) Heparin</answer>", _CHOICE, "correct", 1.0),
    ("choice wrong", "choice", "<answer>B</answer>", _CHOICE, "incorrect", 0.1),
    ("choice several", "choice", "<answer>A or C</answer>", _CHOICE, "no_answer", 0.0),
    ("number right", "number", "<answer>23.4 kg/m2</answer>", _NUMBER, "correct", 1.0),
    ("number wrong", "number", "<answer>25</answer>", _NUMBER, "incorrect", 0.1),
    ("number unreadable", "number", "<answer>high</answer>", _NUMBER, "malformed", 0.0),
    ("integer right", "number", "<answer>3</answer>", {"answer": 3, "rounding": "integer"}, "correct", 1.0),
    ("date right", "date", "<answer>9/3/2014</answer>", {"answer": "09/03/2014"}, "correct", 1.0),
    ("date wrong", "date", "<answer>09/04/2014</answer>", {"answer": "09/03/2014"}, "incorrect", 0.1),
    ("duration right", "duration", "<answer>125 days</answer>", {"answer": {"weeks": 17, "days": 6}}, "correct", 1.0),
    ("duration wrong", "duration", "<answer>17 weeks</answer>", {"answer": {"weeks": 17, "days": 6}}, "incorrect", 0.1),
    ("text right", "text", "<answer>The heparin.</answer>", {"answer": "Heparin"}, "correct", 1.0),
    ("text wrong", "text", "<answer>warfarin</answer>", {"answer": "Heparin"}, "incorrect", 0.1),
    ("no answer block", "choice", "", _CHOICE, "no_answer", 0.0),
    ("text after the answer", "choice", "<answer>C</answer> done", _CHOICE, "correct", 0.0),
)


def failures(verifiers: Mapping[str, Verifier]) -> list[str]:
    """Scores the golden items with the preset `gated`; the names of those that came out otherwise, empty when well."""
    items = [
        {"id": name, "task": task, "response": f"<think>t</think>{block}", "reference": reference}
        for name, task, block, reference, _, _ in GOLDEN
    ]
    request = parse_request(json.dumps({"preset": "gated", "items": items}).encode())
    results = score(request, PRESETS["gated"], verifiers).results
    return [
        golden[0]
        for golden, result in zip(GOLDEN, results, strict=True)
        if (result.status, result.reward) != (golden[4], golden[5])
    ]
