"""A run that samples one step ahead with a real vLLM server: killed behind a save it goes on as if nothing had been."""

from __future__ import annotations

import contextlib
import json
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from recipes.monitor.rollouts import read_rollouts
from recipes.rollout.packing import unpack
from recipes.runtime.run_folder import RunFolder, last_checkpoint
from tests.conftest import descendants, finish, start, wait_until_dead
from tests.end_to_end.launch import figures, run, started, wait_for
from tests.sampling.conftest import Running, serving

pytestmark = [pytest.mark.vllm, pytest.mark.multiprocess, pytest.mark.slow]
STEPS, SAVED, PROMPTS, COPIES = 5, 2, 6, 4


@pytest.fixture(scope="module")
def running(
    vllm_python: str, tiny_checkpoint: Path, embedded_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """A server, and a checkpoint of its sizes that knows the form of an answer, trained while the server starts."""
    root = tmp_path_factory.mktemp("ahead")
    settings = ["experiment=quickstart_sft", f"output={root / 'sft'}", f"model.path={tiny_checkpoint}"]
    settings += [f"data.train=[{embedded_data / 'sft.jsonl'}]", "trainer.steps=30", "trainer.batch=16"]
    sft = start([sys.executable, "-m", "recipes.sft", *settings], root / "sft.log")
    hf, token = tiny_checkpoint / "hf", secrets.token_hex(8)
    with contextlib.contextmanager(serving)(vllm_python, hf, tiny_checkpoint, root / "vllm.log", token) as server:
        said = finish(sft, root / "sft.log", 120)
        assert sft.returncode == 0, said[-3000:]
        yield Running(server.url, token, hf, last_checkpoint(root / "sft"), server.process, server.log)


def test_killed_behind_a_save_it_trains_on_what_was_in_flight(
    running: Running, embedded_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tokens that the checkpoint holds, then what an unbroken run samples and learns."""
    monkeypatch.setenv("MEDATRON_ROLLOUT_TOKEN", running.token)

    def settings(folder: Path) -> list[str]:
        own = ["experiment=quickstart_grpo", "rollout=vllm", f"output={folder}", f"model.path={running.checkpoint}"]
        own += [f"data.train=[{embedded_data / 'train.jsonl'}]", f"rollout.vllm.urls=[{running.url}]", "parallel=tp2"]
        own += ["trainer.max_seconds=0", f"trainer.steps={STEPS}", f"trainer.save_every={SAVED}", "rollout.ahead=1"]
        own += [f"rollout.prompts={PROMPTS}", f"rollout.group_size={COPIES}", "rollout.max_new_tokens=48"]
        own += ["rollout.samples_every=1", "reward.preset=med_u1", "optimizer.final_share=1.0"]
        return own

    whole, broken, log = tmp_path / "whole", tmp_path / "broken", tmp_path / "log"
    process = started("recipes.grpo", *settings(broken), log=log)
    wait_for(lambda: RunFolder(broken).steps() == [SAVED], process, log)
    family = descendants(process.pid)
    process.kill()
    finish(process, log, 60)
    assert not wait_until_dead(family, 60)
    assert RunFolder(broken).steps() == [SAVED]
    [kept] = json.loads((RunFolder(broken).step_path(SAVED) / "state.json").read_text())["order"]["ahead"]
    run("recipes.grpo", *settings(broken), log=tmp_path / "second")
    run("recipes.grpo", *settings(whole), log=tmp_path / "whole.log")

    rows = read_rollouts(broken)
    tokenizer = AutoTokenizer.from_pretrained(running.checkpoint / "hf")
    trained = [(row.id, row.tokens, row.response) for row in rows if row.step == SAVED + 1]
    stored = [
        (identity, c) for identity, g in zip(kept["prompts"], unpack(kept["completions"]), strict=True) for c in g
    ]
    assert len(stored) == PROMPTS * COPIES
    for (identity, completion), row in zip(stored, trained, strict=True):
        text = tokenizer.decode(completion.ids, skip_special_tokens=True)
        assert (identity, len(completion.ids), text) == row
        assert completion.versions == ((SAVED - 1, len(completion.ids)),)
    assert [row.version for row in rows] == [max(0, row.step - 2) for row in rows]
    assert [(r.step, r.id, r.response, r.reward) for r in rows] == [
        (r.step, r.id, r.response, r.reward) for r in read_rollouts(whole)
    ]
    found, wanted = (
        [{k: v for k, v in row.items() if not k.endswith("_s")} for row in figures(f)] for f in (broken, whole)
    )
    assert [row["rollout/staleness_mean"] for row in wanted] == [0, 1, 1, 1, 1]
    assert all(row["policy/updates"] == 1 for row in wanted)
    # vLLM computes a response otherwise beside others, by a rounding that the optimizer may magnify.
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-2, abs=1e-3), theirs["step"]
