"""Settings as a shell hands them over: any path there is, and mistakes named with what was meant."""

from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.runtime.config import ConfigError
from recipes.runtime.loading import load
from recipes.runtime.overrides import as_hydra_reads, as_text

MODEL = "model.path=checkpoint"
PATHS = [
    *("/tmp/a=b", "my run", "a,b", "ü", "it's", "(x)", "[x]", "{a: b}", "a#b", "a:b", "5", "true", "null", "1e3", "\\"),
    *(
        'my run=1 "x" ü',
        "a\\'b",
        "a\\\\",
        "\\\\'",
        "中文/路径",
        "%d@h",
        "+x",
        "a\nb",
        "$HOME",
        "x=",
        "=x",
        "a;b|c&d",
        "'",
        "--",
    ),
]


@pytest.fixture(autouse=True)
def _place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("HOME", "/home/someone")


def _read(override: str) -> object:
    """The value that Hydra takes from an override in its grammar; quicker than to compose all of configs/."""
    (made,) = OverridesParser.create().parse_overrides(as_hydra_reads([override]))
    value = made.value()
    return [str(each) for each in value] if isinstance(value, list) else str(value)


@pytest.mark.parametrize("path", PATHS)
def test_a_path_is_what_stands_behind_the_equals_sign(path: str) -> None:
    assert _read(f"output={path}") == _read(f"model.path={path}") == path
    in_list = path.replace(",", "").strip()
    assert _read(f"data.train=['a,b.jsonl',{in_list},c.jsonl]") == ["a,b.jsonl", in_list, "c.jsonl"]


def test_a_composed_configuration_has_the_paths_as_they_were_given() -> None:
    begins_a_setting = r"runs/${x} \${seed} \\${"
    config = load([f"output={as_text(begins_a_setting)}", MODEL, f"data.train=[{as_text(begins_a_setting)},b]"])
    assert (config.output, config.data.train) == (begins_a_setting, [begins_a_setting, "b"])
    odd = 'runs/my run=1 "x", ü'
    config = load(
        [f"output={odd}", f"model.path={odd}", "data.train=[a=b.jsonl,ü (1).jsonl]", "data.mix={choice:\n 1}"]
    )
    assert config.data.mix == {"choice": 1}
    assert (config.output, config.model.path, config.data.train) == (odd, odd, ["a=b.jsonl", "ü (1).jsonl"])


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("ab/ .='\"\\,()[]{}#üß%:;&@!*?\t-+|<>^`中"), min_size=1, max_size=12))
def test_any_text_that_is_not_quoted_comes_through(text: str) -> None:
    if text.strip() and text.strip()[0] not in "'\"":
        assert _read(f"output={text}") == text


@pytest.mark.parametrize(
    ("given_as", "read"),
    [
        ("'a b'", "a b"),
        ('"a,b"', "a,b"),
        ("'it\\'s'", "it's"),  # as the job scripts quote
        ("~/runs/x", "/home/someone/runs/x"),
        ("~", "/home/someone"),
        ("~nobody-here/x", "~nobody-here/x"),
        ("a~b", "a~b"),
        ("runs/${name}", "runs/run"),
        ("\\${name}", "${name}"),
    ],
)
def test_quotes_home_and_interpolation(given_as: str, read: str) -> None:
    assert load([f"output={given_as}", MODEL]).output == read


@pytest.mark.parametrize(
    ("files", "read"),
    [
        ("[]", []),
        ("[ a.jsonl , b c.jsonl ]", ["a.jsonl", "b c.jsonl"]),
        ("[a=1.jsonl,]", ["a=1.jsonl"]),
        ("[~/a.jsonl,'~/b,c.jsonl']", ["/home/someone/a.jsonl", "/home/someone/b,c.jsonl"]),
        ("[it's.jsonl,don't.jsonl]", ["it's.jsonl", "don't.jsonl"]),
        ('["x y.jsonl"]', ["x y.jsonl"]),
        ("${data.test}", []),
    ],
)
def test_lists_of_files(files: str, read: list[str]) -> None:
    assert load(["output=o", MODEL, f"data.train={files}"]).data.train == read


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("trainer.stesp=3", "trainer.stesp is no setting; did you mean trainer.steps?"),
        ("+trainer.stesp=3", "trainer.stesp is no setting; did you mean trainer.steps?"),
        ("stesp=3", "did you mean trainer.steps?"),
        ("learning_rate=1", "learning_rate is no setting; did you mean optimizer.learning_rate?"),
        ("modle.path=x", "did you mean model.path?"),
        ("model.fp=x", "did you mean model.fp8?"),
        ("lr=3", "lr is no setting (the keys are listed in configs/"),
        ("algorithm=grpoo", "algorithm=grpoo: expected one of cispo, dapo, dr_grpo, grpo, gspo"),
        ("algorithm=grpoo", "did you mean grpo?"),
        ("model=3", "model=3: expected one of default, llama3_1_70b"),
        ("experiment=", "experiment=: expected one of alphamed_7b"),
        ("=5", "=5: expected key=value"),
        ("--steps", "--steps: expected key=value"),
        ("~seed", "~seed: expected key=value"),
        ("hydra.run.dir=x", "hydra.run.dir: Hydra's own settings have no effect here"),
        ("data.train=f.jsonl", "data.train=f.jsonl: expected a list; give it as data.train=[f.jsonl]"),
        ("trainer.trackers=wandb", "give it as trainer.trackers=[wandb]"),
        ("trainer.steps=many", "trainer.steps: expected a whole number, found 'many'"),
        ("optimizer.learning_rate=", "optimizer.learning_rate: expected a number, found ''"),
        ("parallel.sequence=perhaps", "parallel.sequence: expected true or false, found 'perhaps'"),
        ("data.mix={choice:1", "data.mix={choice:1: cannot be read"),
        ("output=${nothing}", "output: Interpolation key 'nothing' not found; where ${ is part of a text, write \\${"),
    ],
)
def test_a_mistake_is_named_with_what_was_meant(override: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load([*(() if override.startswith("output") else ("output=o",)), MODEL, override])
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_two_files_of_one_group_cannot_both_be_meant() -> None:
    load(["output=o", MODEL, "algorithm=rloo", "algorithm=rloo"])
    with pytest.raises(ConfigError, match="algorithm=rloo and algorithm=gspo: only one of them can be meant"):
        load(["output=o", MODEL, "algorithm=rloo", "algorithm=gspo"])


@pytest.mark.parametrize("value", ["abc", "0", "-1", "1.5"])
def test_a_world_size_that_is_none_is_named(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", value)
    with pytest.raises(ConfigError, match=f"WORLD_SIZE={value} in the environment: expected the number of ranks"):
        load(["output=o", MODEL])
