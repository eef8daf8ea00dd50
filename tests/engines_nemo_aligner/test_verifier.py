"""`RemoteVerifierClient` against a real reward server: rewards on every model parallel rank, in Aligner's shape."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from recipes.data.example import Example
from reward_server.process import RewardServerProcess
from tests.conftest import REPOSITORY, finish, start

pytestmark = pytest.mark.multiprocess

# A token is a character's code.
RIGHT, WRONG = "<think>a</think><answer>B</answer>", "<think>a</think><answer>A</answer>"


def _rank(url: str, folder: Path) -> None:
    """One of two tensor parallel ranks."""
    from recipes.engines.nemo_aligner import upstream

    upstream.prepare()
    from megatron.core import parallel_state

    from recipes.engines.nemo_aligner.verifier import RemoteVerifierClient
    from reward_server.client import RewardClient, RewardClientError

    dist.init_process_group("gloo")
    parallel_state.initialize_model_parallel(tensor_model_parallel_size=2)
    example = Example(id="q", source="s", task="choice", question="?", answer="B", options={"A": "x", "B": "y"})
    prompt = "Q?"
    rm = RemoteVerifierClient(
        RewardClient(url, total_timeout_s=20),
        {tuple(map(ord, prompt)): example},
        lambda ids: "".join(map(chr, ids)),
        preset="binary",
    )

    def batch(prompt: str, responses: list[str]) -> dict[str, torch.Tensor]:
        rows = [list(map(ord, prompt + text)) for text in responses]
        width = max(map(len, rows))
        return {
            "response_tokens": torch.tensor([row + [0] * (width - len(row)) for row in rows]),
            "response_lengths": torch.tensor([len(row) for row in rows]),
            "prompt_lengths": torch.tensor([len(prompt)] * len(rows)),
            "is_end": torch.ones(len(rows)),
        }

    futures = [rm.infer_rm(batch(prompt, responses)) for responses in ([RIGHT, WRONG, "no"], [WRONG, RIGHT])]
    found = {"rewards": [future.result().tolist() for future in futures]}
    try:
        rm.infer_rm(batch("other", [RIGHT])).result()
    except RewardClientError as error:
        found["unknown"] = str(error)
    rm.close()
    (folder / f"result.{dist.get_rank()}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def test_every_model_parallel_rank_gets_the_rewards(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    with RewardServerProcess() as server:
        module = ["-m", "tests.engines_nemo_aligner.test_verifier", server.url, str(tmp_path)]
        process = start([*command, *module], tmp_path / "log", PYTHONPATH=str(REPOSITORY))
        output = finish(process, tmp_path / "log", deadline_s=120)
    assert process.returncode == 0, output[-6000:]
    for rank in range(2):
        found = json.loads((tmp_path / f"result.{rank}.json").read_text())
        assert found["rewards"] == [[[1.0], [0.0], [0.0]], [[0.0], [1.0]]]
        assert "is none of the 1 given" in found["unknown"]


if __name__ == "__main__":
    _rank(sys.argv[1], Path(sys.argv[2]))
