"""The three commands as a user meets them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file

from conversion import console, hf_to_megatron, megatron_to_hf, verify
from conversion.errors import DestinationError

Make = Callable[..., Path]
_REPOSITORY = Path(__file__).parents[2]


def _run(module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"conversion.{module}", *map(str, arguments)]
    return subprocess.run(command, cwd=_REPOSITORY, capture_output=True, text=True, timeout=60)


def test_there_and_back_and_verify(hf_folder: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, megatron, back = str(hf_folder("qwen2-tied")), str(tmp_path / "megatron"), str(tmp_path / "back")
    there = _run("hf_to_megatron", source, megatron)
    assert there.returncode == 0, there.stderr
    assert there.stdout.startswith(f"{megatron}: Qwen2, 50 tensors, ")
    assert megatron_to_hf.main([megatron, back]) == 0
    assert capsys.readouterr().out.startswith(f"{back}: Qwen2, 50 tensors, ")
    assert verify.main([source, megatron]) == 0
    same = capsys.readouterr().out
    assert same.startswith("identical: 50 tensors, sha256 ")
    assert verify.main([megatron, back]) == 0
    assert capsys.readouterr().out == same


def test_errors_are_one_line(tmp_path: Path) -> None:
    done = _run("hf_to_megatron", tmp_path / "nowhere", tmp_path / "out")
    assert done.returncode == 1
    assert done.stderr.strip() == (
        f"error: {tmp_path / 'nowhere' / 'config.json'}: no such file; expected a Hugging Face model folder"
    )


@pytest.mark.parametrize("command", [hf_to_megatron, megatron_to_hf, verify])
def test_help_teaches(command: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "examples:" in text
    assert f"python -m {command.__name__}" in text


def test_leftovers_are_pointed_out(hf_folder: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out.partial-123").mkdir()
    assert hf_to_megatron.main([str(hf_folder("qwen2-tied")), str(tmp_path / "out")]) == 0
    assert "out.partial-123 is left from an interrupted run" in capsys.readouterr().err


def test_what_was_made_before_is_used_again(hf_folder: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what another job put there while this one converted; another model at that place is refused."""
    model, out = Path(shutil.copytree(hf_folder("qwen2-tied"), tmp_path / "hf")), tmp_path / "out"
    command = [str(model), str(out), "--reuse"]
    theirs = hf_to_megatron.convert(model, tmp_path / "theirs").path

    @contextmanager
    def overtaken(_what: str, _total: int) -> Iterator[Callable[[int], None]]:
        theirs.rename(out)
        yield lambda _: None

    with monkeypatch.context() as patch:
        patch.setattr(console, "progress_bar", overtaken)
        assert hf_to_megatron.main(command) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "out"]
    # The weights may be gone by then.
    (model / "model.safetensors").rename(tmp_path / "away")
    assert hf_to_megatron.main(command) == 0
    other = shutil.copytree(hf_folder("qwen2-untied"), tmp_path / "other")
    (model / "README.md").write_text("edited")
    before = f"{out}: was made of {model} float32 megatron, not {model} "
    for change, said in (
        (["--dtype", "bfloat16"], f"{before}bfloat16 megatron; choose another destination"),
        (["--layout", "nemo"], f"{before}float32 nemo"),
        ([], f"{out}: was made of another model.safetensors than is there"),
        ([], f"{out}: was made of another tokenizer.json than is there"),
    ):
        if not change:
            (model / ("tokenizer.json" if "tokenizer" in said else "model.safetensors")).write_text("{}")
        with pytest.raises(DestinationError, match=re.escape(said)):
            hf_to_megatron.main([*command, *change])
    with pytest.raises(DestinationError, match=re.escape(f"was made of {model} float32 megatron, not {other} ")):
        hf_to_megatron.main([str(other), str(out), "--reuse"])


def test_verify_names_the_one_changed_value(
    hf_folder: Make, megatron_folder: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = Path(shutil.copytree(hf_folder("qwen2-tied"), tmp_path / "changed"))
    tensors = load_file(changed / "model.safetensors")
    tensors["model.layers.2.self_attn.k_proj.bias"][3] += 1e-6
    save_file(tensors, changed / "model.safetensors", metadata={"format": "pt"})
    assert verify.main([str(changed), str(megatron_folder("qwen2-tied"))]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("model.layers.2.self_attn.k_proj.bias: float32[32] ")
    assert lines[1] == "DIFFERENT: 1 differences, 50 tensors compared"


def test_verify_across_dtypes(hf_folder: Make, megatron_folder: Make, tmp_path: Path) -> None:
    source = hf_folder("qwen3-tied")
    rounded = hf_to_megatron.convert(source, tmp_path / "bf16", dtype=torch.bfloat16).path
    assert len(verify.compare(source, rounded).differences) == 46
    assert verify.compare(source, rounded, dtype=torch.bfloat16).differences == ()
    assert verify.compare(source, megatron_folder("qwen3-tied")).differences == ()


def test_verify_of_different_models_names_what_is_missing(hf_folder: Make) -> None:
    result = verify.compare(hf_folder("qwen2-tied"), hf_folder("qwen2-untied"))
    assert f"lm_head.weight: not in {hf_folder('qwen2-tied')}" in result.differences
    assert result.tensor_count == 50
