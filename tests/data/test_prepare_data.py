"""The command line of `recipes.prepare_data`: whole files or none, a sentence for every mistake, bounded memory."""

from __future__ import annotations

import csv
import gzip
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from recipes import prepare_data
from recipes.data.errors import ExampleError
from recipes.data.example import Example, iterate_examples, read_examples, write_examples
from recipes.data.sources import FileSource
from tests.conftest import REPOSITORY

MEDQA = {"question": "Which?", "options": {"A": "one", "B": "two"}, "answer": "two", "answer_idx": "B"}
EXAMPLE = Example("1", "s", "text", "?", "zinc")


def _run(*arguments: object, **limits: int) -> subprocess.CompletedProcess[str]:
    def limit() -> None:
        for name, value in limits.items():
            resource.setrlimit(getattr(resource, name), (value, value))

    command = [sys.executable, "-m", "recipes.prepare_data", *map(str, arguments)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, preexec_fn=limit)


def _json(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return _json(tmp_path / "source.json", [MEDQA, MEDQA])


def test_the_command_line_writes_and_counts(tmp_path: Path) -> None:
    """What was left out, why, and where the first was is printed and never silent."""
    row = {"QUESTION": "Does it?", "CONTEXTS": ["a"], "final_decision": "yes"}
    source = _json(tmp_path / "ori_pqal.json", {"1": row, "2": row, "3": row})
    _json(tmp_path / "test_ground_truth.json", {"2": "yes", "3": "yes"})
    done = _run("pubmedqa", source, tmp_path / "out.jsonl", "--ids", "pqal")
    assert done.returncode == 0, done.stderr
    assert "1 rows" in done.stdout
    assert f"left out 2 rows: row of the official test split (the first: {source}, row 2)" in done.stdout
    assert [e.id for e in read_examples(tmp_path / "out.jsonl")] == ["pqal/1"]
    done = _run("pubmedqa", tmp_path / "nowhere.json", tmp_path / "out.jsonl")
    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback" not in done.stderr
    assert "nowhere.json" in done.stderr


def test_text_that_was_read_in_a_wrong_encoding_is_counted_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a language's own letters look like is none."""
    right = ["Ménière’s α-blocker “£5” 37 °C", "NÃO É «CAFÉ» à l’Âge", "日本 ½"]
    wrong = [
        "Ménière".encode().decode("cp1252"),
        "patient’s".encode().decode("cp1252"),
        "37 °C".encode().decode("latin-1"),
    ]
    rows = [Example(f"q{n}", "s", "text", f"{text}?", "x") for n, text in enumerate(right + wrong[:1])]
    rows += [Example("o", "s", "choice", "?", "A", options={"A": wrong[1], "B": "b"})]
    rows += [Example("lost", "s", "text", "Which M\ufffdni\ufffdre?", "x")]
    rows += [Example("c", "s", "text", "?", "x", context=wrong[2])]
    write_examples(tmp_path / "in.jsonl", rows)
    with mock.patch.object(sys, "argv", ["x", "examples", str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl")]):
        prepare_data.main()
    found = json.loads((tmp_path / "out.jsonl.manifest.json").read_text())["misread"]
    assert found == {"rows": 4, "first": "'q3': MÃ©niÃ¨re?"}
    assert "kept 4 rows with text that was read in a wrong encoding (the first: 'q3': MÃ©" in capsys.readouterr().out


def test_two_files_of_one_data_set_go_into_one_run_with_other_ids(tmp_path: Path, source: Path) -> None:
    prepare_data.convert("medqa", FileSource(source), tmp_path / "dev.jsonl", "medqa")
    prepare_data.convert("medqa", FileSource(source), tmp_path / "train.jsonl", "medqa")
    with pytest.raises(ExampleError, match=r"'medqa/1' occurs twice, first in .*dev\.jsonl, row 1; .*\(--ids\)"):
        read_examples(tmp_path / "dev.jsonl", tmp_path / "train.jsonl")
    prepare_data.convert("medqa", FileSource(source), tmp_path / "train.jsonl", "medqa-train")
    assert len(read_examples(tmp_path / "dev.jsonl", tmp_path / "train.jsonl")) == 4


TARGETS: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "a folder": (lambda out, _: out.mkdir(parents=True), "is no regular file and cannot be replaced"),
    "a device": (lambda out, _: out.parent.mkdir() or out.symlink_to("/dev/full"), "is no regular file"),
    "a pipe": (lambda out, _: out.parent.mkdir() or os.mkfifo(out), "is no regular file"),
    "in a file": (lambda out, _: out.parent.touch(), "cannot be written"),
    "below a file": (lambda out, _: out.parent.symlink_to(__file__), "cannot be written"),
    "in a kernel folder": (lambda out, _: out.parent.symlink_to("/proc"), "cannot be written"),
    "through a link to nowhere": (lambda out, _: out.parent.symlink_to("/proc/nowhere/at"), "cannot be written"),
    "in a link to itself": (lambda out, _: out.parent.symlink_to(out.parent), "cannot be written"),
    "of a source of no rows": (lambda _, source: source.write_text("[]"), "holds no rows to write"),
    "of a bad last row": (lambda _, source: _json(source, [MEDQA, None]), "row 2: expected an object"),
    "the source": (lambda out, source: out.parent.mkdir() or out.hardlink_to(source), "is the published file itself"),
}


@pytest.mark.parametrize("case", TARGETS)
def test_a_target_that_cannot_be_written_is_named_and_nothing_half_done_is_left(
    case: str, tmp_path: Path, source: Path
) -> None:
    make, said = TARGETS[case]
    out = tmp_path / "folder" / "out.jsonl"
    make(out, source)
    before = sorted(path for path in tmp_path.rglob("*") if path.name != "folder")
    with pytest.raises(ExampleError, match=said) as caught:
        prepare_data.convert("medqa", FileSource(source), out, "medqa")
    assert str(caught.value).startswith((str(out), str(source)))
    assert sorted(path for path in tmp_path.rglob("*") if path.name != "folder") == before


@pytest.mark.parametrize("fault", ["row", "interrupt"])
def test_what_stood_there_stays_until_all_is_written(fault: str, tmp_path: Path) -> None:
    """Also behind a link, which goes on to point at the file."""
    target, link = tmp_path / "rows.jsonl", tmp_path / "link.jsonl"
    link.symlink_to(target)
    write_examples(link, [EXAMPLE])
    error = {"row": ExampleError("row 2"), "interrupt": KeyboardInterrupt()}[fault]

    def rows() -> Any:
        yield Example("2", "s", "text", "?", "iron")
        raise error

    with pytest.raises(type(error)):
        write_examples(link, rows())
    assert read_examples(target) == [EXAMPLE]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.jsonl", "rows.jsonl"]
    write_examples(link, [EXAMPLE, Example("2", "s", "text", "?", "iron")])
    assert (len(read_examples(target)), link.is_symlink()) == (2, True)


def test_a_disk_that_fills_up_is_a_sentence(tmp_path: Path) -> None:
    """The limit of a file's size stands for the disk's; the file before is whole, no partial one is left."""
    source = _json(tmp_path / "source.json", [{**MEDQA, "question": "word " * 1000}] * 100)
    out = tmp_path / "out.jsonl"
    write_examples(out, [EXAMPLE])
    done = _run("medqa", source, out, RLIMIT_FSIZE=200_000)
    assert done.returncode == 1
    assert done.stderr.startswith(f"prepare_data: {out}: cannot be written (File too large); free space there")
    assert "Traceback" not in done.stderr
    assert read_examples(out) == [EXAMPLE]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "source.json"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--train", "-5"), "argument --train: -5: expected a whole number, at least 1"),
        (("--sft", "0"), "argument --sft: 0: expected"),
        (("--heldout", "x"), "argument --heldout: x: expected"),
        (("--train", "5", "--sft", "5", "--heldout", "5000"), "different questions exist, 5000 were asked for"),
    ],
)
def test_counts_that_cannot_be_met_leave_no_files(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    done = _run("embedded", tmp_path / "out", *arguments)
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


MIB = 2**20
_CONVERT = """
import resource, sys
from pathlib import Path
from recipes import prepare_data
from recipes.data.example import iterate_examples
from recipes.data.sources import FileSource
held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + int(sys.argv[4]),) * 2)
made = prepare_data.convert(sys.argv[1], FileSource(Path(sys.argv[2])), Path(sys.argv[3]), "x")
print(made["rows"], sum(1 for _ in iterate_examples(sys.argv[3])))
"""


@pytest.mark.parametrize("kind", ["list", "lines", "csv"])
def test_files_longer_than_memory(kind: str, tmp_path: Path) -> None:
    """32 MiB of rows are converted, and the outcome read again, with 16 MiB of memory beside the interpreter."""
    count, question = 256, "word " * (128 * 1024 // 5)
    path = tmp_path / f"source.{kind}"
    if kind == "csv":
        names = ("Row Number", "Calculator ID", "Calculator Name", "Patient Note", "Question", "Ground Truth Answer")
        with gzip.open(path, "wt", compresslevel=1, newline="") as file:
            csv.writer(file).writerows([names, *((n, 4, "score", question, "?", 3) for n in range(count))])
    else:
        row = json.dumps({**MEDQA, "question": question})
        first, between, last = ("[", ",", "]") if kind == "list" else ("", "\n", "")
        with path.open("w") as file:
            file.writelines([first, row, *(between + row for _ in range(count - 1)), last])
    command = [sys.executable, "-c", _CONVERT, "medcalc" if kind == "csv" else "medqa", str(path)]
    command += [str(tmp_path / "out.jsonl"), str(16 * MIB)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == [str(count)] * 2, done.stderr[-2000:]
    assert (tmp_path / "out.jsonl").stat().st_size > 30 * MIB


def test_rows_are_given_as_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_examples(path, [EXAMPLE])
    with path.open("a") as file:
        file.write("broken\n")
    rows = iterate_examples(path)
    assert next(rows) == EXAMPLE
    with pytest.raises(ExampleError, match=r"rows\.jsonl:2: not JSON"):
        next(rows)


LABELLED = "note,label\nFebrile.,1\nWell.,0\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("ehr", "--question", "Died?", "--classes", "0=no", "1=yes", "--license-name", "own"), "2 rows"),
        (("ehr", "--classes", "0", "1"), "the following arguments are required: --question"),
        (("ehr", "--question", "Died?", "--classes", "=no"), "'=no' is no class; write VALUE or VALUE=TEXT"),
        (("trec", "--topics", "t.xml"), "the following arguments are required: --judgements"),
        (("medcalc", "--overridden-only"), "--label-overrides FILE tells"),
        (("medqa", "--allow-contamination", "context"), "--against FILE tells"),
        (("medqa", "--config", "en"), "--config and --revision are of a data set by name; say which --split"),
        (("medmcqa", "--first-index", "2"), "argument --first-index: invalid choice: 2"),
    ],
)
def test_options_of_the_formats(
    arguments: tuple[str, ...],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "rows.csv").write_text(LABELLED)
    kind, *options = arguments
    command = ["prepare_data", kind, str(tmp_path / "rows.csv"), str(tmp_path / "out.jsonl"), *options]
    monkeypatch.setattr(sys, "argv", command)
    stopped = ""
    try:
        prepare_data.main()
    except (ValueError, SystemExit) as error:
        stopped = str(error)
    assert said in stopped + "".join(capsys.readouterr())
    assert (tmp_path / "out.jsonl.manifest.json").exists() == (not stopped)
