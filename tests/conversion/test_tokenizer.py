"""A tokenizer that cannot be trained with is refused, by its fault and the fix, before a byte is converted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conversion import command, hf_to_megatron
from conversion.errors import TokenizerError
from conversion.tokenizer_check import end_ids, open_tokenizer, same_text

ROWS = 1024
Break = Callable[[Path], object]


@pytest.fixture
def folder(tiny_hf: Path, tmp_path: Path) -> Path:
    """The tiny model, to be spoilt."""
    return shutil.copytree(tiny_hf, tmp_path / "hf")


def _json(name: str, change: Callable[[Any], object]) -> Break:
    """Changes a JSON file of the folder in place."""

    def spoil(folder: Path) -> None:
        values = json.loads((folder / name).read_text())
        change(values)
        (folder / name).write_text(json.dumps(values))

    return spoil


def _template(text: str) -> Break:
    return lambda folder: (folder / "chat_template.jinja").write_text(text)


def _gone(name: str) -> Break:
    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to("../blobs/gone")

    return spoil


def _all(*spoils: Break) -> Break:
    return lambda folder: [spoil(folder) for spoil in spoils]


def _of_llama(folder: Path) -> None:
    """For Qwen2, transformers puts parts and tokens of its own in the place of what the files say or leave out."""
    _json("config.json", lambda v: v.update({"model_type": "llama"}))(folder)


def _without_end(folder: Path) -> None:
    _of_llama(folder)
    _json("tokenizer_config.json", lambda v: v.pop("eos_token"))(folder)
    for name in ("generation_config.json", "config.json"):
        _json(name, lambda v: v.pop("eos_token_id"))(folder)


def _sentencepiece_alone(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(b"\x0a\x0b\x0a\x05<unk>")


def _words_alone(folder: Path) -> None:
    """Whole words, and any other unknown: no digit, no option letter comes back."""
    model = {"type": "WordLevel", "vocab": {"<unk>": 5, "woman": 6, "has": 7}, "unk_token": "<unk>"}
    plain = {"model": model, "pre_tokenizer": {"type": "Whitespace"}, "decoder": None, "normalizer": None}
    _json("tokenizer.json", lambda v: v.update(plain))(folder)


FAULTS: list[tuple[str, Break, str]] = [
    (
        "a blob of the cache is gone",
        _gone("tokenizer.json"),
        r"tokenizer.json: a link to a file that is gone \(\.\./blobs",
    ),
    (
        "the template's blob is gone",
        _gone("chat_template.jinja"),
        r"chat_template.jinja: a link to a file that is gone",
    ),
    (
        "Git LFS was not pulled",
        lambda f: (f / "tokenizer.json").write_text(
            "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
        ),
        r"tokenizer.json: Git LFS's stand-in for the file; run `git lfs pull`",
    ),
    ("no vocabulary at all", lambda f: (f / "tokenizer.json").unlink(), r"tokenizer.json is missing; download"),
    (
        "Mistral's own format alone",
        lambda f: (f / "tokenizer.json").rename(f / "tekken.json"),
        r"tokenizer.json is missing; tekken.json is Mistral's own format; download",
    ),
    ("sentencepiece alone, damaged", _sentencepiece_alone, r"transformers cannot load its tokenizer \(.*; download"),
    ("cut off", lambda f: (f / "tokenizer.json").write_text('{"version": "1.0", "added'), r"cannot load its tokenizer"),
    (
        "settings cut off",
        lambda f: (f / "tokenizer_config.json").write_text("{"),
        r"tokenizer_config.json: not valid JSON",
    ),
    (
        "of lower case",
        _all(_of_llama, _json("tokenizer.json", lambda v: v.update({"normalizer": {"type": "Lowercase"}}))),
        r"makes 'a 45-year-old woman",
    ),
    ("words alone", _words_alone, r"its tokenizer, a \w+, makes '.*' of 'A 45-year-old"),
    (
        "a pad token of its own",
        _json("tokenizer_config.json", lambda v: v.update({"pad_token": "[PAD]"})),
        r"token '\[PAD\]' has id 1024, past the 1024 rows of the embedding .*resize_token_embeddings\(1025\)",
    ),
    (
        "an end token that nobody knows",
        _json("tokenizer_config.json", lambda v: v.update({"eos_token": "</s>"})),
        r"token '</s>' has id 1024, past the 1024 rows",
    ),
    ("no end token", _without_end, r"no token ends a response; set eos_token in tokenizer_config.json to what"),
    (
        "end tokens by name",
        _json("generation_config.json", lambda v: v.update({"eos_token_id": ["<|im_end|>"]})),
        r"generation_config.json: eos_token_id is \['<\|im_end\|>'\]; expected a token id or a list",
    ),
    ("a template that is cut off", _template("{% for m in messages %}{{ m.content }}"), r"its chat template fails"),
    (
        "a template of other roles",
        _template("{% for m in messages %}{% if m.role == 'human' %}{{ m.content }}{% endif %}{% endfor %}"),
        r"its chat template leaves out what a message of role 'user' says; mend chat_template.jinja",
    ),
    (
        "a template that refuses users",
        _template("{{ raise_exception('only tools may speak') }}"),
        r"its chat template fails for the roles user \(only tools may speak\)",
    ),
]


@pytest.mark.parametrize(("spoil", "said"), [fault[1:] for fault in FAULTS], ids=[fault[0] for fault in FAULTS])
def test_a_fault_is_named_with_its_fix(spoil: Break, said: str, folder: Path) -> None:
    spoil(folder)
    with pytest.raises(TokenizerError, match=said) as raised:
        open_tokenizer(folder, ROWS)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 900


def test_the_conversion_leaves_nothing_behind(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _gone("tokenizer.json")(folder)
    assert command.run(lambda: hf_to_megatron.main([str(folder), str(tmp_path / "megatron")])) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"error: {folder}/tokenizer.json: a link to a file that is gone")
    assert shown.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_a_model_without_template_and_one_in_a_cache_convert(folder: Path, tmp_path: Path) -> None:
    """A base model has no template, and a snapshot of the hub's cache is links into a folder of blobs."""
    (folder / "chat_template.jinja").unlink()
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0123abcd"
    folder.rename(blobs)
    snapshot.mkdir(parents=True)
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(file)
    checkpoint = hf_to_megatron.convert(snapshot, tmp_path / "megatron")
    assert open_tokenizer(checkpoint.hf_dir, ROWS).chat_template is None


def test_the_end_token_of_the_generation_config_ends_where_the_tokenizer_names_none(folder: Path) -> None:
    _without_end(folder)
    _json("generation_config.json", lambda v: v.update({"eos_token_id": [128001, 2, 0]}))(folder)
    _json("config.json", lambda v: v.update({"eos_token_id": 2}))(folder)
    assert open_tokenizer(folder, ROWS).eos_token_id == 0
    assert end_ids(folder) == (0, 2, 128001)
    (folder / "generation_config.json").unlink()
    assert end_ids(folder) == (2,), "without generation_config.json, config.json's counts"


def test_decoding_leaves_spaces_as_they_are(folder: Path) -> None:
    """Llama 3's settings ask for spaces before full stops to be taken away, which would change answers."""
    _json("tokenizer_config.json", lambda v: v.update({"clean_up_tokenization_spaces": True}))(folder)
    tokenizer, text = open_tokenizer(folder, ROWS), "a dose of 5 . Do n't , he said"
    assert tokenizer.decode(tokenizer(text).input_ids) == text


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("cafe\u0301", "caf\u00e9", True),  # Qwen composes
        ("fever", " fever", True),  # Llama 2 begins with a space
        ("5\u00a0mg", "5 mg", True),
        ("soft\u00adhyphen\ufeff", "softhyphen", True),
        ("10\u00b2", "102", False),
        ("A", "a", False),
        ("5.2", "5 . 2", False),
        ("\u03b2-blocker", "<unk>-blocker", False),
    ],
)
def test_what_a_tokenizer_may_change(a: str, b: str, same: bool) -> None:
    assert same_text(a, b) is same
