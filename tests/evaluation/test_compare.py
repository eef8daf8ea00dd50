"""Two evaluations on the same questions: by hand, through the command, and what may not be compared."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conversion.digests import file_digest
from conversion.errors import ConversionError
from recipes.data.example import Example, write_examples
from recipes.evaluation.comparison import compare, notes
from recipes.evaluation.comparison_several import compare_several, holm
from recipes.evaluation.measure import prompts_shown
from recipes.evaluation.page import write_page
from recipes.evaluation.reading import read_evaluated
from recipes.evaluation.summary import summarize
from recipes.runtime.loading import load
from recipes.runtime.rules import Stage
from tests.evaluation.test_summary import row

_INJECTION = "<script>window.injected = true</script>"


def write_evaluation(folder: Path, name: str, rows: list[dict[str, Any]], **measured: Any) -> Path:
    """NAME.json and NAME.jsonl of some answers to the questions in folder/test.jsonl."""
    data = folder / "test.jsonl"
    if not data.exists():
        ids = dict.fromkeys(row["id"] for row in rows)
        options = {letter: f"option {letter} {_INJECTION}" for letter in "ABCD"}
        write_examples(data, [Example(i, "s", "choice", f"{_INJECTION} {i}?", "A", options=options) for i in ids])
    result = {
        **{"name": name, "split": "test", "checkpoint": f"/runs/{name}", "weights": name[0] * 64, "dropped": 0},
        "seen": {"questions": 0, "unread": []},
        "measured": {
            "data": [{"path": str(data), "sha256": file_digest(data)}],
            "reward": {"name": "gated", "version": "1", "hash": "ab" * 32},
            "prompts": {"style": "plain"},
            "decoding": {"temperature": 0.0},
        }
        | measured,
        **summarize(rows),
    }
    path = folder / "evaluation" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result))
    path.with_suffix(".jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def two(folder: Path) -> tuple[Path, Path]:
    """Of 12 questions 2 right in both, 1 lost, 8 gained, and one that the server could score in A alone."""
    said_a = ["A", "A", "A", *"B" * 9]
    said_b = ["A", "A", "B", *"A" * 8, None]
    a = [row(f"q{n}", said, subject=f"<b>{n % 2}</b>") for n, said in enumerate(said_a)]
    b = [
        row(f"q{n}", said, subject=f"<b>{n % 2}</b>", status=None if said else "timeout", response=_INJECTION)
        for n, said in enumerate(said_b)
    ]
    return write_evaluation(folder, "before", a), write_evaluation(folder, "after", b)


def test_questions_are_compared_one_by_one(tmp_path: Path) -> None:
    """3/11 to 10/11; 8 gained and 1 lost: 2 (1 + 9) / 2^9 = 0.039."""
    a, b = (read_evaluated(path) for path in two(tmp_path))
    found = compare(a, b)
    whole = found["all"]
    assert (whole["questions"], whole["gained"], whole["lost"]) == (11, 8, 1)
    assert (whole["a"]["accuracy"], whole["b"]["accuracy"]) == (pytest.approx(3 / 11), pytest.approx(10 / 11))
    assert whole["change"] == pytest.approx(7 / 11) == found["mean"]["change"]
    assert whole["p"] == pytest.approx(20 / 512)
    # Changes of +1 eight times, -1 once, 0 twice: variance (9 - 49/11) / 11.
    assert whole["stderr"] == pytest.approx(((9 - 49 / 11) / 11 / 11) ** 0.5)
    assert whole["interval"][0] < 7 / 11 < whole["interval"][1] <= 1
    assert (found["changed"]["lost"], found["left_out"]) == (["q2"], {"a": 0, "b": 1})
    assert len(found["changed"]["gained"]) == 8
    assert found["test"] == "McNemar's exact test"
    backwards = compare(b, a)["all"]
    assert (backwards["gained"], backwards["lost"], backwards["p"]) == (1, 8, whole["p"])


def test_what_a_comparison_does_not_know_is_said(tmp_path: Path) -> None:
    """An endpoint's name is no weights; what training saw or cannot tell is said of either side."""
    a, b = two(tmp_path)
    _edited(a, lambda r: r.update(weights="endpoint m at u", seen={"questions": 0, "unread": ["all, since ..."]}))
    _edited(b, lambda r: r.update(weights="endpoint m at u", seen={"questions": 1, "contexts": 2, "unread": []}))
    assert notes(compare(read_evaluated(a), read_evaluated(b)))[1:] == [
        "both asked the same model at the same endpoint, which shows no weights: what differs is sampling, or the "
        "model behind it",
        "training data of before that the questions were not compared with: all, since ...",
        "1 questions are left out: after has no scored answer to them",
        "1 questions are in the training data of after: no held-out result",
        "2 questions ask about notes that the training data of after ask about too",
    ]


@pytest.mark.parametrize(
    ("a_decoding", "b_decoding", "said"),
    [
        (
            {"sampler": "endpoint"},
            {"max_length": 512, "precision": "bf16"},
            "before by an endpoint and after by the emb",
        ),
        (
            {"max_length": 512},
            {"max_length": 512, "sampler": "vllm"},
            "before by the embedded sampler and after by vLLM",
        ),
        ({"max_length": 512}, {"max_length": 256, "sampler": "vllm"}, None),
        ({"sampler": "endpoint"}, {"max_new_tokens": 9}, None),
        ({"sampler": "endpoint", "temperature": 0.6}, {"temperature": 0.6}, None),
    ],
)
def test_another_sampler_is_a_note_where_answers_are_greedy(
    a_decoding: dict[str, Any], b_decoding: dict[str, Any], said: str | None, tmp_path: Path
) -> None:
    paths = two(tmp_path)
    for path, own in zip(paths, (a_decoding, b_decoding), strict=True):
        _edited(path, lambda r, own=own: r["measured"].update(decoding={"temperature": 0.0, **own}))
    a, b = map(read_evaluated, paths)
    if said is None:
        with pytest.raises(ConversionError, match="were not measured alike"):
            compare(a, b)
    else:
        found = notes(compare(a, b))[1]
        assert f"answered {said}" in found
        assert ("chat template, precision and longest context are its own" in found) == ("endpoint" in found)


def test_what_no_prompt_says_is_no_difference_of_prompts() -> None:
    """The plain style leaves the length target out."""
    settings = ["name=a", "model.path=m", "reward.length_mode=max", "reward.length_target=72"]
    for style, said in (("plain", None), ("med_u1", 72)):
        config = load(["output=o", *settings, f"data.style={style}"], Stage.EVALUATE)
        assert prompts_shown(config) == {"style": style, "length_target": said}


def test_other_words_are_another_measurement_and_another_path_is_none(tmp_path: Path) -> None:
    """Of two prompt files the words count, not where they stand; the names of releases before stay what they were."""
    for name, word in (("a", "Q:"), ("moved", "Q:"), ("b", "Question:")):
        (tmp_path / f"{name}.yaml").write_text(f"question: '{word} {{question}} {{options}}'\n")
    found = {}
    for name in ("a", "moved", "b"):
        config = load(["output=o", "model.path=m", f"data.style={tmp_path / name}.yaml"], Stage.EVALUATE)
        found[name] = tmp_path / name / "evaluation"
        write_evaluation(tmp_path / name, "one", [row("q1", "A")])
        _edited(
            tmp_path / name / "evaluation/one.json", lambda r, c=config: r["measured"].update(prompts=prompts_shown(c))
        )
    a, moved, b = (read_evaluated(folder / "one.json") for folder in found.values())
    assert compare(a, moved)["measured"]["prompts"] == a.result["measured"]["prompts"]
    with pytest.raises(
        ConversionError, match=r"were not measured alike, .*prompts style: [0-9a-f]{12} and [0-9a-f]{12}"
    ):
        compare(a, b)


def test_several_answers_are_one_question(tmp_path: Path) -> None:
    """q1: 1 of 2 to 2 of 4 right, no change; q2: 0 to 1 of 4, gained. Curves end at the 2 answers that both have."""
    a = [row(q, said, sample=n) for q, given in (("q1", "AB"), ("q2", "BB")) for n, said in enumerate(given)]
    b = [row(q, said, sample=n) for q, given in (("q1", "ABAB"), ("q2", "BBAB")) for n, said in enumerate(given)]
    found = compare(
        read_evaluated(write_evaluation(tmp_path, "before", a)), read_evaluated(write_evaluation(tmp_path, "after", b))
    )
    assert (found["all"]["gained"], found["all"]["lost"], found["test"]) == (1, 0, "exact sign test")
    assert found["all"]["change"] == pytest.approx(0.125)
    assert [point["k"] for point in found["all"]["b"]["curve"]] == [1, 2]


def test_the_command_writes_what_it_prints(tmp_path: Path) -> None:
    """JSON, Markdown and a page; no text of a model gets out of its place in the page."""
    a, b = two(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "recipes.compare", str(a), str(b.with_suffix(".jsonl"))],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "after against before: 11 questions with a scored answer of both"
    assert lines[-2].split()[:6] == ["gained", "and", "lost", "count", "questions;", "p"]
    assert lines[-1] == "1 questions are left out: after has no scored answer to them"
    row = next(line for line in lines if line.startswith("all questions"))
    assert row.split()[2:6] == ["11", "27.3%", "90.9%", "+63.6"]
    assert row.split()[-3:] == ["8", "1", "0.039"]
    stem = tmp_path / "comparison" / "before_after"
    assert done.stderr.splitlines() == [f"written: {stem}{suffix}" for suffix in (".json", ".md", ".html")]
    assert json.loads(stem.with_suffix(".json").read_text()) == json.loads(
        json.dumps(compare(read_evaluated(a), read_evaluated(b)))
    )
    assert "| all questions | 11 | 27.3% | 90.9% | +63.6 |" in stem.with_suffix(".md").read_text()
    assert "&lt;b&gt;0&lt;/b&gt; |" in stem.with_suffix(".md").read_text(), "a subject's name is no HTML there either"
    page, markdown = write_page(b)
    assert "| MedQA | 11 | 90.9% |" in markdown.read_text()
    for path in (page, stem.with_suffix(".html")):
        source = path.read_text()
        assert "&lt;script&gt;window.injected" in source
        assert source.count("<script>") == 1, "the page's own alone"
        assert "<b>0</b>" not in source
    # The command of one page, on a result whose questions are gone.
    (tmp_path / "test.jsonl").unlink()
    done = subprocess.run(
        [sys.executable, "-m", "recipes.evaluation.page", str(b)], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.split() == [str(page), str(markdown)]
    assert "their text is not shown" in page.read_text()


def _three(folder: Path) -> list[Path]:
    """Base, A and B of 8 questions in two sets: A gains q1 to q7, B of these q1 to q3; q7 has no score in B."""
    said = {"base": "ABBBBBBB", "a": "AAAAAAAA", "b": "AAAABBB-"}
    return [
        write_evaluation(
            folder,
            name,
            [
                row(f"q{n}", None if letter == "-" else letter, source=("in", "out")[n % 2], response=_INJECTION)
                | ({"status": "timeout"} if letter == "-" else {})
                for n, letter in enumerate(letters)
            ],
        )
        for name, letters in said.items()
    ]


def test_every_pair_of_three_is_compared_on_the_questions_that_all_have(tmp_path: Path) -> None:
    """Of 7: 1, 7 and 4 right. p = 2 / 2^6, 2 / 2^3, 2 / 2^3; Holm: times 3, 2, 1, never falling."""
    found = compare_several([read_evaluated(path) for path in _three(tmp_path)])
    assert (found["questions"], found["left_out"]) == (7, {"base": 1, "a": 1, "b": 0})
    whole = found["all"]
    assert [own["accuracy"] for own in whole["figures"].values()] == pytest.approx([1 / 7, 1, 4 / 7])
    assert [(pair["a"], pair["b"], pair["gained"], pair["lost"]) for pair in whole["pairs"]] == [
        *(("base", "a", 6, 0), ("base", "b", 3, 0), ("a", "b", 0, 3))
    ]
    assert [pair["p"] for pair in whole["pairs"]] == [1 / 32, 1 / 4, 1 / 4]
    assert [pair["p_holm"] for pair in whole["pairs"]] == [3 / 32, 1 / 2, 1 / 2]
    assert [own["questions"] for own in found["sets"].values()] == [4, 3]
    a, b = (read_evaluated(path) for path in _three(tmp_path)[::2])
    alone = compare(a, b)["all"]
    assert {key: whole["pairs"][1][key] for key in ("change", "interval", "p")} == {
        key: alone[key] for key in ("change", "interval", "p")
    }


@pytest.mark.parametrize(
    ("p_values", "corrected"),
    [
        ([], []),
        ([0.04], [0.04]),
        # Holm's own order: 4 x 0.01, 3 x 0.02, 2 x 0.03 = 0.06, and the largest never below what stands before it.
        ([0.04, 0.01, 0.03, 0.02], [0.06, 0.04, 0.06, 0.06]),
        ([0.5, 0.9], [1.0, 1.0]),
    ],
)
def test_holms_correction(p_values: list[float], corrected: list[float]) -> None:
    assert holm(p_values) == pytest.approx(corrected)


def test_the_command_compares_three(tmp_path: Path) -> None:
    paths = [str(path) for path in _three(tmp_path)]
    command = [sys.executable, "-m", "recipes.compare", *paths]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "3 evaluations: 7 questions with a scored answer of all"
    assert lines[1].split() == ["questions", "base", "a", "b"]
    assert [line.split()[0] for line in lines[2:5]] == ["in", "out", "all"]
    assert lines[-2:] == [
        f"1 questions of {name} are left out: not all have a scored answer to them" for name in ("base", "a")
    ]
    stem = tmp_path / "comparison" / "base_a_b"
    assert done.stderr.splitlines() == [f"written: {stem}{suffix}" for suffix in (".json", ".md", ".html")]
    assert "| all questions | a against base | +85.7 |" in stem.with_suffix(".md").read_text()
    page = stem.with_suffix(".html").read_text()
    assert page.count("b against a") == 3, "once a set and once of all questions"
    assert page.count("<script>") == 1


def test_what_may_not_be_compared_of_three_is_named(tmp_path: Path) -> None:
    paths = _three(tmp_path)
    base, a, b = (read_evaluated(path) for path in paths)
    with pytest.raises(ConversionError, match=r"base.json: named twice; name each evaluation once"):
        compare_several([base, a, base])
    _edited(paths[2], lambda r: r["measured"]["decoding"].update(temperature=1.0))
    with pytest.raises(ConversionError, match=r"base.json and .*b.json were not measured alike.*temperature: 0.0 and"):
        compare_several([base, a, read_evaluated(paths[2])])
    with pytest.raises(ConversionError, match=r"no question has a scored answer in all of them"):
        compare_several([a, replace(b, rows=b.rows[1:]), replace(base, rows=base.rows[:1])])


def _edited(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    result = json.loads(path.read_text())
    change(result)
    path.write_text(json.dumps(result))


def _rows_edited(path: Path, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    answers = path.with_suffix(".jsonl")
    rows = [json.loads(line) for line in answers.read_text().splitlines()]
    change(rows)
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda a, b: _edited(b, lambda r: r["measured"]["decoding"].update(temperature=1.0)),
            r"were not measured alike.*decoding temperature: 0.0 and 1.0\. Evaluate one of them again",
        ),
        (
            lambda a, b: _edited(b, lambda r: r["measured"]["data"][0].update(sha256="0" * 64)),
            r"were not measured alike.*data: [0-9a-f]{12} and 000000000000",
        ),
        (
            lambda a, b: _edited(a, lambda r: [r.pop("measured"), r.pop("weights")]),
            r"before.json: an older release",
        ),
        (
            lambda a, b: b.with_suffix(".jsonl").write_bytes(a.with_suffix(".jsonl").read_bytes()),
            r"after.jsonl: 12 questions of task choice with accuracy 0.2500, and after.json counts 11 with 0.9091",
        ),
        (
            # Another evaluation's of the same accuracy: the digest alone knows them.
            lambda a, b: [
                _edited(b, lambda r: r.update(answers_sha256=file_digest(b.with_suffix(".jsonl")))),
                _rows_edited(b, lambda rows: [each.update(response="other") for each in rows]),
            ],
            r"after.jsonl: not the answers that after.json counts, by their digest; run",
        ),
        (
            lambda a, b: _rows_edited(b, lambda rows: rows.extend(rows[:1])),
            r"after.jsonl:13: a second row of sample 0 of 'q0'; run",
        ),
        (
            lambda a, b: _rows_edited(b, lambda rows: rows[1].update(status="wrong")),
            r"after.jsonl:2: status is 'wrong', expected one of correct, incorrect",
        ),
        (
            lambda a, b: _rows_edited(b, lambda rows: rows[0].update(order=5)),
            r"after.jsonl:1: order is 5, expected str",
        ),
        (lambda a, b: b.with_suffix(".jsonl").unlink(), r"after.jsonl: cannot be read \(No such file"),
        (lambda a, b: b.unlink(), r"after.json: cannot be read"),
        (
            lambda a, b: b.with_suffix(".jsonl").write_text('{"id": "q0", "group": "choice", "status": "correct"}\n'),
            r"after.jsonl:1: tokens is None, expected int",
        ),
        (lambda a, b: b.with_suffix(".jsonl").write_text("{}\n["), r"after.jsonl:1: id is None, expected str"),
    ],
)
def test_what_may_not_be_compared_is_named(change: Callable[[Path, Path], Any], message: str, tmp_path: Path) -> None:
    a, b = two(tmp_path)
    change(a, b)
    with pytest.raises(ConversionError, match=message):
        compare(read_evaluated(a), read_evaluated(b))


def test_no_common_question_is_no_comparison(tmp_path: Path) -> None:
    a = write_evaluation(tmp_path, "before", [row("q1", "A"), row("q2", None, status="timeout")])
    b = write_evaluation(tmp_path, "after", [row("q1", None, status="timeout"), row("q2", "A")])
    with pytest.raises(ConversionError, match=r"no question has a scored answer in both"):
        compare(read_evaluated(a), read_evaluated(b))
    with pytest.raises(ConversionError, match=r"expected the NAME.json or NAME.jsonl of an evaluation"):
        read_evaluated(tmp_path / "evaluation")
