"""What several rooms' tests share: a tiny random model in both formats, a little embedded data, real launches."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED_DATA = REPOSITORY.parent / "shared" / "data"
# For PYTHONPATH: a Transformer Engine that can be imported and, without a GPU, computes nothing.
BESIDE_CUDA = REPOSITORY / "tests" / "beside_cuda"
# Heavy modules that share nothing costly with the rest of their folder, and so may run beside it.
ALONE = (
    "end_to_end/test_quickstart.py",
    "engines_nemo_aligner/test_run.py",
    "engines_nemo_aligner/test_verifier.py",
    "engines_nemo_aligner/test_aligner_trainer.py",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """`--dist loadgroup`: a folder's tests run on one worker, for they share its session's fixtures.

    pytest-xdist's own groups, by marker, get lost under pytest 9.2.
    """
    if config.getvalue("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class ByFolder(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::")[0]
            return file if file.endswith(ALONE) else file.rsplit("/", 1)[0]

    return ByFolder(config, log)


@pytest.fixture(scope="session")
def tiny_hf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Qwen2 with its tokenizer, as transformers saves them."""
    import torch

    from recipes.pretrain_tiny import make_model, make_tokenizer

    path = tmp_path_factory.mktemp("tiny") / "hf"
    tokenizer = make_tokenizer(random.Random(0))
    torch.manual_seed(0)
    make_model(tokenizer).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_hf: Path) -> Path:
    """The same model converted; never written to."""
    from conversion import hf_to_megatron

    return hf_to_megatron.convert(tiny_hf, tiny_hf.with_name("megatron")).path


@pytest.fixture(scope="session")
def embedded_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train, sft, validation and test files of the embedded generator."""
    from recipes.prepare_data import embedded

    folder = tmp_path_factory.mktemp("embedded")
    embedded(folder, seed=0, train=60, sft=60, heldout=10, calculators="elementary")
    return folder


def shared_data(name: str) -> Path:
    """A file of the published data sets that lie beside the repository; skips the test where it is not."""
    path = SHARED_DATA / name
    if not path.is_file():
        pytest.skip(f"the published data set {name} is not beside this checkout")
    return path


def start(command: Sequence[str], log: Path, **environment: str) -> subprocess.Popen[bytes]:
    """Starts a command in a process group of its own, its output in `log`."""
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "MEDATRON_DEVICE": "cpu", **environment}
    with log.open("wb") as output:
        return subprocess.Popen(
            command, cwd=REPOSITORY, env=settings, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )


def finish(process: subprocess.Popen[bytes], log: Path, deadline_s: float) -> str:
    """Waits for the end, kills what is left of the process group, and returns the output.

    Fails the test when the deadline passes.
    """
    try:
        process.wait(deadline_s)
    except subprocess.TimeoutExpired:
        pytest.fail(f"not done after {deadline_s:.0f} s:\n{log.read_text(errors='replace')[-6000:]}")
    finally:
        _kill(process)
    return log.read_text(errors="replace")


def _kill(process: subprocess.Popen[bytes]) -> None:
    kill(descendants(process.pid))
    if process.poll() is None:
        process.kill()
        process.wait()


def children(pid: int) -> list[int]:
    """Process ids of the processes that a process started itself, from /proc."""
    found: list[int] = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread ended between the listing and the reading
            found += [int(word) for word in file.read_text().split()]
    return found


def descendants(pid: int) -> list[int]:
    """Process ids of all children and theirs."""
    return [found for child in children(pid) for found in (child, *descendants(child))]


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def command_line(pid: int) -> str:
    """A process's command and arguments; empty when it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ")
    except OSError:
        return ""


def kill(pids: Iterable[int]) -> None:
    """SIGKILL to each that still runs; the end of one may have ended another meanwhile."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def wait_until_dead(pids: Sequence[int], deadline_s: float) -> list[str]:
    """Waits for the processes' end; returns the command lines of those still alive at the deadline, and kills them."""
    end = time.monotonic() + deadline_s
    while (left := [pid for pid in pids if alive(pid)]) and time.monotonic() < end:
        time.sleep(0.1)
    commands = [command_line(pid) for pid in left]
    kill(left)
    return commands
