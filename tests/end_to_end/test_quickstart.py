"""The main job through every room, shortened: would break if a stage's command, file or contract no longer fits."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from recipes.data.styles import read_style
from recipes.monitor.loggers import read_metrics
from recipes.quickstart import BASE
from recipes.runtime.run_folder import last_checkpoint
from tests.conftest import finish, start

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]


def test_the_quickstart_leaves_everything_it_promises(tmp_path: Path) -> None:
    # A path with all that Hydra's grammar, a list of files and a shell would trip over.
    run, log = tmp_path / "run=1, it's ü", tmp_path / "log"
    command = [sys.executable, "-m", "recipes.quickstart", "--output", str(run), "trainer.max_seconds=8"]
    process = start(command, log)
    output = finish(process, log, 500)
    assert process.returncode == 0, output[-6000:]
    summary = json.loads((run / "summary.json").read_text())
    assert set(summary) == {"seconds", "accuracy", "export"}
    for name in ("before", "after"):
        assert set(summary["accuracy"][name]) == {"choice", "calculation", "text", "mean"}
        assert all(0 <= share <= 1 for share in summary["accuracy"][name].values())
        assert all(
            task["questions"] >= 100
            for task in json.loads((run / "evaluation" / f"{name}.json").read_text())["tasks"].values()
        )
    assert summary["export"]["greedy_equal"] is True
    assert summary["export"]["max_abs_logit_difference"] < 1e-4
    assert [row["step"] for row in read_metrics(run)] == list(range(1, len(read_metrics(run)) + 1))
    assert list((run / "tensorboard").iterdir())
    assert (run / "rollouts" / "step_000001.parquet").is_file()
    assert "Results on held-out questions" in (run / "report.html").read_text()
    _assert_releasable(run, tmp_path / "release", tmp_path / "release.log")


def _assert_releasable(run: Path, out: Path, log: Path) -> None:
    """The gate opens for a real run, and the card tells what trained it."""
    prompts = run / "data" / "test.jsonl"
    command = [sys.executable, "-m", "conversion.release", str(run), str(out), "--prompts", str(prompts)]
    process = start(command, log)
    output = finish(process, log, 200)
    assert process.returncode == 0, output[-6000:]
    card, state = (out / "README.md").read_text(), json.loads((last_checkpoint(run) / "state.json").read_text())
    assert f"gated, version {state['reward']['version']}, sha256 `{state['reward']['hash']}`" in card
    assert "| medatron-embedded | Apache-2.0 |" in card
    assert card.count("; asked as training asked; ") == 2
    assert read_style(str(out / "prompt.yaml")).identity == state["origin"]["prompt"] == "plain"
    assert "| after | this model | mean |" in card
    assert "| before | before training | mean |" in card


def test_the_quickstart_refuses_a_folder_that_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    log = tmp_path / "log"
    process = start([sys.executable, "-m", "recipes.quickstart", "--output", str(tmp_path)], log)
    output = finish(process, log, 60)
    assert process.returncode != 0
    assert "choose another --output" in output
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_the_base_model_is_small_and_splits_numbers_into_digits() -> None:
    from transformers import AutoTokenizer

    assert sum(file.stat().st_size for file in BASE.iterdir()) <= 8 * 2**20
    assert "must not be used to answer a medical question" in (BASE / "README.md").read_text()
    tokenizer = AutoTokenizer.from_pretrained(BASE, local_files_only=True)
    assert tokenizer.tokenize("1205") == ["1", "2", "0", "5"]
    assert tokenizer.tokenize(" (C)</think><answer>") == [" (C)", "</think>", "<answer>"]
    assert tokenizer.chat_template
