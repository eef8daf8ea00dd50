from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from reward_server.client import RewardClient
from reward_server.process import RewardServerProcess

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture(scope="session")
def server() -> Iterator[RewardServerProcess]:
    """A real server process, shared by the tests that leave it unharmed."""
    with RewardServerProcess() as process:
        yield process


@pytest.fixture
def client(server: RewardServerProcess) -> Iterator[RewardClient]:
    with RewardClient(server.url, attempt_timeout_s=10, total_timeout_s=20) as client:
        yield client
