"""MedCalc-Bench's own verdict beside the reward server's: on answers written by hand for each of the 55 calculators,
and on all published gold answers. Where the two differ, `docs/evaluation.md` has to say why.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from recipes.data.example import Example, read_examples
from recipes.evaluation.medcalc_official import extracted, is_correct
from reward_server.presets import PRESETS
from reward_server.schema import MAX_BATCH_ITEMS, parse_request
from reward_server.service import score
from tests.conftest import REPOSITORY, shared_data

HAND_MADE = Path(__file__).with_name("medcalc_responses.tsv")
INTEGERS = {4, 15, 16, 17, 18, 20, 21, 25, 27, 28, 29, 32, 33, 36, 43, 45, 48, 51}


def question(calculator: int, gold: str) -> Example:
    about = {"id": f"medcalc/{calculator}", "source": "MedCalc-Bench", "question": "?"}
    if calculator in (13, 68):
        return Example(task="date", answer=gold, **about)
    if calculator == 69:
        weeks, days = gold.removesuffix("d").split("w")
        return Example(task="duration", answer={"weeks": int(weeks), "days": int(days)}, **about)
    value = float(gold)
    if calculator in INTEGERS:
        return Example(task="number", answer=value, rounding="integer", **about)
    lower, upper = sorted((0.95 * value, 1.05 * value))
    return Example(task="number", answer=value, lower=lower, upper=upper, **about)


def ours(answers: Sequence[tuple[Example, str]]) -> list[bool]:
    """The reward server's verdicts."""
    items = [
        {"id": str(number), "task": example.task, "response": response, "reference": example.reference()}
        for number, (example, response) in enumerate(answers)
    ]
    found: list[bool] = []
    for start in range(0, len(items), MAX_BATCH_ITEMS):
        batch = {"preset": "gated", "items": items[start : start + MAX_BATCH_ITEMS]}
        results = score(parse_request(json.dumps(batch).encode()), PRESETS["gated"]).results
        found += [result.status == "correct" for result in results]
    return found


def answered(answer: str) -> str:
    return f"<think>t</think><answer>{answer}</answer>"


def test_both_verdicts_on_hand_made_answers_and_a_reason_for_every_difference() -> None:
    with HAND_MADE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    asked = [(question(int(row["calculator"]), row["gold"]), answered(row["response"])) for row in rows]
    found = [
        (verdict, is_correct(response, example))
        for verdict, (example, response) in zip(ours(asked), asked, strict=True)
    ]
    wrong = [
        (row["calculator"], row["response"], verdicts)
        for row, verdicts in zip(rows, found, strict=True)
        if verdicts != (row["ours"] == "right", row["script"] == "right")
    ]
    assert not wrong
    assert all((row["ours"] == row["script"]) is (row["reason"] == "-") for row in rows)
    for verdict in ("right", "wrong"):
        agreed = {row["calculator"] for row in rows if row["ours"] == row["script"] == verdict}
        assert len(agreed) == 55, (verdict, len(agreed))
    explained = (REPOSITORY / "docs" / "evaluation.md").read_text(encoding="utf-8")
    assert {row["reason"] for row in rows if f"| {row['reason']} |" not in explained} == {"-"}


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ('{"step_by_step_thinking": "70 kg", "answer": "22.9"}', "22.9"),
        ('{"answer": "1"} no: {"Answer": 22.9 }', "22.9"),
        ("<answer>1</answer> wait <answer>22.9</answer>", "22.9"),
        ('{"answer": "str(short_and_direct_answer_of_the_question)"}', None),
        ("<answer>X.XX</answer>", None),
        ("<answer>unknown</answer>", None),
        ("22.9", None),
        # The script would run these: text is none.
        ("<answer>str(22.9)</answer>", "22.9"),
        ("<answer>str(round(70 / 1.75 ** 2, 1))</answer>", None),
        ("<answer>str(__import__('os').getcwd())</answer>", None),
        # Numbers that Python cannot read, or that no float can hold.
        ("<answer>8%</answer>", "8%"),
        ("<answer>08%</answer>", "08%"),
        (f"<answer>{'9' * 400}.5</answer>", f"{'9' * 400}.5"),
        (f"<answer>{'9' * 400}%</answer>", f"{'9' * 400}%"),
    ],
)
def test_what_the_script_extracts(response: str, answer: str | None) -> None:
    bmi = question(6, "22.86")
    assert extracted(response, bmi) == answer
    assert is_correct(response, bmi) is (answer == "22.9")
    assert not is_correct(response, question(45, "3"))


@pytest.mark.parametrize(
    ("file", "count", "calculators"),
    [("test_data_v1.0_5523b77.csv", 1047, 55), ("train_subset_valid_split.csv", 1006, 40)],
)
def test_both_verdicts_agree_on_every_published_label(file: str, count: int, calculators: int, tmp_path: Path) -> None:
    source, prepared = shared_data(f"medcalc_bench/{file}"), tmp_path / "medcalc.jsonl"
    command = [sys.executable, "-m", "recipes.prepare_data", "medcalc", str(source), str(prepared)]
    subprocess.run(command, check=True, timeout=60, capture_output=True)
    examples = read_examples(prepared)
    assert len(examples) == count
    assert len({example.meta["calculator"] for example in examples}) == calculators
    for change, expected in ((0.0, True), (1.0, False)):
        asked = [(example, answered(label(example, change))) for example in examples]
        both = zip(asked, ours(asked), strict=True)
        other = [(e.id, response) for (e, response), verdict in both if verdict is not expected]
        assert not other, other[:5]
        other = [(e.id, response) for e, response in asked if is_correct(response, e) is not expected]
        assert not other, other[:5]


def label(example: Example, change: float) -> str:
    """The right answer, or one that is off: a day, a year, or more than the limits allow."""
    if isinstance(example.answer, dict):
        return f"{example.answer['weeks']} weeks, {example.answer['days'] + int(change)} days"
    if isinstance(example.answer, str):
        return f"{example.answer[:-4]}{int(example.answer[-4:]) + int(change)}"
    return f"{example.answer + change * (1 + abs(example.answer)):.12f}".rstrip("0").rstrip(".")


def test_the_command_counts_both_verdicts_by_category_and_on_corrected_labels(tmp_path: Path) -> None:
    asked = {
        "1": (question(6, "22.86"), "22.86 kg/m^2", "correct", question(6, "22.86")),
        "2": (question(3, "80.85"), "87.23", "incorrect", question(3, "87.23")),
        "3": (question(45, "3"), "3", "correct", None),
        "4": (question(45, "3"), "3", "timeout", question(45, "3")),
    }
    subjects = {6: "physical", 3: "lab", 45: "risk"}
    kept: dict[str, list[str]] = {"questions": [], "corrected": []}
    for identity, (example, *_, corrected) in asked.items():
        calculator = int(example.id.removeprefix("medcalc/"))
        own = {"id": identity, "meta": {"subject": subjects[calculator], "calculator": calculator}}
        kept["questions"].append(dataclasses.replace(example, **own).to_json())
        kept["corrected"] += [dataclasses.replace(corrected, **own).to_json()] if corrected else []
    common = {"group": "calculation", "tokens": 1, "answer": "22.86"}
    rows = [
        json.dumps({**common, "id": identity, "response": answered(answer), "status": status, "answer": example.gold()})
        for identity, (example, answer, status, _) in asked.items()
    ]
    rows.append(
        json.dumps({"id": "1", "response": answered("1"), "status": "incorrect", "variant": "shuffled 1", **common})
    )
    for name, lines in {**kept, "after": rows}.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    files = [str(tmp_path / f"{name}.jsonl") for name in ("after", "questions")]
    command = [sys.executable, "-m", "recipes.medcalc", *files]
    whole = [*command, "--corrected", str(tmp_path / "corrected.jsonl")]
    figures = ((66.7, 3), (33.3, 3), (100.0, 2), (50.0, 2))
    said = subprocess.run(whole, check=True, timeout=60, capture_output=True, text=True).stdout
    assert re.split(r"\s{2,}", said.splitlines()[-1].strip()) == ["all", *(f"{share}% of {n}" for share, n in figures)]
    found = json.loads((tmp_path / "medcalc" / "after.json").read_text())["categories"]
    assert list(found) == ["lab", "physical", "risk", "all"]
    certain = {"answers": 1, "right": 1.0, "interval": [pytest.approx(0.025), 1.0]}
    assert found["risk"] == dict.fromkeys(("server", "script"), certain)
    assert found["lab"]["corrected_server"] == certain
    # With the corrected labels in the questions' place, the server's verdicts are by other ones than the script's.
    wrong = subprocess.run(
        [*command[:-1], str(tmp_path / "corrected.jsonl")], timeout=60, capture_output=True, text=True, check=False
    )
    assert wrong.returncode == 1
    assert "after.jsonl: '2' was graded by the label '80.85', and in the files named it is '87.23'" in wrong.stderr
    # An answer to what nobody asked is no answer that can be judged.
    (tmp_path / "questions.jsonl").write_text(kept["questions"][0] + "\n")
    failed = subprocess.run(command, timeout=60, capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert "after.jsonl: the questions of 3 answers are in no file of questions" in failed.stderr
