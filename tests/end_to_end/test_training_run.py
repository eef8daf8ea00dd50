"""The entry points as a user runs them: SFT, GRPO, resuming, evaluation, and published data."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conversion import megatron_to_hf
from conversion.checkpoint import open_checkpoint
from conversion.digests import file_digest
from recipes.data.example import read_examples
from recipes.monitor.phases import Phase
from recipes.monitor.rollouts import read_rollouts
from recipes.runtime.config import from_yaml
from recipes.runtime.origin import read_state
from recipes.runtime.run_folder import RunFolder, last_checkpoint
from tests.conftest import REPOSITORY, shared_data
from tests.end_to_end.conftest import STEPS, Settings, Whole
from tests.end_to_end.launch import MEASURED, metrics, run, same_weights, steps

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]


@pytest.fixture
def finished(whole: Whole) -> Path:
    """A run that is done; a test that goes on from it works on a copy."""
    return whole("tp2")


def test_sft_learns(warm_checkpoint: Path) -> None:
    run_folder = warm_checkpoint.parents[1]
    losses = [row["policy/loss"] for row in metrics(run_folder)]
    assert len(losses) == 30
    assert losses[-1] < losses[0] / 2, losses


def test_a_run_writes_its_folder(finished: Path, warm_checkpoint: Path, tmp_path: Path) -> None:
    rows = metrics(finished)
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    for row in rows:
        assert {"reward/mean", "accuracy/mean", "length/mean", "policy/grad_norm", "time/generate_s"} <= set(row)
        assert all(value is not None and math.isfinite(value) for value in row.values())
        assert row["groups/null_reward_share"] == 0
        # Sampler and trainer are one model: the ratio of an on-policy token is 1 up to rounding.
        assert row["mismatch/token_prob_error"] == pytest.approx(1, abs=1e-4)
    assert [row["step"] for row in rows if math.isfinite(row.get("reasoning/gain", math.nan))] == [1, 4]
    assert [row["seconds"] for row in rows] == sorted(row["seconds"] for row in rows)
    config = from_yaml((finished / "config.yaml").read_text())
    assert (config.model.path, config.trainer.steps) == (str(warm_checkpoint), STEPS)
    records = read_rollouts(finished)
    assert len(records) == STEPS * 6 * 4
    assert all(len({r.prompt for r in records if (r.step, r.group) == (1, group)}) == 1 for group in range(6))
    assert list((finished / "tensorboard").glob("events*"))
    assert RunFolder(finished).steps() == [STEPS]
    exported = megatron_to_hf.convert(last_checkpoint(finished), tmp_path / "hf")
    assert (exported / "model.safetensors").is_file()


def test_a_step_without_a_group_to_learn_from_changes_nothing(
    tiny_checkpoint: Path, settings: Settings, tmp_path: Path
) -> None:
    """A model that does not have the form is paid alike for everything, however many batches are drawn."""
    folder, start = tmp_path / "run", f"model.path={tiny_checkpoint}"
    own = settings(folder, start, "parallel=single", "reward.preset=binary", "rollout.max_batches=2")
    said = run("recipes.grpo", *own, log=tmp_path / "log")
    assert "0 of 6 groups have rewards that differ after 2 batches (rollout.max_batches); the step changes no" in said
    assert [(row["groups/batches"], row["groups/left_out_share"]) for row in metrics(folder)] == [(2, 1), (2, 1)]
    assert same_weights(last_checkpoint(folder), tiny_checkpoint, tmp_path)


def test_what_the_likelihood_filter_leaves_out_counts_as_learned(settings: Settings, tmp_path: Path) -> None:
    kinds = ("reward.likelihood=[choice,calculation,text]", "reward.likelihood_filter=1.0")
    run("recipes.grpo", *settings(tmp_path / "run", "parallel=single", *kinds), log=tmp_path / "log")
    first, second = metrics(tmp_path / "run")
    # Likelihoods are never quite equal, so that without a filter no group would ever count as learned.
    assert (first["likelihood/left_out_share"], first["groups/zero_advantage_share"]) == (0, 0)
    left_out = round(6 * second["likelihood/left_out_share"])
    interest = read_state(last_checkpoint(tmp_path / "run"))["order"]["interest"]
    assert 0 < left_out < 6
    assert sum(share < 1 for share in interest.values()) == left_out


def test_a_run_that_has_drifted_into_cheating_ends_where_that_is_asked_for(
    finished: Path, settings: Settings, tmp_path: Path
) -> None:
    """What was recorded says that from step 2 on every response gave its answer away; the next step is not kept."""
    folder = shutil.copytree(finished, tmp_path / "run")
    rows = metrics(folder)
    for row in rows:
        honest = row["step"] == 1
        row |= {phase.metric: float(phase is Phase.DIRECT_ANSWER and not honest) for phase in Phase}
        row[Phase.CONCISE_STRUCTURER.metric] = float(honest)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    longer = settings(folder, f"trainer.steps={STEPS + 1}", "monitor.stop_on_hacking=true")
    said = run("recipes.grpo", *longer, log=tmp_path / "log", fails=True)
    assert f"step {STEPS + 1}: the policy is paid for cheating" in said
    assert "Traceback" not in said
    assert RunFolder(folder).steps() == [STEPS]


def test_a_resumed_run_is_the_same_run(finished: Path, begun: Path, settings: Settings, tmp_path: Path) -> None:
    """Two steps, then the third by a new launch: every figure but the clock's equals the run without a break.

    Fails if weights, optimizer, prompts or random draws do not go on where they stopped.
    """
    folder = shutil.copytree(begun, tmp_path / "run")
    run("recipes.grpo", *settings(folder, "trainer.steps=3"), log=tmp_path / "second")
    assert steps(folder) == [1, 2, 3]
    for found, wanted in zip(metrics(folder), metrics(finished)[:3], strict=True):
        figures = [key for key in wanted if not key.startswith(MEASURED)]
        assert {key: found[key] for key in figures} == {key: wanted[key] for key in figures}
    responses = [
        [(r.step, r.group, r.response) for r in read_rollouts(each) if r.step <= 3] for each in (folder, finished)
    ]
    assert responses[0] == responses[1]
    assert RunFolder(folder).steps() == [2, 3]


def test_a_finished_run_started_again_does_nothing(finished: Path, settings: Settings, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (finished / "checkpoints").rglob("*")}
    output = run("recipes.grpo", *settings(finished, f"trainer.steps={STEPS}"), log=tmp_path / "log")
    assert f"{finished}: finished after step {STEPS}, nothing is left to do; raise trainer.steps" in output
    assert steps(finished) == list(range(1, STEPS + 1))
    assert {path: path.stat().st_mtime_ns for path in (finished / "checkpoints").rglob("*")} == before


def test_a_run_with_other_settings_is_refused(finished: Path, settings: Settings, tmp_path: Path) -> None:
    changed = settings(finished, f"trainer.steps={STEPS + 1}", "algorithm.clip_high=0.3")
    output = run("recipes.grpo", *changed, log=tmp_path / "log", fails=True)
    assert "algorithm.clip_high=0.2 became 0.3" in output
    assert steps(finished) == list(range(1, STEPS + 1))


def test_another_reward_is_refused(finished: Path, settings: Settings, tmp_path: Path) -> None:
    """A server that grades by other rules than those that trained the checkpoint may not go on with it unasked."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    state = RunFolder(folder).step_path(STEPS) / "state.json"
    trained_with = json.loads(state.read_text())["reward"]
    assert (trained_with["name"], len(trained_with["hash"])) == ("med_u1", 64)
    state.write_text(state.read_text().replace(trained_with["hash"], "0" * 64))
    overrides = settings(folder, f"trainer.steps={STEPS + 1}")
    output = run("recipes.grpo", *overrides, log=tmp_path / "refused", fails=True)
    assert "trained with reward med_u1 version 2 (000000000000)" in output
    assert steps(folder) == list(range(1, STEPS + 1))
    run("recipes.grpo", *overrides, "reward.allow_change=true", log=tmp_path / "allowed")
    assert steps(folder) == list(range(1, STEPS + 2))


def test_evaluation(warm_checkpoint: Path, embedded_data: Path, tmp_path: Path) -> None:
    """One process here and two there must find the same: greedy answers do not depend on the layout."""
    found = []
    for number, layout in enumerate(("parallel=single", "parallel=tp2")):
        output = tmp_path / str(number)
        run(
            "recipes.evaluate",
            "experiment=quickstart_grpo",
            *(
                layout,
                "parallel.timeout_minutes=1",
                "name=before",
                f"output={output}",
                f"model.path={warm_checkpoint}",
            ),
            f"data.test=[{embedded_data / 'test.jsonl'}]",
            log=tmp_path / f"log{number}",
        )
        result = json.loads((output / "evaluation" / "before.json").read_text())
        assert result["weights"] == open_checkpoint(warm_checkpoint).digest(read=False)
        assert result["measured"]["data"][0]["sha256"] == file_digest(embedded_data / "test.jsonl")
        assert (result["dropped"], result["unscored"]) == (0, 0)
        assert result["seen"] == {"questions": 0, "contexts": 0, "unread": []}
        assert {name: task["questions"] for name, task in result["tasks"].items()} == {
            "choice": 10,
            "calculation": 10,
            "text": 10,
        }
        rows = [json.loads(line) for line in (output / "evaluation" / "before.jsonl").read_text().splitlines()]
        assert [row["id"] for row in rows] == [e.id for e in read_examples(embedded_data / "test.jsonl")]
        right = sum(row["status"] == "correct" for row in rows if row["group"] == "choice")
        assert result["tasks"]["choice"]["accuracy"] == pytest.approx(right / 10)
        found.append((result, rows))
    assert found[0] == found[1]


def test_published_data(warm_checkpoint: Path, tmp_path: Path) -> None:
    """MedQA, PubMedQA and MedCalc-Bench as their authors publish them, through the reader into two steps of GRPO."""
    sources = {
        "medqa": shared_data("medqa_dev/medqa_full_dev.json"),
        "pubmedqa": shared_data("pubmedqa/ori_pqal.json"),
        "medcalc": shared_data("medcalc_bench/train_subset_valid_split.csv"),
    }
    files = []
    for kind, source in sources.items():
        files.append(tmp_path / f"{kind}.jsonl")
        command = [sys.executable, "-m", "recipes.prepare_data", kind, str(source), str(files[-1])]
        subprocess.run(command, cwd=REPOSITORY, check=True, timeout=60, stdout=subprocess.DEVNULL)
    rows = sum(len(read_examples(file)) for file in files)
    assert rows == 1272 + 500 + 1006
    folder = tmp_path / "run"
    output = run(
        "recipes.grpo",
        "experiment=quickstart_grpo",
        *(f"output={folder}", f"model.path={warm_checkpoint}", f"data.train=[{','.join(map(str, files))}]"),
        *("data.style=med_u1", "data.mix={choice: 1, calculation: 1, text: 0}", "reward=med_u1"),
        *("reward.length_mode=none", "reward.length_target=null"),
        *("model.max_length=512", "rollout.max_new_tokens=32", "rollout.prompts=6", "rollout.group_size=4"),
        *("trainer.steps=2", "trainer.max_seconds=0", "rollout.samples_every=1"),
        log=tmp_path / "log",
    )
    dropped = re.search(r"(\d+) of (\d+) prompts are longer than the context allows and were left out", output)
    assert dropped, output[-3000:]
    assert int(dropped[2]) == rows
    assert 0 < int(dropped[1]) < rows
    assert steps(folder) == [1, 2]
    records = read_rollouts(folder)
    assert {r.task for r in records} == {"choice", "calculation"}
    assert all("<|im_end|>" in r.prompt and "<answer>" in r.prompt for r in records)
    assert not any(r.status in ("timeout", "verifier_error") for r in records)
