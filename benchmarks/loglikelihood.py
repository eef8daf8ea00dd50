"""What lm-evaluation-harness's log-likelihoods say of a model, beside the answers that it gives to the same questions.

    make install-harness
    python benchmarks/loglikelihood.py HF_FOLDER QUESTIONS.jsonl [...] --answers RUN/evaluation/NAME.jsonl

Writes the questions with four options as a local copy of MedQA in the form that the harness expects, and runs its task
`medqa_4options` on it, unchanged and offline, as it is and with the model's chat template. A task takes a local copy
where a folder of its data set's name stands in the folder that it is started from; the other tasks of `multimedqa` are
run in the same way.

The last line is one JSON object: the number of `questions`, and the accuracy by `loglikelihood`, by
`loglikelihood_with_template`, and of the answers `generated`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# This folder has a module named as a package of ours is.
sys.path[0] = str(ROOT)

from recipes.data.example import Example, read_examples  # noqa: E402

DATA_SET, TASK, LETTERS = "GBaker/MedQA-USMLE-4-options-hf", "medqa_4options", "ABCD"
DEADLINE_S = 600


def local_copy(examples: Sequence[Example], folder: Path) -> None:
    """The data set's rows, in all three splits: the task names them all and asks the test's."""
    lines = []
    for example in examples:
        options = {f"ending{number}": (example.options or {})[letter] for number, letter in enumerate(LETTERS)}
        asked = "\n".join(filter(None, (example.context, example.question)))
        label = LETTERS.index(str(example.answer))
        lines.append(json.dumps({"id": example.id, "sent1": asked, "sent2": "", **options, "label": label}))
    (folder / DATA_SET).mkdir(parents=True)
    for split in ("train", "validation", "test"):
        (folder / DATA_SET / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def letters(folder: Path, python: Path, model: Path, *more: str) -> list[str]:
    """The likeliest letter of every question, as the harness finds it."""
    with tempfile.TemporaryDirectory() as out:
        command = [str(python), "-m", "lm_eval", "run", "--model", "hf", "--tasks", TASK, "--device", "cpu", *more]
        command += ["--model_args", f"pretrained={model},dtype=float32", "--batch_size", "64"]
        command += ["--log_samples", "--output_path", out]
        own = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "cache"), "TOKENIZERS_PARALLELISM": "false"}
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, **own},
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
        print(done.stdout)
        samples = [json.loads(line) for line in next(Path(out).rglob("samples_*.jsonl")).read_text().splitlines()]
    samples.sort(key=lambda sample: sample["doc_id"])
    scores = [[float(score) for ((score, _),) in sample["resps"]] for sample in samples]
    return [LETTERS[own.index(max(own))] for own in scores]


def compared(examples: Sequence[Example], rows: Mapping[str, Any], found: Mapping[str, list[str]]) -> dict[str, Any]:
    count = len(examples)
    right = {name: [letter == e.answer for letter, e in zip(own, examples, strict=True)] for name, own in found.items()}
    right["generated"] = [rows[example.id]["status"] == "correct" for example in examples]
    return {"questions": count, **{name: round(sum(own) / count, 4) for name, own in right.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a Hugging Face folder")
    parser.add_argument(
        "questions", type=Path, nargs="+", help="files of Examples; those with options A to D are asked"
    )
    parser.add_argument("--answers", type=Path, required=True, help="NAME.jsonl of the same model on these questions")
    parser.add_argument("--harness-python", type=Path, default=ROOT / ".venv-harness/bin/python")
    chosen = parser.parse_args()
    rows = {row["id"]: row for row in map(json.loads, chosen.answers.read_text(encoding="utf-8").splitlines())}
    examples = [e for e in read_examples(*chosen.questions) if list(e.options or ()) == list(LETTERS) and e.id in rows]
    with tempfile.TemporaryDirectory() as root:
        local_copy(examples, Path(root))
        model, python = chosen.model.resolve(), chosen.harness_python.absolute()
        found = {
            "loglikelihood": letters(Path(root), python, model),
            "loglikelihood_with_template": letters(Path(root), python, model, "--apply_chat_template"),
        }
    print(json.dumps(compared(examples, rows, found)))


if __name__ == "__main__":
    main()
