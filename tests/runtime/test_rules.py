"""The rules of a configuration key by key: what is refused at load, what is not, and which stage cares."""

from __future__ import annotations

import copy
import functools
import json
from pathlib import Path

import pytest

from recipes.runtime.config import Config, ConfigError
from recipes.runtime.limits import CHOICES, LIMITS
from recipes.runtime.loading import load
from recipes.runtime.model_rules import float32_attention
from recipes.runtime.overrides import leaves
from recipes.runtime.rules import Stage, validate

NEEDED = ("output=run", "model.path=checkpoint")
_NUMBERS = (int, float, int | None, float | None, tuple[float, float])
# Any text goes: names, paths, and what the rules between keys look at.
_FREE_TEXTS = {"name", "output", "model.path", "model.architecture", "reward.preset", "reward.url"}
_FREE_TEXTS |= {"cluster.name", "rollout.vllm.python", "rollout.vllm.folder", "data.few_shot", "critic.path"}
_FREE_TEXTS |= {"evaluation.endpoint.url", "evaluation.endpoint.model", "data.style"}


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)


@pytest.fixture(scope="module")
def defaults() -> Config:
    """A configuration that nothing is wrong with, composed once for all that change a single value of it."""
    return load(NEEDED, Stage.PLAN)


def _with(config: Config, key: str, value: object) -> Config:
    changed = copy.deepcopy(config)
    *sections, name = key.split(".")
    setattr(functools.reduce(getattr, sections, changed), name, value)
    return changed


def test_no_number_of_the_schema_is_without_limits_and_no_name_without_choices() -> None:
    """A new key that nobody has thought about would let nan through."""
    kinds = dict(leaves())
    assert {key for key, kind in kinds.items() if kind in _NUMBERS} == set(LIMITS)
    assert {key for key, kind in kinds.items() if kind in (str, str | None)} - _FREE_TEXTS == set(CHOICES)


def _stage_of(key: str) -> Stage:
    if key == "trainer.batch":
        return Stage.SFT
    own = {"cluster": Stage.PLAN, "evaluation": Stage.EVALUATE}
    return own.get(key.split(".")[0], Stage.GRPO)


@pytest.mark.parametrize("key", sorted(LIMITS))
def test_nan_infinity_and_negative_numbers_are_refused_by_key(key: str, defaults: Config) -> None:
    whole = dict(leaves())[key] in (int, int | None)
    for value in (-1,) if whole else (-1.0, float("nan"), float("inf"), float("-inf")):
        given = (0.9, value) if key.endswith("optimizer.betas") else value
        with pytest.raises(ConfigError) as refused:
            validate(_with(defaults, key, given), _stage_of(key))
        assert str(refused.value).startswith(f"{key}="), refused.value
        assert "expected" in str(refused.value)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["optimizer.betas=[0.9,1.0]"], "optimizer.betas=[0.9, 1.0]: expected at least 0 and below 1"),
        (["optimizer.betas=[0.9]"], "optimizer.betas=[0.9]: expected two numbers, such as [0.9,0.95]"),
        (["optimizer.betas=[]"], "optimizer.betas=[]: expected two numbers"),
        (["optimizer.eps=0"], "optimizer.eps=0.0: expected above 0"),
        (["optimizer.final_share=1.5"], "optimizer.final_share=1.5: expected at least 0 and at most 1"),
        (["algorithm.clip_low=2"], "algorithm.clip_low=2.0: expected at least 0 and at most 1"),
        (["algorithm.dual_clip=1"], "algorithm.dual_clip=1.0: expected above 1"),
        (["trainer.steps=0"], "trainer.steps=0: expected at least 1"),
        (["trainer.steps=1000000"], "trainer.steps=1000000: expected at least 1 and at most 999999"),
        (["reward.max_null_share=7"], "reward.max_null_share=7.0: expected at least 0 and at most 1"),
        (["parallel.timeout_minutes=1e30"], "parallel.timeout_minutes=1e+30: expected above 0 and at most 43200"),
        (["rollout.top_p=1.01"], "rollout.top_p=1.01: expected above 0 and at most 1"),
        (["rollout.stop=['']"], "rollout.stop holds an empty string"),
        (["rollout.min_new_tokens=0"], "rollout.min_new_tokens=0: expected at least 1"),
        (["reward.attempt_timeout_s=30", "reward.total_timeout_s=5"], "is above reward.total_timeout_s=5"),
        (["rollout.tensor=2"], "rollout.tensor=2: embedded sampling takes 0"),
        (["rollout.sampler=vllm"], "set algorithm.importance=truncated"),
        (["rollout=vllm", "rollout.top_p=0.9", "rollout.temperature=0.7"], "log-probabilities at temperature 1 alone"),
        (["rollout=vllm", "rollout.vllm.urls=[node7]"], "expected http://HOST:PORT each"),
        (
            ["rollout=vllm", "rollout.mismatch_warn=0.1"],
            "rollout.mismatch_warn=0.1 is above rollout.mismatch_stop=0.01",
        ),
        (["rollout=vllm", "rollout.ahead=5"], "rollout.ahead=5: expected at least 0 and at most 4"),
        (["rollout.over_sample=0.5"], "the embedded sampler ends all responses together"),
        (["rollout=vllm", "rollout.continued=1"], "rollout.continued=1 goes on with what rollout.over_sample"),
        (
            ["rollout=vllm", "rollout.ahead=2", "rollout.over_sample=0.5", "rollout.continued=1"],
            "the batch of rollout.ahead=2 steps later, and would be too old",
        ),
        (["rollout.ahead=1"], "the embedded sampler cannot: it is that model; choose rollout=vllm"),
        (["rollout=vllm", "rollout.ahead=1", "rollout.max_batches=2"], "rollout.max_batches=2 draws further prompts"),
        (["rollout=vllm", "rollout.ahead=1", "rollout.vllm.sleep=true"], "rollout.vllm.sleep=true gives GPUs up"),
        (["reward.preset="], "reward.preset= is empty"),
        (["trainer.best=nope"], "trainer.best=nope: expected one of accuracy/mean, accuracy/choice, "),
        (
            [*(f"reward.length_{key}" for key in ("mode=max", "target=50", "shape=dapo", "buffer=60"))],
            "reward.length_buffer=60 is above reward.length_target=50",
        ),
        (
            ["reward=binary", *(f"reward.text_{key}" for key in ("metric=ems", "threshold=45", "continuous=true"))],
            "reward.text_continuous is for reward.preset=med_u1 with reward.text_metric one of bleu, ems, merge",
        ),
        (["reward.length_draw=uniform"], "reward.length_draw=uniform draws the targets: set reward.length_mode"),
        (
            [*(f"reward.length_{key}" for key in ("draw=log_uniform", "mode=max", "target=50"))],
            "and reward.length_target=null",
        ),
        (
            [*(f"reward.length_{key}" for key in ("draw=uniform", "mode=exact", "low=9", "high=8"))],
            "reward.length_low=9 is above reward.length_high=8",
        ),
        (
            [*(f"reward.length_{key}" for key in ("draw=uniform", "mode=exact")), "rollout.max_new_tokens=1000"],
            "reward.length_high=2000 is more than a response can have, rollout.max_new_tokens=1000",
        ),
        (
            [*(f"reward.length_{key}" for key in ("draw=uniform", "mode=max", "low=50", "shape=dapo", "buffer=60"))],
            "reward.length_buffer=60 is above reward.length_low=50",
        ),
        (
            [*(f"reward.length_{key}" for key in ("draw=uniform", "mode=mixed", "shape=dapo", "buffer=60"))],
            "reward.length_shape=dapo needs reward.length_mode=max",
        ),
        (["reward.length_none_share=1"], "reward.length_none_share=1.0: expected at least 0 and below 1"),
        (["reward.length_none_share=0.5"], "reward.length_none_share=0.5: with reward.length_mode=none"),
        (["data.mix={choice: 0}"], "data.mix={'choice': 0.0}: expected one weight above 0 at least"),
        (["data.mix={choice: 1, text: -1}"], "data.mix.text=-1.0: expected at least 0"),
        (["data.mix={choice: nan}"], "data.mix.choice=nan: expected at least 0"),
        (["data.mix={text: inf}"], "data.mix.text=inf: expected at least 0"),
        (
            ["algorithm.tasks=components", "algorithm.component_weights={answer: 0}"],
            "algorithm.component_weights={'answer': 0.0}: expected one weight above 0",
        ),
        (
            ["algorithm.tasks=logistic", "algorithm.task_medians={choice: nan}"],
            "algorithm.task_medians.choice=nan: expected a finite number",
        ),
        (["output="], "output= is empty; is a variable of the shell unset? Give it as output=FOLDER"),
        (["output=  "], "output= is empty"),
        (["model.path="], "model.path= is empty"),
        (["name="], "name=: expected a name that a file can have"),
        (["name=../../escaped"], "name=../../escaped: expected a name that a file can have, without /"),
        (["name=.."], "name=..: expected a name"),
        (
            ["data.allow_contamination=[exact,fuzzy]"],
            "data.allow_contamination: ['fuzzy'] are not known; expected any of exact, normalised, 13-gram, one-word",
        ),
        (["data.train=[a.jsonl,]", "data.test=['']"], "data.test names a file without a name"),
    ],
)
def test_what_no_run_can_be_is_refused_at_load(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load([*NEEDED, *overrides])
    assert said in str(refused.value)


@pytest.fixture(scope="module")
def remote() -> Config:
    """A configuration of an evaluation that asks an endpoint, and needs no checkpoint for it."""
    config = load([NEEDED[0], "evaluation.endpoint.url=http://h:1/v1", "evaluation.endpoint.model=m"], Stage.EVALUATE)
    assert config.model.path == ""
    return config


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("evaluation.samples", 8, "evaluation.samples=8 at evaluation.temperature=0 are one and the same answer"),
        ("evaluation.samples", 1025, "evaluation.samples=1025: expected at least 1 and at most 1024"),
        ("evaluation.max_think_tokens", 1024, "leaves no room for an answer in rollout.max_new_tokens=1024"),
        ("data.shots", 2, "data.shots and data.few_shot belong together"),
        ("data.few_shot", "f.jsonl", "data.shots and data.few_shot belong together"),
        ("data.template", "none", "data.template=none: expected one of chat, base"),
        (
            "model.path",
            "folder",
            "model.path=folder and evaluation.endpoint.url=http://h:1/v1: give the one that is to",
        ),
        ("evaluation.endpoint.model", None, "evaluation.endpoint.url and evaluation.endpoint.model belong together"),
        ("evaluation.endpoint.url", None, "model.path= is empty"),
        ("evaluation.endpoint.model", " ", "evaluation.endpoint.model= is empty"),
        *(
            ("evaluation.endpoint.url", url, "evaluation.endpoint.url: expected http://HOST:PORT/v1, without a name or")
            for url in ("h:1", "", "http://me:secret@h:1")
        ),
        ("rollout.sampler", "vllm", "evaluation.endpoint.url is asked by one process and no sampler"),
        ("parallel.processes", 2, "evaluation.endpoint.url is asked by one process and no sampler"),
        ("evaluation.endpoint.total_timeout_s", 5.0, "is above total_timeout_s=5; one request cannot take longer"),
    ],
)
def test_what_no_evaluation_can_be_is_refused(key: str, value: object, said: str, remote: Config) -> None:
    with pytest.raises(ConfigError) as refused:
        validate(_with(remote, key, value), Stage.EVALUATE)
    assert said in str(refused.value)
    assert "secret" not in str(refused.value)


def test_how_long_an_endpoint_reads_only_it_knows_and_training_asks_none(remote: Config, defaults: Config) -> None:
    validate(_with(remote, "rollout.max_new_tokens", 100_000), Stage.EVALUATE)
    validate(_with(defaults, "evaluation.samples", 8), Stage.GRPO)
    with pytest.raises(ConfigError, match=r"model\.path= is empty"):
        validate(remote, Stage.GRPO)


@pytest.mark.parametrize(
    "url",
    [
        *(
            "foo",
            "localhost:8000",
            "//h:1",
            "ftp://h:1",
            "http://",
            "http://:8000",
            "http://h:notaport",
            "http://h:99999",
        ),
        *("http://h:0", "http://h:1,", "http://h:1,foo", "http://a b:1", "http://[::1:8000"),
    ],
)
def test_a_reward_url_that_leads_nowhere_is_refused(url: str, defaults: Config) -> None:
    with pytest.raises(ConfigError, match=r"^reward\.url=.*: expected http://HOST:PORT"):
        validate(_with(defaults, "reward.url", url), Stage.GRPO)


@pytest.mark.parametrize(
    "url", ["http://h:1", "https://h/path", "http://[::1]:8000", "http://a:1,http://b:2", None, ""]
)
def test_reward_urls_that_are_right_pass(url: str | None, defaults: Config) -> None:
    validate(_with(defaults, "reward.url", url), Stage.GRPO)


@pytest.mark.parametrize(
    "broken",
    [
        *("rollout.group_size=1", "rollout.prompts=7", "rollout.temperature=nan", "rollout.max_new_tokens=100000"),
        *("reward.url=foo", "reward.length_mode=max", "reward.preset=", "algorithm.epochs=0", "algorithm.tasks=odd"),
        "model.precision=bfloat16",
    ],
)
def test_sft_and_canary_have_no_opinion_on_rollouts(broken: str) -> None:
    """FP8 asks GRPO alone to correct for its sampler."""
    layout = ["parallel.processes=2", "trainer.batch=2", *(["model.fp8=delayed"] if "precision" in broken else [])]
    config = load([*NEEDED, *layout, broken], Stage.CANARY)
    validate(config, Stage.SFT)
    with pytest.raises(ConfigError):
        validate(config, Stage.GRPO)


def test_each_stage_is_held_to_its_own_batch(defaults: Config) -> None:
    two = _with(defaults, "parallel.processes", 2)
    odd_batch, odd_prompts = _with(two, "trainer.batch", 3), _with(two, "rollout.prompts", 3)
    validate(odd_batch, Stage.GRPO)
    validate(odd_prompts, Stage.SFT)
    validate(_with(odd_batch, "rollout.prompts", 3), Stage.EVALUATE)
    with pytest.raises(ConfigError, match=r"trainer\.batch=3 is not divisible by the data parallel size 2"):
        validate(odd_batch, Stage.SFT)
    with pytest.raises(ConfigError, match=r"rollout\.prompts=3 is not divisible by the data parallel size 2"):
        validate(odd_prompts, Stage.GRPO)


def test_a_plan_needs_no_folder_and_looks_at_the_cluster(defaults: Config) -> None:
    load(["output=", "model.path="], Stage.PLAN)
    slow = _with(defaults, "cluster.network_gb_s", 0.0)
    validate(slow, Stage.GRPO)
    with pytest.raises(ConfigError, match=r"cluster\.network_gb_s=0\.0: expected above 0"):
        validate(slow, Stage.PLAN)


def _checkpoint(folder: Path, context: object, *, converted: bool) -> Path:
    """What describes a model of that context, as a Hugging Face folder or a converted one has it."""
    (folder / "hf").mkdir(parents=True)
    config = {"model_type": "qwen2", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config |= {"num_key_value_heads": 1, "intermediate_size": 8, "vocab_size": 8, "rms_norm_eps": 1e-6}
    config |= {"rope_theta": 1e4, "max_position_embeddings": context}
    (folder / ("hf" if converted else ".") / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("context", "lengths", "converted"),
    [
        *((512, (512, 256), converted) for converted in (True, False)),
        *((32, (32, 16), True), (2048, (2048, 1024), False), (131072, (4096, 1024), True)),
    ],
)
def test_lengths_that_nobody_set_fit_the_checkpoint(
    context: int, lengths: tuple[int, int], converted: bool, tmp_path: Path
) -> None:
    path = _checkpoint(tmp_path / "model", context, converted=converted)
    config = load(["output=run", f"model.path={path}"])
    assert (config.model.max_length, config.rollout.max_new_tokens) == lengths


def test_a_length_that_somebody_set_is_kept(tmp_path: Path) -> None:
    given = ["output=run", f"model.path={_checkpoint(tmp_path / 'model', 512, converted=True)}"]
    config = load([*given, "model.max_length=4096"])
    assert (config.model.max_length, config.rollout.max_new_tokens) == (4096, 1024)
    assert load([*given, "rollout.max_new_tokens=100"]).rollout.max_new_tokens == 100
    with pytest.raises(ConfigError, match=r"max_new_tokens=512 leaves no room for a prompt in model\.max_length=512"):
        load([*given, "rollout.max_new_tokens=512"])


@pytest.mark.parametrize("text", ["", "{", "[]", '{"model_type": "bert"}', '{"model_type": "qwen2"}', "\xff"])
def test_a_checkpoint_that_cannot_be_read_is_left_to_whoever_opens_it(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    assert load(["output=run", f"model.path={tmp_path}"]).model.max_length == 4096


def test_attention_in_float32_is_warned_of_where_it_is_large(defaults: Config) -> None:
    """32 heads over 4 ranks at 4,096 tokens: 8 x 4096 x 4096 x 4 bytes are 0.54 GB, twice that over 2 ranks."""
    config = _with(_with(defaults, "model.max_length", 4096), "model.precision", "float32")
    assert float32_attention(_with(config, "parallel.tensor", 4), heads=32) is None
    said = float32_attention(_with(config, "parallel.tensor", 2), heads=32)
    assert said is not None
    assert "writes out 1.1 GB of scores a layer" in said
    assert "set model.precision=bfloat16" in said
    assert float32_attention(_with(config, "model.precision", "bfloat16"), heads=32) is None
