"""Published files on their way to a release, without a hand on it: prepared, trained on, evaluated, released.

The quickstart's model reads their prompts whole, up to 1,024 tokens. Skipped where the files are not there.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conversion import hf_to_megatron, release
from recipes.data.example import read_examples, write_examples
from recipes.monitor.rollouts import read_rollouts
from recipes.quickstart import BASE
from recipes.runtime.run_folder import last_checkpoint
from tests.conftest import REPOSITORY, SHARED_DATA, shared_data
from tests.end_to_end.launch import metrics, run

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]
PROMPT, RESPONSE = 1024, 32


def _longer(base: Path, to: Path) -> Path:
    """The quickstart's model, which was trained on 512 positions and has none that are learnt, for longer texts."""
    shutil.copytree(base, to)
    config = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps(config | {"max_position_embeddings": PROMPT + RESPONSE}))
    return to


def test_published_files_become_a_release(tmp_path: Path) -> None:
    shared_data("medu1/train_huatuo.parquet")
    data, folder = tmp_path / "data", tmp_path / "run"
    command = [sys.executable, "-m", "recipes.prepare_data", "med-u1-run", str(SHARED_DATA), str(data)]
    subprocess.run(command, cwd=REPOSITORY, check=True, timeout=180, stdout=subprocess.DEVNULL)
    manifest = json.loads((data / "train.jsonl.manifest.json").read_text())
    alike = sum(each["rows"] for each in manifest["left_out"] if each["reason"].startswith("like a question"))
    assert (manifest["rows"], alike) == (10_094, 183)

    model = _longer(BASE, tmp_path / "hf")
    start = hf_to_megatron.convert(model, tmp_path / "megatron").path
    asked = [
        *("experiment=quickstart_grpo", f"output={folder}", f"data.train=[{data / 'train.jsonl'}]"),
        *("data.style=med_u1", "reward=med_u1", "reward.text_metric=merge", "reward.text_threshold=45"),
        *("reward.length_mode=exact", "reward.length_target=null", "reward.length_draw=uniform"),
        *("reward.length_low=8", f"reward.length_high={RESPONSE}", "parallel.timeout_minutes=3"),
        *(f"model.max_length={PROMPT + RESPONSE}", f"rollout.max_new_tokens={RESPONSE}"),
        *("rollout.prompts=6", "rollout.group_size=4", "rollout.samples_every=1"),
        *("trainer.steps=2", "trainer.max_seconds=0"),
    ]
    held_out = [data / f"{name}.jsonl" for name in ("in_distribution", "out_of_distribution")]
    tests = f"data.test=[{held_out[0]},{held_out[1]}]"
    said = run("recipes.grpo", *asked, tests, f"model.path={start}", log=tmp_path / "grpo.log")
    print(said[-3000:])
    assert [row["step"] for row in metrics(folder)] == [1, 2]
    records = read_rollouts(folder)
    print({r.task for r in records}, max(len(r.prompt) for r in records))

    # All held-out questions were compared with the training rows; a few of each set are answered.
    few = []
    for file in held_out:
        rows = read_examples(file)
        few.append(tmp_path / f"few_{file.name}")
        by_source: dict[str, int] = {}
        write_examples(
            few[-1],
            [
                e
                for e in rows
                if len(e.question) < 400
                and by_source.setdefault(e.source, 0) < 4
                and not by_source.update({e.source: by_source[e.source] + 1})
            ],
        )
    run(
        "recipes.evaluate",
        *asked,
        f"data.test=[{few[0]},{few[1]}]",
        "name=after",
        f"model.path={last_checkpoint(folder)}",
        log=tmp_path / "evaluate.log",
    )
    result = json.loads((folder / "evaluation" / "after.json").read_text())
    print(
        json.dumps({k: result[k] for k in ("questions", "dropped", "seen")}),
        list(result["sets"]),
        list(result["distributions"]),
    )
    made = release.release(folder, tmp_path / "release", base=model)
    print(list(made.path.iterdir()))
    assert (made.path / "SHA256SUMS").is_file()
    raise AssertionError("look")
