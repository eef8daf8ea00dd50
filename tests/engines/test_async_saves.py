"""Saves beside training: what is written is what was there at the save, and a save that goes wrong ends by name."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from conversion.checkpoint import CheckpointError, open_checkpoint
from tests.conftest import children, descendants, finish, wait_until_dead
from tests.engines.conftest import NO_KL, World

pytestmark = pytest.mark.multiprocess
END_S = 60


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("launch", ["tp1", "tp2", "dp2"])
def test_a_save_holds_what_was_there_when_it_began(launch: str, precision: str, world: World) -> None:
    """The writers stand still until two more steps have changed every tensor; not one bit of that is in the file.

    At DP 2 the optimizer is distributed, and one rank has nothing to write.
    """
    name, ranks = f"{launch}-{precision}", world.results(launch)
    for found in (rank[f"snapshot {precision}"] for rank in ranks):
        assert found["loaded"] == found["saved"]
        assert {key.split()[0] for key in found["saved"]} == {"weight", "main", "exp_avg", "exp_avg_sq", "step"}
        same = [key for key, digest in found["moved"].items() if digest == found["saved"][key]]
        assert not [key for key in same if not key.startswith("weight")], "the steps did not change this"
        assert found["state"] == {"text": "ä"}
        assert found["early"] == [False, False], "published before it was written"
        assert found["published"] == str(world.saved_beside(name))
        assert found["again"] is None
        assert found["children"] == 0
    assert sum(rank[f"snapshot {precision}"]["held"] for rank in ranks) == (2 if launch == "tp2" else 1)
    assert open_checkpoint(world.saved_beside(name)).path.parent.is_dir()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("killed", "broken-killed: not saved; rank 1: its writer, process {pid}, was killed by SIGKILL."),
        ("stuck", "broken-stuck: not saved; rank 1: its writer, process {pid}, was not done 2 s later (in state T,"),
        ("no space", "rank 1: its writer, process {pid}, failed: OSError: [Errno 27] File too large."),
        ("no folder", "manifest.json/step: not saved; rank 0: NotADirectoryError: "),
    ],
    ids=["killed", "stuck", "no space", "no folder"],
)
def test_a_save_that_goes_wrong_is_an_error_on_every_rank(how: str, said: str, world: World) -> None:
    """On rank 1, in three ways a writer can end, and on rank 0 before there is one; the next saves go well."""
    ranks = [rank[f"save: {how}"] for rank in world.results("tp2 again")]
    before, _, after = said.partition("{pid}")
    for found in ranks:
        assert found["error"] == ranks[0]["error"]
        assert before in found["error"]
        assert after in found["error"]
        assert "rank 0" not in found["error"] or how == "no folder"
        assert found["left"] == []
        assert found["children"] == 0
    folder = world.saved_beside(f"broken-{how.replace(' ', '-')}")
    for path, number in ((folder, 2), (folder.with_name(f"{folder.name}-next"), 3)):
        assert json.loads((open_checkpoint(path).path / "state.json").read_text()) == {"number": number}


def test_writers_die_with_a_killed_rank_and_publish_nothing(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "saved" / "step_000001"
    task = {**world.train_task(NO_KL, steps=1), "kind": "hang", "folder": str(folder)}
    process = world.launch(tmp_path / "hang", "tp2", {"hang": task})
    ready, log = [folder.with_name(f"ready.{rank}") for rank in (0, 1)], tmp_path / "hang" / "log"
    end = time.monotonic() + END_S
    while not all(path.is_file() and path.read_text() for path in ready):
        assert process.poll() is None, log.read_text(errors="replace")[-6000:]
        assert time.monotonic() < end, log.read_text(errors="replace")[-6000:]
        time.sleep(0.1)
    (first, *_), (second, *held) = (json.loads(path.read_text()) for path in ready)
    family = descendants(process.pid)
    assert children(second) == held
    assert {first, second, *held} <= set(family)
    os.kill(second, signal.SIGKILL)
    assert not wait_until_dead(held, 5), "the writer of the killed rank lived on"
    finish(process, log, END_S)
    assert not wait_until_dead(family, 10)
    assert process.returncode != 0
    (partial,) = (path for path in folder.parent.iterdir() if path.is_dir())
    assert partial.name.startswith("step_000001.partial-")
    with pytest.raises(CheckpointError, match="incomplete, delete it"):
        open_checkpoint(partial)
