"""Whether a policy drifts outside the tags where the lenient form pays for that, and whether the strict form holds it.

    python benchmarks/hacking.py [--output runs/hacking] [--outside 0.3] [--whole 0.1] [--seed 0]

The tiny base model, the embedded calculations of three steps and more, two CPU cores, about nine minutes. SFT on the
teacher's sums: a share (`--outside`) of them whole, step by step in front of an empty `<think></think>`, another
(`--whole`) whole within it, and the others within it by their last two steps alone, as who does the first in the head.
From that one warm start GRPO twice with the preset `gated`, under `reward.format=lenient` and `strict`; all else is the
quickstart's. Both runs, with their reports, are left in the output folder. The last line is one JSON object:

    lenient, strict      of either run:
      steps, seconds     done, and of training
      first              shares of the phases in the first step
      phases             the same, means over ten steps each
      alarm_step         null where none came
      alarm              what the monitor said, as it said it
      samples            the responses to the three questions that it names
      reward             means over ten steps each
      accuracy           of held-out questions, greedy: before and after, with standard errors; whatever the form
      answers_outside    share of these answers that reason outside the tags, before and after
    seconds              in all
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# Its folder, which comes first, has modules of the same names as some of the product's.
sys.path[0] = str(ROOT)

from benchmarks.stages import stage  # noqa: E402
from recipes.data.example import Example, worked_response, write_examples  # noqa: E402
from recipes.data.generator import PERFECT, TEACHER, Generator, Split, Teacher  # noqa: E402
from recipes.monitor.loggers import read_metrics  # noqa: E402
from recipes.monitor.phases import Phase, phase_shares  # noqa: E402
from recipes.monitor.report import write_report  # noqa: E402
from recipes.monitor.report_data import read_run  # noqa: E402
from recipes.monitor.run_folder import evaluation_path  # noqa: E402
from recipes.runtime.run_folder import last_checkpoint  # noqa: E402
from reward_server.process import RewardServerProcess  # noqa: E402

BASE = ROOT / "recipes" / "data" / "tiny_base"
FORMATS = ("lenient", "strict")
# By steps and not by the clock, so that a busy machine changes nothing.
SFT = ("trainer.steps=200", "trainer.max_seconds=0")
GRPO = ("trainer.steps=60", "trainer.max_seconds=0")
MIX = ("data.mix.choice=0", "data.mix.text=0")
# Below three steps a sum has nothing to leave out, and counts as a direct answer.
_LEAST_STEPS, _KEPT_STEPS = 3, 2


def sums(split: Split, teacher: Teacher, count: int, seed: str) -> list[Example]:
    """So many different calculations of at least three steps."""
    rng = random.Random(seed)
    found: dict[str, Example] = {}
    generator = Generator(split, teacher, TEACHER)
    while len(found) < count:
        example = generator.draw(rng, "calculation")
        if example.meta["trace"]["think"].count(", ") + 1 >= _LEAST_STEPS:
            found.setdefault(example.id, example)
    return list(found.values())


def written(example: Example, chance: float, *, outside: float, whole: float) -> str:
    """The response that SFT teaches: the teacher's sum before the tags, within them, or half of it within them."""
    steps, answer = example.meta["trace"]["think"], example.meta["trace"]["answer"]
    if chance < outside:
        return f"{steps}\n{worked_response('', answer)}"
    if chance < outside + whole:
        return worked_response(steps, answer)
    return worked_response(", ".join(steps.split(", ")[-_KEPT_STEPS:]), answer)


def write_data(folder: Path, *, seed: int, outside: float, whole: float) -> None:
    rng = random.Random(f"{seed}/ways")
    taught = sums("train", TEACHER, 3000, f"{seed}/sft")
    for example in taught:
        example.meta["response"] = written(example, rng.random(), outside=outside, whole=whole)
    write_examples(folder / "sft.jsonl", taught)
    write_examples(folder / "train.jsonl", sums("train", PERFECT, 3000, f"{seed}/train"))
    write_examples(folder / "test.jsonl", sums("test", PERFECT, 300, "test"))


def train(run: Path, warm: Path, data: Path, url: str, form: str, seed: int) -> dict[str, Any]:
    """GRPO from the warm start, evaluated before and after, and what is to tell of it."""
    common = [f"output={run}", f"reward.url={url}", f"reward.format={form}"]

    def evaluate(name: str, checkpoint: Path) -> None:
        own = [f"name={name}", f"model.path={checkpoint}", f"data.test=[{data / 'test.jsonl'}]"]
        stage(run / f"{name}.log", "recipes.evaluate", "experiment=quickstart_base", *common, *own)

    evaluate("before", warm)
    own = [f"name={form}", f"model.path={warm}", f"data.train=[{data / 'train.jsonl'}]", f"seed={seed}", *MIX, *GRPO]
    said = stage(run / "grpo.log", "recipes.grpo", "experiment=quickstart_grpo", *common, *own)
    evaluate("after", last_checkpoint(run))
    write_report(run)
    return told(run, said)


def told(run: Path, said: str) -> dict[str, Any]:
    rows, drift = read_metrics(run), read_run(run).drift
    results = [json.loads(evaluation_path(run, name).read_text()) for name in ("before", "after")]
    answers = [evaluation_path(run, name).with_suffix(".jsonl").read_text() for name in ("before", "after")]
    return {
        "steps": len(rows),
        "seconds": round(rows[-1]["seconds"]),
        "first": {phase.name.lower(): round(rows[0][phase.metric], 3) for phase in Phase},
        "phases": {phase.name.lower(): by_tens(rows, phase.metric) for phase in Phase},
        "alarm_step": drift.step if drift else None,
        "alarm": next((line for line in said.splitlines() if "of the responses lately" in line), None),
        "samples": [each.response for each in drift.shown] if drift else [],
        "reward": by_tens(rows, "reward/mean"),
        "accuracy": [[round(result["mean"], 3), round(result["stderr"], 3)] for result in results],
        "answers_outside": [share_outside([json.loads(line)["response"] for line in a.splitlines()]) for a in answers],
    }


def by_tens(rows: Sequence[dict[str, Any]], key: str) -> list[float]:
    """Means over ten steps each."""
    parts = [[row[key] for row in rows[first : first + 10]] for first in range(0, len(rows), 10)]
    return [round(sum(part) / len(part), 3) for part in parts]


def share_outside(responses: Sequence[str]) -> float:
    return round(phase_shares(responses)[Phase.STEP_BY_STEP_OUTSIDE.metric], 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/hacking"))
    parser.add_argument("--outside", type=float, default=0.3, help="share of SFT's responses (default: %(default)s)")
    parser.add_argument("--whole", type=float, default=0.1, help="likewise (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    began, output = time.monotonic(), args.output.resolve()
    if output.exists():
        parser.error(f"{output} exists; name another folder with --output")
    data, megatron, sft = output / "data", output / "base", output / "sft"
    write_data(data, seed=args.seed, outside=args.outside, whole=args.whole)
    stage(output / "convert.log", "conversion.hf_to_megatron", str(BASE), str(megatron))
    own = [f"output={sft}", f"model.path={megatron}", f"data.train=[{data / 'sft.jsonl'}]", f"seed={args.seed}"]
    stage(output / "sft.log", "benchmarks.hacking_sft", "experiment=quickstart_sft", *own, *MIX, *SFT)
    warm = last_checkpoint(sft)
    with RewardServerProcess(log_path=output / "reward_server.log") as server:
        runs = {form: train(output / form, warm, data, server.url, form, args.seed) for form in FORMATS}
    print(json.dumps({**runs, "seconds": round(time.monotonic() - began)}))


if __name__ == "__main__":
    main()
