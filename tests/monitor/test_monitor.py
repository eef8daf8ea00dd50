"""What a loop tells is worth less than what it does: no output that fails ends a run or is left half written."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from recipes.engines.base import NonFiniteError
from recipes.monitor.loggers import MetricsLogger, read_metrics
from recipes.monitor.monitor import TrainingMonitor
from recipes.monitor.rollouts import RolloutRecord, rollout_files
from recipes.monitor.run_folder import metrics_path, profile_dir, rollouts_dir, tensorboard_dir
from recipes.runtime.config import Config
from recipes.runtime.health import TrainingError
from recipes.runtime.loading import load

UPDATED = {"policy/updates": 1.0, "reward/mean": 0.5}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    more = ("trainer.steps=4", "rollout.samples_every=1", "trainer.profile_first=1", "trainer.profile_steps=1")
    return load([f"output={tmp_path / 'run'}", "model.path=checkpoint", *more])


def _sample(step: int) -> list[RolloutRecord]:
    return [RolloutRecord(step, "q/0", "choice", "Q", "A", "A", "A", "correct", 1.0, {}, 1, 0)]


def _record(monitor: TrainingMonitor, *steps: int) -> None:
    for step in steps:
        monitor.record(step, UPDATED, float(step), 1.0, samples=lambda step=step: _sample(step))


def test_nothing_that_cannot_be_written_ends_a_run(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    """Each is told, the others go on, and metrics.jsonl goes on once it can."""
    run = Path(config.output)
    metrics_path(run).mkdir(parents=True)
    for folder in (tensorboard_dir(run), rollouts_dir(run), profile_dir(run)):
        folder.write_text("in the way")
    with TrainingMonitor(config, 0) as monitor:
        _record(monitor, 1, 2)
        metrics_path(run).rmdir()
        rollouts_dir(run).unlink()
        _record(monitor, 3, 4)
    assert [row["step"] for row in read_metrics(run)] == [3, 4]
    assert [step for step, _ in rollout_files(run)] == [3, 4]
    said = capsys.readouterr().err
    assert said.count(f"{metrics_path(run)}: Is a directory; ") == 1
    assert said.count(f"{tensorboard_dir(run)}: takes no more (") == 1
    assert said.count(f"rollouts not written: {rollouts_dir(run)}: ") == 2
    assert said.count("step 1: profile not written: ") == 1


# TensorBoard writes from a thread of its own, and lets it die.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_disk_that_is_full_for_a_while_costs_these_steps_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Room for a part of a line, for none of it, and for all again; nothing is glued to a part."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with MetricsLogger(tmp_path) as logger:
        logger.log(1, UPDATED, 1.0)
        size = metrics_path(tmp_path).stat().st_size
        try:
            for step, room in ((2, 20), (3, 1), (4, 0)):
                resource.setrlimit(resource.RLIMIT_FSIZE, (size + room, before[1]))
                logger.log(step, UPDATED, float(step))
                assert metrics_path(tmp_path).stat().st_size == size
            logger.truncate_after(1)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        logger.log(5, UPDATED, 5.0)
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 5]
    assert capsys.readouterr().err.count(f"{metrics_path(tmp_path)}: File too large; training goes on") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.jsonl", "tensorboard"}


def test_a_resume_says_what_its_record_lacks(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    with TrainingMonitor(config, 0) as monitor:
        _record(monitor, 1, 2, 3)
    metrics_path(config.output).write_bytes(metrics_path(config.output).read_bytes()[:-5])
    with TrainingMonitor(config, 3):
        pass
    assert "metrics.jsonl ends at step 2, and the run goes on after 3" in capsys.readouterr().err


@pytest.mark.parametrize("rank", ["0", "1"])
def test_the_step_in_which_an_engine_diverged_is_named(
    rank: str, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On every rank: the first to fail tells of it."""
    monkeypatch.setenv("RANK", rank)
    monitor = TrainingMonitor(config, 1)
    with pytest.raises(TrainingError, match=r"step 3: logits: no numbers. Start again from the last"), monitor:
        _diverge(monitor)


def _diverge(monitor: TrainingMonitor) -> None:
    _record(monitor, 2)
    raise NonFiniteError("logits: no numbers")
