"""The release gate: what passes carries its card and sums, and every kind of drift keeps it shut."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from conversion import hf_to_megatron
from conversion.checkpoint import Checkpoint, Source, open_checkpoint, write_manifest
from conversion.errors import CheckpointError, ConversionError, DestinationError
from conversion.model_card import Facts, model_card
from conversion.publishing import publish
from conversion.release import ReleaseError, main, release
from tests.conversion.asked import ASKED, WORDS
from tests.conversion.hub import Hub
from tests.conversion.models import save_folder

_REPOSITORY = Path(__file__).parents[2]
_TAUGHT = {**ASKED, "template": "base", "shots": 1, "length_none_share": 0.0}
_TAUGHT |= {"lengths": [{"mode": "exact", "sentence": "Think for N tokens.", "low": None, "high": None}]}
_REWARD = {"name": "gated", "version": "1", "hash": "ab" * 32}


def _evaluation(name: str, checkpoint: Path, accuracy: float) -> dict[str, Any]:
    task = {"questions": 200, "accuracy": accuracy, "stderr": 0.03, "format_error_share": 0.01}
    curve = [{"k": 8, "pass": 0.9, "majority": 0.8}]
    figures = {**task, "interval": [0.69, 0.81], "cut_share": 0.0, "mean_tokens": 64.0, "curve": curve}
    return {
        "name": name,
        "checkpoint": str(checkpoint.resolve()),
        "weights": open_checkpoint(checkpoint).digest(read=True),
        "measured": {
            "data": [{"path": "/data/test.jsonl", "sha256": "cd" * 32}],
            "reward": {**_REWARD, "match": "strict", "format": "tags"},
            "prompts": {"style": "plain", "length_target": None},
            "decoding": {"temperature": 0.0, "max_new_tokens": 64, "max_length": 512},
        },
        "seen": {"questions": 0, "unread": []},
        "dropped": 3,
        "unscored": 1,
        "tasks": {"choice": task},
        "sets": {"MedQA": figures, "MMLU|1": figures},
        "all": figures,
        "mean": accuracy,
        "stderr": 0.03,
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `run` is a copy of."""
    root = tmp_path_factory.mktemp("release")
    base = save_folder("qwen2-tied", root / "base")
    (base / "README.md").write_text("# The base model's own card\n")
    # As a base model has them that is a release, whose base had a card too.
    (base / "README.base.md").write_text("# Of the base model's base\n")
    (base / "prompt.yaml").write_text("question: '{question}?'\n")
    (base / "SHA256SUMS").write_text("the base model's own\n")
    start = hf_to_megatron.convert(base, root / "start")
    run = root / "run"
    _save(start, run / "checkpoints" / "step_000040", start.manifest.source)
    config = {
        "seed": 0,
        "model": {"path": str(start.path), "precision": "float32"},
        "optimizer": {"learning_rate": 1e-6},
        "rollout": {"prompts": 8, "group_size": 8, "temperature": 0.6, "max_new_tokens": 64},
        "algorithm": {"clip_low": 0.2, "clip_high": 0.28, "kl_coef": 0.05},
    }
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    (run / "evaluation").mkdir()
    return root


def _save(start: Checkpoint, step: Path, source: Source) -> None:
    """A checkpoint as training saves it: here the weights after it are those before, and their files are not."""
    built = step.with_name("building")
    shutil.copytree(start.path, built)
    (built / "manifest.json").unlink()
    (built / "model" / "saved").write_text(step.name)
    warm: dict[str, Any] = {"stage": "sft", "model": "0" * 64, "before": None, "asked": _TAUGHT}
    warm |= {"data": [{"path": "/data/traces.jsonl", "sha256": "aa" * 32}], "rows": [["Traces", "CC-BY-4.0", 2]]}
    origin = {"stage": "grpo", "model": start.digest(read=False), "before": warm}
    origin |= {"data": [{"path": "/data/train.jsonl", "sha256": "bb" * 32}]}
    origin |= {"rows": [["MedQA", "MIT", 3], ["PubMedQA", "MIT", 1]], "prompt": "plain", "asked": ASKED}
    (built / "state.json").write_text(json.dumps({"step": 40, "reward": _REWARD, "origin": origin}))
    write_manifest(built, source=source)
    publish(built, step)


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """The folder of a GRPO run: base model, converted start, one trained checkpoint, evaluations and data."""
    for name in ("base", "start", "run"):
        shutil.copytree(made / name, tmp_path / name)
    run = tmp_path / "run"
    # The manifest names the base model by the path that it was converted from.
    for manifest in tmp_path.rglob("manifest.json"):
        manifest.write_text(manifest.read_text().replace(str(made), str(tmp_path)))
    for name, checkpoint, accuracy in (("before", tmp_path / "start", 0.5), ("after", _step(run), 0.75)):
        _write(run, name, _evaluation(name, checkpoint, accuracy))
    return run


def _step(run: Path) -> Path:
    return run / "checkpoints" / "step_000040"


def _write(run: Path, name: str, result: object) -> None:
    (run / "evaluation" / f"{name}.json").write_text(json.dumps(result))


def _read(run: Path, name: str) -> Any:
    return json.loads((run / "evaluation" / f"{name}.json").read_text())


def _refused(run: Path, message: str, error: type[Exception] = ReleaseError, **options: Any) -> None:
    out = run.parent / "out"
    with pytest.raises(error, match=message):
        release(run, out, **options)
    assert not out.exists()
    assert not list(run.parent.glob("out.partial-*"))


@pytest.mark.parametrize(("advantage", "method"), [("rloo", "GRPO"), ("gae", "PPO")])
def test_a_card_tells_a_critic_from_a_group(advantage: str, method: str, run: Path) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["algorithm"]["advantage"] = advantage
    manifest, state = open_checkpoint(_step(run)).manifest, {"step": 40, "reward": _REWARD, "origin": {}}
    card = model_card(Facts("m", "base", manifest, state, config, Counter(), {}, "0" * 64, None))
    assert f"trained by {method} with verifiable rewards on medical questions" in card
    assert "How it was asked" not in card, "an older checkpoint does not tell"
    assert yaml.safe_load(card.split("---\n")[1])["tags"][-1] == method.lower()


def test_a_release_is_a_model_with_its_card_and_sums(run: Path) -> None:
    out = run.parent / "medatron-tiny"
    _write(run, "after", _read(run, "after") | {"scores": _SCORES})
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
        "| Traces | CC-BY-4.0 | 2 |",
        f"- after: greedy answers; test.jsonl (SHA-256 `{'cd' * 32}`); no question of them is in the training data; "
        "asked as training asked; 3 questions too",
        "| after | this model | choice | 200 | 75.0% ± 3.0% | 1.0% |",
        "| before | before training | choice | 200 | 50.0% ± 3.0% | 1.0% |",
        "By set, after (this model):",
        "| MedQA | 200 | 75.0% | 69.0% to 81.0% | 1.0% | 0.0% | 64 | 90.0% | 80.0% |",
        "| MMLU\\|1 | 200 | 75.0% |",
        "With passages, after (this model):",
        "| standard: right answers | 40 | 42.5% | 20.0% to 60.0% |",
        "## Limits of use in medicine",
        "not a medical device",
    ):
        assert fact in card
    assert str(run.parent) not in card
    asked = card.split("## How it was asked")[1].split("\n## ")[0]
    first, shown, after = asked.split("`````")
    assert first.strip() == (
        "Reinforcement learning put every question in these words, through the chat template. Behind the instruction "
        'it asked for a length, "Think for N tokens." (N from 20 to 2,000) or "Think for maximum 40 tokens.", and for '
        "none in 25% of the prompts. Asked otherwise, the model may answer otherwise."
    )
    assert shown.removeprefix("yaml\n") == (out / "prompt.yaml").read_text()
    assert yaml.safe_load((out / "prompt.yaml").read_text()) == WORDS
    assert "Medatron asks in these words with `data.style=prompt.yaml`." in after
    assert after.endswith(
        "Supervised fine-tuning put every question in the same words, as plain text, without the chat template, "
        'behind 1 worked example. Behind the instruction it asked for a length, "Think for N tokens." (N by the '
        "length of each answer).\n"
    )
    assert (out / "README.base.base.md").read_text() == "# Of the base model's base\n"
    assert (out / "SHA256SUMS.base").read_text() == "the base model's own\n"
    assert (out / "README.base.md").read_text() == "# The base model's own card\n"
    assert (out / "prompt.base.yaml").read_text() == "question: '{question}?'\n"
    checked = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=out, capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout
    named = {line.split("  ")[1] for line in (out / "SHA256SUMS").read_text().splitlines()}
    assert named == {file.name for file in out.iterdir()} - {"SHA256SUMS", ".medatron.json"}


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
    _refused(run, r"no result of .*step_000040.*; a medical model is not released unmeasured.*recipes.evaluate")


def test_an_evaluation_is_of_weights_and_not_of_a_path(run: Path) -> None:
    """Checkpoints are deleted and trained anew, and step numbers repeat; and one byte makes another model."""
    old = _read(run, "after")["weights"]
    weights = next((_step(run) / "model").glob("*.distcp"))
    content = weights.read_bytes()
    weights.write_bytes(content[:-9000] + bytes([content[-9000] ^ 1]) + content[-8999:])
    _refused(run, rf"{weights}: sha256 \w{{12}}, was \w{{12}} when it was written", CheckpointError)
    shutil.rmtree(_step(run))
    start = open_checkpoint(run.parent / "start")
    _save(start, run / "checkpoints" / "step_000041", start.manifest.source)
    (run / "checkpoints" / "step_000041").rename(_step(run))
    new = open_checkpoint(_step(run)).digest(read=True)
    _refused(run, rf"after.json: measured weights of sha256 {old[:12]} at .*, where {new[:12]} lie now; run `python")
    # The same weights by another path are the same.
    (run.parent / "link").symlink_to(_step(run))
    _write(run, "after", _evaluation("after", run.parent / "link", 0.75) | {"checkpoint": "/elsewhere"})
    assert release(run, run.parent / "out").comparison.differences == ()


_OTHER = "ef" * 32
_SHARES = {"answers": 40, "accuracy": 0.425, "intervals": {"accuracy": [0.2, 0.6]}}
_SCORES = {"context": {"answers": {"sha256": "ab" * 32}, "scores": {"standard": _SHARES}}}


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("after", lambda r: [r], r"after.json: not the result of an evaluation; run .* again, or delete it"),
        ("after", lambda r: r | {"tasks": {}}, r"after.json: no question was answered and scored"),
        ("after", lambda r: r["tasks"]["choice"].update(questions=0), r"tasks.choice.questions is 0"),
        ("after", lambda r: r["tasks"]["choice"].update(accuracy="high"), r"tasks.choice.accuracy is 'high'"),
        ("after", lambda r: r | {"mean": math.nan}, r"mean is nan, expected a number from 0 to 1"),
        ("after", lambda r: r["sets"]["MedQA"].update(interval=[0.1]), r"the figures of MedQA are damaged"),
        ("after", lambda r: r | {"scores": {"gain": {}}}, r"its scores are damaged"),
        (
            "after",
            lambda r: r | {"answers_sha256": _OTHER, "scores": _SCORES},
            r"scores.context are of other answers",
        ),
        ("after", lambda r: r | {"measured": {}}, r"its digests are damaged \(KeyError: 'data'\)"),
        (
            "after",
            lambda r: {key: value for key, value in r.items() if key not in ("weights", "measured")},
            r"after.json: made by an older release",
        ),
        ("after", lambda r: r["seen"].update(questions=4), r"after.json: 4 of its questions are in the training data"),
        (
            "after",
            lambda r: r["measured"]["data"][0].update(sha256="aa" * 32),
            r"measured on /data/test.jsonl, which is the training file /data/traces.jsonl \(sha256 aaaaaaaaaaaa\)",
        ),
        (
            "before",
            lambda r: r["measured"]["data"][0].update(sha256=_OTHER),
            r"before was measured otherwise than .*\(data: efefefefefef and cdcdcdcdcdcd\)",
        ),
        (
            "before",
            lambda r: r["measured"]["reward"].update(hash=_OTHER),
            r"reward hash: efefefefefef and abababababab",
        ),
        (
            "before",
            lambda r: r["measured"]["prompts"].update(style="med_u1"),
            r"prompts style: med_u1 and plain",
        ),
    ],
)
def test_an_evaluation_that_proves_nothing_is_refused(
    name: str, change: Callable[[Any], Any], message: str, run: Path
) -> None:
    result = _read(run, name)
    changed = change(result)
    _write(run, name, result if changed is None else changed)
    _refused(run, message, ConversionError)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.yaml", b"\xff\xfe\x00", r"config.yaml: cannot be read"),
        ("config.yaml", b"model: 3\nseed: 0\n", r"config.yaml: has no optimizer.learning_rate"),
        ("evaluation/after.json", b'{"name": "aft', r"after.json: cannot be read .*; run"),
        ("state.json", b"[" * 100, r"state.json: cannot be read"),
        ("state.json", b'{"step": 40}', r"state.json: saved by an older release.*go on with the run for a step"),
        ("state.json", b'{"step": 40, "origin": {"model": ""}}', r"its origin is damaged \('rows'\)"),
        *(
            ("state.json", content, r"state.json: its origin is damaged \(asked: not how a run put its questions\)")
            for content in (
                b'{"step": 1, "origin": {"model": "", "rows": [], "data": [], "before": null, "asked": {"shots": 1}}}',
                b'{"step": 1, "origin": {"model": "", "rows": [], "data": [], "before": '
                b'{"rows": [], "data": [], "before": null, "asked": null}}}',
            )
        ),
        (
            "state.json",
            b'{"step": 1, "origin": {"model": "", "rows": [["web", "unknown", 7]], "data": [], "before": null}}',
            r"7 training rows of source 'web' name no license, .*; give each row its licence in the field 'license'",
        ),
    ],
)
def test_a_damaged_run_is_told_in_a_sentence(file: str, content: bytes, message: str, run: Path) -> None:
    path = run / file
    if file == "state.json":
        path = _step(run) / file
        manifest = json.loads((_step(run) / "manifest.json").read_text())
        manifest["files"][file]["size"] = len(content)
        (_step(run) / "manifest.json").write_text(json.dumps(manifest))
    path.write_bytes(content)
    _refused(run, message, ConversionError)


def test_force_replaces_a_release_and_nothing_else(run: Path) -> None:
    """Neither the base model, nor a model of somebody else, nor notes beside an earlier release."""
    base, out, mine = run.parent / "base", run.parent / "out", run.parent / "mine"
    mine.mkdir()
    (mine / "config.json").write_text("{}")
    (mine / "thesis.txt").write_text("three years")
    before = {path: path.read_bytes() for folder in (base, mine) for path in folder.iterdir()}
    for place, message in ((base, "overlaps the source"), (mine, "was not built by this project")):
        with pytest.raises(DestinationError, match=message):
            release(run, place, base=base, force=True)
    with pytest.raises(DestinationError, match=r"is a checkpoint that training saved, so --force does not delete it"):
        hf_to_megatron.convert(base, _step(run), force=True)
    assert {path: path.read_bytes() for path in before} == before
    release(run, out)
    release(run, out, force=True)
    (out / "notes.txt").write_text("to the committee")
    with pytest.raises(DestinationError, match=r"holds notes.txt, which was put there by somebody else"):
        release(run, out, force=True)
    assert (out / "notes.txt").exists()
    (out / "notes.txt").unlink()
    (out / "README.md").write_text((out / "README.md").read_text() + "\nReviewed by the ethics board.\n")
    with pytest.raises(DestinationError, match=r"holds README.md, which was changed since, so --force does not"):
        release(run, out, force=True)


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
    assert hub.files == {file.name: file.read_bytes() for file in out.iterdir() if file.name != ".medatron.json"}


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
