from pathlib import Path

import pytest

from tests.monitor.synthetic_run import write_synthetic_run


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_run(tmp_path_factory.mktemp("runs") / "whole")
