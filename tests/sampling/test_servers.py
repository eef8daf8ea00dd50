"""Servers that do not start, do not answer, or answer what no server of a run would: told by name, and in time."""

from __future__ import annotations

import os
import resource
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from recipes.engines.base import Bucket, Piece, Sampling
from recipes.runtime.config import Config
from recipes.runtime.launch import free_port
from recipes.sampling.base import RolloutError
from recipes.sampling.vllm import client
from recipes.sampling.vllm.servers import Fleet, Server, ServerError, State
from recipes.sampling.vllm.transfer import FileWay
from tests.sampling.standin import Standin


@pytest.fixture
def servers() -> Iterator[list[Standin]]:
    """Stand-ins that a test starts."""
    started: list[Standin] = []
    yield started
    for server in started:
        server.close()


def _fleet(*urls: str, wait_s: float = 20) -> Fleet:
    config = Config()
    config.rollout.vllm.urls = list(urls)
    config.rollout.vllm.start_timeout_s = wait_s
    return Fleet(config, Path(), Path())


def _url(server: Standin) -> str:
    return f"http://127.0.0.1:{server.port}"


def _own(python: Path, folder: Path) -> Fleet:
    config = Config()
    config.model.max_length = 64
    config.rollout.vllm.python = str(python)
    return Fleet(config, folder, folder / "logs")


def test_a_python_that_cannot_be_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(RolloutError, match=r"rollout\.vllm\.python=/nowhere/python: cannot be run"):
        _own(Path("/nowhere/python"), tmp_path)


def test_a_server_that_ends_whenever_it_is_started_ends_the_run_with_its_log(tmp_path: Path) -> None:
    """Not for ever, and not without what it said."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho started >>" + str(tmp_path / "starts") + "\necho no module named vllm; exit 3\n")
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    fleet = _own(python, tmp_path)
    with pytest.raises(RolloutError, match="no module named vllm") as ended:
        fleet.wait(20, all_of_them=True)
    assert "ended with code 3" in str(ended.value)
    assert len((tmp_path / "starts").read_text().splitlines()) == 4


def test_a_server_that_nobody_starts_is_waited_for_and_named() -> None:
    fleet = _fleet(f"http://127.0.0.1:{free_port()}", wait_s=0.3)
    began = time.monotonic()
    with pytest.raises(RolloutError, match=r"rollout\.vllm\.start_timeout_s"):
        fleet.wait(20, all_of_them=True)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("refuses", "said"),
    [
        ({"/abort_requests": (401, "no")}, "MEDATRON_ROLLOUT_TOKEN"),
        ({"/abort_requests": (404, "Not Found")}, "status 404"),
        ({"/collective_rpc": (500, "no such method")}, "no such method"),
        ({"/get_world_size": (200, "<html>")}, "no vLLM server of a run"),
    ],
)
def test_what_is_no_server_of_a_run_is_refused(
    servers: list[Standin], refuses: dict[str, tuple[int, str]], said: str
) -> None:
    """Another token, another program at that address, a vLLM without our part."""
    servers.append(Standin(0, most=0, refuses=refuses))
    with pytest.raises(RolloutError, match=said) as refused:
        _fleet(_url(servers[0])).wait(20, all_of_them=True)
    assert _url(servers[0]) in str(refused.value)


def test_the_run_goes_on_without_a_server_that_fails(
    servers: list[Standin], capsys: pytest.CaptureFixture[str]
) -> None:
    servers.extend((Standin(0, most=0), Standin(0, most=0, refuses={"/collective_rpc": (500, "broken")})))
    fleet = _fleet(*map(_url, servers))
    assert fleet.wait(20, all_of_them=True)
    assert [server.number for server in fleet.of(State.STALE)] == [0]
    assert "goes on without it" in capsys.readouterr().err


def _batch(servers: list[Standin], timeout_s: float) -> client.Batch:
    fleet = _fleet(*map(_url, servers))
    assert fleet.wait(20, all_of_them=True)
    batch = client.Batch(fleet, client.requests([(1,)], Sampling(1, 1.0, 4, ())), timeout_s)
    until = time.monotonic() + 30
    while not batch.done(0.02):
        assert time.monotonic() < until
        fleet.tend()
        for server in fleet.of(State.STALE):  # as a hand-over and its gate do
            server.version, server.state = 0, State.CURRENT
    return batch


def test_a_response_that_never_comes_ends_the_run(servers: list[Standin]) -> None:
    """However often its server comes back."""
    servers.append(Standin(0, most=0))
    batch = _batch(servers, timeout_s=0.1)
    with pytest.raises(RolloutError, match=r"failed 5 times, last at vLLM server 0 .*no answer within"):
        batch.answers()


def test_a_refused_request_ends_the_run(servers: list[Standin]) -> None:
    """Every server would refuse it."""
    servers.append(Standin(0, most=0, refuses={"/inference/v1/generate": (400, "longer than max_model_len")}))
    batch = _batch(servers, timeout_s=5)
    with pytest.raises(RolloutError, match="longer than max_model_len"):
        batch.answers()


def _bucket(values: torch.Tensor) -> Bucket:
    return Bucket((Piece("w", tuple(values.shape), 0),), values)


def test_weights_that_cannot_be_written_fail_every_server(servers: list[Standin], tmp_path: Path) -> None:
    """And not rank 0 alone, for which the others would wait."""
    servers.append(Standin(0, most=0))
    server = Server(0, _url(servers[0]), None)
    fleet = _fleet(_url(servers[0]))
    assert "rollout.vllm.folder" in str(FileWay(tmp_path / "nowhere", 5).open([server], fleet)[server])
    way = FileWay(tmp_path, 5)
    assert way.open([server], fleet) == {}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(ServerError, match="make room"):
            way.send(_bucket(torch.zeros(100_000)), lambda _: None, 5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    way.close()
    assert not list(tmp_path.iterdir())


def test_files_hold_the_bucket_by_turns_and_what_killed_runs_left_is_cleared(
    servers: list[Standin], tmp_path: Path
) -> None:
    servers.append(Standin(0, most=0))
    host = os.uname().nodename
    (tmp_path / f"medatron-weights-{host}-999999999-x").mkdir()
    (tmp_path / f"medatron-weights-{host}-{os.getpid()}-other").mkdir()
    way = FileWay(tmp_path, 5)
    way.open([Server(0, _url(servers[0]), None)], _fleet(_url(servers[0])))
    assert not (tmp_path / f"medatron-weights-{host}-999999999-x").exists()
    assert (tmp_path / f"medatron-weights-{host}-{os.getpid()}-other").exists()
    files: list[str] = []
    for count in (10, 30, 20):
        way.send(_bucket(torch.arange(float(count))), lambda extra: files.append(extra["file"]), 5)
        held = torch.from_file(files[-1], shared=False, size=count, dtype=torch.float32)
        assert held.tolist() == list(range(count))
    assert files[0] != files[1]
    way.close()
