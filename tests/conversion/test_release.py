"""The release gate: what passes carries its card and sums, and every kind of drift keeps it shut."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from conversion import hf_to_megatron
from conversion.checkpoint import write_manifest
from conversion.errors import CheckpointError, DestinationError
from conversion.publishing import publish
from conversion.release import ReleaseError, main, release
from tests.conversion.hub import Hub
from tests.conversion.models import save_folder

_REPOSITORY = Path(__file__).parents[2]
_REWARD = {"name": "gated", "version": "1", "hash": "ab" * 32}


def _evaluation(name: str, checkpoint: Path, accuracy: float) -> dict[str, Any]:
    task = {"questions": 200, "accuracy": accuracy, "stderr": 0.03, "format_error_share": 0.01}
    return {
        "name": name,
        "checkpoint": str(checkpoint.resolve()),
        "tasks": {"choice": task},
        "mean": accuracy,
        "stderr": 0.03,
    }


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a GRPO run: base model, converted start, one trained checkpoint, evaluations and data."""
    base = save_folder("qwen2-tied", tmp_path / "base")
    (base / "README.md").write_text("# The base model's own card\n")
    start = hf_to_megatron.convert(base, tmp_path / "start")
    run = tmp_path / "run"
    built = run / "checkpoints" / "building"
    shutil.copytree(start.path, built)
    (built / "manifest.json").unlink()
    (built / "state.json").write_text(json.dumps({"step": 40, "reward": _REWARD}))
    write_manifest(built, source=start.manifest.source)
    step = run / "checkpoints" / "step_000040"
    publish(built, step)
    data = tmp_path / "train.jsonl"
    rows = [{"source": "MedQA", "license": "MIT"}] * 3 + [{"source": "PubMedQA", "license": "MIT"}]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "seed": 0,
        "model": {"path": str(start.path), "precision": "float32"},
        "optimizer": {"learning_rate": 1e-6},
        "rollout": {"prompts": 8, "group_size": 8, "temperature": 0.6, "max_new_tokens": 64},
        "algorithm": {"clip_low": 0.2, "clip_high": 0.28, "kl_coef": 0.05},
        "data": {"train": [str(data)]},
    }
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    (run / "evaluation").mkdir()
    for name, checkpoint, accuracy in (("before", start.path, 0.5), ("after", step, 0.75)):
        (run / "evaluation" / f"{name}.json").write_text(json.dumps(_evaluation(name, checkpoint, accuracy)))
    return run


def _refused(run: Path, message: str, error: type[Exception] = ReleaseError, **options: Any) -> None:
    out = run.parent / "out"
    with pytest.raises(error, match=message):
        release(run, out, **options)
    assert not out.exists()
    assert not list(run.parent.glob("out.partial-*"))


def test_a_release_is_a_model_with_its_card_and_sums(run: Path) -> None:
    out = run.parent / "medatron-tiny"
    release(run, out)
    assert AutoModelForCausalLM.from_pretrained(out).config.num_hidden_layers == 4
    card = (out / "README.md").read_text()
    metadata = yaml.safe_load(card.split("---\n")[1])
    assert metadata["base_model"] == "base"
    assert "grpo" in metadata["tags"]
    for fact in (
        "# medatron-tiny",
        f"gated, version 1, sha256 `{_REWARD['hash']}`",
        "| MedQA | MIT | 3 |",
        "| PubMedQA | MIT | 1 |",
        "| after | this model | choice | 200 | 75.0% ± 3.0% | 1.0% |",
        "| before | before training | choice | 200 | 50.0% ± 3.0% | 1.0% |",
        "## Limits of use in medicine",
        "not a medical device",
    ):
        assert fact in card
    assert str(run.parent) not in card
    assert (out / "README.base.md").read_text() == "# The base model's own card\n"
    checked = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=out, capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout
    named = {line.split("  ")[1] for line in (out / "SHA256SUMS").read_text().splitlines()}
    assert named == {file.name for file in out.iterdir()} - {"SHA256SUMS"}


def test_weights_are_released_in_the_dtype_asked_for(run: Path) -> None:
    out = run.parent / "out"
    release(run, out, dtype=torch.bfloat16, step=40)
    assert {tensor.dtype for tensor in load_file(out / "model.safetensors").values()} == {torch.bfloat16}
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("tokenizer.json", lambda b: b + b" ", r"tokenizer.json: changed"),
        ("chat_template.jinja", lambda b: b.upper(), r"chat_template.jinja: changed"),
        ("generation_config.json", lambda b: b.replace(b"{", b'{"top_k": 1,', 1), r"generation_config.json: changed"),
        ("config.json", lambda b: b.replace(b"10000.0", b"20000.0"), r"config.json: rope_parameters is .*10000"),
    ],
)
def test_drift_from_the_base_model_is_refused(
    run: Path, file: str, change: Callable[[bytes], bytes], message: str
) -> None:
    """The base changed on its own: since nobody can say which is right, nothing is released."""
    path = run.parent / "base" / file
    before = path.read_bytes()
    path.write_bytes(change(before))
    assert path.read_bytes() != before
    _refused(run, message)


def test_a_file_that_came_or_went_is_refused(run: Path) -> None:
    (run.parent / "base" / "added_tokens.json").write_text("{}")
    _refused(run, r"added_tokens.json: missing")
    (run.parent / "base" / "added_tokens.json").unlink()
    (run.parent / "base" / "merges.txt").unlink()
    _refused(run, r"merges.txt: not in the base model")


def test_files_changed_inside_the_checkpoint_are_refused(run: Path) -> None:
    (run / "checkpoints" / "step_000040" / "hf" / "chat_template.jinja").write_text("{{ 'new' }}")
    _refused(run, r"chat_template.jinja", CheckpointError)


def test_what_was_not_evaluated_is_not_released(run: Path) -> None:
    (run / "evaluation" / "after.json").unlink()
    _refused(run, r"no result of .*step_000040; a medical model is not released unmeasured.*recipes.evaluate")


def test_data_without_a_licence_is_not_released(run: Path) -> None:
    (run.parent / "train.jsonl").write_text('{"source": "scraped"}\n')
    _refused(run, r"train.jsonl:1: a row without source or license")
    (run.parent / "train.jsonl").unlink()
    _refused(run, r"train.jsonl: cannot be read")


def test_the_base_model_must_be_there(run: Path) -> None:
    (run.parent / "base").rename(run.parent / "moved")
    _refused(run, r"name it with --base")
    assert release(run, run.parent / "out", base=run.parent / "moved").comparison.differences == ()


def test_wrong_places_are_named(run: Path, tmp_path: Path) -> None:
    _refused(run, r"holds no checkpoint of step 41", step=41)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ReleaseError, match=r"config.yaml: cannot be read"):
        release(tmp_path / "empty", tmp_path / "out")
    release(run, tmp_path / "out")
    with pytest.raises(DestinationError, match=r"exists"):
        release(run, tmp_path / "out")


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def _release_to(hub: Hub, run: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "conversion.release", str(run), str(out), "--push-to-hub", "org/model"]
    # A proxy and the user's own cache have no part in it; Xet, the hub's newer storage, has a protocol of its own.
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_test", "HF_HOME": str(run.parent / "hf_home")}
    environment |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "HF_HUB_DISABLE_XET": "1"}
    return subprocess.run(command, cwd=_REPOSITORY, env=environment, capture_output=True, text=True, timeout=120)


def test_the_hub_gets_the_release_whole_and_private(run: Path, hub: Hub) -> None:
    out = run.parent / "medatron-tiny"
    done = _release_to(hub, run, out)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"uploaded to {hub.url}/org/model\n")
    assert (hub.created["organization"], hub.created["name"]) == ("org", "model")
    assert hub.created["visibility"] == "private"
    assert hub.summary == "Release medatron-tiny"
    assert hub.tokens == {"Bearer hf_test"}
    assert hub.files == {file.name: file.read_bytes() for file in out.iterdir()}


def test_a_refused_upload_keeps_the_release(run: Path, hub: Hub) -> None:
    hub.refuses = True
    out = run.parent / "out"
    done = _release_to(hub, run, out)
    assert done.returncode == 1
    assert "org/model: not uploaded" in done.stderr
    assert "is complete" in done.stderr
    assert (out / "SHA256SUMS").is_file()


def test_the_sums_would_show_a_change(run: Path) -> None:
    out = run.parent / "out"
    assert main([str(run), str(out)]) == 0
    sums = dict(line.split("  ")[::-1] for line in (out / "SHA256SUMS").read_text().splitlines())
    (out / "config.json").write_text("{}")
    assert hashlib.sha256((out / "config.json").read_bytes()).hexdigest() != sums["config.json"]
