"""Preflight: what can be known before submission, each problem with its fix, and the arithmetic of the disk."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from recipes import grpo, preflight, sft
from recipes.data.errors import ExampleError
from recipes.data.example import Example, read_examples, write_examples
from recipes.rollout.prompts import DataError, Prompt
from recipes.rollout.rehearsal import File, Row, score_rows
from recipes.rollout.rows import training_rows
from recipes.runtime.config import Config, RewardConfig
from recipes.runtime.loading import load
from reward_server.process import RewardServerProcess

# The tiny model: embeddings 1024 x 128, tied, and four layers of
#   q 128 x 128 + 128, k and v 128 x 64 + 64 each, o 128 x 128, three of 128 x 384, two norms of 128 = 197,120,
# and a last norm of 128: 131,072 + 788,480 + 128.
_PARAMETERS = 919_680

Overrides = Callable[..., list[str]]


@pytest.fixture(scope="module")
def reward_url() -> Iterator[str]:
    with RewardServerProcess() as server:
        yield server.url


@pytest.fixture
def overrides(
    tiny_checkpoint: Path, embedded_data: Path, reward_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Overrides:
    """`overrides(change, ...)`: those of a run that fits, and changes."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    fits = [
        *(f"output={tmp_path}/run", f"model.path={tiny_checkpoint}", f"data.train=[{embedded_data}/train.jsonl]"),
        *("model.max_length=512", "rollout.max_new_tokens=64", "rollout.prompts=12", "trainer.batch=12"),
        f"reward.url={reward_url}",
    ]
    return lambda *changes: [*fits, *changes]


def _needed(lines: list[str]) -> str:
    found = re.fullmatch(r"disk: .* free at (.*), (.*) needed", lines[-1])
    assert found, lines
    return found[2]


def test_what_fits_is_listed(overrides: Overrides, embedded_data: Path, tiny_checkpoint: Path, reward_url: str) -> None:
    layout = ["parallel.processes=4", "parallel.tensor=2", "parallel.pipeline=2"]
    lines = preflight.check(load(overrides(*layout, f"data.test=[{embedded_data}/test.jsonl]")))
    train, test = (len((embedded_data / f"{name}.jsonl").read_text().splitlines()) for name in ("train", "test"))
    assert [re.sub(r"\d+ to \d+ tokens", "TOKENS tokens", line) for line in lines[:-1]] == [
        f"model: 0.00092 billion parameters at {tiny_checkpoint}",
        "layout: 4 ranks as tensor 2 x pipeline 2 x data 1",
        "host memory: a save takes 38 MB of a node of 4 GPUs (estimate)",
        "tokenizer: 1024 tokens; a response ends with <|endoftext|> or <|im_end|>",
        f"data.train: {train} examples in {embedded_data}/train.jsonl, of TOKENS tokens",
        f"data.test: {test} examples in {embedded_data}/test.jsonl, of TOKENS tokens",
        "contamination: no row of data.train is like a question of data.test",
        f"reward: {train + test} rows scored by preset gated version 1 of {reward_url}",
    ]


def test_rows_that_are_too_long_are_named_and_a_stage_counts_its_own_tokens(
    overrides: Overrides, embedded_data: Path, tmp_path: Path
) -> None:
    rows = read_examples(embedded_data / "sft.jsonl")[:3]
    trace = {"think": "so " * 250, "answer": "so"}
    write_examples(
        tmp_path / "rows",
        [
            *(rows[0], Example("long", "s", "text", "why " * 350, "so"), rows[1]),
            Example("untold", "s", "text", "Why?", "so"),
            Example("told", "s", "text", "why " * 50, "so", meta={"trace": trace}),
        ],
    )

    def line(stage: str, *more: str) -> str:
        config = load(overrides(f"data.train=[{tmp_path}/rows]", *more))
        return next(line for line in preflight.check(config, stage) if line.startswith("data.train"))

    # 512 tokens less 64 to answer in; a trace has all of them.
    assert re.search(r"5 examples .*; 1 need more than the 448 there are and are left out: row 2$", line("grpo"))
    assert re.search(r"3 examples .*; 1 need more than the 512 there are and are left out: row 5$", line("sft"))
    # Without a trace a row has its label, and the long row is one of them.
    assert re.search(r"5 examples .*; 1 need .* 512 .*: row 2$", line("sft", "data.teach=answer"))
    with pytest.raises(DataError, match=r"give them as data\.test=\[FILE"):
        line("evaluate")


@pytest.mark.parametrize("stage", ["grpo", "sft"])
def test_what_is_trained_on_is_chosen_and_held_against_the_test_before_and_at_the_start(
    stage: str, overrides: Overrides, embedded_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = read_examples(embedded_data / "sft.jsonl")
    asked, other = [row for row in rows if row.task == "number"][:2]
    write_examples(tmp_path / "test", [asked])
    write_examples(tmp_path / "more", [dataclasses.replace(other, id="more")])
    files = f"data.train=[{embedded_data}/sft.jsonl,{tmp_path}/more]"
    train = {"grpo": grpo.train, "sft": sft.train}[stage]

    def config(*changes: str) -> Config:
        return load(overrides(files, f"data.test=[{tmp_path}/test]", *changes), preflight._STAGES[stage])

    refused = config()
    for start in (lambda: preflight.check(refused, stage), lambda: train(refused)):
        with pytest.raises(ExampleError, match=r"data\.train: 1 rows are questions of data\.test, .*: exact 1 .*"):
            start()
    assert not (tmp_path / "run").exists()
    passes = "data.allow_contamination lets 1 rows that are in data.test pass: exact 1"
    assert passes in str(preflight.check(config("data.allow_contamination=[exact]"), stage))
    assert [row.id for row in training_rows(config("data.allow_contamination=[exact]").data)][-1] == "more"
    assert passes in capsys.readouterr().err
    # Another row is no question of the test, and of the second file none is used.
    one = config(f"data.only=['{other.id}']", "data.mix={}")
    lines = [line for line in preflight.check(one, stage) if line.startswith(("data.train", "contamination"))]
    assert [re.sub(r"\d+ to \d+ tokens", "TOKENS tokens", line) for line in lines] == [
        f"data.train: 1 examples in {embedded_data}/sft.jsonl, of TOKENS tokens",
        "contamination: no row of data.train is like a question of data.test",
    ]
    assert training_rows(one.data) == [other]


def test_a_row_that_the_server_refuses_is_named_and_so_are_answers_that_are_not_right(
    overrides: Overrides, reward_url: str
) -> None:
    """Made here, since the reader refuses most of them: the server is asked whatever the reader lets through."""
    sound = [Example(f"{n}", "s", "text", "?", "so") for n in range(600)]

    def found(*examples: Example, **settings: str) -> list[str]:
        rows = [Row(n, Prompt(example, "?", (1,)), 1) for n, example in enumerate((*sound, *examples), 1)]
        return score_rows(RewardConfig(**{"url": reward_url, **settings}), [File("train", "FILE", rows, 9, False)])

    narrow = Example("narrow", "s", "number", "?", 1234567.25, lower=1234567.2, upper=1234567.3)
    assert found(narrow) == [f"reward: 601 rows scored by preset gated version 1 of {reward_url}"]
    outside = Example("outside", "s", "number", "?", 9.0, lower=1.0, upper=2.0)
    assert "1 rows of FILE are not graded correct themselves" in found(narrow, outside)[1]
    assert found(narrow, outside)[1].endswith("may ever be paid: row 602")
    for bad, said in (
        (Example("empty", "s", "text", "?", "..."), "answer: .*letter or digit"),
        (Example("letter", "s", "choice", "?", "Q", options={"A": "x", "B": "y"}), "reference.answer: "),
        (Example("date", "s", "date", "?", "31/12/2020"), "reference.answer: "),
        (Example("duration", "s", "duration", "?", {"weeks": -1, "days": 0}), "weeks: .*greater than or equal to 0"),
        (Example("limits", "s", "number", "?", 1.0, lower=2.0, upper=1.0), "lower: expected"),
    ):
        with pytest.raises(DataError, match=rf"data\.train: FILE, row 602 \(id '{bad.id}'\): .*refuses it: .*{said}"):
            found(narrow, bad)


def test_without_the_runs_server_this_releases_own_is_asked(overrides: Overrides) -> None:
    lines = preflight.check(load(overrides("reward.url=http://127.0.0.1:9")))
    assert lines[-2].endswith("of this release, since http://127.0.0.1:9 does not answer yet")
    assert preflight.check(load(overrides("reward.url=null")))[-2].endswith("gated version 1 of this release")


def test_what_is_adapted_to_a_template_is_said(overrides: Overrides, tiny_hf: Path, tmp_path: Path) -> None:
    template = (
        "{% if messages[0].role != 'user' %}{{ raise_exception('no') }}{% endif %}{{ messages[0].content }}<think>"
    )
    (shutil.copytree(tiny_hf, tmp_path / "hf") / "chat_template.jinja").write_text(template)
    lines = preflight.check(load(overrides(f"model.path={tmp_path}/hf")))
    assert "chat template: no system role, so the system text goes in front of the user's" in lines
    assert "chat template: opens <think>, so responses are scored with it and traces go on after it" in lines
    assert not any("system role" in line for line in preflight.check(load(overrides("data.style=plain"))))


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
        # One rank: 32 bytes of each of 919,680 parameters, and the reference policy's 4.
        (["cluster.node_memory_gb=0.03"], "cluster.node_memory_gb=0.03: a save takes 33 MB of the host memory"),
        # 24 bytes of each of these and of the critic's 919,808, while both are copied.
        (
            ["algorithm=ppo", "cluster.node_memory_gb=0.04"],
            "cluster.node_memory_gb=0.04: a save takes 48 MB of the host",
        ),
        (
            ["parallel.processes=3", "parallel.tensor=2"],
            "parallel.processes=3 is not divisible by tensor x pipeline = 2 x 1; set parallel.processes to a multiple",
        ),
        (["parallel.processes=5"], "rollout.prompts=12 is not divisible by the data parallel size 5"),
        (
            ["algorithm=ppo", "critic.path=PRUNED"],
            "PRUNED: a Hugging Face folder, not a Megatron checkpoint; first run",
        ),
        (["model.path=PRUNED"], "PRUNED/tokenizer.json: a link to a file that is gone"),
        (["model.path=MUTE"], "MUTE: its chat template leaves out what a message of role 'user' says; mend"),
        (["model.path=BASE"], "BASE: the tokenizer has no chat template, as base models often have not; set data.tem"),
        (["data.train=[]"], "no data files are named; give them as data.train=[FILE,...]"),
        (["data.mix={text: 1}", "data.train=[CHOICE]"], "data.mix asks for text, of which the training files hold no"),
        (["data.train=[LONG]"], "data.train: no row fits into 448 tokens (the shortest has "),
        (
            ["model.path=ESCAPING", "data.style=plain", "data.train=[ODD]"],
            "ODD, row 3 (id 'odd'): its question does not come through the chat template",
        ),
        (["reward.preset=golden"], "preset: no such preset; the presets are gated"),
        (["reward.url=localhost:1"], "reward.url=localhost:1: "),
        (["data.test=[SEEN]"], "data.train: 2 rows are questions of data.test, or all but: exact 1 (the first: "),
        (["data.only=[nobody]"], "data.only names nobody, which no row of data.train has for an id"),
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
    for name, template in (
        ("MUTE", "{% for m in messages if m.role == 'human' %}{{ m.content }}{% endfor %}"),
        ("BASE", ""),
        ("ESCAPING", "{% for m in messages %}{{ m.content | e }}{% endfor %}"),
    ):
        (shutil.copytree(tiny_hf, tmp_path / name) / "chat_template.jinja").write_text(template)
    (shutil.copytree(tiny_hf, tmp_path / "PRUNED") / "tokenizer.json").unlink()
    (tmp_path / "PRUNED" / "tokenizer.json").symlink_to("gone")
    rows = read_examples(embedded_data / "train.jsonl")
    write_examples(tmp_path / "CHOICE", [row for row in rows if row.task == "choice"])
    write_examples(tmp_path / "LONG", [Example("long", "s", "text", "why " * 500, "so")])
    write_examples(tmp_path / "ODD", [*rows[:2], Example("odd", "s", "text", "Is x < y?", "so")])
    write_examples(tmp_path / "SEEN", [rows[0], dataclasses.replace(rows[1], question=rows[1].question.upper())])
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
