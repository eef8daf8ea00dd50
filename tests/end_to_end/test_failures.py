"""What goes wrong on a cluster: killed processes, a reward server that is gone, wrong files and keys.

Fails if a rank outlives the others, a half-written checkpoint can be opened, or an error does not say what to do.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from conversion.checkpoint import CheckpointError, open_checkpoint
from recipes.monitor.rollouts import read_rollouts
from recipes.runtime.run_folder import RunFolder
from reward_server.process import RewardServerProcess
from tests.conftest import descendants, finish, kill, wait_until_dead
from tests.end_to_end.conftest import STEPS, Settings, Whole
from tests.end_to_end.launch import figures, ranks, run, started, steps, wait_for

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]
END_S = 60


def _partial(folder: Path) -> bool:
    """Whether a checkpoint is being written and its weights are on the way."""
    return any((path / "model").is_dir() for path in (folder / "checkpoints").glob("*.partial-*"))


def _assert_only_whole_checkpoints(folder: Path) -> None:
    """Whatever opens holds weights, optimizer and loop state; what is not whole does not open."""
    for path in (folder / "checkpoints").iterdir():
        if path.is_symlink():
            continue
        try:
            checkpoint = open_checkpoint(path)
        except CheckpointError:
            assert path.name != f"step_{max(RunFolder(folder).steps(), default=0):06d}", f"{path} is published broken"
            continue
        names = set(checkpoint.manifest.files)
        assert {"model/.metadata", "optimizer/.metadata", "state.json"} <= names, path
        assert json.loads((path / "state.json").read_text())["step"] == int(path.name.removeprefix("step_"))


def _kill(which: str, process: subprocess.Popen[bytes]) -> None:
    if which.startswith("launcher"):
        process.send_signal(signal.SIGINT if which.endswith("SIGINT") else signal.SIGKILL)
    else:
        kill([ranks(process.pid)[int(which[-1])]])


def test_killed_at_any_moment_it_ends_whole_and_starts_again(whole: Whole, settings: Settings, tmp_path: Path) -> None:
    """One run, killed again and again at different points and resumed each time from its last checkpoint.

    Its first steps, in which it is killed, are those of a run that was left alone.
    """
    folder = tmp_path / "run"
    overrides = settings(folder, "trainer.steps=1000", "trainer.save_every=1")
    plan = [
        ("rank 1", "before the first checkpoint"),
        ("rank 0", "during a save"),
        ("rank 1", "during a save"),
        ("launcher SIGINT", "during a save"),
        ("launcher SIGKILL", "during a save"),
    ]
    for number, (which, moment) in enumerate(plan):
        log = tmp_path / f"log{number}"
        before = max(RunFolder(folder).steps(), default=0)
        process = started("recipes.grpo", *overrides, log=log)
        wait_for(lambda process=process: len(ranks(process.pid)) == 2, process, log)
        if moment == "before the first checkpoint":
            wait_for((folder / "checkpoints").is_dir, process, log)
        else:
            # At least one step of its own, so that every launch gets further.
            wait_for(lambda before=before: max(RunFolder(folder).steps(), default=0) > before, process, log)
        if moment == "during a save":
            wait_for(lambda: _partial(folder), process, log)
        family = descendants(process.pid)
        _kill(which, process)
        began = time.monotonic()
        output = finish(process, log, END_S)
        left = wait_until_dead(family, END_S - (time.monotonic() - began))
        assert not left, f"{which} killed {moment}: {left} lived on"
        assert process.returncode != 0
        if which == "launcher SIGINT":
            assert process.returncode == 130
            assert output.endswith("recipes.grpo: interrupted; the same command starts it again\n")
            assert "Traceback" not in output
            assert not list((folder / "checkpoints").glob("*.partial-*")), "what was written of a save lies there still"
        _assert_only_whole_checkpoints(folder)
    last = max(STEPS, *RunFolder(folder).steps())
    assert max(RunFolder(folder).steps()) >= len(plan) - 1
    final = [*overrides, f"trainer.steps={last + 2}"]
    run("recipes.grpo", *final, log=tmp_path / "last")
    assert steps(folder) == list(range(1, last + 3))
    assert not list((folder / "checkpoints").glob("*.partial-*"))
    best = int((folder / "checkpoints" / "best").resolve().name.removeprefix("step_"))
    assert set(RunFolder(folder).steps()) == {last + 1, last + 2, best}
    assert figures(folder)[:STEPS] == figures(whole("tp2"))
    ours, theirs = (
        [(r.step, r.group, r.response, r.reward) for r in read_rollouts(each) if r.step <= STEPS]
        for each in (folder, whole("tp2"))
    )
    assert ours == theirs


def test_a_reward_server_that_dies_ends_the_run_by_name(settings: Settings, tmp_path: Path) -> None:
    folder, log = tmp_path / "run", tmp_path / "log"
    with RewardServerProcess() as server:
        overrides = [f"reward.url={server.url}", "reward.total_timeout_s=3", "reward.attempt_timeout_s=1"]
        overrides += ["trainer.save_every=1"]
        process = started("recipes.grpo", *settings(folder, "trainer.steps=1000", *overrides), log=log)
        wait_for(lambda: len(steps(folder)) >= 1, process, log)
        family = descendants(process.pid)
        kill([server.pid, *descendants(server.pid)])
        output = finish(process, log, END_S)
        assert not wait_until_dead(family, END_S)
    assert process.returncode != 0
    assert f"waiting for the reward server: reward server {server.url}" in output
    assert output.count(f": scoring failed: reward server {server.url} unavailable for 3") == 1
    assert "Traceback" not in output
    # The save under way was published.
    assert max(RunFolder(folder).steps()) == max(steps(folder))
    assert not list((folder / "checkpoints").glob("*.partial-*"))


def test_an_unknown_key_is_refused_before_anything_starts(settings: Settings, tmp_path: Path) -> None:
    for key in ("trainer.stesp=3", "+trainer.stesp=3"):
        output = run("recipes.grpo", *settings(tmp_path / "run", key), log=tmp_path / "log", fails=True)
        assert output.startswith("configuration: ")
        assert "stesp" in output
        assert "Traceback" not in output
    assert not (tmp_path / "run").exists()


def test_a_bad_row_is_named_by_file_line_and_field(settings: Settings, embedded_data: Path, tmp_path: Path) -> None:
    rows = (embedded_data / "train.jsonl").read_text().splitlines()
    bad = json.loads(rows[2])
    bad["answer"] = "Z"
    path = tmp_path / "bad.jsonl"
    path.write_text("\n".join([*rows[:2], json.dumps(bad), *rows[3:]]) + "\n")
    output = run("recipes.grpo", *settings(tmp_path / "run", f"data.train=[{path}]"), log=tmp_path / "log", fails=True)
    assert f"{path}:3: field 'answer': expected one of the letters" in output
    assert "Traceback" not in output


def test_a_missing_checkpoint_is_named(settings: Settings, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    output = run("recipes.grpo", *settings(tmp_path / "run", f"model.path={nowhere}"), log=tmp_path / "log", fails=True)
    # Both ranks have found it, and one has said so.
    assert f"model.path={nowhere}: no such folder" in output
    assert output.count("no such folder") == 1
    assert "ended with exit code" not in output
    assert "Traceback" not in output


def test_a_layout_that_does_not_fit_the_model_is_named(settings: Settings, tmp_path: Path) -> None:
    layout = ["parallel.processes=3", "parallel.tensor=3"]
    output = run("recipes.grpo", *settings(tmp_path / "run", *layout), log=tmp_path / "log", fails=True)
    assert "parallel.tensor=3 does not divide the model's 2 key-value heads" in output
