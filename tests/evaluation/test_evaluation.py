"""Evaluations that are stopped, and what they say of themselves."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import pytest

from conversion.digests import file_digest
from conversion.evaluation import differences
from recipes.data.example import Example, write_examples
from recipes.evaluation.answers import Answers
from recipes.evaluation.measure import measured, seen_in_training
from recipes.evaluation.summary import described, summarize
from recipes.runtime.loading import load
from recipes.runtime.rules import Stage


def _row(number: int, status: str = "correct", group: str = "choice") -> dict[str, Any]:
    return {
        "id": f"q{number}",
        "group": group,
        "status": status,
        "tokens": 10,
        "contradicts": None,
        "response": "\u2028",
    }


def test_answers_are_on_the_disk_as_they_come(tmp_path: Path) -> None:
    """Killed in the middle of a line, the same evaluation goes on behind the last whole one; another begins anew."""
    target, rows = tmp_path / "after.jsonl", [_row(number) for number in range(5)]
    target.write_text("of an earlier evaluation\n")
    stopped = Answers(target, {"weights": "a", "measured": {}})
    stopped.add(rows[:2])
    stopped.add(rows[2:3])
    [partial] = tmp_path.glob(".after.*.partial")
    with partial.open("a") as file:
        file.write('{"id": "q3", "gro')
    gone_on = Answers(target, {"measured": {}, "weights": "a"})
    assert gone_on.rows == rows[:3]
    gone_on.add(rows[3:])
    assert target.read_text() == "of an earlier evaluation\n"
    gone_on.publish(gone_on.rows)
    assert [json.loads(line) for line in target.read_text().split("\n")[:-1]] == rows
    assert [path.name for path in tmp_path.iterdir()] == ["after.jsonl"]
    Answers(target, {"weights": "a"}).add(rows[:1])
    Answers(tmp_path / "after.all.jsonl", {"weights": "a"})
    assert Answers(target, {"weights": "b"}).rows == []
    assert len(list(tmp_path.glob(".after.*.partial"))) == 2, "another evaluation's answers are left alone"


def test_a_full_disk_costs_no_answer_before_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The limit of a file's size stands for the disk's, in the middle of a line."""
    target, rows = tmp_path / "after.jsonl", [_row(number) for number in range(40)]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    answers = Answers(target, {})
    answers.add(rows[:4])
    [partial] = tmp_path.glob(".after.*.partial")
    resource.setrlimit(resource.RLIMIT_FSIZE, (partial.stat().st_size + 150, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as refused:
            answers.add(rows[4:])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(partial) in str(refused.value)
    assert capsys.readouterr().err == (f"{target}: 4 answers are kept, and the same command goes on behind them\n")
    gone_on = Answers(target, {})
    assert gone_on.rows in (rows[:4], rows[:5])
    gone_on.add(rows[len(gone_on.rows) :])
    gone_on.publish(gone_on.rows)
    assert [json.loads(line) for line in target.read_text().split("\n")[:-1]] == rows


def _example(identity: str, question: str, context: str | None = None) -> Example:
    return Example(identity, "s", "text", question, "x", context=context)


def test_questions_of_every_stage_of_training_are_found(tmp_path: Path) -> None:
    """Under other ids and in other letters; the same question to another note is another question."""
    traces, train = tmp_path / "traces.jsonl", tmp_path / "train.jsonl"
    write_examples(traces, [_example("a", "Which vitamin?"), _example("b", "Creatinine?", "Note 1")])
    long = " ".join(f"word{number}" for number in range(20))
    write_examples(train, [_example("c", "Which  nerve?"), _example("d", "Which drug?", long)])
    files = [[{"path": str(path), "sha256": file_digest(path)}] for path in (traces, train)]
    origin: dict[str, Any] = {"stage": "sft", "model": "0" * 64, "rows": [], "data": files[0], "before": None}
    origin = {**origin, "stage": "grpo", "data": files[1], "before": origin}
    (tmp_path / "state.json").write_text(json.dumps({"origin": origin}))
    asked = [_example("1", "which vitamin?"), _example("2", "Creatinine?", "Note 2"), _example("3", "Which nerve? ")]
    asked.append(_example("4", "Which bone?", long))
    assert seen_in_training(asked, tmp_path) == {"questions": 2, "contexts": 1, "unread": []}
    train.write_text(train.read_text() + " \n")
    traces.unlink()
    assert seen_in_training(asked, tmp_path) == {"questions": 0, "contexts": 0, "unread": [str(train), str(traces)]}
    (tmp_path / "state.json").write_text("{}")
    assert seen_in_training(asked, tmp_path) == {
        "questions": 0,
        "contexts": 0,
        "unread": ["all, since an older release trained it"],
    }
    (tmp_path / "state.json").unlink()
    # A converted one, such as a Hugging Face folder, may have been trained on anything.
    assert seen_in_training(asked, tmp_path) == {
        "questions": 0,
        "contexts": 0,
        "unread": ["all, since a converted model does not tell what trained it"],
    }


def test_what_a_result_does_not_cover_is_said() -> None:
    """Three right of four scored: a standard error of sqrt(0.75 * 0.25 / 4) = 0.2165."""
    rows = [*(_row(number) for number in range(3)), _row(3, "incorrect"), _row(4, "timeout"), _row(5, "verifier_error")]
    result = {"name": "after", "dropped": 4, "seen": {"questions": 1, "unread": ["/d/a.jsonl"]}, **summarize(rows)}
    assert (result["tasks"]["choice"]["questions"], result["unscored"]) == (4, 2)
    assert described(result).split("\n") == [
        "after: choice 75.0%  mean 75.0% (standard error 21.7%)",
        "4 of 10 questions are longer than the context allows and were left out",
        "2 of 6 answers could not be scored and count neither way",
        "1 of 10 questions are in the training data too: no held-out result",
        "not compared with training data that is gone or was changed: /d/a.jsonl",
    ]


def test_another_sampler_is_another_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It may round otherwise. What defines the embedded sampler's, and finds its answers so far, does not name it."""
    write_examples(tmp_path / "test.jsonl", [_example("1", "Which vitamin?")])
    needed = ("output=run", "model.path=checkpoint", f"data.test=[{tmp_path / 'test.jsonl'}]")
    reward = {"name": "gated", "version": "1", "hash": "0" * 64}
    # Training's filters and its correction for a sampler are nothing to an evaluation.
    filters = ("rollout=vllm", "rollout.top_k=5", "rollout.temperature=0.7")
    embedded, vllm, half = (
        {"measured": measured(load([*needed, *more], Stage.EVALUATE), reward)}
        for more in ((), (*filters, "algorithm.importance=none"), ("model.precision=bfloat16",))
    )
    assert embedded["measured"]["decoding"].keys() == {"temperature", "max_new_tokens", "max_length"}
    assert differences(embedded, vllm) == ["decoding sampler: embedded and vllm"]
    assert differences(embedded, half) == ["decoding precision: None and bfloat16"]
    Answers(tmp_path / "a.jsonl", embedded).add([_row(0)])
    assert Answers(tmp_path / "a.jsonl", vllm).rows == []
    said = "a.jsonl: 1 rows of the same name that were begun under other settings are deleted\n"
    assert capsys.readouterr().err.endswith(said)
