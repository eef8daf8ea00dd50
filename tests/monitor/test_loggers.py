import json
import logging
import math
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from recipes.monitor.loggers import MetricsLogger, read_metrics
from recipes.monitor.run_folder import RunFolderError, metrics_path, tensorboard_dir


def scalars(run_dir: Path, tag: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(tensorboard_dir(run_dir)))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def log_steps(run_dir: Path, steps: range, reward: float = 0.5) -> None:
    with MetricsLogger(run_dir) as logger:
        for step in steps:
            logger.log(step, {"reward/mean": reward}, seconds=1.5)


def test_a_line_holds_step_seconds_and_metrics(tmp_path: Path) -> None:
    with MetricsLogger(tmp_path / "new" / "run") as logger:
        logger.log(1, {"reward/mean": 0.25, "length/mean": 301}, seconds=3.2)
    line = metrics_path(tmp_path / "new" / "run").read_text()
    assert line.endswith("\n")
    assert json.loads(line) == {"step": 1, "seconds": 3.2, "reward/mean": 0.25, "length/mean": 301.0}


def test_each_line_is_on_disk_before_the_next_step(tmp_path: Path) -> None:
    with MetricsLogger(tmp_path) as logger:
        for step in (1, 2, 3):
            logger.log(step, {}, seconds=1.0)
            assert [row["step"] for row in read_metrics(tmp_path)] == list(range(1, step + 1))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_non_finite_becomes_null_and_is_absent_in_tensorboard(tmp_path: Path, value: float) -> None:
    with MetricsLogger(tmp_path) as logger:
        logger.log(1, {"policy/kl": value, "reward/mean": 1.0}, seconds=1.0)
        logger.log(2, {"policy/kl": 0.5}, seconds=1.0)
    assert read_metrics(tmp_path)[0]["policy/kl"] is None
    assert scalars(tmp_path, "policy/kl") == [(2, 0.5)]


def test_tensorboard_holds_the_same_numbers(tmp_path: Path) -> None:
    log_steps(tmp_path, range(1, 4))
    assert scalars(tmp_path, "reward/mean") == [(1, 0.5), (2, 0.5), (3, 0.5)]
    assert scalars(tmp_path, "seconds") == [(1, 1.5), (2, 1.5), (3, 1.5)]


def test_reader_skips_a_torn_last_line_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log_steps(tmp_path, range(1, 3))
    path = metrics_path(tmp_path)
    path.write_bytes(path.read_bytes()[:-9])
    with caplog.at_level(logging.WARNING):
        assert [row["step"] for row in read_metrics(tmp_path)] == [1]
    assert "torn last line 2" in caplog.text


def test_every_cut_of_the_file_reads_as_a_prefix_and_can_be_appended_to(tmp_path: Path) -> None:
    log_steps(tmp_path, range(1, 4))
    whole = metrics_path(tmp_path).read_bytes()
    rows = read_metrics(tmp_path)
    for cut in range(len(whole)):
        run_dir = tmp_path / str(cut)
        run_dir.mkdir()
        metrics_path(run_dir).write_bytes(whole[:cut])
        left = read_metrics(run_dir)
        assert left == rows[: len(left)]
        MetricsLogger(run_dir).close()
        repaired = metrics_path(run_dir).read_bytes()
        assert whole.startswith(repaired)
        assert repaired.count(b"\n") == len(left)


def test_damage_before_the_last_line_is_an_error_that_names_the_line(tmp_path: Path) -> None:
    metrics_path(tmp_path).write_text('{"step": 1}\n{"step": 2, "rew\n{"step": 3}\n')
    with pytest.raises(RunFolderError, match=r"metrics\.jsonl, line 2: expected a JSON object"):
        read_metrics(tmp_path)


def test_a_line_without_a_step_is_an_error(tmp_path: Path) -> None:
    metrics_path(tmp_path).write_text('{"reward/mean": 1}\n')
    with pytest.raises(RunFolderError, match="line 1"):
        read_metrics(tmp_path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"metrics\.jsonl is missing"):
        read_metrics(tmp_path)


def test_resume_redoes_steps_in_the_file_and_in_tensorboard(tmp_path: Path) -> None:
    log_steps(tmp_path, range(1, 6), reward=0.25)
    # A real second process: TensorBoard orders event files by second and process.
    subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys\n"
            "from recipes.monitor.loggers import MetricsLogger\n"
            "with MetricsLogger(sys.argv[1]) as logger:\n"
            "    logger.truncate_after(3)\n"
            "    for step in (4, 5, 6):\n"
            "        logger.log(step, {'reward/mean': 0.75}, seconds=1.0)\n",
            str(tmp_path),
        ],
        check=True,
        cwd=Path(__file__).parents[2],
    )
    expected = [(1, 0.25), (2, 0.25), (3, 0.25), (4, 0.75), (5, 0.75), (6, 0.75)]
    assert [(row["step"], row["reward/mean"]) for row in read_metrics(tmp_path)] == expected
    assert scalars(tmp_path, "reward/mean") == expected


def test_truncate_works_in_the_middle_of_a_run(tmp_path: Path) -> None:
    with MetricsLogger(tmp_path) as logger:
        for step in (1, 2, 3):
            logger.log(step, {"reward/mean": 0.25}, seconds=1.0)
        logger.truncate_after(1)
        logger.log(2, {"reward/mean": 0.75}, seconds=1.0)
    assert [(row["step"], row["reward/mean"]) for row in read_metrics(tmp_path)] == [(1, 0.25), (2, 0.75)]
    assert not list(tmp_path.glob(".*.tmp"))


def test_truncate_of_an_empty_run_is_harmless(tmp_path: Path) -> None:
    with MetricsLogger(tmp_path) as logger:
        logger.truncate_after(0)
        logger.log(1, {}, seconds=1.0)
    assert len(read_metrics(tmp_path)) == 1


def test_a_step_is_never_recorded_twice(tmp_path: Path) -> None:
    log_steps(tmp_path, range(1, 4))
    with MetricsLogger(tmp_path) as logger, pytest.raises(ValueError, match=r"truncate_after\(2\)"):
        logger.log(3, {}, seconds=1.0)


@pytest.mark.parametrize("metrics", [{"step": 1.0}, {"seconds": 1.0}, {"reward/mean": "high"}, {"reward/mean": None}])
def test_metrics_the_file_cannot_hold_are_refused_whole(tmp_path: Path, metrics: dict[str, float]) -> None:
    with MetricsLogger(tmp_path) as logger, pytest.raises(ValueError, match=r"step|seconds|reward/mean"):
        logger.log(1, metrics, seconds=1.0)
    assert read_metrics(tmp_path) == []


def test_a_closed_logger_says_so(tmp_path: Path) -> None:
    with MetricsLogger(tmp_path) as logger:
        pass
    with pytest.raises(ValueError, match="closed"):
        logger.log(1, {}, seconds=1.0)


def test_reading_metrics_needs_no_torch(tmp_path: Path) -> None:
    log_steps(tmp_path, range(1, 2))
    code = (
        "import sys; from recipes.monitor.report import main; from recipes.monitor.loggers import read_metrics; "
        "read_metrics(sys.argv[1]); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=Path(__file__).parents[2])
