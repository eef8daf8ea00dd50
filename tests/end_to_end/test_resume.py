"""A run that was broken off goes on as if nothing had happened: the same numbers to the last bit.

Fails if anything that a step depends on (weights, optimizer, prompts, random draws, counters) is not in a checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from recipes.monitor.rollouts import read_rollouts
from recipes.runtime.interruption import EXIT_STOPPED
from recipes.runtime.run_folder import RunFolder
from reward_server.process import RewardServerProcess
from tests.checkpoints import checkpoint_tensors
from tests.conftest import descendants, finish, kill, wait_until_dead
from tests.end_to_end.conftest import LAYOUTS, STEPS, Settings, Whole
from tests.end_to_end.launch import figures, metrics, ranks, run, started, steps, wait_for

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]


def _assert_the_same_run(found: Path, wanted: Path, tmp_path: Path) -> None:
    assert steps(found) == list(range(1, STEPS + 1))
    assert figures(found) == figures(wanted)
    ours, theirs = ([(r.step, r.group, r.response, r.reward) for r in read_rollouts(f)] for f in (found, wanted))
    assert ours == theirs
    before, after = checkpoint_tensors(wanted, tmp_path), checkpoint_tensors(found, tmp_path)
    assert len(before) > 20
    assert {"model", "optimizer"} <= {name.split("/")[0] for name in before}
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name
    states = [json.loads((RunFolder(f).step_path(STEPS) / "state.json").read_text()) for f in (found, wanted)]
    for state in states:
        # Scores are means since the checkpoint before, and the whole run has no other checkpoint.
        del state["seconds"], state["score"]
    assert states[0] == states[1]


@pytest.mark.parametrize("layout", ["tp1", "dp2"])
def test_killed_and_resumed_it_is_bit_identical(layout: str, whole: Whole, settings: Settings, tmp_path: Path) -> None:
    folder, log = tmp_path / "run", tmp_path / "log"
    overrides = settings(folder, f"trainer.steps={STEPS}", "trainer.save_every=3", *LAYOUTS[layout])
    process = started("recipes.grpo", *overrides, log=log)
    wait_for(lambda: RunFolder(folder).steps() == [3], process, log)
    family = descendants(process.pid)
    process.kill()
    finish(process, log, 60)
    assert not wait_until_dead(family, 60)
    assert RunFolder(folder).steps() == [3]
    run("recipes.grpo", *overrides, log=tmp_path / "second")
    _assert_the_same_run(folder, whole(layout), tmp_path)


@pytest.mark.parametrize(
    ("layout", "kills"),
    [
        ("tp2", 1),
        pytest.param("tp2", 20, marks=pytest.mark.long),
        pytest.param("ppo", 5, marks=pytest.mark.long),
    ],
)
def test_killed_at_random_points_it_is_bit_identical(
    layout: str, kills: int, whole: Whole, settings: Settings, tmp_path: Path
) -> None:
    """Each time a random rank is killed at a random moment of start, sampling, scoring, update or save.

    Never are there more checkpoints than the one kept, or the best beside it. A run that is done before all kills are
    is begun anew.
    """
    draws, points, runs = random.Random(), list[tuple[float, int, list[int]]](), 0
    while True:
        folder = tmp_path / f"run{runs}"
        overrides = settings(
            folder, f"trainer.steps={STEPS}", *("trainer.save_every=1", "trainer.keep=1"), *LAYOUTS[layout]
        )
        with _most_checkpoints(folder) as most:
            while len(points) < kills:
                log = tmp_path / f"log{len(points)}"
                process = started("recipes.grpo", *overrides, log=log)
                wait_for(lambda process=process: len(ranks(process.pid)) == 2, process, log)
                # Now and then the start is hit, else a step or its save; how long a start takes is the machine's.
                before = len(steps(folder))
                while draws.random() < 0.999 and len(steps(folder)) <= before and process.poll() is None:
                    time.sleep(0.02)
                delay, victim = draws.uniform(0, 2), draws.randrange(2)
                time.sleep(delay)
                if process.poll() is not None:
                    break  # All steps are done.
                points.append((round(delay, 3), victim, steps(folder)))
                family = descendants(process.pid)
                alive = ranks(process.pid)
                if victim in alive:
                    kill([alive[victim]])
                finish(process, log, 60)
                assert not wait_until_dead(family, 60)
            run("recipes.grpo", *overrides, log=tmp_path / f"last{runs}")
        print("killed at (seconds after a step or in a start, rank, steps so far):", points)
        _assert_the_same_run(folder, whole(layout), tmp_path)
        assert most[0] <= 2, "checkpoints at one time"
        runs += 1
        if len(points) == kills:
            return


@contextlib.contextmanager
def _most_checkpoints(folder: Path) -> Iterator[list[int]]:
    """How many published checkpoints the run has had at one time, as often as can be looked."""
    most, ended = [0], threading.Event()

    def look() -> None:
        while not ended.wait(0.002):
            # The folder changes while it is read.
            with contextlib.suppress(OSError):
                most[0] = max(most[0], len(RunFolder(folder).steps()))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield most
    finally:
        ended.set()
        thread.join()


def test_asked_to_stop_it_saves_and_goes_on_bit_identical(whole: Whole, settings: Settings, tmp_path: Path) -> None:
    """SIGUSR1 to the launcher, as to every process of a Slurm step ahead of the time limit; of PPO, in the steps that
    its critic has for itself.
    """
    folder, log = tmp_path / "run", tmp_path / "log"
    overrides = settings(folder, f"trainer.steps={STEPS}", *LAYOUTS["ppo"])
    process = started("recipes.grpo", *overrides, log=log)
    wait_for(lambda: len(steps(folder)) >= 1, process, log)
    process.send_signal(signal.SIGUSR1)
    output = finish(process, log, 60)
    assert process.returncode == EXIT_STOPPED, output
    done = steps(folder)[-1]
    assert done < STEPS
    assert f"asked to stop: saved after step {done} of {STEPS}; the same command goes on" in output
    assert RunFolder(folder).steps() == [done]
    run("recipes.grpo", *overrides, log=tmp_path / "second")
    _assert_the_same_run(folder, whole("ppo"), tmp_path)
    parts = ("model", "optimizer", "critic", "critic_optimizer")
    assert {part for part in parts if (RunFolder(folder).step_path(STEPS) / part).is_dir()} == set(parts)
    rows = metrics(folder)
    assert [row["policy/updates"] for row in rows] == [0, 0, 1, 1, 1, 1]
    assert all(row["critic/updates"] == 2 and row["critic/grad_norm"] > 0 for row in rows)
    # The quickstart's warm-up has five steps, of which the policy's first is the first.
    assert [row["policy/learning_rate"] / 3e-4 for row in rows] == pytest.approx([0, 0, 0.2, 0.4, 0.6, 0.8])
    # Until the policy moves nothing is charged; afterwards tokens pay for how far it is from its beginning. Of few
    # tokens the mean of k1 has either sign.
    assert [row["policy/kl"] for row in rows[:3]] == [pytest.approx(0, abs=1e-6)] * 3
    assert abs(rows[-1]["policy/kl"]) > 1e-6


def test_the_reward_server_may_be_away_for_a_while(whole: Whole, settings: Settings, tmp_path: Path) -> None:
    """The run waits, says so, and is the same run when another server stands at the same address.

    While it waits, a second start in its folder is refused and takes nothing from it.
    """
    folder, log = tmp_path / "run", tmp_path / "log"
    with RewardServerProcess() as server:
        url = server.url
        overrides = settings(folder, f"trainer.steps={STEPS}", f"reward.url={url}", *LAYOUTS["tp2"])
        process = started("recipes.grpo", *overrides, "reward.total_timeout_s=60", log=log)
        wait_for(lambda: len(steps(folder)) >= 2, process, log)
        kill([server.pid, *descendants(server.pid)])
    wait_for(lambda: "waiting for the reward server" in log.read_text(), process, log)
    second = run("recipes.grpo", *overrides, *LAYOUTS["tp1"], log=tmp_path / "second", fails=True)
    owner = ranks(process.pid)[0]
    assert second.splitlines()[-1].startswith(f"recipes.grpo, rank 0: output={folder}: in use by process {owner} on ")
    assert process.poll() is None
    with RewardServerProcess(port=int(url.rsplit(":", 1)[1])):
        output = finish(process, log, 120)
    assert process.returncode == 0, output
    _assert_the_same_run(folder, whole("tp2"), tmp_path)


def test_another_layout_goes_on_and_says_so(whole: Whole, begun: Path, settings: Settings, tmp_path: Path) -> None:
    folder = shutil.copytree(begun, tmp_path / "run")
    output = run("recipes.grpo", *settings(folder, "trainer.steps=3", *LAYOUTS["dp2"]), log=tmp_path / "second")
    assert "goes on under another layout (parallel.tensor=2 became 1)" in output
    assert "up to rounding, not bit for bit" in output
    found, wanted = metrics(folder), metrics(whole("tp2"))[:3]
    for key in ("policy/loss", "policy/grad_norm", "policy/entropy"):
        assert found[2][key] == pytest.approx(wanted[2][key], rel=1e-2, abs=1e-3), key


def test_steps_into_nothing_are_skipped_and_then_stop_the_run(
    tiny_checkpoint: Path, embedded_data: Path, tmp_path: Path
) -> None:
    """An absurd rate makes the first step's weights, and so every loss after it, infinite."""
    folder = tmp_path / "run"
    output = run(
        "recipes.sft",
        *("experiment=quickstart_sft", f"output={folder}", f"model.path={tiny_checkpoint}"),
        *(f"data.train=[{embedded_data / 'sft.jsonl'}]", "optimizer.learning_rate=1e30", "optimizer.warmup_steps=0"),
        *("trainer.max_skipped=3", "trainer.batch=4"),
        log=tmp_path / "log",
        fails=True,
    )
    assert output.count(": loss or gradient was not finite for 3 steps in a row") == 1
    assert "Traceback" not in output
    assert [row["policy/loss"] is None for row in metrics(folder)] == [False, True, True]


def test_every_option_at_once(settings: Settings, tmp_path: Path) -> None:
    """Dynamic sampling, several epochs, corrections, filters and limits work together, on two data parallel ranks."""
    folder = tmp_path / "run"
    overrides = [
        *LAYOUTS["dp2"],
        *("algorithm=reinforce_pp", "algorithm.kl_place=reward", "algorithm.kl_coef=0.01"),
        *("algorithm.importance=sequence_masked", "algorithm.importance_low=0.5", "algorithm.overlong_filter=true"),
        *("algorithm.epochs=2", "algorithm.mini_batches=2", "algorithm.entropy_coef=0.001"),
        *("rollout.max_batches=3", "rollout.top_p=0.95", "rollout.top_k=50", "rollout.stop=['</answer>']"),
        *("rollout.min_new_tokens=8", "trainer.profile_steps=1", "trainer.trackers=[mlflow]"),
    ]
    run("recipes.grpo", *settings(folder, *overrides), log=tmp_path / "log")
    rows = metrics(folder)
    assert len(rows) == 2
    for row in rows:
        assert 1 <= row["groups/batches"] <= 3
        assert row["policy/updates"] in (2, 4)
        # One model samples and trains, in float32.
        assert row["mismatch/token_mult_prob_error"] == pytest.approx(1, abs=1e-4)
        assert row["mismatch/mean_weight"] == pytest.approx(1, abs=1e-4)
    assert rows[0]["policy/kl"] == pytest.approx(0, abs=1e-6)  # policy and reference are still one
    assert rows[1]["policy/kl"] != 0
    for record in read_rollouts(folder):
        assert "</answer>" not in record.response[:-9]
    assert list((folder / "profile").glob("step_000001.rank_0.json.gz"))
    assert (folder / "mlruns").is_dir()
