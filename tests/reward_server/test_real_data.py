"""Published questions: every gold answer scores correct, every other option incorrect."""

from __future__ import annotations

import csv
import json
import re
from typing import Any

import pytest

from reward_server.presets import PRESETS
from reward_server.schema import parse_request
from reward_server.service import score
from tests.reward_server.conftest import DATA

MEDQA = DATA / "mirage" / "medqa" / "phrases_no_exclude_test.jsonl"
MEDXPERTQA = DATA / "medxpertqa" / "MedXpertQA_test_medreason.jsonl"
MEDCALC = DATA / "medcalc_bench" / "test_data_v1.0_5523b77.csv"
INTEGER_CALCULATORS = {4, 15, 16, 17, 18, 20, 21, 25, 27, 28, 29, 32, 33, 36, 43, 45, 48, 51}


def statuses(items: list[dict[str, Any]]) -> list[str]:
    found: list[str] = []
    for start in range(0, len(items), 512):
        body = json.dumps({"preset": "gated", "items": items[start : start + 512]})
        found += [result.status for result in score(parse_request(body.encode()), PRESETS["gated"]).results]
    return found


def of(task: str, number: int, answer: str, reference: dict[str, Any]) -> dict[str, Any]:
    response = f"<think>t</think><answer>{answer}</answer>"
    return {"id": str(number), "task": task, "response": response, "reference": reference}


@pytest.mark.parametrize("path", [MEDQA, MEDXPERTQA], ids=["medqa", "medxpertqa"])
@pytest.mark.parametrize(
    "form", ["{letter}", "({letter})", "{letter}. {text}", "The answer is {letter}: {text}", "{text}"]
)
def test_choice(path: Any, form: str) -> None:
    if not path.exists():
        pytest.skip(f"{path} is not here")
    items, expected = [], []
    for line in path.read_text(encoding="utf-8").splitlines()[:1300]:
        row = json.loads(line)
        options, gold = row["options"], row.get("answer_idx") or row["label"]
        plain = [" ".join(text.casefold().split()).strip(" .") for text in options.values()]
        if form == "{text}" and (len(set(plain)) < len(plain) or min(map(len, plain)) < 2):
            continue  # twin options, or options that are letters themselves, have no name but their letter
        for letter, text in options.items():
            items.append(
                of("choice", len(items), form.format(letter=letter, text=text), {"answer": gold, "options": options})
            )
            expected.append("correct" if letter == gold else "incorrect")
    found = statuses(items)
    wrong = [(i["response"], f, e) for i, f, e in zip(items, found, expected, strict=True) if f != e]
    assert len(items) > 4000
    assert not wrong, wrong[:5]


def test_medcalc_gold_is_correct_and_a_tenth_more_is_not() -> None:
    if not MEDCALC.exists():
        pytest.skip(f"{MEDCALC} is not here")
    csv.field_size_limit(10**8)
    items, expected = [], []
    with MEDCALC.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            calculator, gold = int(row["Calculator ID"]), row["Ground Truth Answer"]
            reference: dict[str, Any]
            if calculator in (13, 68):
                task, reference, wrong = "date", {"answer": gold}, "01/01/1900"
            elif calculator == 69:
                weeks, days = map(int, re.findall(r"\d+", gold))
                task, reference, wrong = "duration", {"answer": {"weeks": weeks, "days": days}}, f"{weeks + 1} weeks"
            elif calculator in INTEGER_CALCULATORS:
                task, reference, wrong = "number", {"answer": float(gold), "rounding": "integer"}, str(float(gold) + 1)
            else:
                lower, upper = float(row["Lower Limit"]), float(row["Upper Limit"])
                task, reference = "number", {"answer": float(gold), "lower": lower, "upper": upper}
                wrong = str(upper + 0.1 * abs(upper) + 0.01)
            for answer, status in ((gold, "correct"), (wrong, "incorrect")):
                items.append(of(task, len(items), answer, reference))
                expected.append(status)
    assert len(items) == 2 * 1047
    found = statuses(items)
    wrong_items = [(i["response"], f, e) for i, f, e in zip(items, found, expected, strict=True) if f != e]
    assert not wrong_items, wrong_items[:5]
