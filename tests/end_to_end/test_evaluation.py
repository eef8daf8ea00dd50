"""A checkpoint as the respondent: several answers, variants and a think budget, gone on with to the same file."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from conversion.checkpoint import open_checkpoint
from conversion.tokenizer_check import encode, read_tokenizer
from recipes.data.example import Example, write_examples
from recipes.evaluation.answers import Answers
from tests.conftest import finish, start

pytestmark = [pytest.mark.slow, pytest.mark.multiprocess]


@pytest.fixture
def thinking(tiny_hf: Path, tmp_path: Path) -> Path:
    """A Hugging Face folder whose chat template opens the reasoning."""
    folder = shutil.copytree(tiny_hf, tmp_path / "hf")
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text() + "{{ '<think>\\n' }}")
    return folder


def test_an_evaluation_goes_on_in_the_middle_of_a_portion(thinking: Path, tmp_path: Path) -> None:
    """Two questions a portion, so that 5 answers are one portion of 4 and a part of the next."""
    options = {"A": "zinc", "B": "iron"}
    rows = [Example(f"q{n}", "s", "choice", f"Which metal is {n}?", "A", options=options) for n in range(3)]
    write_examples(tmp_path / "test.jsonl", [*rows, Example("long", "s", "text", "so " * 300, "iron")])

    def evaluated(name: str) -> tuple[bytes, dict[str, Any]]:
        settings = [f"output={tmp_path}", f"name={name}", f"model.path={thinking}", "seed=3", "data.style=plain"]
        settings += ["evaluation.samples=2", "evaluation.temperature=30", "evaluation.short=true"]
        settings += ["evaluation.max_think_tokens=6", "evaluation.shuffles=1", "evaluation.budgets=[8,16]"]
        settings += [f"data.test=[{tmp_path / 'test.jsonl'}]"]
        settings += ["model.max_length=128", "rollout.max_new_tokens=16", "parallel.processes=1"]
        log = tmp_path / f"{name}.log"
        process = start([sys.executable, "-m", "tests.end_to_end.small_portions", *settings], log)
        said = finish(process, log, 120)
        assert process.returncode == 0, said
        folder = tmp_path / "evaluation"
        return (folder / f"{name}.jsonl").read_bytes(), json.loads((folder / f"{name}.json").read_text())

    wanted, result = evaluated("whole")
    found = [json.loads(line) for line in wanted.splitlines()]
    assert [(r["id"], r["variant"], r["sample"]) for r in found] == [
        (f"q{n}", variant, sample)
        for n in range(3)
        for variant in ("plain", "shuffled 1", "short", "budget 8", "budget 16")
        for sample in (0, 1)
    ]
    assert (result["dropped"], result["checkpoint"]) == (1, str(thinking))
    asked = {(r["variant"], r["budget"], r["budget_mode"]) for r in found if "budget" in r}
    assert asked == {("budget 8", 8, "exact"), ("budget 16", 16, "exact")}
    for point in result["budgets"]["points"]:
        own = [r["tokens"] for r in found if r.get("budget") == point["budget"]]
        assert (point["questions"], point["answers"]) == (3, 6)
        assert point["mean_tokens"] == pytest.approx(sum(own) / 6)
        assert point["error"] == pytest.approx(sum(abs(y - point["budget"]) for y in own) / 6 / point["budget"])
    converted = open_checkpoint(tmp_path / "evaluation" / "whole.megatron")
    assert result["weights"] == converted.digest(read=False)
    assert len({row["response"] for row in found}) == len(found)
    closing = len(encode(read_tokenizer(thinking), ["</think>"])[0])
    for row in found:
        _, closed, rest = row["response"].removeprefix("<think>\n").partition("</think>")
        assert closed
        assert rest
        # Closed by as many tokens as the tag is, which count towards the limit and are not the model's.
        assert row["tokens"] == 16 - closing if row["cut"] else row["tokens"] < 16

    definition = {key: result[key] for key in ("weights", "measured")}
    kept = [{**row, "skill": "kept"} for row in found[:5]]
    Answers(tmp_path / "evaluation/killed.jsonl", definition).add(kept)
    again, _ = evaluated("killed")
    assert [json.loads(line) for line in again.splitlines()] == kept + found[5:]
    assert again == wanted.replace(b'"skill": null', b'"skill": "kept"', 5)
