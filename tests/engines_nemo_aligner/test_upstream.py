"""Defects of NeMo-Aligner 0.7.0 and NeMo 2.1 that do not reach users; each is shown by what would happen with it.

`test_parity.py` shows three more: several sequences a micro-batch (upstream's loss multiplies [rows, tokens] by
[rows]), one rank a sample at DP 2 (upstream every rank trains on all), clipping, KL and metrics (upstream has none).
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from recipes.data.example import Example
from recipes.engines.base import Completion, TokenBatch
from recipes.rl.losses import Objective, policy_loss
from recipes.rollout.prompts import Prompt
from recipes.rollout.scoring import Trajectory
from recipes.rollout.training import training_sequences
from recipes.runtime.config import AlgorithmConfig
from reward_server.client import Score
from tests.conftest import REPOSITORY
from tests.engines_nemo_aligner.conftest import World

pytestmark = pytest.mark.multiprocess


def _python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    settings = {key: value for key, value in os.environ.items() if key != "MEDATRON_DEVICE"} | environment
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        env=settings,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_actor_is_importable_without_tensorrt_llm() -> None:
    """Upstream's actor imports TensorRT-LLM unguarded."""
    assert importlib.util.find_spec("tensorrt_llm") is None
    done = _python(
        "from recipes.engines.nemo_aligner import upstream\n"
        "upstream.prepare()\n"
        "from recipes.engines.nemo_aligner.actor import MegatronGPTGRPOActorModel as actor\n"
        "print([base.__name__ for base in actor.__mro__][:2])",
        MEDATRON_DEVICE="cpu",
    )
    assert "['MegatronGPTGRPOActorModel', 'MegatronGPTReinforceActorModel']" in done.stdout, done.stderr[-3000:]


def test_the_cpu_patches_wait_for_their_switch() -> None:
    """Without it, and without a GPU, the engine says what to set; nothing of torch or NeMo is touched."""
    done = _python(
        "import sys, torch\n"
        "from recipes.engines.nemo_aligner import upstream\n"
        "before = torch.zeros, torch.cuda.current_device\n"
        "try:\n    upstream.prepare()\n"
        "except Exception as error: print(error)\n"
        "print((torch.zeros, torch.cuda.current_device) == before, 'recipes.engines.nemo_aligner.cpu' in sys.modules)"
    )
    assert "set MEDATRON_DEVICE=cpu" in done.stdout, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "True False"


def test_the_cpu_patches_refuse_a_gpu() -> None:
    done = _python(
        "import torch\n"
        "torch.cuda.is_available = lambda: True\n"
        "from recipes.engines.nemo_aligner import cpu\n"
        "try:\n    cpu.install_torch()\n"
        "except Exception as error: print(error)"
    )
    assert "for machines without a GPU" in done.stdout, done.stderr[-3000:]


def test_upstreams_sampler_and_loss_are_refused(world: World) -> None:
    """NeMo's generate fails with the distributed optimizer; its loss crashes at a micro-batch above 1."""
    found = world.results("tp2")[0]["upstream"]
    assert "sample with NemoAlignerEngine.generate" in found["infer"]
    assert "computes its loss in get_loss_and_metrics" in found["loss"]


def test_adams_epsilon_arrives(world: World) -> None:
    """NeMo 2.1 drops it from the distributed optimizer's settings, and trains with 1e-8."""
    assert world.results("tp2")[0]["upstream"]["epsilon"] == 1e-4


def test_data_parallel_ranks_do_not_wait_for_each_others_amaxes(world: World) -> None:
    """NeMo's default reduces them after every micro-batch, and data parallel ranks have not as many of them."""
    assert world.results("tp2")[0]["upstream"]["tp_only_amax_red"] is True


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ("layout", "--layout nemo"),
        ("sequence", "has no sequence parallelism"),
        ("fp8", "needs Transformer Engine layers"),
    ],
)
def test_what_it_cannot_do_is_refused(world: World, task: str, says: str) -> None:
    for rank in world.results("tp2"):
        assert says in rank[task]


def _trajectory(identity: int, reward: float, finished: bool) -> Trajectory:
    example = Example(id="q", source="s", task="number", question="?", answer=1.0)
    score = Score(
        str(identity), reward, "correct", None, {"answer": reward, "format": 1.0, "length": 0.0}, None, "n", "1"
    )
    completion = Completion((5 + identity, 6), (-1.0, -2.0), finished)
    return Trajectory(Prompt(example, "?", (1, 2)), completion, "text", score, 0)


def test_truncated_samples_are_masked_as_configured() -> None:
    """Upstream computes a mask of finished samples and then averages over all of them.

    Rewards 1, 0, 0, the last one cut: with the filter it leaves the batch and still counts in the mean of its group.
    """
    group = [_trajectory(0, 1.0, True), _trajectory(1, 0.0, True), _trajectory(2, 0.0, False)]
    kept = {}
    for filtered in (False, True):
        chosen, _ = training_sequences([group], AlgorithmConfig(advantage="dr_grpo", overlong_filter=filtered))
        kept[filtered] = [(s.ids[2], round(s.advantages[0], 6)) for s in chosen[0]]
        batch = TokenBatch(tuple(chosen[0]))
        # Two tokens a response: 6 without the filter, 4 with it, in the loss's denominator as well.
        assert batch.response_tokens == (4 if filtered else 6)
        assert policy_loss(Objective(), tokens=batch.response_tokens, sequences=len(batch.sequences))
    # The mean reward is 1/3 in both.
    assert kept[False] == [(5, 0.666667), (6, -0.333333), (7, -0.333333)]
    assert kept[True] == kept[False][:2]


def test_the_environment_is_named_when_it_is_the_wrong_one(tmp_path: Path) -> None:
    """The first engine's environment has another megatron-core and no NeMo."""
    from tests.engines_nemo_aligner.conftest import megatron_python

    done = subprocess.run(
        [megatron_python(), "-c", "from recipes.engines.nemo_aligner import upstream; upstream.prepare()"],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "engine=nemo_aligner needs nemo-aligner 0.7, and it is not installed here" in done.stderr
    assert "make install-aligner" in done.stderr
