"""Questions a second of an evaluation on this machine's CPU, against lm-evaluation-harness on the same questions.

    make install-harness
    python benchmarks/evaluate.py [--model FOLDER] [--rounds 3] [--questions 2100] [--samples 1]
        [--batches 64 256]

Both sides get the same Hugging Face model (the quickstart's after its SFT, made on the way, unless --model names one),
questions of the embedded generator, a third of each kind, chat template, limit of 160 new tokens and greedy decoding
(with --samples, so many answers a question at temperature 1, as pass@k wants), and both use all cores: `python -m
recipes.evaluate` with a process each, lm-evaluation-harness's `generate_until` with the `hf` backend with a thread
each. The harness may choose among batch sizes; its best counts. Our seconds include having every answer graded by the
reward server. vLLM is measured where its environment is (`make install-vllm`).

A side's time for the questions is that of its whole command less that of the same command with two questions, so that
what happens once (imports, loading, servers that start) is in neither. Rounds take turns; medians count.

The last line is one JSON object:

    samples             answers a question
    questions_per_s     of `embedded`, `vllm`, `harness` (its best)
    seconds             whole commands: of all questions, and of two
    harness_batches     questions a second by batch size
    same_answers        share of answers that embedded sampler and harness give alike; null where they are drawn
    ratio_to_harness    of the embedded sampler, in questions a second; `whole_ratio` in seconds of whole commands
    vllm_ratio          of vLLM
    cores, date
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# This folder has a module named as a package of ours is.
sys.path[0] = str(ROOT)

from recipes.data.example import REPORT_GROUPS, Example, read_examples, write_examples  # noqa: E402
from recipes.data.styles import read_style  # noqa: E402

CORES = os.cpu_count() or 1
DEADLINE_S = 1200
LIMIT = 160
TASK = "medatron_benchmark"
# The harness renders the chat template itself (--apply_chat_template).
TASK_FILE = """task: {task}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: [], max_gen_toks: {limit}, {drawn}}}
repeats: {samples}
metric_list: [{{metric: exact_match}}]
"""
GREEDY, SAMPLED = "do_sample: false", "do_sample: true, temperature: 1.0, top_k: 0, top_p: 1.0"


def finish(command: Sequence[str], log: Path, threads: int) -> float:
    """Runs a command to its end; the seconds that it took, or an error with the end of what it said."""
    own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "MEDATRON_DEVICE": "cpu"}
    own |= {"VLLM_CPU_KVCACHE_SPACE": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HOME": str(log.parent / "cache")}
    began = time.perf_counter()
    with log.open("w") as out:
        done = subprocess.run(
            command, stdout=out, stderr=subprocess.STDOUT, timeout=DEADLINE_S, env={**os.environ, **own}, check=False
        )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{log.read_text()[-3000:]}")
    return time.perf_counter() - began


def module(folder: Path, name: str, *arguments: str) -> float:
    return finish([sys.executable, "-m", name, *arguments], folder / f"{name}.log", 1)


def asked(examples: Sequence[Example], count: int) -> list[Example]:
    """A third of each kind of task; that training has seen them makes no difference to speed."""
    kinds = [[example for example in examples if example.group == group] for group in REPORT_GROUPS]
    return [example for kind in kinds for example in kind[: count // len(kinds)]]


def made_model(folder: Path) -> Path:
    """The quickstart's model after its SFT, in Hugging Face's format."""
    base, run, out = folder / "base", folder / "sft", folder / "hf"
    module(folder, "conversion.hf_to_megatron", str(ROOT / "recipes/data/tiny_base"), str(base))
    settings = (f"output={run}", f"model.path={base}", f"data.train=[{folder / 'data/sft.jsonl'}]")
    module(folder, "recipes.sft", "experiment=quickstart_sft", *settings)
    module(folder, "conversion.megatron_to_hf", str(next((run / "checkpoints").glob("step_*"))), str(out))
    return out


class Ours:
    """`recipes.evaluate` on a number of questions; `answers` are the last run's, in order."""

    def __init__(self, folder: Path, *settings: str) -> None:
        self.folder, self.settings = folder, settings
        self.answers: list[str] = []

    def run(self, examples: Sequence[Example]) -> float:
        questions, output = self.folder / "asked.jsonl", self.folder / "run"
        write_examples(questions, examples)
        settings = [f"output={output}", f"model.path={self.folder / 'megatron'}", f"data.test=[{questions}]"]
        settings += ["experiment=quickstart_base", "name=benchmark", f"rollout.max_new_tokens={LIMIT}", *self.settings]
        seconds = module(self.folder, "recipes.evaluate", *settings)
        rows = (output / "evaluation/benchmark.jsonl").read_text().splitlines()
        self.answers = [json.loads(row)["response"] for row in rows]
        assert len(self.answers) % len(examples) == 0, "questions were left out"
        return seconds


class Harness:
    """`lm_eval` on a number of questions with one batch size; `answers` are the last run's, in order."""

    def __init__(self, folder: Path, python: Path, model: Path, batch: int, samples: int) -> None:
        self.folder, self.python, self.model, self.batch, self.samples = folder, python, model, batch, samples
        self.answers: list[str] = []

    def run(self, examples: Sequence[Example]) -> float:
        with tempfile.TemporaryDirectory(dir=self.folder) as own:
            rows, task = Path(own) / "rows.jsonl", Path(own) / "task.yaml"
            style = read_style("plain")
            lines = [{"question": style.asked(e), "answer": e.gold()} for e in examples]
            rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
            drawn = GREEDY if self.samples == 1 else SAMPLED
            filled = TASK_FILE.format(task=TASK, rows=rows, limit=LIMIT, samples=self.samples, drawn=drawn)
            task.write_text(filled)
            command = [str(self.python), "-m", "lm_eval", "run", "--model", "hf", "--tasks", TASK]
            command += ["--model_args", f"pretrained={self.model},dtype=float32", "--include_path", own]
            command += ["--device", "cpu", "--batch_size", str(self.batch), "--apply_chat_template"]
            command += ["--log_samples", "--output_path", own]
            seconds = finish(command, self.folder / "harness.log", CORES)
            samples = next(Path(own).rglob("samples_*.jsonl")).read_text().splitlines()
        found = sorted((json.loads(line) for line in samples), key=lambda sample: sample["doc_id"])
        self.answers = [answer for sample in found for answer in sample["resps"][0]]
        return seconds


def measured(
    sides: dict[str, Callable[[Sequence[Example]], float]], examples: Sequence[Example], rounds: int
) -> dict[str, tuple[float, float]]:
    """Median seconds of all questions and of two, by side."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            # All of them last: the answers that are kept are theirs.
            few = run(examples[:2])
            taken[name].append((run(examples), few))
            print(f"{name}: {taken[name][-1][0]:.1f} s, {few:.1f} s for two questions", flush=True)
    return {name: tuple(map(statistics.median, zip(*times, strict=True))) for name, times in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a Hugging Face folder (default: made here in a minute)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--questions", type=int, default=2100, help="(default: %(default)s, at most 2100)")
    parser.add_argument("--samples", type=int, default=1, help="answers a question (default: %(default)s)")
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 256], help="of the harness")
    parser.add_argument("--harness-python", type=Path, default=ROOT / ".venv-harness/bin/python")
    parser.add_argument("--vllm-python", type=Path, default=ROOT / ".venv-vllm/bin/python")
    chosen = parser.parse_args()
    if not chosen.harness_python.is_file():
        raise SystemExit(f"{chosen.harness_python}: missing; make install-harness makes it")
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        module(folder, "recipes.prepare_data", "embedded", str(folder / "data"))
        examples = asked(read_examples(folder / "data/train.jsonl"), chosen.questions)
        model = chosen.model.resolve() if chosen.model else made_model(folder)
        module(folder, "conversion.hf_to_megatron", str(model), str(folder / "megatron"))
        drawn = [f"evaluation.samples={chosen.samples}", "evaluation.temperature=1.0"] if chosen.samples > 1 else []
        embedded = Ours(folder, "parallel=single", f"parallel.processes={CORES}", *drawn)
        harness = {
            f"harness {batch}": Harness(folder, chosen.harness_python, model, batch, chosen.samples)
            for batch in chosen.batches
        }
        sides = {"embedded": embedded.run, **{name: side.run for name, side in harness.items()}}
        if chosen.vllm_python.is_file():
            os.environ["MEDATRON_VLLM_PYTHON"] = str(chosen.vllm_python)
            sides["vllm"] = Ours(folder, "parallel=single", "rollout=vllm", "algorithm.importance=none", *drawn).run
        seconds = measured(sides, examples, chosen.rounds)
    print(json.dumps({"samples": chosen.samples, **result(seconds, len(examples), embedded, harness)}))


def result(
    seconds: dict[str, tuple[float, float]], questions: int, embedded: Ours, harness: dict[str, Harness]
) -> dict[str, Any]:
    speed = {name: (questions - 2) / (whole - few) for name, (whole, few) in seconds.items()}
    best = max(harness, key=speed.__getitem__)
    pairs = list(zip(embedded.answers, harness[best].answers, strict=True))
    alike = sum(ours == theirs for ours, theirs in pairs) / len(pairs)
    return {
        "questions_per_s": {
            "embedded": round(speed["embedded"], 1),
            "vllm": round(speed["vllm"], 1) if "vllm" in speed else None,
            "harness": round(speed[best], 1),
        },
        "seconds": {name: [round(second, 1) for second in pair] for name, pair in seconds.items()},
        "harness_batches": {side.batch: round(speed[name], 1) for name, side in harness.items()},
        "same_answers": round(alike, 4) if harness[best].samples == 1 else None,
        "ratio_to_harness": round(speed["embedded"] / speed[best], 2),
        "whole_ratio": round(seconds[best][0] / seconds["embedded"][0], 2),
        "vllm_ratio": round(speed["vllm"] / speed[best], 2) if "vllm" in speed else None,
        "cores": CORES,
        "date": time.strftime("%Y-%m-%d"),
    }


if __name__ == "__main__":
    main()
