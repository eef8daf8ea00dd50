"""Scores of further commands on the pages of an evaluation, and not of an earlier one of its name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from conversion import lock
from recipes.evaluation.gain import summarize
from recipes.evaluation.page import add_scores, write_page
from recipes.evaluation.scores import scores_path
from recipes.monitor.run_folder import evaluation_lock_path
from tests.evaluation.test_compare import write_evaluation
from tests.evaluation.test_summary import row

_SHARES = {"answers": 40, "accuracy": 0.425, "refused": 0.0, "intervals": {"accuracy": [0.2, 0.6], "refused": [0, 0.1]}}
_STEPS = {"responses": 12, "without_reasoning": 1, "unjudged": 2, "mean_steps": 4.25}
_STEPS |= {"efficiency": {"mean": 0.375, "responses": 9}, "factuality": {"mean": None, "responses": 0}}
_STEPS |= {"completeness": {"mean": 1.0, "responses": 3, "interval": [0.3, 1.0]}}
_GAIN = {"responses": 7, "mean_steps": 3.0, "info_gain": 1.2345, "median_info_gain": 0.5, "nats": 0.777, "gaining": 0.9}
_GAIN |= {"intervals": {"nats": [-0.25, 1.5]}}
SCORES: dict[str, dict[str, Any]] = {
    "context": {"scores": {"standard": _SHARES, "sufficiency": {"mixed": _SHARES}}},
    "reasoning": {"judge": {"model": "<b>grader</b>"}, "scores": {"all": _STEPS}},
    "gain": {"own": True, "checkpoint": "/c", "gain": {"all": _GAIN, "incorrect": {"responses": 0}}},
    "medcalc": {
        "categories": {
            "<i>lab</i>": {"server": {"answers": 1047, "right": 0.61, "interval": [0.5, 0.7]}},
            "all": {
                column: {"answers": 1047, "right": 0.52, "interval": [0.4, 0.6]} for column in ("server", "script")
            },
        }
    },
}


def test_scores_of_these_answers_alone_are_on_every_page(tmp_path: Path) -> None:
    result = write_evaluation(tmp_path, "after", [row("q1", "A"), row("q2", "B")])
    for kind, scores in SCORES.items():
        target = add_scores(result.with_suffix(".jsonl"), kind, [tmp_path / "test.jsonl"], scores)
        assert target == scores_path(result, kind)
    before = result.read_bytes()
    found = json.loads(before)["scores"]
    assert {kind: found[kind] for kind in SCORES} == {
        kind: {**{key: found[kind][key] for key in ("answers", "questions")}, **scores}
        for kind, scores in SCORES.items()
    }
    html, markdown = (result.with_suffix(suffix).read_text() for suffix in (".html", ".md"))
    for line in (
        "| sufficiency, mixed passages: right answers | 40 | 42.5% | 20.0% to 60.0% |",
        "| all | 12 | 4.2 | 37.5% of 9 | – | 100.0% of 3 (30.0% to 100.0%) |",
        "| all | 7 | 3.0 | 1.2345 | 0.5000 | 0.777 (-0.250 to 1.500) | 90.0% |",
        "| all | 52.0% of 1,047 (40.0% to 60.0%) | 52.0% of 1,047 (40.0% to 60.0%) |",
    ):
        assert line in markdown.splitlines()
        assert all(f"<td>{cell}</td>" in html for cell in line.strip("| ").split(" | ")[1:])
    assert "by &lt;b&gt;grader&lt;/b&gt;: the share" in html
    assert "<i>lab" not in html + markdown
    assert "by &lt;b&gt;grader&lt;/b&gt;: the share" in markdown
    assert [str(path) for path in write_page(result)] == [str(result.with_suffix(s)) for s in (".html", ".md")]
    assert result.read_bytes() == before, "written again it is the same"

    # Another evaluation of that name: what scored the first is on no page, and its pages say so.
    write_evaluation(tmp_path, "after", [row("q1", "B"), row("q2", "B")])
    add_scores(result.with_suffix(".jsonl"), "gain", [], SCORES["gain"])
    assert json.loads(result.read_text())["scores"].keys() == {"gain"}
    said = "reasoning/after.json does not score these answers and is left out; run `python -m recipes.reasoning` again"
    assert f"- {said}\n" in result.with_suffix(".md").read_text()
    assert "37.5% of 9" not in result.with_suffix(".html").read_text()


def test_a_gain_is_drawn_by_question_and_without_limits() -> None:
    """Of two questions with gains -1, -1 and 3, resamples have either alone or both: -1, 1/3 and 3."""
    rows = [
        {"id": name, "status": "correct", "nlls": [4.0, 4.0 - gain], "info_gain": gain}
        for name, gain in (("a", -1.0), ("a", -1.0), ("b", 3.0))
    ]
    found = summarize([*rows, {"id": "c", "status": "incorrect", "nlls": []}])
    assert found["all"]["intervals"] == {"nats": [-1, 3], "info_gain": [-1, 3], "gaining": [0, 1]}
    assert summarize(rows[:2])["all"]["intervals"] == {"gaining": [0, pytest.approx(0.975)]}


def test_who_evaluates_under_that_name_is_not_written_over(tmp_path: Path, capsys: Any) -> None:
    """The lock is the evaluation's own; the scores are kept, and the evaluation's files stay as they are."""
    result = write_evaluation(tmp_path, "after", [row("q1", "A")])
    before = result.read_bytes()
    with lock.held(evaluation_lock_path(tmp_path, "after")):
        add_scores(result.with_suffix(".jsonl"), "gain", [], SCORES["gain"])
    said = capsys.readouterr().err
    assert "gain/after.json is written; it is shown on no page:" in said
    assert "after.lock" in said
    assert result.read_bytes() == before
    assert not result.with_suffix(".html").exists()


def test_scores_without_a_whole_evaluation_are_kept(tmp_path: Path, capsys: Any) -> None:
    """An hour of a judge is not lost to a NAME.json of an older release."""
    result = write_evaluation(tmp_path, "after", [row("q1", "A")])
    result.write_text(json.dumps({k: v for k, v in json.loads(result.read_text()).items() if k != "measured"}))
    assert json.loads(add_scores(result.with_suffix(".jsonl"), "gain", [], SCORES["gain"]).read_text())["own"] is True
    assert "is written; it is shown on no page" in capsys.readouterr().err
