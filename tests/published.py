"""Published files of a run of Med-U1, in small: under the names and in the forms of their authors."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

OPTIONS = {"A": "iron", "B": "zinc", "C": "tin", "D": "lead"}
ASKED = "A man of {} years has coughed for three weeks and lost weight since spring; which metal does he lack most?"
PRO = {"category": "health", "src": "x"}
XPERT = {"medical_task": "Diagnosis", "body_system": "Skeletal", "question_type": "Reasoning"}


def _choice(years: str, **more: Any) -> dict[str, Any]:
    return {"question": ASKED.format(years), "options": OPTIONS, "answer_idx": "B", "answer": "zinc", **more}


def _medcalc(number: int, note: str) -> dict[str, Any]:
    about = {"Row Number": number, "Calculator ID": 6, "Calculator Name": "BMI", "Category": "physical"}
    asked = {"Output Type": "decimal", "Note ID": f"p{number}", "Patient Note": note, "Question": "What is the BMI?"}
    return about | asked | {"Ground Truth Answer": "20", "Lower Limit": "19", "Upper Limit": "21"}


def _verl(question: str) -> dict[str, Any]:
    return {
        "data_source": "medical-o1-reasoning-SFT",
        "prompt": [{"role": "user", "content": f"{question} Think for 300 tokens."}],
        "reward_model": {"ground_truth": "It is zinc.", "num_tokens": 300, "lower_limit": None, "upper_limit": None},
        "extra_info": {"index": 0, "split": "train"},
    }


def write_published(folder: Path) -> None:
    """Writes them; of two training rows of each kind one is a held-out question."""
    lines = {
        "mediq/all_dev_good.jsonl": [
            {**_choice("six"), "question": asked, "id": n, "context": ["He is tall."], "facts": []}
            for n, asked in enumerate(("Which metal makes him taller?", ASKED.format("six")))
        ],
        "medqa/phrases_no_exclude_test.jsonl": [_choice("fifty")],
        "mmlu-pro/test.jsonl": [{**_choice("ninety"), **PRO, "realidx": 1}],
        "medxpertqa/MedXpertQA_test.jsonl": [
            {"id": "Text-1", "question": ASKED.format("six"), "options": OPTIONS, "label": "B", **XPERT}
        ],
    }
    for name, rows in lines.items():
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, rows in (
        ("train_data.csv", [_medcalc(1, "A woman of 50 kg and 1.58 m."), _medcalc(2, "A man of 80 kg and 2 m.")]),
        ("test_data.csv", [_medcalc(1, "A man of 80 kg and 2 m.")]),
    ):
        with (folder / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    table = pyarrow.Table.from_pylist([_verl("Which metal heals?"), _verl("Which metal is in thermometers?")])
    pyarrow.parquet.write_table(table, folder / "train_huatuo.parquet")
    held_out = {"Source": "medical-o1-reasoning-SFT", "problem": "Which metal heals?", "answer": "Zinc.", "think": ""}
    (folder / "huatuo_test.json").write_text(json.dumps([held_out]))
