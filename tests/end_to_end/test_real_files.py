"""Published files on their way to a release, without a hand on it: prepared, trained on, evaluated, released.

The quickstart's model reads their prompts whole, up to 1,024 of its tokens. Skipped where the files are not there.

Left out: learning. Warmed up for a few steps on answers behind one and the same reasoning, the model has the form of an
answer and draws its letters, which is enough for rewards to differ and for a step to change it.
"""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from conversion import hf_to_megatron
from conversion.release import SUMS_FILE, release
from recipes.data.example import read_examples, write_examples
from recipes.data.med_u1_run import HELD_OUT
from recipes.monitor.rollouts import read_rollouts
from recipes.quickstart import BASE
from recipes.runtime.run_folder import last_checkpoint
from tests.conftest import REPOSITORY, SHARED_DATA, shared_data
from tests.end_to_end.launch import run, same_weights, steps

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]
PROMPT, RESPONSE = 1024, 32


def test_published_files_become_a_release(tmp_path: Path) -> None:
    shared_data("medu1/train_huatuo.parquet")
    data, folder, model = tmp_path / "data", tmp_path / "run", tmp_path / "hf"
    command = [sys.executable, "-m", "recipes.prepare_data", "med-u1-run", str(SHARED_DATA), str(data)]
    subprocess.run(command, cwd=REPOSITORY, check=True, timeout=180, stdout=subprocess.DEVNULL)
    manifest = json.loads((data / "train.jsonl.manifest.json").read_text())
    alike = sum(each["rows"] for each in manifest["left_out"] if each["reason"].startswith("like a held-out question"))
    assert (manifest["rows"], alike) == (10_094, 183)

    # Trained on 512 positions, of which none are learnt.
    shutil.copytree(BASE, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"max_position_embeddings": PROMPT + RESPONSE}))
    start = hf_to_megatron.convert(model, tmp_path / "megatron").path
    # Training compares its rows with all held-out questions again where it is given them; the preparation has done so.
    test = tmp_path / "test.jsonl"
    held_out = [e for name in HELD_OUT for e in read_examples(data / f"{name}.jsonl") if len(e.to_json()) < 1500]
    sets = itertools.groupby(held_out, key=lambda e: e.source)
    write_examples(test, [example for _, own in sets for example in itertools.islice(own, 3)])
    # The shortest, to be quick, and every reasoning alike: what is to be learned is the form, and some letter.
    rows = (each for each in read_examples(data / "train.jsonl") if each.task == "choice")
    choices = sorted(rows, key=lambda e: len(e.to_json()))[:64]
    worked = [{"trace": {"think": "I know it.", "answer": e.gold()}} for e in choices]
    write_examples(
        tmp_path / "short.jsonl", [replace(e, meta=e.meta | own) for e, own in zip(choices, worked, strict=True)]
    )
    fits = f"model.max_length={PROMPT + RESPONSE}"
    run(
        "recipes.sft",
        *("experiment=quickstart_sft", "parallel=single", f"output={tmp_path / 'sft'}", f"model.path={start}"),
        *(f"data.train=[{tmp_path / 'short.jsonl'}]", "data=med_u1", fits),
        *("trainer.steps=80", "trainer.max_seconds=0", "trainer.batch=8"),
        log=tmp_path / "sft.log",
    )
    warm = last_checkpoint(tmp_path / "sft")
    settings = [
        *("experiment=quickstart_grpo", "parallel=single", f"output={folder}", f"data.test=[{test}]"),
        *(f"data.train=[{data / 'train.jsonl'}]", "data=med_u1", "data.mix={choice: 1, calculation: 1, text: 1}"),
        *("reward=med_u1", "reward.text_metric=merge", "reward.text_threshold=45"),
        *("reward.length_mode=exact", "reward.length_target=null", "reward.length_draw=uniform"),
        *("reward.length_low=8", f"reward.length_high={RESPONSE}", f"rollout.max_new_tokens={RESPONSE}"),
        *(fits, "rollout.prompts=6", "rollout.group_size=4", "rollout.temperature=1.0", "algorithm.kl_coef=0"),
        *("trainer.steps=2", "trainer.max_seconds=0", "rollout.samples_every=1"),
    ]
    said = run("recipes.grpo", *settings, f"model.path={warm}", log=tmp_path / "grpo")
    # MedCalc-Bench's notes for the most part, which are long; none is cut.
    left_out = re.search(r"(\d+) of (\d+) prompts are longer than the context allows and were left out", said)
    assert left_out, said[-3000:]
    assert (int(left_out[2]), int(left_out[1])) == (10_094, pytest.approx(753, abs=10))
    assert steps(folder) == [1, 2]
    asked = {example.id: example for example in read_examples(data / "train.jsonl")}
    records = read_rollouts(folder)
    assert {record.task for record in records} == {"choice", "calculation", "text"}
    for record in records:
        assert record.question == asked[record.id].question
        assert record.question in record.prompt
        assert (asked[record.id].context or "") in record.prompt
        assert re.search(r"<answer> tags\. Think for \d+ tokens\.<\|im_end\|>", record.prompt), record.prompt[-200:]

    by_group = itertools.groupby(records, key=lambda record: (record.step, record.group))
    rewards = [{record.components.get("answer") for record in own} - {None} for _, own in by_group]
    assert any(len(own) > 1 for own in rewards), rewards
    trained = last_checkpoint(folder)
    assert not same_weights(trained, warm, tmp_path)
    run("recipes.evaluate", *settings, "name=after", f"model.path={trained}", log=tmp_path / "evaluate")
    result = json.loads((folder / "evaluation" / "after.json").read_text())
    assert (result["seen"]["questions"], result["dropped"], result["questions"]) == (0, 0, 15)
    counts = {name: own["questions"] for name, own in result["distributions"].items()}
    assert counts == {"in distribution": 9, "out of distribution": 6}
    made = release(folder, tmp_path / "release", base=model)
    assert (made.path / SUMS_FILE).is_file()
    card = (made.path / "README.md").read_text()
    assert all(name in card for name in ("MediQ", "MedCalc-Bench", "medical-o1-reasoning-SFT", "out of distribution"))
