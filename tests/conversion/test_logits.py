"""`conversion.verify --prompts`: transformers and megatron-core compute the same logits, and a wrong model shows."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from conversion import hf_to_megatron, megatron_to_hf, verify
from conversion.errors import ConversionError
from conversion.logits import FAR_TOKENS, LogitsError, compare_logits, read_prompts
from tests.conftest import BESIDE_CUDA
from tests.conversion.models import save_folder

Make = Callable[..., Path]
_TOKENIZER = Path(__file__).parents[2] / "recipes" / "data" / "tiny_base"
_PROMPTS = ["What lowers the heart rate, and how does it act?", "Dose: 12 mg a day for 3 days"]


def _with_tokenizer(folder: Path) -> Path:
    """The quickstart's tokenizer beside a random model of its vocabulary."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(_TOKENIZER / name, folder / name)
    for name in ("vocab.json", "merges.txt"):
        (folder / name).unlink()
    return folder


def _pair(case: str, root: Path) -> tuple[Path, Path]:
    source = _with_tokenizer(save_folder(case, root / "hf", vocabulary=1024))
    return source, hf_to_megatron.convert(source, root / "megatron").path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return _pair("qwen2-tied", tmp_path_factory.mktemp("logits"))


@pytest.mark.parametrize("case", ["llama-scaled-tied", "qwen3moe-untied"])
def test_both_formats_give_the_same_logits(case: str, tmp_path: Path) -> None:
    found = compare_logits(*_pair(case, tmp_path), _PROMPTS)
    assert found.agrees
    assert found.max_abs_difference < 1e-5
    assert found.max_kl < 1e-9
    assert found.argmax_agreement == 1.0
    assert found.tokens > 10
    assert (found.furthest == FAR_TOKENS) == (case == "llama-scaled-tied")


def _rewrite(folder: Path, without: tuple[str, ...] = (), **keys: object) -> None:
    path = folder / "config.json"
    values = {key: value for key, value in json.loads(path.read_text()).items() if key not in without}
    path.write_text(json.dumps({**values, **keys}))


@pytest.mark.slow
def test_positions_beyond_4096_are_compared_where_a_window_or_a_scaling_plays(tmp_path: Path) -> None:
    """A config in the spelling of several releases, all of which transformers and Megatron must take alike.

    With the window's switch on in the source, nothing before position 4,097 changes, and the proof still sees it.
    """
    source = _with_tokenizer(save_folder("qwen2-untied", tmp_path / "hf", vocabulary=1024))
    window = {"sliding_window": 4096, "use_sliding_window": False, "max_window_layers": 0}
    scaling = {"rope_parameters": {"rope_type": "yarn"}, "rope_scaling": {"type": "linear", "factor": 2.5}}
    _rewrite(source, without=("layer_types", "rms_norm_eps", "tie_word_embeddings"), **window, **scaling)
    megatron = hf_to_megatron.convert(source, tmp_path / "megatron").path
    found = compare_logits(source, megatron, _PROMPTS)
    assert found.agrees
    assert found.max_abs_difference < 1e-4
    assert found.furthest == FAR_TOKENS > 4096 + 250
    back = megatron_to_hf.convert(megatron, tmp_path / "back")
    assert (back / "config.json").read_bytes() == (source / "config.json").read_bytes()
    _rewrite(source, use_sliding_window=True)
    windowed = compare_logits(source, megatron, _PROMPTS)
    assert not windowed.agrees
    assert windowed.max_abs_difference > 10 * found.max_abs_difference


def test_the_command_reports_and_fails_on_a_difference(
    models: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside Transformer Engine, as in NVIDIA's images, too: megatron-core would norm with it on the CPU."""
    monkeypatch.setenv("PYTHONPATH", f"{BESIDE_CUDA}:{os.environ.get('PYTHONPATH', '')}")
    source, megatron = models
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"question": p}) + "\n" for p in _PROMPTS))
    assert verify.main([str(source), str(megatron), "--prompts", str(prompts)]) == 0
    assert "logits agree" in capsys.readouterr().out
    wrong = tmp_path / "wrong"
    shutil.copytree(source, wrong)
    tensors = load_file(wrong / "model.safetensors")
    # Swapping two heads' keys leaves every tensor's shape and sum as it was.
    key = tensors["model.layers.0.self_attn.k_proj.weight"]
    tensors["model.layers.0.self_attn.k_proj.weight"] = torch.cat(key.chunk(2)[::-1]).contiguous()
    save_file(tensors, wrong / "model.safetensors", metadata={"format": "pt"})
    assert verify.main([str(wrong), str(megatron), "--prompts", str(prompts)]) == 1
    output = capsys.readouterr().out
    assert "k_proj.weight" in output
    assert "logits DIFFER" in output


def test_a_side_that_cannot_be_computed_is_named(models: tuple[Path, Path], tmp_path: Path) -> None:
    source, megatron = models
    empty = tmp_path / "empty"
    shutil.copytree(source, empty, ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(LogitsError, match=r"empty: its logits could not be computed"):
        compare_logits(megatron, empty, _PROMPTS)


def test_prompts_are_lines_or_rows(tmp_path: Path) -> None:
    file = tmp_path / "prompts"
    file.write_text('{"question": "a?", "answer": "b"}\n\n{"text": "c"}\nplain text\n')
    assert read_prompts(file) == ["a?", "c", "plain text"]
    # Both divide lines for Python, and JSON leaves them as they are.
    file.write_text('{"question": "a\u2028b\x85c"}\nplain\u2028text\n')
    assert read_prompts(file) == ["a\u2028b\x85c", "plain\u2028text"]
    file.write_text('{"query": "a"}\n')
    with pytest.raises(ConversionError, match=r"prompts:1: no question, prompt or text"):
        read_prompts(file)
    file.write_text("\n")
    with pytest.raises(ConversionError, match=r"holds no prompt"):
        read_prompts(file)
    with pytest.raises(ConversionError, match=r"missing: cannot be read"):
        read_prompts(tmp_path / "missing")
