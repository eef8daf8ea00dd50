"""`python -m recipes.evaluate` of vLLM: as the sampler, with the embedded one's answers; and as anybody's endpoint."""

from __future__ import annotations

import json
import random
import shutil
import string
from pathlib import Path
from typing import Any

import pytest

from conversion.checkpoint import open_checkpoint, write_manifest
from conversion.evaluation import differences
from recipes.data.example import Example, write_examples
from recipes.evaluate import evaluate
from recipes.evaluation.answers import Answers
from recipes.evaluation.endpoint import KEY, EndpointError
from recipes.runtime.loading import load
from recipes.runtime.rules import Stage
from reward_server.process import RewardServerProcess
from tests.end_to_end.launch import run
from tests.sampling.conftest import Running

pytestmark = [pytest.mark.vllm, pytest.mark.multiprocess, pytest.mark.slow]
QUESTIONS, KEPT = 40, 7


@pytest.fixture(scope="module")
def checkpoint(running: Running, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The server's model with a tokenizer of 98 characters, which can write the form of an answer."""
    folder = tmp_path_factory.mktemp("characters") / "megatron"
    shutil.copytree(running.checkpoint, folder)
    opened = open_checkpoint(folder)
    vocabulary = {piece: i for i, piece in enumerate(["<pad>", "<eos>", "Ċ", "Ġ", *string.printable[:94]])}
    special = [
        {"id": i, "content": name, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        | {"special": True}
        for i, name in enumerate(("<pad>", "<eos>"))
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    tokenizer = {"version": "1.0", "added_tokens": special, "pre_tokenizer": byte_level, "decoder": byte_level}
    tokenizer["model"] = {"type": "BPE", "vocab": vocabulary, "merges": []}
    (opened.hf_dir / "tokenizer.json").write_text(json.dumps(tokenizer))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<eos>", "pad_token": "<pad>"}
    settings["chat_template"] = "{{ messages[0].content }}"
    (opened.hf_dir / "tokenizer_config.json").write_text(json.dumps(settings))
    write_manifest(folder, source=opened.manifest.source)
    return folder


@pytest.mark.parametrize("running", ["qwen2-tied"], indirect=True)
def test_answers_are_the_embedded_samplers(
    running: Running, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On two ranks, behind answers that are there already; the two results are told apart."""
    monkeypatch.setenv("MEDATRON_ROLLOUT_TOKEN", running.token)
    rng = random.Random(0)
    words = ("pain", "fever", "2 mg", "cough", "since", "years", "of", "heart", "rate 90")
    rows = [
        Example(f"q{n}", "test", "text", " ".join(rng.choices(words, k=rng.randrange(1, 12))) + "?", "rest")
        for n in range(QUESTIONS)
    ]
    write_examples(tmp_path / "test.jsonl", rows)

    def evaluated(name: str, *overrides: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        settings = [f"output={tmp_path}", f"name={name}", f"model.path={checkpoint}", "data.style=plain"]
        settings += [f"data.test=[{tmp_path / 'test.jsonl'}]", "rollout.max_new_tokens=24", "parallel=tp2"]
        settings += ["parallel.timeout_minutes=1", *overrides]
        run("recipes.evaluate", *settings, log=tmp_path / f"{name}.log")
        folder = tmp_path / "evaluation"
        lines = (folder / f"{name}.jsonl").read_text().splitlines()
        return json.loads((folder / f"{name}.json").read_text()), [json.loads(line) for line in lines]

    embedded, expected = evaluated("embedded")
    assert len({row["response"] for row in expected}) > QUESTIONS / 2
    assert "sampler" not in embedded["measured"]["decoding"]
    definition = {key: embedded[key] for key in ("weights", "measured")}
    definition["measured"]["decoding"]["sampler"] = "vllm"
    kept = [{**row, "response": "kept"} for row in expected[:KEPT]]
    Answers(tmp_path / "evaluation/vllm.jsonl", definition).add(kept)
    # A sampling temperature is nothing to an evaluation, nor are filters that vLLM refuses beside one.
    vllm = ("rollout=vllm", f"rollout.vllm.urls=[{running.url}]", "rollout.temperature=0.7", "rollout.top_k=5")
    result, found = evaluated("vllm", *vllm)
    assert found == kept + expected[KEPT:]
    assert {key: result[key] for key in definition} == definition
    del definition["measured"]["decoding"]["sampler"]
    assert differences(embedded, result) == ["decoding sampler: embedded and vllm"]


@pytest.mark.parametrize("running", ["qwen2-tied"], indirect=True)
def test_its_own_interface_is_an_endpoint(running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With seeds, in whatever order answers come; its refusals are told apart, and its key is in none of them."""
    rows = [Example(f"q{n}", "test", "text", "abcdefg"[: n + 1], "rest") for n in range(6)]
    write_examples(tmp_path / "test.jsonl", [*rows, Example("long", "test", "text", "abc" * 4000, "rest")])
    settings = [
        f"output={tmp_path}",
        f"data.test=[{tmp_path / 'test.jsonl'}]",
        "data.style=plain",
        "data.template=base",
    ]
    settings += [f"evaluation.endpoint.url={running.url}/v1", "evaluation.endpoint.model=policy", "name=several"]
    settings += ["evaluation.samples=3", "evaluation.temperature=0.9", "evaluation.top_k=40", "evaluation.top_p=0.95"]
    settings += ["rollout.max_new_tokens=24"]
    with RewardServerProcess() as reward:
        settings.append(f"reward.url={reward.url}")
        monkeypatch.setenv(KEY, "not-the-token")
        with pytest.raises(EndpointError, match=rf"HTTP 401: .*; set {KEY} to the endpoint's key"):
            evaluate(load(settings, Stage.EVALUATE))
        monkeypatch.setenv(KEY, running.token)
        with pytest.raises(EndpointError, match=r"HTTP 404: .*`other`.*evaluation\.endpoint\.model") as refused:
            evaluate(load([*settings, "evaluation.endpoint.model=other"], Stage.EVALUATE))
        assert running.token not in str(refused.value)
        found = []
        for concurrency in (1, 8):
            evaluate(load([*settings, f"evaluation.endpoint.concurrency={concurrency}"], Stage.EVALUATE))
            found.append((tmp_path / "evaluation/several.jsonl").read_text())
    assert found[0] == found[1]
    answers = [json.loads(line) for line in found[0].splitlines()]
    assert [(row["id"], row["sample"]) for row in answers] == [
        (f"q{n}", sample) for n in range(6) for sample in range(3)
    ]
    assert len({row["response"] for row in answers}) > len(answers) / 2
    assert all(row["cut"] == (row["tokens"] == 24) for row in answers)
    assert json.loads((tmp_path / "evaluation/several.json").read_text())["dropped"] == 1
