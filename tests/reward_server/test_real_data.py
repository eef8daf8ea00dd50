"""Published questions: every gold answer scores correct, every other option incorrect."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reward_server.presets import PRESETS
from reward_server.schema import parse_request
from reward_server.service import score
from tests.reward_server.conftest import DATA

INTEGER_CALCULATORS = {4, 15, 16, 17, 18, 20, 21, 25, 27, 28, 29, 32, 33, 36, 43, 45, 48, 51}
MEDCALC = DATA / "medcalc_bench"
Question = tuple[dict[str, str], str]  # options and the right letter


def _json_lines(path: Path, answer: str) -> list[Question]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [(row["options"], row[answer]) for row in rows]


def medxpertqa_sampled() -> list[Question]:
    path = DATA / "medxpertqa" / "medxpertqa_sampled_text_input.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [({o["letter"]: o["content"] for o in row["options"]}, row["label"][0]) for row in rows]


def medqa_dev() -> list[Question]:
    questions = []
    for row in json.loads((DATA / "medqa_dev" / "medqa_full_dev.json").read_text(encoding="utf-8")):
        options = {text[0]: text[3:] for text in row["options"]}  # "A. Chloramphenicol"
        questions.append((options, next(letter for letter, text in options.items() if text == row["answer"])))
    return questions


def medmcqa() -> list[Question]:
    rows = (DATA / "mirage" / "medmcqa" / "dev.json").read_text(encoding="utf-8").splitlines()
    parsed = [json.loads(row) for row in rows]
    return [({k: r[f"op{k.lower()}"] for k in "ABCD"}, "ABCD"[int(r["cop"]) - 1]) for r in parsed]


def mmlu() -> list[Question]:
    questions = []
    for path in sorted((DATA / "mirage" / "mmlu").glob("*_test.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            questions += [(dict(zip("ABCD", row[1:5], strict=True)), row[5]) for row in csv.reader(file)]
    return questions


def pubmedqa() -> list[Question]:
    options = {"A": "yes", "B": "no", "C": "maybe"}
    rows = json.loads((DATA / "pubmedqa" / "ori_pqal.json").read_text(encoding="utf-8")).values()
    return [(options, next(k for k, v in options.items() if v == row["final_decision"])) for row in rows]


CHOICE: dict[str, tuple[Callable[[], list[Question]], int]] = {
    "medqa": (lambda: _json_lines(DATA / "mirage/medqa/phrases_no_exclude_test.jsonl", "answer_idx"), 1273),
    "medqa-dev": (medqa_dev, 1272),
    "medmcqa": (medmcqa, 4183),
    "mmlu": (mmlu, 1089),
    "pubmedqa": (pubmedqa, 1000),
    "mmlu-pro-health": (lambda: _json_lines(DATA / "medagents_benchmark/mmlu-pro/test.jsonl", "answer_idx"), 818),
    "medxpertqa": (lambda: _json_lines(DATA / "medxpertqa/MedXpertQA_test_medreason.jsonl", "label"), 1449),
    "medxpertqa-sampled": (medxpertqa_sampled, 244),
}
FORMS = ("{letter}", "({letter})", "{letter}. {text}", "The answer is {letter}: {text}", "{text}")


def statuses(items: list[dict[str, Any]]) -> list[str]:
    found: list[str] = []
    for start in range(0, len(items), 512):
        body = json.dumps({"preset": "gated", "items": items[start : start + 512]})
        found += [result.status for result in score(parse_request(body.encode()), PRESETS["gated"]).results]
    return found


def of(task: str, number: int, answer: str, reference: dict[str, Any]) -> dict[str, Any]:
    response = f"<think>t</think><answer>{answer}</answer>"
    return {"id": str(number), "task": task, "response": response, "reference": reference}


pytestmark = pytest.mark.skipif(not DATA.exists(), reason=f"{DATA}, the published questions, is not here")


@pytest.mark.parametrize("name", CHOICE)
def test_every_gold_option_is_correct_and_every_other_is_not(name: str) -> None:
    load, count = CHOICE[name]
    questions = load()
    assert len(questions) == count
    items, expected = [], []
    for options, gold in questions:
        for form in FORMS:
            if form == "{text}" and not _tells_apart(options):
                continue
            for letter, text in options.items():
                answer = form.format(letter=letter, text=text)
                items.append(of("choice", len(items), answer, {"answer": gold, "options": options}))
                expected.append("correct" if letter == gold else "incorrect")
    found = statuses(items)
    wrong = [(i["response"], f, e) for i, f, e in zip(items, found, expected, strict=True) if f != e]
    assert len(items) > 12 * count
    assert not wrong, (len(wrong), wrong[:5])


def _tells_apart(options: dict[str, str]) -> bool:
    """Twin options, or options that are letters themselves, have no name but their letter."""
    plain = [" ".join(text.casefold().split()).strip(" .") for text in options.values()]
    return len(set(plain)) == len(plain) and min(map(len, plain)) > 1


@pytest.mark.parametrize(
    ("file", "count"), [("test_data_v1.0_5523b77.csv", 1047), ("train_subset_valid_split.csv", 1006)]
)
def test_medcalc_gold_is_correct_and_a_tenth_more_is_not(file: str, count: int) -> None:
    csv.field_size_limit(10**8)
    items, expected = [], []
    with (MEDCALC / file).open(encoding="utf-8", newline="") as opened:
        for row in csv.DictReader(opened):
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
    assert len(items) == 2 * count
    found = statuses(items)
    wrong_items = [(i["response"], f, e) for i, f, e in zip(items, found, expected, strict=True) if f != e]
    assert not wrong_items, wrong_items[:5]
