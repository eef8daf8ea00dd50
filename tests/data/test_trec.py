"""TREC Clinical Trials: patients, judgements and trials joined, and files at fault or of two years told."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from recipes.data.errors import ExampleError
from recipes.data.example import Example
from recipes.data.readers import READERS, LeftOut
from recipes.data.sources import FileSource


def _lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _read(path: Path, **options: Any) -> tuple[list[Example], list[LeftOut]]:
    rows = list(READERS["trec"].rows(FileSource(path), "x", **options))
    return [r for r in rows if isinstance(r, Example)], [r for r in rows if isinstance(r, LeftOut)]


TOPICS = """<topics task="2021 TREC Clinical Trials">
<topic number="1">A man of 45 with R&D exposure &amp; SpO2 < 90.</topic>
<topic number="2" template="glaucoma"><field name="age">60</field><field name="iop"/></topic></topics>"""
TRIAL = """<clinical_study><id_info><nct_id>{0}</nct_id></id_info><brief_title>Trial {0}</brief_title>
<condition>Cough</condition><eligibility><criteria><textblock>
      Inclusion:

      -  Age over
         40
</textblock></criteria><minimum_age>18 Years</minimum_age></eligibility></clinical_study>"""


@pytest.fixture
def trec(tmp_path: Path) -> dict[str, Path]:
    folder = tmp_path / "trials"
    (folder / "NCT000").mkdir(parents=True)
    (folder / "NCT000" / "NCT1.xml").write_text(TRIAL.format("NCT1"))
    with zipfile.ZipFile(folder / "part2.zip", "w") as archive:
        archive.writestr("NCT001/NCT2.xml", TRIAL.format("NCT2"))
        archive.writestr("NCT001/NCT9.xml", "never read, since nobody judged it")
    (tmp_path / "topics.xml").write_text(TOPICS)
    (tmp_path / "qrels.txt").write_text("1 0 NCT1 2\n1 0 NCT2 1\n2 0 NCT2 0\n2 0 NCT3 1\n")
    return {"trials": folder, "topics": tmp_path / "topics.xml", "judgements": tmp_path / "qrels.txt"}


def test_trec_joins_patients_judgements_and_trials(trec: dict[str, Path], tmp_path: Path) -> None:
    sources = {name: trec[name] for name in ("topics", "judgements")}
    examples, [left] = _read(trec["trials"], **sources)
    assert [(e.id, e.answer, e.meta["topic"]) for e in examples] == [
        ("x/1/NCT1", "A", "1"),
        ("x/1/NCT2", "B", "1"),
        ("x/2/NCT2", "C", "2"),
    ]
    assert (left.reason, left.where) == (f"its trial is not in {trec['trials']}", f"{trec['judgements']}:4")
    assert examples[0].context == (
        "Patient:\nA man of 45 with R&D exposure & SpO2 < 90.\n\n"
        "Clinical trial NCT1:\nTitle: Trial NCT1\nConditions: Cough\nMinimum age: 18 Years\n"
        "Criteria: Inclusion:\n- Age over 40"
    )
    assert examples[2].context is not None
    assert examples[2].context.startswith("Patient:\nglaucoma\nage: 60\n\n")
    trial = {
        "_id": "NCT1",
        "title": "Trial",
        "metadata": {"diseases_list": "['cough']", "inclusion_criteria": "over 40"},
    }
    examples, _ = _read(_lines(tmp_path / "corpus.jsonl", trial, {**trial, "_id": "NCT8"}), **sources)
    assert [e.id for e in examples] == ["x/1/NCT1"]
    with pytest.raises(ExampleError, match=r"corpus\.jsonl, row 1: field 'metadata': expected an object, found 'none'"):
        _read(_lines(tmp_path / "corpus.jsonl", {**trial, "metadata": "none"}), **sources)
    assert (examples[0].context or "").endswith("Title: Trial\nConditions: cough\nInclusion criteria: over 40")


def test_trec_topics_and_judgements_of_two_years_are_told(trec: dict[str, Path]) -> None:
    """Topic 1 is another patient each year: joined across years every label would be wrong."""
    trials, topics, judgements = trec.values()
    for name in ("qrels2021.txt", "qrels_20260101.txt"):
        judgements = judgements.rename(judgements.with_name(name))
        assert len(_read(trials, topics=topics, judgements=judgements)[0]) == 3
    judgements = judgements.rename(judgements.with_name("qrels2022.txt"))
    with pytest.raises(ExampleError, match=r"qrels2022\.txt: is of 2022 by its name, and .*topics\.xml of 2021"):
        _read(trials, topics=topics, judgements=judgements)
    judgements = judgements.rename(judgements.with_name("qrels.txt"))
    judgements.write_text("1 0 NCT1 2\n")
    [left] = _read(trials, topics=topics, judgements=judgements)[1]
    assert (left.reason.partition(";")[0], left.where) == ("a topic without a judgement", f"{topics}, topic 2")


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("judgements", "1 0 NCT1\n", r"qrels\.txt:1: expected 'topic 0 trial grade'"),
        ("judgements", "1 0 NCT1 2\n1 0 NCT1 1\n", r"qrels\.txt:2: .* are judged in line 1 already"),
        ("judgements", "7 0 NCT1 2\n", r"qrels\.txt:1: topic 7 is none of the topics"),
        ("judgements", "\n", r"qrels\.txt: holds no judgements"),
        ("topics", TOPICS[:80], r"topics\.xml: not XML"),
        ("topics", "<topics/>", r"topics\.xml: holds no <topic"),
        ("topics", "<topics><topic number='1'/></topics>", r"topics\.xml, topic 1: expected a number of its own"),
    ],
)
def test_trec_files_at_fault_are_named(file: str, content: str, said: str, trec: dict[str, Path]) -> None:
    trec[file].write_text(content)
    with pytest.raises(ExampleError, match=said):
        _read(trec.pop("trials"), **trec)
