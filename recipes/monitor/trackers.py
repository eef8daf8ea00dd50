"""Weights & Biases and MLflow, for a run that asks for them.

A tracker is told the metrics and the configuration and nothing else. W&B would also keep the console (which can show
what a model wrote about a patient), the code, the git diff and the machine's description; all of that is switched off,
and its figures of the machine's load stay. Both libraries' own usage statistics are off unless the environment turns
them on. Where the data go is the environment's choice: WANDB_MODE, WANDB_BASE_URL, WANDB_API_KEY, WANDB_PROJECT;
MLFLOW_TRACKING_URI (``RUN/mlruns`` without it) and MLFLOW_EXPERIMENT_NAME.

``RUN/trackers.json`` holds the trackers' own ids of the run, so that the same folder goes on in the same run. Steps
that a resumed run does again appear twice there, because neither service forgets a point; the later point is the valid
one. W&B also refuses points below its own step counter, so its x-axis is a metric of its own, ``step``.

Left out: rollout samples, reports and checkpoints as artifacts, and any tracker on ranks other than 0.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import queue
import re
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from recipes.monitor.run_folder import RunFolderError, replace_file, trackers_path

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient
    from wandb import Run

Status = Literal["finished", "failed", "killed"]

PROJECT = "medatron"
# Steps that may wait for a tracker: at one a second some 15 minutes of a service that is away, in about 3 MB.
_BACKLOG = 1000
# How long the end of a run waits for a tracker. W&B gets less, so that it can say itself what it left behind.
_CLOSE_SECONDS = 30.0
_WANDB_FINISH_SECONDS = 20.0
# MLflow's own limits: parameters or tags in one request, and letters in a parameter's value.
_MLFLOW_BATCH = 100
_MLFLOW_VALUE = 6000
_URL_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")


class TrackerError(RuntimeError):
    """A tracker that was asked for cannot be used; the message says what is missing and what to do."""


class Tracker(Protocol):
    """A service that shows the metrics of runs; only rank 0 has any. Each method may raise whatever its library does.

    Attributes:
        name: what :func:`make_trackers` knows it by.
    """

    name: str

    def start(self, run_name: str, run_dir: Path, config: Mapping[str, Any], resume_id: str | None) -> str:
        """Open a run, or the earlier run ``resume_id`` again.

        Args:
            run_name: what people call the run.
            run_dir: the run's folder; local files of the tracker go there.
            config: the resolved configuration, nested mappings of plain values.
            resume_id: what an earlier ``start`` for this folder returned.

        Returns:
            The service's id of the run.
        """
        ...

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record finite metrics of one training step; steps may come again after a resume."""
        ...

    def close(self, status: Status) -> None:
        """Send what is left and say how the run ended."""
        ...


class WandbTracker:
    """Weights & Biases; with WANDB_MODE=offline everything stays in ``RUN/wandb`` until ``wandb sync``."""

    name = "wandb"

    def __init__(self) -> None:
        self._run: Run | None = None

    def start(self, run_name: str, run_dir: Path, config: Mapping[str, Any], resume_id: str | None) -> str:
        """See :class:`Tracker`."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        # W&B's own patience is 90 seconds.
        os.environ.setdefault("WANDB_INIT_TIMEOUT", "30")
        import wandb

        settings = wandb.Settings(
            console="off",
            disable_code=True,
            disable_git=True,
            disable_job_creation=True,
            save_code=False,
            x_disable_meta=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
            finish_timeout=_WANDB_FINISH_SECONDS,
        )
        # Offline every start makes a folder of its own with the same id and W&B warns that it ignores `resume`.
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run_name,
            dir=run_dir,
            config=dict(config),
            id=resume_id,
            resume="allow" if resume_id else None,
            allow_val_change=True,
            reinit="create_new",
            settings=settings,
        )
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")
        return str(self._run.id)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """See :class:`Tracker`; returns at once, W&B's own process sends."""
        if self._run is not None:
            self._run.log({"step": step, **metrics})

    def close(self, status: Status) -> None:
        """See :class:`Tracker`; takes at most 20 seconds, what is not sent by then stays in ``RUN/wandb``."""
        if self._run is not None:
            self._run.finish(exit_code=0 if status == "finished" else 1)


class MlflowTracker:
    """MLflow; the package ``mlflow-skinny`` is enough. A configuration value that a resume changed becomes a tag."""

    name = "mlflow"

    def __init__(self) -> None:
        self._client: MlflowClient | None = None
        self._run_id = ""

    def start(self, run_name: str, run_dir: Path, config: Mapping[str, Any], resume_id: str | None) -> str:
        """See :class:`Tracker`."""
        environ = os.environ
        environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        # MLflow's own patience (two minutes a request, seven tries) would hold up the start of a training run.
        environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        if not (uri := environ.get("MLFLOW_TRACKING_URI")):
            uri = (run_dir.absolute() / "mlruns").as_uri()
            # MLflow wants a database instead of files, but mlflow-skinny has none.
            environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow.entities import Param, RunTag
        from mlflow.tracking import MlflowClient

        client = MlflowClient(tracking_uri=uri)
        if resume_id is None:
            run = client.create_run(self._experiment(client), run_name=run_name)
        else:
            run = client.get_run(resume_id)
            client.update_run(resume_id, status="RUNNING")
        values, known = dict(_flat(config)), run.data.params
        params = [Param(key, value) for key, value in values.items() if key not in known]
        # A parameter is written once and for all.
        changed = [RunTag(f"changed.{key}", value) for key, value in values.items() if known.get(key, value) != value]
        for at in range(0, max(len(params), len(changed)), _MLFLOW_BATCH):
            part = slice(at, at + _MLFLOW_BATCH)
            client.log_batch(run.info.run_id, params=params[part], tags=changed[part])
        self._client, self._run_id = client, run.info.run_id
        return self._run_id

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """See :class:`Tracker`."""
        if self._client is not None:
            from mlflow.entities import Metric

            now = int(time.time() * 1000)
            self._client.log_batch(self._run_id, metrics=[Metric(key, v, now, step) for key, v in metrics.items()])

    def close(self, status: Status) -> None:
        """See :class:`Tracker`."""
        if self._client is not None:
            self._client.set_terminated(self._run_id, status=status.upper())

    @staticmethod
    def _experiment(client: MlflowClient) -> str:
        from mlflow.exceptions import MlflowException

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        if (found := client.get_experiment_by_name(name)) is not None:
            return str(found.experiment_id)
        try:
            return str(client.create_experiment(name))
        except MlflowException:
            # Of two runs that start together one comes second.
            if (found := client.get_experiment_by_name(name)) is None:
                raise
            return str(found.experiment_id)


class _Kind(NamedTuple):
    make: type[WandbTracker] | type[MlflowTracker]
    package: str
    local: str


_KINDS = {
    "mlflow": _Kind(MlflowTracker, "mlflow-skinny", "unset MLFLOW_TRACKING_URI to write RUN/mlruns"),
    "wandb": _Kind(WandbTracker, "wandb", "set WANDB_MODE=offline to write RUN/wandb"),
}


def make_trackers(
    names: Sequence[str], *, run_name: str, run_dir: Path | str, config: Mapping[str, Any]
) -> list[Tracker]:
    """Start the trackers that were asked for; give them to :class:`~recipes.monitor.loggers.MetricsLogger`.

    A tracker that cannot be reached stops a new run, before it has cost anything. A run that it has followed before
    goes on without it, and says so on stderr. Either takes some 40 seconds at most; WANDB_INIT_TIMEOUT,
    MLFLOW_HTTP_REQUEST_TIMEOUT and MLFLOW_HTTP_REQUEST_MAX_RETRIES change that.

    Args:
        names: ``wandb``, ``mlflow``, both or none.
        run_name: what people call the run.
        run_dir: the run's folder.
        config: the resolved configuration as nested mappings. User and password in a URL are cut out.

    Raises:
        TrackerError: an unknown name, a package that is not installed, or a new run that a tracker could not open.
        RunFolderError: ``RUN/trackers.json`` is damaged.
    """
    if unknown := [name for name in names if name not in _KINDS]:
        raise TrackerError(f"trackers {unknown}: expected names out of {', '.join(_KINDS)}")
    names = list(dict.fromkeys(names))
    if missing := [name for name in names if not _installed(name)]:
        packages = " ".join(_KINDS[name].package for name in missing)
        raise TrackerError(
            f"trackers {missing}: the Python package {packages} is not installed; "
            f"run `pip install {packages}`, or leave the tracker out"
        )
    path = trackers_path(run_dir)
    path.parent.mkdir(parents=True, exist_ok=True)
    ids, started = _read_ids(path), list[Tracker]()
    for name in names:
        tracker, known = _KINDS[name].make(), ids.get(name)
        try:
            ids[name] = tracker.start(run_name, path.parent, _without_credentials(config), known)
        except Exception as error:
            if known is not None:
                _report(name, f"could not go on in run {known} ({_reason(error)}); {path} keeps its id")
                continue
            for other in started:
                with contextlib.suppress(Exception):
                    other.close("failed")
            raise TrackerError(
                f"tracker {name}: could not open a run ({_reason(error)}); mend that, "
                f"{_KINDS[name].local}, or leave the tracker out"
            ) from error
        if ids[name] != known:
            replace_file(path, (json.dumps(ids, indent=1) + "\n").encode())
        started.append(tracker)
    return started


class TrackerFeed:
    """Feeds one started tracker from a thread of its own, so that training neither waits for it nor dies of it.

    On the first error, or with 1,000 steps waiting, the tracker is dropped and stderr told once.
    """

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._waiting: queue.Queue[tuple[int, dict[str, float]] | Status] = queue.Queue(_BACKLOG)
        self._dropped = threading.Event()
        # Both threads may find a fault at the same moment; whoever takes this tells of it.
        self._untold = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._feed, name=f"tracker-{tracker.name}", daemon=True)
        self._thread.start()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Hand over the finite metrics of a step and return at once."""
        self._put((step, dict(metrics)))

    def close(self, status: Status) -> None:
        """Hand over how the run ended and wait at most 30 seconds; calling it twice is harmless."""
        if self._closed:
            return
        self._closed = True
        self._put(status)
        if not self._dropped.is_set():
            self._thread.join(_CLOSE_SECONDS)
            if self._thread.is_alive():
                self._drop(f"did not take the last steps within {_CLOSE_SECONDS:.0f} s")

    def _put(self, item: tuple[int, dict[str, float]] | Status) -> None:
        if self._dropped.is_set():
            return
        try:
            self._waiting.put_nowait(item)
        except queue.Full:
            self._drop(f"hangs with {_BACKLOG} steps waiting")

    def _feed(self) -> None:
        while not self._dropped.is_set():
            item = self._waiting.get()
            try:
                if isinstance(item, str):
                    self._tracker.close(item)
                    return
                self._tracker.log(*item)
            except Exception as error:
                self._drop(_reason(error) if isinstance(item, str) else f"step {item[0]}: {_reason(error)}")

    def _drop(self, reason: str) -> None:
        self._dropped.set()
        if self._untold.acquire(blocking=False):
            _report(self._tracker.name, reason)


def _installed(package: str) -> bool:
    # W&B's own data folder `wandb` in the working folder is found too, as a package without an origin.
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None


def _report(name: str, reason: str) -> None:
    print(
        f"WARNING: tracker {name} is dropped: {reason}. Training goes on without it; metrics.jsonl and TensorBoard "
        "have every step, and starting the run again tries the tracker again.",
        file=sys.stderr,
        flush=True,
    )


def _reason(error: Exception) -> str:
    # One line, and not a whole page of a proxy's HTML.
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"


def _read_ids(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    try:
        ids = json.loads(path.read_bytes())
        if not isinstance(ids, dict) or not all(isinstance(value, str) for value in ids.values()):
            raise ValueError("another form")
    except ValueError as error:
        raise RunFolderError(
            f"{path}: expected a JSON object of tracker names and run ids ({error}); delete it to start new runs there"
        ) from error
    return ids


def _without_credentials(value: Any) -> Any:
    """Return plain mappings, lists and scalars, without user and password in URLs."""
    if isinstance(value, Mapping):
        return {str(key): _without_credentials(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_credentials(item) for item in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return _URL_CREDENTIALS.sub("", str(value))


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield ``section.key`` and the value as text."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)[:_MLFLOW_VALUE]
