"""A critic in a plan: its bytes and seconds calculated by hand, its turns on the GPUs, and what a user is told."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from conversion.families import family_for
from recipes.planning.advice import advice
from recipes.planning.architectures import PUBLISHED, parameters, published, stage_parameters
from recipes.planning.critic import critic_phases, with_critic
from recipes.planning.estimate import Plan
from recipes.planning.hardware import OURS, gpu_of
from recipes.planning.layout import Layout, Rollout
from recipes.planning.memory import Memory, memory_of
from recipes.planning.sweep import check_layout, legal_layouts, sweep
from recipes.planning.text import as_dict, as_text
from recipes.planning.timing import Model, Parts, pass_seconds, update_seconds
from recipes.runtime.config import ClusterConfig, ConfigError, CriticConfig
from tests.planning.test_plan import plan_of

H100 = gpu_of(ClusterConfig())
LLAMA_70B = published("Llama-3.1-70B")
PPO = ("experiment=grpo_70b", "algorithm=ppo")
TURNS = (*PPO, "critic.offload=true")
# Two layers, untied: a layer has 8 (8 + 2 x 4) + 8 x 8 + 3 x 8 x 16 + 2 x 8 = 592 weights, the embedding 80.
SMALL = PUBLISHED["Llama-3.1-8B"] | {
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 16,
    "vocab_size": 10,
}


# Composing a configuration is what takes time here.
planned = functools.cache(plan_of)


def with_settings(plan: Plan, **critic: Any) -> Plan:
    """The plan with other settings of the critic."""
    settings = dataclasses.replace(plan.config.critic, **critic)
    return dataclasses.replace(plan, config=dataclasses.replace(plan.config, critic=settings))


@pytest.mark.parametrize(("name", "more"), [("Llama-3.1-70B", 8192 - 128_256 * 8192), ("Qwen2.5-3B", 2048)])
def test_a_critic_has_a_value_head_in_place_of_the_output_matrix(name: str, more: int) -> None:
    """Where the embedding is the output matrix too, it stays, and the head comes beside it."""
    architecture = published(name)
    assert parameters(architecture, critic=True) == parameters(architecture) + more
    ends = 1 if name == "Qwen2.5-3B" else 2
    policys, critics = (stage_parameters(architecture, 2, 1, critic=critic) for critic in (False, True))
    assert policys - critics == (ends - 1) * architecture.vocab_size * architecture.hidden_size / 2
    # Over several stages an end has one of them, whatever it is.
    assert stage_parameters(architecture, 2, 2, critic=True) == stage_parameters(architecture, 2, 2)


@pytest.fixture
def small() -> dict[bool, Memory]:
    """On two data parallel GPUs, with micro-batches of 64 tokens: beside the policy, and in turns with it."""
    architecture = family_for(SMALL).megatron_architecture(SMALL)
    layout, rollout = Layout(data=2, micro_batch_tokens=64), Rollout(2, 2, 4, 8, 16)
    alone = memory_of(architecture, layout, rollout, reference=True, longest_prompt=16)
    return {
        offload: with_critic(alone, architecture, architecture, layout, rollout, longest_prompt=16, offload=offload)
        for offload in (False, True)
    }


def test_bytes_of_a_small_critic(small: dict[bool, Memory]) -> None:
    policy, critic = 2 * 592 + 2 * 80, 2 * 592 + 80
    own = {"weights": 2 * policy, "gradients": 4 * policy, "optimizer state": 6 * policy, "overhead": 5e9}
    state = {"critic weights": 2 * critic, "critic gradients": 4 * critic, "critic optimizer": 6 * critic}
    # 64 tokens x 2 layers x 2 (4 x 8 + 2 x 8 + 2 x 4 + 3 x 16), and four times 64 x 8 hidden values of 2 bytes.
    trained = {"critic activations": 64 * 2 * 208 + 4 * 2 * 64 * 8}
    beside, turns = small[False], small[True]
    assert beside.always == own | state
    assert beside.phases["critic training"] == own | state | trained
    assert turns.always == own
    assert turns.phases["critic training"] == {"overhead": 5e9} | state | trained
    # A save gathers 4 (1 + 1 / 2) bytes a parameter of the critic as of the policy.
    assert turns.phases["critic saving"] == {"overhead": 5e9} | state | {"gathered optimizer state": 6 * critic}
    assert beside.peak == max(sum(parts.values()) for parts in beside.phases.values())
    assert beside.training_peak == sum((own | state | beside.training).values())


def test_host_memory_of_a_small_critic(small: dict[bool, Memory]) -> None:
    policy, critic = 2 * 592 + 2 * 80, 2 * 592 + 80
    # Both are gathered, 12 bytes a parameter, and then copied by the rank that writes them.
    assert small[False].host_saving == small[True].host_saving == 24 * (policy + critic)
    assert small[False].host == {"reference policy": 2 * policy}
    # Weights, and main weights and moments over two ranks; gradients are not kept.
    assert small[True].host == {"reference policy": 2 * policy, "policy": 8 * policy, "critic": 8 * critic}
    assert small[True].of_node(2) == 2 * (10 * policy + 8 * critic + 24 * (policy + critic))


def test_seconds_of_a_critic() -> None:
    layout = Layout(tensor=8, pipeline=2, data=4, sequence=True)
    policy, critic = (Model(LLAMA_70B, layout, H100, OURS, critic=critic) for critic in (False, True))
    settings = CriticConfig(epochs=2, mini_batches=4, offload=True)
    phases = critic_phases(policy, critic, 1e6, 900, settings)
    assert list(phases) == ["taking turns", "values", "critic training"]
    # Layers as the policy's, and 8192 weights of the head.
    products = 2 * (80 * 855_638_016 + 8192) * 1e6 / 64 / (0.45 * 989.4e12)
    assert phases["values"]["matrix products"] == pytest.approx(products)
    # Two epochs, each three times a forward pass. Eight updates of a stage without output matrix.
    assert phases["critic training"]["matrix products"] == pytest.approx(2 * 3 * products)
    held = (40 * 855_654_400 + 128_256 * 8192) / 8
    assert phases["critic training"]["gradients and weights"] == pytest.approx(8 * 6 * held * 0.75 / 40e9)
    assert phases["critic training"]["optimizer"] == pytest.approx(8 * update_seconds(critic)["optimizer"])
    # 2 + 12 / 4 bytes a parameter, out and in again, at 10e9 a second.
    assert phases["taking turns"] == pytest.approx({"policy": 2 * 5 * held / 10e9, "critic": 2 * 5 * held / 10e9})
    assert "taking turns" not in critic_phases(policy, critic, 1e6, 900, CriticConfig())


def test_a_70b_step_with_a_critic() -> None:
    """The shipped layout has no room for both; by turns it has, but a node has not for what a save gathers then."""
    plain, beside = planned("experiment=grpo_70b"), planned(*PPO)
    turns = with_settings(beside, offload=True)
    assert [plan.verdict for plan in (plain, beside, turns)] == ["fits", "does not fit", "fits"]
    order = ["generation", "scoring", "log-probabilities", "reference policy", "values", "critic training", "training"]
    assert list(beside.phases) == order
    assert list(turns.phases) == [*order[:4], "taking turns", *order[4:]]
    assert beside.rests_on.keys() == beside.phases.keys()
    assert turns.rests_on["taking turns"].startswith("estimate")
    held = stage_parameters(LLAMA_70B, 8, 2)
    assert turns.node_memory == pytest.approx(8 * held * (2 + 2 * 5 + 48))
    said = advice(beside)
    assert said[0].startswith("Set critic.offload=true: policy and critic then take turns on the GPUs, 67 GB in place")
    assert said[1].startswith("A save then takes 2117 GB of a node's memory, and it has 2000")
    assert advice(turns)[0].startswith("A save takes 2117 GB")
    assert "is not enough: 111 GB in place of 177" in advice(planned(*PPO, "parallel.tensor=4"))[0]
    small = planned("experiment=med_rlvr_3b", "algorithm=ppo", response_tokens=512)
    assert advice(with_settings(small, offload=True))[0].startswith(
        "Policy and critic fit beside each other: critic.offload=false takes 63 GB in place"
    )


def test_epochs_and_steps_of_the_critic_alone() -> None:
    whole = planned(*PPO)
    assert with_settings(whole, epochs=2).seconds["critic training"] == pytest.approx(
        2 * whole.seconds["critic training"]
    )
    partly = with_settings(whole, alone_steps=50)
    assert partly.step_seconds == whole.step_seconds
    assert whole.hours - partly.hours == pytest.approx(50 * whole.seconds["training"] / 3600)
    # There are 200 steps.
    assert with_settings(whole, alone_steps=500).hours == with_settings(whole, alone_steps=200).hours
    assert with_settings(planned("experiment=grpo_70b"), alone_steps=50).alone_steps == 0


def test_vllm_beside_a_critic() -> None:
    vllm = ("rollout=vllm", "rollout.tensor=8", "rollout.vllm.memory_share=0.4")
    asleep = planned(*TURNS, *vllm, "rollout.vllm.sleep=true")
    assert asleep.memory.phases["sampling"] == asleep.memory.always | {"vLLM": 32e9}
    assert "critic weights" not in asleep.memory.phases["sampling"]
    assert all("vLLM" not in asleep.memory.phases[phase] for phase in ("training", "critic training", "critic saving"))
    sleepless = dataclasses.replace(asleep.config.rollout.vllm, sleep=False)
    rollout = dataclasses.replace(asleep.config.rollout, vllm=sleepless)
    awake = dataclasses.replace(asleep, config=dataclasses.replace(asleep.config, rollout=rollout))
    assert all(parts["vLLM"] == 32e9 for parts in awake.memory.phases.values())
    apart = planned(*TURNS, *vllm, "parallel.processes=32", rollout_nodes=4)
    assert all("vLLM" not in parts for parts in apart.memory.phases.values())
    assert apart.gpus == 64


@pytest.mark.parametrize("more", [(), ("rollout=vllm", "rollout.tensor=8")])
def test_the_sweep_with_a_critic(more: tuple[str, ...]) -> None:
    """Each layout with and without turns, and none whose save a node has no room for."""
    plan = planned(*PPO, *more, response_tokens=400)
    candidates = list(legal_layouts(plan.config, plan.architecture, 8))
    assert sum(config.critic.offload for config in candidates) == len(candidates) / 2
    fitting, others = sweep(plan)
    assert fitting
    if not more:
        assert len(fitting) + others == len(candidates)
    assert {found.config.critic.offload for found in fitting} >= {True}
    for found in fitting:
        check_layout(found.config, found.architecture)
        assert found.critic is not None
        assert found.memory.peak <= 80e9
        assert found.node_memory <= 2000e9
    text = as_text(plan, "somewhere", (fitting, others))
    assert "critic     69.50 billion parameters (the policy, with a value head), beside the policy" in text
    assert "micro-batch recompute offload  s/step" in text
    assert ("EXTRA='rollout.vllm.memory_share=0.45 critic.offload=true'" in text) == bool(more)


def test_what_machines_read() -> None:
    figures = as_dict(with_settings(planned(*PPO), offload=True, alone_steps=20), "somewhere")
    assert figures["critic"] == {"parameters": 69_503_041_536, "offload": True, "alone_steps": 20}
    sizes = figures["memory_bytes"]
    assert sizes["critic_training_peak"] < sizes["training_peak"] < sizes["limit"]
    assert sizes["host"] == pytest.approx(stage_parameters(LLAMA_70B, 8, 2) * (2 + 2 * 5))
    assert as_dict(planned("experiment=grpo_70b"), "somewhere")["critic"] is None


def test_a_critic_of_another_model(tmp_path: Path) -> None:
    def plan_with(**changes: Any) -> Plan:
        (tmp_path / "config.json").write_text(json.dumps(PUBLISHED["Llama-3.1-8B"] | changes))
        return with_settings(planned(*PPO), path=str(tmp_path))

    plan = plan_with()
    check_layout(plan.config, plan.architecture)
    assert plan.critic is not None
    assert parameters(plan.critic, critic=True) == 8_030_261_248 - 128_256 * 4096 + 4096
    assert plan.seconds["critic training"] < planned(*PPO).seconds["critic training"] / 6
    assert f"critic     7.50 billion parameters ({tmp_path})" in as_text(plan, "somewhere")
    for changes, said in (
        ({"vocab_size": 1000}, f"critic.path={tmp_path}: a vocabulary of 1000 tokens, and the policy has 128256"),
        ({"num_key_value_heads": 4}, f"critic.path={tmp_path}, which has the policy's layout: parallel.tensor=8"),
        ({"num_hidden_layers": 33}, f"critic.path={tmp_path}, which has the policy's layout: parallel.pipeline=2"),
    ):
        other = plan_with(**changes)
        with pytest.raises(ConfigError) as refused:
            check_layout(other.config, other.architecture)
        assert str(refused.value).startswith(said)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"no config.json there; .* or leave critic.path out and start the critic"):
        check_layout(plan.config, plan.architecture)


def test_a_critic_server_answers_while_the_next_round_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """NeMo-Aligner's: 16 rounds of 64 responses, two passes over each and one model's weights from the host."""
    # It puts the repository first.
    monkeypatch.setattr(sys, "path", list(sys.path))
    bench = importlib.import_module("benchmarks.plan")
    row = next(row["step"] for row in bench._read()["rows"] if row["id"] == "aligner-70b-8")
    rollout = Rollout(row["groups"], row["copies"], row["prompt"], row["response"], row["limit"])
    generator = bench.Generator("engine", **row["generate"])

    def step(**phases: float) -> float:
        seconds: float = bench.with_server(row, rollout, generator, **phases)
        return seconds

    layout = Layout(tensor=8, data=4, sequence=True, micro_batch_tokens=4096)
    server = Model(LLAMA_70B, layout, H100, bench.Kernels(0.55, hides_tensor_parallel=False), critic=True)
    # Rows of 256 and, of 1024 responses, the limit of 1024 tokens.
    forward: Parts = pass_seconds(server, 1024 * 1280, 640, trained="nothing")
    load = 2 * (80 * 855_654_400 + 128_256 * 8192) / 8 / 10e9
    answers = 2 * sum(forward.values()) + 16 * load
    trained = bench.training(server, rollout, row)
    assert step(before=0, generation=0, after=0) == pytest.approx(trained + answers)
    # Its work is done meanwhile, but for that of the last round, or for nothing where the policy computes longer.
    assert step(before=100, generation=1000, after=0) == pytest.approx(1100 + answers / 16)
    assert step(before=100, generation=1000, after=50) == pytest.approx(1150)
    # The server begins with the first round, and is the slower one.
    assert step(before=100, generation=16, after=0) == pytest.approx(101 + answers)
