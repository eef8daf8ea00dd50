"""Who keeps NeMo-Aligner's own trainer: it restores what our engine saved, and our server rewards its rollouts."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from conversion import hf_to_megatron
from recipes.data.example import read_examples
from recipes.prepare_data import embedded
from reward_server.client import RewardClient, ScoreItem
from reward_server.process import RewardServerProcess
from tests.conftest import REPOSITORY, finish, start
from tests.engines_nemo_aligner.reinforce import COPIES, PROMPTS, QUESTIONS, STEPS

pytestmark = pytest.mark.multiprocess


def _tiny_base(folder: Path) -> Path:
    """The quickstart's model with its tokenizer under the name that transformers 4 has for the class."""
    shutil.copytree(REPOSITORY / "recipes" / "data" / "tiny_base", folder)
    file = folder / "tokenizer_config.json"
    file.write_text(file.read_text().replace("TokenizersBackend", "PreTrainedTokenizerFast"))
    return folder


def test_aligners_own_reinforce_goes_on_from_our_folder_with_our_rewards(tmp_path: Path) -> None:
    embedded(tmp_path / "data", seed=0, train=20, sft=20, heldout=2, calculators="elementary")
    questions = tmp_path / "data" / "sft.jsonl"
    model = hf_to_megatron.convert(_tiny_base(tmp_path / "hf"), tmp_path / "tiny.nemo", layout="nemo").path
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    with RewardServerProcess() as server:
        module = ["-m", "tests.engines_nemo_aligner.reinforce", str(model), server.url, str(questions), str(tmp_path)]
        process = start([*command, *module], tmp_path / "log", PYTHONPATH=str(REPOSITORY))
        output = finish(process, tmp_path / "log", deadline_s=240)
        assert process.returncode == 0, output[-6000:]
        found = [json.loads((tmp_path / f"result.{rank}.json").read_text()) for rank in range(2)]

        asked = {example.question: example for example in read_examples(questions)[:QUESTIONS]}
        rows = found[0]["rows"]
        assert [step for step, *_ in rows] == list(range(STEPS))
        with RewardClient(server.url) as client:
            for _, prompt, response, reward in rows:
                (example,) = (asked[question] for question in asked if question in prompt)
                item = ScoreItem("0", example.task, response, example.reference())
                assert client.score("gated", [item])[1][0].reward == pytest.approx(reward)
    assert found[0]["theirs"] == pytest.approx(found[0]["ours"], abs=1e-4)
    for name in ("metrics", "theirs", "trained"):
        assert found[0][name] == found[1][name], name
    for step in found[0]["metrics"]:
        assert step["rollout_size"] == PROMPTS * COPIES
        # The answers were taught, so most are right.
        assert 0 < step["rewards"] <= 1
    assert max(abs(a - b) for a, b in zip(found[0]["theirs"], found[0]["trained"], strict=True)) > 1e-4
