import json
import math
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Run as MlflowRun
from mlflow.tracking import MlflowClient
from wandb.proto import wandb_internal_pb2

from recipes.monitor.loggers import MetricsLogger, read_metrics
from recipes.monitor.run_folder import RunFolderError, trackers_path
from recipes.monitor.trackers import Status, TrackerError, TrackerFeed, make_trackers

REPOSITORY = Path(__file__).parents[2]
CONFIG: dict[str, Any] = {
    "seed": 7,
    "name": "",
    "reward": {"preset": "gated", "url": "http://grader:hunter2@rewards.example:8000"},
    "data": {"train": ["a.jsonl", "b.jsonl"]},
}
# Logs steps FIRST..LAST of a run in RUN with the reward step/10, as a training process does after loading its state.
PROCESS = """
import json, sys
from recipes.monitor.loggers import MetricsLogger
from recipes.monitor.trackers import make_trackers
name, run_dir, config, first, last = sys.argv[1:]
trackers = make_trackers([name], run_name="trial", run_dir=run_dir, config=json.loads(config))
with MetricsLogger(run_dir, trackers) as logger:
    logger.truncate_after(int(first) - 1)
    for step in range(int(first), int(last) + 1):
        print("SECRET PATIENT TEXT")
        logger.log(step, {"reward/mean": step / 10, "reward/component/answer": 0.5, "policy/kl": float("nan")}, 2.0)
"""


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("WANDB_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")


def process(name: str, run_dir: Path, first: int, last: int, config: Mapping[str, Any] = CONFIG) -> str:
    """Run PROCESS for real and return its stderr; W&B and MLflow keep state in the process that resumed runs lack."""
    done = subprocess.run(
        [sys.executable, "-c", PROCESS, name, str(run_dir), json.dumps(config), str(first), str(last)],
        check=True,
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
    )
    return done.stderr


def mlflow_runs(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[MlflowClient, list[MlflowRun]]:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    client = MlflowClient(tracking_uri=(run_dir / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("medatron")
    assert experiment is not None
    return client, list(client.search_runs([experiment.experiment_id]))


def mlflow_history(client: MlflowClient, run: MlflowRun, key: str) -> list[tuple[int, float]]:
    return sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, key))


def wandb_records(run_dir: Path) -> Iterator[wandb_internal_pb2.Record]:
    """Yield what W&B keeps for its server: 7 bytes of header, then LevelDB's log format in blocks of 32 KiB."""
    for path in sorted((run_dir / "wandb").glob("offline-run-*/run-*.wandb")):
        data, at, record = path.read_bytes(), 7, b""
        while at + 7 <= len(data):
            if (left := 32768 - at % 32768) < 7:
                at += left
                continue
            _, length, kind = struct.unpack_from("<IHB", data, at)
            record += data[at + 7 : at + 7 + length]
            at += 7 + length
            # Kinds 1 and 4 end a record: the whole of it, or its last part.
            if kind in (1, 4):
                yield wandb_internal_pb2.Record.FromString(record)
                record = b""


def wandb_history(run_dir: Path) -> list[dict[str, Any]]:
    return [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in wandb_records(run_dir)
        if record.WhichOneof("record_type") == "history"
    ]


def test_mlflow_holds_the_finite_metrics_and_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process("mlflow", tmp_path, 1, 3)
    client, (run,) = mlflow_runs(tmp_path, monkeypatch)
    assert run.info.run_name == "trial"
    assert run.info.status == "FINISHED"
    assert run.data.params == {
        "seed": "7",
        "name": "",
        "reward.preset": "gated",
        "reward.url": "http://rewards.example:8000",
        "data.train": "['a.jsonl', 'b.jsonl']",
    }
    assert set(run.data.metrics) == {"reward/mean", "reward/component/answer", "seconds"}
    assert mlflow_history(client, run, "reward/mean") == [(1, 0.1), (2, 0.2), (3, 0.3)]
    assert json.loads(trackers_path(tmp_path).read_text()) == {"mlflow": run.info.run_id}


def test_a_resumed_mlflow_run_goes_on_in_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process("mlflow", tmp_path, 1, 4)
    # The last checkpoint was step 2: steps 3 and 4 are done again, and the run is now longer.
    process("mlflow", tmp_path, 3, 6, {**CONFIG, "seed": 8, "added": True})
    client, (run,) = mlflow_runs(tmp_path, monkeypatch)
    points = mlflow_history(client, run, "reward/mean")
    assert points == [(1, 0.1), (2, 0.2), (3, 0.3), (3, 0.3), (4, 0.4), (4, 0.4), (5, 0.5), (6, 0.6)]
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert run.data.params["seed"] == "7"
    assert run.data.params["added"] == "True"
    assert run.data.tags["changed.seed"] == "8"
    assert run.info.status == "FINISHED"


def test_mlflow_takes_more_settings_than_one_request_may_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {f"key{number}": "x" * 7000 for number in range(250)}
    (tracker,) = make_trackers(["mlflow"], run_name="trial", run_dir=tmp_path, config=config)
    tracker.close("finished")
    _, (run,) = mlflow_runs(tmp_path, monkeypatch)
    assert len(run.data.params) == 250
    assert run.data.params["key249"] == "x" * 6000


def test_wandb_holds_the_finite_metrics_and_nothing_else(tmp_path: Path) -> None:
    process("wandb", tmp_path, 1, 3)
    history = wandb_history(tmp_path)
    assert [(row["step"], row["reward/mean"]) for row in history] == [(1, 0.1), (2, 0.2), (3, 0.3)]
    own = {name for row in history for name in row if not name.startswith("_")}
    assert own == {"step", "seconds", "reward/mean", "reward/component/answer"}
    kinds = {record.WhichOneof("record_type") for record in wandb_records(tmp_path)}
    assert not kinds & {"output", "output_raw", "files", "artifact", "environment"}
    everything = [path for path in (tmp_path / "wandb").rglob("*") if path.is_file()]
    assert everything
    assert not [path for path in everything if b"SECRET" in path.read_bytes() or b"hunter2" in path.read_bytes()]
    (run,) = [record.run for record in wandb_records(tmp_path) if record.WhichOneof("record_type") == "run"]
    assert json.loads(trackers_path(tmp_path).read_text()) == {"wandb": run.run_id}
    assert (run.display_name, run.project) == ("trial", "medatron")
    settings = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert settings["seed"] == 7
    assert settings["reward"] == {"preset": "gated", "url": "http://rewards.example:8000"}


def test_a_resumed_wandb_run_keeps_its_id_and_its_steps_as_the_x_axis(tmp_path: Path) -> None:
    process("wandb", tmp_path, 1, 3)
    process("wandb", tmp_path, 3, 4)
    runs = [record.run.run_id for record in wandb_records(tmp_path) if record.WhichOneof("record_type") == "run"]
    assert len(runs) == 2
    assert len(set(runs)) == 1
    assert sorted(row["step"] for row in wandb_history(tmp_path)) == [1, 2, 3, 3, 4]
    axes = {
        record.metric.glob_name: record.metric.step_metric
        for record in wandb_records(tmp_path)
        if record.WhichOneof("record_type") == "metric" and record.metric.glob_name
    }
    assert axes == {"*": "step"}


def test_both_trackers_follow_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trackers = make_trackers(["wandb", "mlflow", "wandb"], run_name="trial", run_dir=tmp_path, config=CONFIG)
    assert [tracker.name for tracker in trackers] == ["wandb", "mlflow"]
    with MetricsLogger(tmp_path, trackers) as logger:
        logger.log(1, {"reward/mean": 0.5}, seconds=1.0)
    client, (run,) = mlflow_runs(tmp_path, monkeypatch)
    assert mlflow_history(client, run, "reward/mean") == [(1, 0.5)]
    assert [row["reward/mean"] for row in wandb_history(tmp_path)] == [0.5]
    assert set(json.loads(trackers_path(tmp_path).read_text())) == {"mlflow", "wandb"}


@pytest.mark.parametrize(("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_a_tracker_learns_how_the_run_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException], status: str
) -> None:
    def run_that_fails() -> None:
        trackers = make_trackers(["mlflow"], run_name="trial", run_dir=tmp_path, config=CONFIG)
        with MetricsLogger(tmp_path, trackers) as logger:
            logger.log(1, {}, seconds=1.0)
            raise error

    with pytest.raises(error):
        run_that_fails()
    _, (run,) = mlflow_runs(tmp_path, monkeypatch)
    assert run.info.status == status


def test_a_tracker_that_fails_is_dropped_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    trackers = make_trackers(["mlflow"], run_name="trial", run_dir=tmp_path, config=CONFIG)
    with MetricsLogger(tmp_path, trackers) as logger:
        logger.log(1, {"reward/mean": 0.1}, seconds=1.0)
        # Somebody tidies up: the store goes away under the tracker.
        (tmp_path / "mlruns").rename(tmp_path / "tidied")
        for step in (2, 3, 4):
            logger.log(step, {"reward/mean": 0.1}, seconds=1.0)
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3, 4]
    warnings = [line for line in capfd.readouterr().err.splitlines() if line.startswith("WARNING")]
    assert len(warnings) == 1
    assert "tracker mlflow is dropped" in warnings[0]
    assert "Training goes on" in warnings[0]


class Stalled:
    """A service that takes no answer for as long as the test wants."""

    name = "stalled"

    def __init__(self) -> None:
        self.answer = threading.Event()
        self.steps: list[int] = []

    def start(self, run_name: str, run_dir: Path, config: Mapping[str, Any], resume_id: str | None) -> str:
        return "id"

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        assert all(math.isfinite(value) for value in metrics.values())
        self.answer.wait()
        self.steps.append(step)

    def close(self, status: Status) -> None:
        self.steps.append(-1)


def test_a_tracker_that_hangs_neither_blocks_training_nor_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("recipes.monitor.trackers._CLOSE_SECONDS", 0.2)
    tracker = Stalled()
    with MetricsLogger(tmp_path, [tracker]) as logger:
        for step in (1, 2, 3):
            logger.log(step, {"policy/kl": math.nan}, seconds=1.0)
        assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3]
    assert capfd.readouterr().err.count("tracker stalled is dropped: did not take the last steps") == 1
    tracker.answer.set()


def test_a_backlog_drops_the_tracker_once(capfd: pytest.CaptureFixture[str]) -> None:
    tracker = Stalled()
    feed = TrackerFeed(tracker)
    # One step may be in the tracker's hands and 1,000 wait.
    for step in range(1, 1100):
        feed.log(step, {})
    feed.close("finished")
    assert capfd.readouterr().err.count("tracker stalled is dropped: hangs with 1000 steps waiting") == 1
    tracker.answer.set()


def test_every_step_reaches_a_slow_tracker_in_order_before_the_end(tmp_path: Path) -> None:
    tracker = Stalled()
    with MetricsLogger(tmp_path, [tracker]) as logger:
        for step in range(1, 51):
            logger.log(step, {}, seconds=1.0)
        tracker.answer.set()
    assert tracker.steps == [*range(1, 51), -1]


def test_a_new_run_without_its_tracker_does_not_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Port 9 of this machine has no listener, and one try is enough to learn that.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrackerError, match=r"tracker mlflow: could not open a run .*leave the tracker out"):
        make_trackers(["wandb", "mlflow"], run_name="trial", run_dir=tmp_path, config=CONFIG)


def test_a_resumed_run_goes_on_without_a_tracker_that_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    trackers_path(tmp_path).write_text('{"mlflow": "0123456789abcdef"}')
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert make_trackers(["mlflow"], run_name="trial", run_dir=tmp_path, config=CONFIG) == []
    assert "tracker mlflow is dropped: could not go on in run 0123456789abcdef" in capfd.readouterr().err
    assert json.loads(trackers_path(tmp_path).read_text()) == {"mlflow": "0123456789abcdef"}


def test_an_unknown_tracker_is_an_error_that_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(TrackerError, match=r"\['comet'\]: expected names out of mlflow, wandb"):
        make_trackers(["comet"], run_name="trial", run_dir=tmp_path, config={})


@pytest.mark.parametrize(("name", "package"), [("wandb", "wandb"), ("mlflow", "mlflow-skinny")])
def test_a_package_that_is_not_installed_is_named_with_its_pip_line(tmp_path: Path, name: str, package: str) -> None:
    code = (
        "import importlib.abc, importlib.machinery, sys\n"
        "class Without(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == sys.argv[1]:\n"
        # What a data folder of that name looks like to Python.
        "            return importlib.machinery.ModuleSpec(name, None, is_package=True)\n"
        "sys.meta_path.insert(0, Without())\n"
        "from recipes.monitor.trackers import make_trackers\n"
        "make_trackers([sys.argv[1]], run_name='trial', run_dir=sys.argv[2], config={})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, name, str(tmp_path)], cwd=REPOSITORY, stderr=subprocess.PIPE, text=True
    )
    assert done.returncode == 1
    assert "TrackerError" in done.stderr
    assert f"run `pip install {package}`" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_damaged_ids_are_named(tmp_path: Path) -> None:
    trackers_path(tmp_path).write_text('{"mlflow": 5')
    with pytest.raises(RunFolderError, match=r"trackers\.json: expected a JSON object"):
        make_trackers(["mlflow"], run_name="trial", run_dir=tmp_path, config={})


def test_without_trackers_nothing_is_imported_or_written(tmp_path: Path) -> None:
    code = (
        "import sys; from recipes.monitor.loggers import MetricsLogger; "
        "from recipes.monitor.trackers import make_trackers; "
        "trackers = make_trackers([], run_name='trial', run_dir=sys.argv[1], config={}); "
        "MetricsLogger(sys.argv[1], trackers).close(); sys.exit(bool({'wandb', 'mlflow'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=REPOSITORY)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
