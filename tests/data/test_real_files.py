"""Every published file that lies beside the checkout is read whole: as many rows as its list says, each one an Example.

Skipped where the files are not there.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from recipes.data.example import Example, example_from_row
from recipes.data.readers import READERS, LeftOut
from recipes.data.sources import FileSource
from recipes.data.tables import read_rows
from tests.conftest import SHARED_DATA, shared_data

CORRECTED = "medcalc_corrected/medcalc_v1_corrected.csv"
TEST_V1 = "medcalc_bench/test_data_v1.0_5523b77.csv"
NO_TEXT = "its answer is not a text with a letter or digit"  # "< [ { } ] >", from a puzzle
# Kind, file, options, rows, rows left out by reason: together, the rows of the list.
FILES: list[tuple[str, str, dict[str, Any], int, dict[str, int]]] = [
    ("medqa", "medqa_dev/medqa_full_dev.json", {}, 1272, {}),
    ("medqa", "mirage/medqa/phrases_no_exclude_test.jsonl", {}, 1273, {}),
    ("medmcqa", "mirage/medmcqa/dev.json", {}, 4179, {"another option has the right one's text": 4}),
    ("mmlu", "mirage/mmlu", {}, 1089, {}),
    ("mmlu-pro", "medagents_benchmark/mmlu-pro/test.jsonl", {}, 818, {}),
    ("mmlu-pro", "medagents_benchmark/mmlu-pro/test_hard.jsonl", {}, 100, {}),
    ("mmlu-pro", "medagents_benchmark/mmlu-pro/train.jsonl", {}, 5, {}),
    ("pubmedqa", "pubmedqa/ori_pqal.json", {}, 500, {"row of the official test split": 500}),
    ("pubmedqa", "pubmedqa/ori_pqal.json", {"part": "test"}, 500, {"row of the official train split": 500}),
    ("pubmedqa", "mirage/pubmedqa/test_set.json", {"part": "all"}, 500, {}),
    ("medxpertqa", "medxpertqa/MedXpertQA_test_medreason.jsonl", {}, 1449, {}),
    ("medxpertqa", "medxpertqa/medxpertqa_sampled_text_input.jsonl", {}, 244, {}),
    ("mediq", "mediq/all_dev_good.jsonl", {}, 1272, {}),
    ("mediq", "mediq/all_craft_md.jsonl", {}, 139, {"its letter and its answer's text are two options": 1}),
    ("medcalc", TEST_V1, {}, 1047, {}),
    ("medcalc", "medcalc_bench/train_subset_valid_split.csv", {}, 1006, {}),
    ("medcalc", TEST_V1, {"label_overrides": CORRECTED}, 978, {"its corrected label is none": 69}),
    ("medical-o1", "huatuo_o1/demo_data.json", {}, 198, {}),
    ("medical-o1", "huatuo_o1/demo_data.json", {"answers": "long"}, 198, {}),
    ("medu1", "medu1/huatuo.json", {}, 999, {NO_TEXT: 1}),
    ("medu1", "medu1/huatuo_test.json", {}, 1000, {}),
    ("medu1", "medu1/train_huatuo.parquet", {}, 7999, {NO_TEXT: 1}),
]


@pytest.mark.parametrize(("kind", "name", "options", "count", "left_out"), FILES, ids=[f"{f[1]} {f[2]}" for f in FILES])
def test_a_published_file(
    kind: str, name: str, options: dict[str, Any], count: int, left_out: dict[str, int], tmp_path: Path
) -> None:
    path = SHARED_DATA / name
    if not path.is_dir():
        path = shared_data(name)
    if "label_overrides" in options:
        options = {"label_overrides": shared_data(options["label_overrides"])}
    found = list(READERS[kind].rows(FileSource(path), kind, **options))
    examples = [row for row in found if isinstance(row, Example)]
    assert len(examples) == count
    assert Counter(row.reason for row in found if isinstance(row, LeftOut)) == left_out
    assert len({example.id for example in examples}) == count
    for example in examples:
        text = example.question + (example.context or "")
        assert example.license != "unknown"
        assert not any(mark in text for mark in ("<|im_", "<answer>", "<Question>", "\nAnswer Choices:", "Think for "))
    if "label_overrides" in options:
        assert sum(example.meta.get("label") == "corrected" for example in examples) == 887 - 69


def test_every_data_file_of_the_list_is_read_above() -> None:
    """One-shot explanations have no questions; PubMedQA's test ids and the corrected labels are read with others."""
    shared_data("README.md")
    beside = {"one_shot_finalized_explanation.json", "test_ground_truth.json", Path(CORRECTED).name}
    read = {name for _, name, *_ in FILES}
    for path in SHARED_DATA.rglob("*"):
        if path.suffix in (".json", ".jsonl", ".csv", ".parquet") and path.name not in beside:
            name = str(path.relative_to(SHARED_DATA))
            if (
                path.name == "verified_one_shot_data.csv"
            ):  # of which some copies of the folder have only the list's line
                assert len(list(READERS["medcalc"].rows(FileSource(path), "x"))) == 55
                continue
            assert name in read or str(path.parent.relative_to(SHARED_DATA)) in read, name
    rows = list(read_rows(shared_data("medcalc_bench/one_shot_finalized_explanation.json"), keyed_by="Response"))
    assert len(rows) == 55


def test_gestational_ages_of_the_corrected_labels_are_the_days_that_they_were() -> None:
    path = shared_data(CORRECTED)
    options = {"label_overrides": path, "overridden_only": True}
    rows = list(READERS["medcalc"].rows(FileSource(shared_data(TEST_V1)), "medcalc", **options))
    days = {row["Unique ID"]: row["Ground Truth Answer"] for row in read_rows(path)}
    ages = [row for row in rows if isinstance(row, Example) and row.meta["calculator"] == 69]
    assert len(ages) == 20
    for example in ages:
        assert isinstance(example.answer, dict)
        assert 7 * example.answer["weeks"] + example.answer["days"] == int(days[example.id.removeprefix("medcalc/")])
    assert example_from_row(ages[0].__dict__ | {"aliases": []}, "again") == ages[0]
