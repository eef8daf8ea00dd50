"""How often the phase of a response is told right, beside the labels of benchmarks/phases_responses.yaml.

    python benchmarks/phases.py

No GPU, a second. Responses told wrong are printed by phase, half and number. The rules were made with half of the
responses (`built_on`) in sight, and run on the other once they stood: 0.9333 of it were told right. One rule was
changed after that, so `accuracy_held_out` is no unseen figure any more (docs/monitoring.md). Rules and labels have one
author, so that strangers' responses will be told right less often. The last line is one JSON object:

    accuracy            of all responses
    accuracy_built_on, accuracy_held_out
                        of either half
    confusion           labelled phase, told phase: responses
    confusion_held_out  the same of the held-out half
    responses           how many
    microseconds        of processor time a response
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
# This file shares its name with a module of the package that it measures, and its folder comes first.
sys.path[0] = str(ROOT)

from recipes.monitor.phases import Phase, features, phase_of  # noqa: E402

RESPONSES = Path(__file__).with_name("phases_responses.yaml")
# Labelled phase and told phase.
Pairs = Iterable[tuple[Phase, Phase]]


def accuracy(pairs: Pairs) -> float:
    right = [label is told for label, told in pairs]
    return sum(right) / len(right)


def confusion(pairs: Pairs) -> dict[str, dict[str, int]]:
    counts = Counter(pairs)
    return {
        label.name.lower(): {told.name.lower(): counts[label, told] for told in Phase if counts[label, told]}
        for label in Phase
    }


def main() -> None:
    labelled = yaml.safe_load(RESPONSES.read_text())
    halves: dict[str, list[tuple[Phase, Phase]]] = {"built_on": [], "held_out": []}
    began = time.process_time()
    for name, of_phase in labelled.items():
        for half, responses in of_phase.items():
            for number, each in enumerate(responses, 1):
                (text,) = each.values()
                label, told = Phase[name.upper()], phase_of(features(text))
                halves[half].append((label, told))
                if told is not label:
                    print(f"{name}, {half} {number}: told as {told.name.lower()}")
    spent = time.process_time() - began
    everything = halves["built_on"] + halves["held_out"]
    result = {
        "accuracy": round(accuracy(everything), 4),
        **{f"accuracy_{half}": round(accuracy(pairs), 4) for half, pairs in halves.items()},
        "confusion": confusion(everything),
        "confusion_held_out": confusion(halves["held_out"]),
        "responses": len(everything),
        "microseconds": round(1e6 * spent / len(everything), 1),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
