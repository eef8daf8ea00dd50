"""The likelihoods of a right answer after every step of a reasoning, against plain transformers."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from conversion.checkpoint import open_checkpoint
from recipes.data.example import read_examples
from tests.end_to_end.launch import run

pytestmark = pytest.mark.multiprocess

STEPS = ["First the kidney.", " Then 1+2=3.", " So be it; or not."]
THINK = "<think>" + "".join(STEPS)


def test_information_gain_is_that_of_plain_transformers(
    tiny_hf: Path, tiny_checkpoint: Path, embedded_data: Path, tmp_path: Path
) -> None:
    examples = read_examples(embedded_data / "test.jsonl")[::5]
    rows = [(e.id, f"{THINK}</think><answer>x</answer>", "plain") for e in examples]
    rows += [
        (examples[0].id, f"{THINK}</think>", "shuffled 1"),
        (examples[0].id, "<think></think><answer>x</answer>", "plain"),
        (examples[0].id, "<think>" + "Again and again. " * 100, "plain"),
        ("unknown", THINK, "plain"),
    ]
    gold = {e.id: e.gold() for e in examples}
    found = [
        {"id": identity, "group": "text", "response": response, "tokens": 1, "variant": variant}
        | {"answer": gold.get(identity, ""), "status": "incorrect" if number else "correct", "sample": number}
        for number, (identity, response, variant) in enumerate(rows)
    ]
    folder = tmp_path / "run" / "evaluation"
    folder.mkdir(parents=True)
    (folder / "before.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    (folder / "before.json").write_text(json.dumps({"weights": open_checkpoint(tiny_checkpoint).digest(read=True)}))
    output = run(
        "recipes.information_gain",
        *("experiment=quickstart_grpo", "name=before", f"output={tmp_path / 'run'}", f"model.path={tiny_checkpoint}"),
        *(f"data.test=[{embedded_data / 'test.jsonl'}]", "parallel.processes=1", "parallel.tensor=1"),
        log=tmp_path / "log",
    )
    result = json.loads((folder / "gain" / "before.json").read_text())
    measured = [json.loads(line) for line in (folder / "gain" / "before.jsonl").read_text().splitlines()]
    assert [row.get("left_out") for row in measured] == [None] * len(examples) + ["no reasoning", "too long"]
    counts = ("own", "responses", "without_question", "too_long", "without_reasoning")
    assert [result[key] for key in counts] == [True, len(examples) + 2, 1, 1, 1]
    assert f"{len(examples)} responses, 3.0 steps" in output

    tokenizer = AutoTokenizer.from_pretrained(tiny_hf)
    model = AutoModelForCausalLM.from_pretrained(tiny_hf, dtype=torch.float32)
    gains = []
    for example, row in zip(examples, measured, strict=False):
        options = ", ".join(f"{text} ({letter})" for letter, text in (example.options or {}).items())
        parts = [example.context and f"<Context>\n{example.context}\n</Context>", example.question]
        asked = "\n".join(part for part in (*parts, options and f"Options: {options}") if part)
        chat = [{"role": "user", "content": asked}]
        prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        answer = tokenizer(example.gold(), add_special_tokens=False).input_ids
        perplexities = []
        for count, ours in enumerate(row["nlls"]):
            written = f"<think>{''.join(STEPS[:count])}</think><answer>"
            ids = [t for text in (prompt, written) for t in tokenizer(text, add_special_tokens=False).input_ids]
            with torch.no_grad():
                logits = model(torch.tensor([ids + answer])).logits[0, len(ids) - 1 : -1]
            theirs = torch.nn.functional.cross_entropy(logits, torch.tensor(answer))
            assert ours == pytest.approx(float(theirs), abs=1e-4)
            perplexities.append(math.exp(theirs))
        assert len(perplexities) == 4
        # By the definition, which the sum's ends are all that is left of.
        gain = sum(before - after for before, after in itertools.pairwise(perplexities)) / 4
        assert row["info_gain"] == pytest.approx(gain, rel=1e-2)
        gains.append(row["info_gain"])
    assert result["gain"]["all"]["info_gain"] == pytest.approx(sum(gains) / len(gains))
    assert result["gain"]["correct"] == {**result["gain"]["correct"], "responses": 1, "info_gain": gains[0]}
    # A policy without weights of its own would gain and lose nothing.
    assert max(map(abs, gains)) > 0.1
