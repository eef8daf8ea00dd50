"""A run of Med-U1 out of one folder of published files: what is taken, left out and refused, whole or not at all."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from conversion.command import run as run_command
from recipes import prepare_data
from recipes.data import med_u1_run
from recipes.data.example import read_examples
from tests.published import write_published


@pytest.fixture
def published(tmp_path: Path) -> Path:
    folder = tmp_path / "published files"
    write_published(folder)
    return folder


@pytest.fixture
def prepare(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """`prepare(OPTION...)`: the command on `published`; what it prints on both streams."""

    def command(*options: str, out: Path = tmp_path / "out", source: Path = published) -> str:
        words = ["prepare_data", "med-u1-run", str(source), str(out), *options]
        monkeypatch.setattr("sys.argv", words)
        code = run_command(prepare_data.main, name="prepare_data", errors=prepare_data.ERRORS)
        said = capsys.readouterr()
        assert (code == 0) == (not said.err), said
        return said.out + said.err

    return command


def test_one_command_makes_training_and_held_out_files(prepare: Callable[..., str], tmp_path: Path) -> None:
    said = prepare()
    out = tmp_path / "out"
    train = read_examples(out / "train.jsonl")
    # Of two rows of each kind one is a held-out question, by its words, its note or both; from 13 words on.
    assert [(e.task, e.id) for e in train] == [
        *(("choice", "mediq/all_dev_good/0"), ("number", "medcalc/train_data/1")),
        *(("text", "medu1/train_huatuo/2"),),
    ]
    assert said.startswith(f"{out / 'train.jsonl'}: 3 rows\nleft out ")
    held_out = {name: read_examples(out / f"{name}.jsonl") for name in med_u1_run.HELD_OUT}
    assert {name: [(e.source, e.meta["distribution"]) for e in rows] for name, rows in held_out.items()} == {
        "in_distribution": [
            (name, "in distribution") for name in ("MedQA-US", "MedCalc-Bench", "medical-o1-reasoning-SFT")
        ],
        "out_of_distribution": [(name, "out of distribution") for name in ("MMLU-Pro", "MedXpertQA")],
    }
    read_examples(*(out / f"{name}.jsonl" for name in held_out))  # ids are unique in both
    manifest = json.loads((out / "train.jsonl.manifest.json").read_text())
    assert [Path(each["path"]).name for each in manifest["source"]["files"]] == [
        *("all_dev_good.jsonl", "train_data.csv", "train_huatuo.parquet")
    ]
    assert [each["path"] for each in manifest["options"]["against"]] == [
        str(out / f"{name}.jsonl") for name in med_u1_run.HELD_OUT
    ]


def test_a_second_time_takes_what_is_there_or_says_why_not(
    prepare: Callable[..., str], published: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = prepare()
    times = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert prepare("--reuse") == first
    moved = shutil.copytree(published, tmp_path / "elsewhere")
    assert prepare("--reuse", source=moved) == first
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == times
    assert "exists; choose another destination or pass --force" in prepare()
    with (moved / "train_data.csv").open("a") as file:
        file.write("\n")
    assert f"{out}: was made of another {moved / 'train_data.csv'} than is there" in prepare("--reuse", source=moved)
    with (out / "train.jsonl").open("a") as file:
        file.write("\n")
    assert f"{out / 'train.jsonl'}: has changed since it was made" in prepare("--reuse")
    assert f"{published / 'a' / 'b'}: overlaps the source {published}" in prepare(out=published / "a" / "b")
    assert not (published / "a").exists()
    (tmp_path / "empty").mkdir()
    assert "is no data of med-u1-run" in prepare("--reuse", out=tmp_path / "empty")


def _without(name: str) -> Callable[[Path], object]:
    return lambda folder: next(folder.rglob(name)).unlink()


def _twice(folder: Path) -> None:
    shutil.copytree(folder / "medqa", folder / "again")


def _another_set(folder: Path) -> None:
    (folder / "train_data.csv").write_text((folder / "mediq" / "all_dev_good.jsonl").read_text())


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_without("huatuo_test.json"), r"lacks files .*: open answers to evaluate on: huatuo_test.json. Put or link"),
        (_without("train_data.csv"), r"calculations to train on: train_medcalc.parquet or train_data\*.csv or "),
        (_twice, r"phrases_no_exclude_test.jsonl and .*phrases_no_exclude_test.jsonl may both be choice questions to"),
        (_another_set, r"train_data.csv"),
        (lambda folder: (folder / "train_huatuo.parquet").write_bytes(b"PAR1"), r"train_huatuo.parquet"),
        (shutil.rmtree, r"published files: is no folder; name one with the published files in it"),
    ],
)
def test_what_cannot_be_prepared_is_named_and_leaves_nothing(
    spoil: Callable[[Path], object], said: str, prepare: Callable[..., str], published: Path, tmp_path: Path
) -> None:
    spoil(published)
    told = prepare()
    assert re.search(said, told), told
    assert told.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} <= {"published files"}
