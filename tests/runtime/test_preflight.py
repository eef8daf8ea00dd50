"""Preflight: what can be known before submission, each problem with its fix, and the arithmetic of the disk."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from recipes import preflight
from recipes.runtime.loading import load

# The tiny model: embeddings 1024 x 128, tied, and four layers of
#   q 128 x 128 + 128, k and v 128 x 64 + 64 each, o 128 x 128, three of 128 x 384, two norms of 128 = 197,120,
# and a last norm of 128: 131,072 + 788,480 + 128.
_PARAMETERS = 919_680

Overrides = Callable[..., list[str]]


@pytest.fixture
def overrides(tiny_checkpoint: Path, embedded_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Overrides:
    """`overrides(change, ...)`: those of a run that fits, and changes."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    fits = [
        *(f"output={tmp_path}/run", f"model.path={tiny_checkpoint}", f"data.train=[{embedded_data}/train.jsonl]"),
        *("model.max_length=512", "rollout.max_new_tokens=64", "rollout.prompts=12", "trainer.batch=12"),
    ]
    return lambda *changes: [*fits, *changes]


def _needed(lines: list[str]) -> str:
    found = re.fullmatch(r"disk: .* free at (.*), (.*) needed", lines[-1])
    assert found, lines
    return found[2]


def test_what_fits_is_listed(overrides: Overrides, embedded_data: Path, tiny_checkpoint: Path) -> None:
    layout = ["parallel.processes=4", "parallel.tensor=2", "parallel.pipeline=2"]
    lines = preflight.check(load(overrides(*layout, f"data.test=[{embedded_data}/test.jsonl]")))
    train, test = (len((embedded_data / f"{name}.jsonl").read_text().splitlines()) for name in ("train", "test"))
    assert lines[:-1] == [
        f"model: 0.00092 billion parameters at {tiny_checkpoint}",
        "layout: 4 ranks as tensor 2 x pipeline 2 x data 1",
        f"data.train: {train} examples in {embedded_data}/train.jsonl",
        f"data.test: {test} examples in {embedded_data}/test.jsonl",
    ]


def test_the_disk_that_a_run_needs(overrides: Overrides, tiny_hf: Path, tmp_path: Path) -> None:
    def needed(*changes: str) -> str:
        return _needed(preflight.check(load(overrides(*changes))))

    # Float32 with moments, 12 bytes a parameter: 11,036,160 a checkpoint. Two are kept, beside the best and a new one.
    assert _PARAMETERS * 12 == 11_036_160
    assert needed() == "44 MB"
    assert needed("trainer.keep=5") == "77 MB"
    assert needed("trainer.keep=0") == "33 MB"
    # 14 bytes: 2 of bfloat16, 4 of main weights and 8 of moments.
    assert needed("model.precision=bfloat16") == "52 MB"
    # Its conversion writes 4 bytes a parameter, 3,678,720 more.
    assert needed(f"model.path={tiny_hf}") == "48 MB"
    # What the run holds already is part of what it will hold.
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "held").write_bytes(bytes(40_000_000))
    assert needed() == "4145 kB"
    (tmp_path / "run" / "more").write_bytes(bytes(5_000_000))
    assert needed() == "0 B"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["model.path=/nowhere"], "/nowhere/config.json: no such file; expected a Hugging Face model folder"),
        (["model.path=EMPTY"], "EMPTY: neither model.safetensors nor model.safetensors.index.json"),
        (["model.path=STRANGER"], "model_type is 'bert'; weight maps exist for"),
        (["model.path=TRUNCATED"], "bytes, expected"),
        (
            ["parallel.processes=4", "parallel.tensor=4"],
            "parallel.tensor=4 does not divide the model's 2 key-value heads (4 attention heads); use one of [1, 2]",
        ),
        (
            ["parallel.processes=3", "parallel.pipeline=3"],
            "parallel.pipeline=3 does not divide the model's 4 layers; use one of [1, 2, 4]",
        ),
        (["model.max_length=1024"], "model.max_length=1024 is over the model's context of 512 tokens"),
        (
            ["parallel.processes=3", "parallel.tensor=2"],
            "parallel.processes=3 is not divisible by tensor x pipeline = 2 x 1; set parallel.processes to a multiple",
        ),
        (["parallel.processes=5"], "rollout.prompts=12 is not divisible by the data parallel size 5"),
        (["data.train=[/nowhere.jsonl]"], "/nowhere.jsonl: no such data file; write one with"),
        (["data.validation=[BAD]"], "BAD:2: field 'answer': expected one of the letters"),
        (["data.test=[BLANK]"], "BLANK: holds no rows; expected one JSON object a line"),
        # A billion checkpoints of 11 MB.
        (["trainer.keep=1000000000"], "free, and the run will need 11036 TB there (checkpoints of 11 MB); set output"),
    ],
)
def test_what_cannot_work_is_one_line_with_the_fix(
    changes: list[str],
    said: str,
    overrides: Overrides,
    embedded_data: Path,
    tiny_checkpoint: Path,
    tiny_hf: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Words in capitals are files and folders of this test."""
    for name, config in (("EMPTY", (tiny_hf / "config.json").read_text()), ("STRANGER", '{"model_type": "bert"}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(config)
    weights = next((shutil.copytree(tiny_checkpoint, tmp_path / "TRUNCATED") / "model").glob("*.distcp"))
    weights.write_bytes(weights.read_bytes()[:-1])
    first, second = (json.loads(line) for line in (embedded_data / "train.jsonl").read_text().splitlines()[:2])
    (tmp_path / "BAD").write_text(f"{json.dumps(first)}\n{json.dumps({**second, 'answer': 'Z'})}\n")
    (tmp_path / "BLANK").write_text("\n")
    placed = [re.sub("[A-Z]{3,}", lambda found: f"{tmp_path}/{found[0]}", change) for change in changes]
    monkeypatch.setattr(sys, "argv", ["preflight", *overrides(*placed)])

    assert preflight.main() == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("preflight: ")
    assert shown.err.count("\n") == 1
    assert said in shown.err
    assert not (tmp_path / "run").exists()
