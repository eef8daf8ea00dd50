"""The configuration: every experiment composes, and what cannot run is refused with the key and the fix."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path

import pytest

from conversion.families import family_for
from recipes.runtime.config import ClusterConfig, ConfigError, from_yaml, to_yaml
from recipes.runtime.loading import CONFIGS, load
from recipes.runtime.model_rules import validate_model

TINY_BASE = Path(__file__).parents[2] / "recipes" / "data" / "tiny_base"
NEEDED = ("output=run", "model.path=checkpoint")
EXPERIMENTS = sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))


def _groups() -> list[str]:
    folders = [path for path in CONFIGS.iterdir() if path.is_dir() and path.name != "experiment"]
    return sorted(f"{folder.name}={file.stem}" for folder in folders for file in folder.glob("*.yaml"))


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes_and_keeps_its_values(experiment: str) -> None:
    """A key of a file under configs/ that the schema does not know would stop every run of that experiment."""
    config = load([f"experiment={experiment}", *NEEDED])
    assert config.output == "run"
    assert from_yaml(to_yaml(config)) == config


def test_there_are_experiments() -> None:
    assert {"quickstart_grpo", "quickstart_sft"} <= set(EXPERIMENTS)


@pytest.mark.parametrize("group", _groups())
def test_every_file_of_every_group_fits_the_schema(group: str) -> None:
    """Only a cross-field rule may refuse a file by itself, as a layout that needs more prompts does."""
    with contextlib.suppress(ConfigError):
        load([group, *NEEDED])
        return
    with pytest.raises(ConfigError) as refused:
        load([group, *NEEDED])
    assert "the keys are listed" not in str(refused.value)


def test_the_cluster_of_the_defaults_is_h100() -> None:
    assert load(["output=x", "model.path=x", "cluster=h100"]).cluster == ClusterConfig()


def test_the_quickstarts_values_reach_the_config() -> None:
    config = load(["experiment=quickstart_grpo", *NEEDED, "trainer.steps=3", "data.train=[a.jsonl,b.jsonl]"])
    assert (config.parallel.processes, config.parallel.tensor) == (2, 2)
    assert (config.data.style, config.data.train) == ("plain", ["a.jsonl", "b.jsonl"])
    assert config.data.mix == {"choice": 1.0, "calculation": 1.0, "text": 1.0}
    assert (config.trainer.steps, config.reward.url, config.reward.length_mode) == (3, None, "max")


def test_a_divergence_in_ppos_loss_holds_the_policy_back() -> None:
    """k1, which is what tokens are charged, would be a term of the loss whose gradient is zero on average."""
    assert load([*NEEDED, "algorithm=ppo", "algorithm.kl_place=loss"]).algorithm.kl_estimator == "k3"


def test_yaml_round_trip_of_every_section() -> None:
    overrides = ["optimizer.betas=[0.8,0.99]", "reward.url=http://h:1", "data.mix={text: 2.5}", "trainer.max_seconds=9"]
    config = load([*NEEDED, *overrides, "name='a: b # c'", "seed=1000000000000000000"])
    again = from_yaml(to_yaml(config))
    assert again == config
    assert {f.name: type(getattr(again, f.name)) for f in dataclasses.fields(again)} == {
        f.name: type(getattr(config, f.name)) for f in dataclasses.fields(config)
    }
    assert tuple(again.optimizer.betas) == (0.8, 0.99)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["trainer.stesp=3"], "stesp"),
        (["+trainer.stesp=3"], "stesp"),
        (["optimiser.learning_rate=1"], "optimiser"),
        (["experiment=no_such"], "no_such"),
        (["reward=no_such"], "no_such"),
        (["trainer.steps=many"], "trainer.steps"),
        (["rollout.temperature=warm"], "rollout.temperature"),
        (["parallel.sequence=perhaps"], "parallel.sequence"),
        (["data.train=file.jsonl"], "data.train"),
        (["trainer.steps"], "trainer.steps"),
        (["engine=deepspeed"], "engine=deepspeed: expected one of megatron"),
        (["model.precision=float16"], "model.precision=float16: expected one of float32, bfloat16"),
        (
            ["data.style=fancy"],
            "data.style=fancy: expected one of med_rlvr, med_u1, medcalc_bench, multiple_choice, pl",
        ),
        (["data.style=own.yml"], "pubmedqa, or the path of a prompt file, which ends in .yaml"),
        (["prompt=pubmedqa"], "prompt=pubmedqa: a prompt is chosen by data.style=pubmedqa"),
        (["reward.match=fuzzy"], "reward.match=fuzzy: expected one of strict, lenient"),
        (["parallel.tensor=0"], "parallel.tensor=0: expected at least 1"),
        (["parallel.timeout_minutes=0"], "parallel.timeout_minutes=0.0: expected above 0"),
        (["rollout.group_size=1"], "rollout.group_size=1: a group of one has no advantage with"),
        (["reward.likelihood=[essay]"], "reward.likelihood: ['essay'] are not kinds of task; expected choice"),
        (
            ["reward.likelihood=[text]", "algorithm=gspo"],
            "algorithm.ratio=sequence: reward.likelihood gives a response",
        ),
        (["reward.likelihood=[text]", "algorithm=ppo"], "algorithm.advantage=gae: reward.likelihood gives a response"),
        (["reward.likelihood=[text]", "algorithm=reinforce_pp"], "algorithm.advantage=reinforce_pp: reward.likelihood"),
        (
            ["reward.likelihood=[text]", "algorithm.tasks=components", "algorithm.component_weights={format: 1}"],
            "algorithm.tasks=components: reward.likelihood gives a response one advantage and the tokens",
        ),
        (["reward.likelihood_filter=0.5"], "reward.likelihood_filter=0.5 compares groups of reward.likelihood"),
        (["algorithm.positive_coef=0.1"], "algorithm.positive_coef=0.1 belongs to algorithm.advantage=gae"),
        (["algorithm=ppo", "engine=nemo_aligner"], "algorithm.advantage=gae: engine=nemo_aligner has no critic"),
        (["algorithm=ppo", "algorithm.tasks=per_task"], "algorithm.tasks=per_task balances what groups' rewards"),
        (["algorithm=ppo", "rollout.group_size=1", "rollout.adaptive=true"], "rollout.max_batches and rollout"),
        (["algorithm=ppo", "critic.path="], "critic.path= is empty; is a variable of the shell unset?"),
        (["algorithm=ppo", "critic.alone_steps=100"], "critic.alone_steps=100 leaves the policy no step"),
        (
            ["algorithm=ppo", "algorithm.cut=bootstrap", "algorithm.overlong_filter=true"],
            "algorithm.cut=bootstrap says",
        ),
        (["algorithm=vapo", "critic.mini_batches=5"], "critic.mini_batches=5 does not divide rollout.prompts=32"),
        (["algorithm=ppo", "algorithm.policy_lambda=1.1"], "algorithm.policy_lambda=1.1: expected at least 0"),
        (
            ["parallel.processes=3", "parallel.tensor=2"],
            "parallel.processes=3 is not divisible by tensor x pipeline = 2 x 1; set parallel.processes to a multiple",
        ),
        (
            ["parallel.processes=4", "parallel.tensor=2", "rollout.prompts=5"],
            "rollout.prompts=5 is not divisible by the data parallel size 2",
        ),
        (
            ["algorithm.mini_batches=3", "rollout.prompts=32"],
            "algorithm.mini_batches=3 does not divide rollout.prompts=32",
        ),
        (["algorithm.mini_batches=0"], "algorithm.mini_batches=0: expected at least 1"),
        (["algorithm.importance=some"], "expected one of none, truncated, masked, sequence_masked"),
        (["algorithm.importance_low=3"], "algorithm.importance_low=3.0 is above importance_high=2.0"),
        (["algorithm.tasks=per_task"], "set algorithm.advantage=dr_grpo or rloo"),
        (["algorithm.tasks=logistic"], "algorithm.task_medians={choice: M"),
        (["algorithm.tasks=components", "+algorithm.component_weights.style=1"], "algorithm.component_weights={answer"),
        (["model.fp8=tensorwise", "model.precision=bfloat16"], "set algorithm.importance=truncated"),
        (["rollout.top_p=0"], "rollout.top_p=0.0: expected above 0 and at most 1"),
        (["rollout.min_new_tokens=5000"], "expected 1 to rollout.max_new_tokens"),
        (["trainer.trackers=[comet]"], "expected wandb, mlflow"),
        (
            ["model.max_length=64", "rollout.max_new_tokens=64"],
            "rollout.max_new_tokens=64 leaves no room for a prompt in model.max_length=64",
        ),
        (["rollout.temperature=0"], "rollout.temperature=0.0: expected above 0"),
        (["reward.length_mode=max"], "reward.length_mode and reward.length_target belong together"),
        (["reward.length_target=50"], "reward.length_mode and reward.length_target belong together"),
        (["parallel.sequence=true"], "parallel.sequence=true divides activations over tensor parallel ranks"),
        (["data.mix={choices: 1}"], "data.mix: ['choices'] are not kinds of task; expected choice, calculation, text"),
        (["model.fp8=blockwise"], "model.fp8=blockwise computes beside bfloat16; set model.precision=bfloat16"),
    ],
)
def test_what_cannot_run_names_key_and_fix(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load([*NEEDED, *overrides])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["output", "model.path"])
def test_what_has_no_default_is_asked_for(key: str) -> None:
    others = [setting for setting in NEEDED if not setting.startswith(f"{key}=")]
    with pytest.raises(ConfigError, match=f"^{key} is not set; give it as {key}=VALUE on the command line"):
        load(others)


def test_the_launchers_world_size_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under srun the number of ranks is the allocation's; rules must be checked against it."""
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert load([*NEEDED, "parallel.processes=1", "parallel.tensor=2"]).parallel.processes == 4
    with pytest.raises(ConfigError, match=r"parallel\.processes=4 is not divisible"):
        load([*NEEDED, "parallel.processes=1", "parallel.tensor=3"])


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["parallel.processes=4", "parallel.tensor=4"],
            r"parallel\.tensor=4 does not divide the model's 2 key-value heads \(4 attention heads\); use one",
        ),
        (
            ["parallel.processes=3", "parallel.pipeline=3"],
            r"parallel\.pipeline=3 does not divide the model's 4 layers; use one of \[1, 2, 4\]",
        ),
        (["model.max_length=513"], r"model\.max_length=513 is over the model's context of 512 tokens"),
    ],
)
def test_rules_that_need_the_model(overrides: list[str], said: str) -> None:
    settings = [*NEEDED, "model.max_length=512", "rollout.max_new_tokens=16", "rollout.prompts=12", "trainer.batch=12"]
    values = json.loads((TINY_BASE / "config.json").read_text())
    model = family_for(values).megatron_architecture(values)
    with pytest.raises(ConfigError, match=said):
        validate_model(load([*settings, *overrides]), model)
    validate_model(load(settings), model)


def test_no_setting_is_an_absolute_path_of_someones_machine() -> None:
    for file in CONFIGS.rglob("*.yaml"):
        assert ": /" not in file.read_text(), file


@pytest.mark.parametrize(
    ("settings", "multiple"),
    [
        ([], 1),
        (["parallel.tensor=8"], 1),
        (["parallel.tensor=8", "parallel.sequence=true"], 8),
        (["model.fp8=delayed", "parallel.tensor=8"], 16),
        (["model.fp8=tensorwise", "parallel.tensor=8", "parallel.sequence=true"], 128),
        (["model.fp8=blockwise", "parallel.tensor=8"], 16),
        (["model.fp8=blockwise", "parallel.tensor=8", "parallel.sequence=true"], 1024),
        (["experiment=grpo_70b_fp8"], 1024),
        (["experiment=qwen2_5_72b_fp8"], 1024),
    ],
)
def test_tokens_fill_the_blocks_that_ranks_gather(settings: list[str], multiple: int) -> None:
    """Transformer Engine 2.11 asserts it of each rank's tokens in every layer, in steps with short responses alone."""
    beside = ["parallel.processes=64", "rollout.prompts=64", "model.precision=bfloat16"]
    config = load([*settings, *NEEDED, *beside, "algorithm.importance=truncated"])
    assert config.token_multiple == multiple
    ranks = config.parallel.tensor if config.parallel.sequence else 1
    for length in (1, 700, 4096, 8100):
        own = -(-length // config.token_multiple) * config.token_multiple / ranks
        assert own == int(own)
        assert config.model.fp8 == "none" or own % 16 == 0
        assert config.model.fp8 != "blockwise" or ranks == 1 or own % 128 == 0
