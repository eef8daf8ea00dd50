"""Med-RLVR in small: base, SFT on the labels, PPO and GRPO, held-out questions and unseen wordings, for several seeds.

    python benchmarks/med_rlvr_mini.py [--seeds 0 1 2] [--seconds 60] [--split test] [--output runs/med_rlvr_mini]

A seed draws training rows, warms the tiny base model up on its teacher's traces (this is the `base` of the table), and
trains it further in four ways for the same seconds on the same rows: SFT on the label alone (sft_answer), SFT on
the right trace (sft_worked), PPO, GRPO. All five answer the held-out questions in wordings that training had of other
facts (`in`), and in wordings that it had of none (`out`); `recipes.compare` sets them side by side, in
OUTPUT/seedN/comparison. Settings are experiment=med_rlvr_mini and its kin. To choose them there is --split validation,
which asks nothing else: test split and unseen wordings are for results.

The last line is one JSON object: `gain_points` (a seed each: PPO less base on `in`, in points of accuracy), `seconds`
(a seed each: `experiment`, which is warm start, evaluation of the base, PPO and its evaluation with all start-ups, and
`whole`, the SFT baselines, GRPO and the comparison too), `table` (accuracy by row and column, a seed each), `steps` (of
each training, a seed each), `split`, and `trained_seconds`, what each training was given.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# This folder has a module named as a package of ours is.
sys.path[0] = str(ROOT)

from benchmarks.stages import stage  # noqa: E402
from recipes.data.generator import SOURCE, UNSEEN_SOURCE  # noqa: E402
from recipes.monitor.run_folder import evaluation_path  # noqa: E402
from recipes.runtime.run_folder import last_checkpoint  # noqa: E402
from reward_server.process import RewardServerProcess  # noqa: E402

TINY_BASE = ROOT / "recipes" / "data" / "tiny_base"
WARM_SECONDS = 40
# The table's columns: set and file.
COLUMNS = {"test": {"in": (SOURCE, "test"), "out": (UNSEEN_SOURCE, "unseen")}}
COLUMNS["validation"] = {"in": (SOURCE, "validation")}
# Module, experiment and settings of each way to go on from the warm start.
TRAININGS: dict[str, tuple[str, str, list[str]]] = {
    "ppo": ("recipes.grpo", "med_rlvr_mini", []),
    "grpo": ("recipes.grpo", "med_rlvr_mini_grpo", []),
    "sft_answer": ("recipes.sft", "med_rlvr_mini_sft", ["data.teach=answer"]),
    "sft_worked": ("recipes.sft", "med_rlvr_mini_sft", ["data.teach=worked"]),
}
# The order of the table.
ROWS = ("base", "sft_answer", "sft_worked", "ppo", "grpo")


def measure(folder: Path, seed: int, seconds: int, split: str) -> dict[str, Any]:
    """One seed."""
    data, base = folder / "data", folder / "tiny_base"
    began, experiment = time.monotonic(), 0.0
    stage(None, "recipes.prepare_data", "embedded", str(data), "--tasks", "choice", "--seed", str(seed))
    stage(None, "conversion.hf_to_megatron", str(TINY_BASE), str(base))
    files = f"data.test=[{','.join(str(data / f'{name}.jsonl') for _, name in COLUMNS[split].values())}]"

    with RewardServerProcess(log_path=folder / "reward_server.log") as server:

        def train(name: str, module: str, kind: str, model: Path, rows: str, limit: int, more: list[str]) -> Path:
            settings = [f"experiment={kind}", f"output={folder / name}", f"model.path={model}", f"seed={seed}"]
            settings += [f"data.train=[{data / rows}]", f"trainer.max_seconds={limit}", f"reward.url={server.url}"]
            stage(None, module, *settings, *more)
            return last_checkpoint(folder / name)

        def evaluate(name: str, model: Path) -> None:
            settings = [f"output={folder}", f"name={name}", f"model.path={model}", files, f"reward.url={server.url}"]
            stage(None, "recipes.evaluate", "experiment=med_rlvr_mini", *settings)

        start = train("warm", "recipes.sft", "med_rlvr_mini_sft", base, "sft.jsonl", WARM_SECONDS, [])
        evaluate("base", start)
        for name, (module, kind, more) in TRAININGS.items():
            evaluate(name, train(name, module, kind, start, "train.jsonl", seconds, more))
            if name == "ppo":
                experiment = time.monotonic() - began
    stage(None, "recipes.compare", *(str(evaluation_path(folder, name)) for name in ROWS))
    return {
        "seconds": {"experiment": round(experiment), "whole": round(time.monotonic() - began)},
        "accuracy": {name: accuracies(folder, name, split) for name in ROWS},
        "steps": {name: steps(folder / name) for name in ("warm", *TRAININGS)},
    }


def accuracies(folder: Path, name: str, split: str) -> dict[str, float]:
    """Of an evaluation, by column of the table."""
    sets = json.loads(evaluation_path(folder, name).read_text())["sets"]
    return {column: round(sets[source]["accuracy"], 4) for column, (source, _) in COLUMNS[split].items()}


def steps(run: Path) -> int:
    """That a training took."""
    return int(json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["step"])


def markdown(table: dict[str, dict[str, list[float]]], seeds: list[int]) -> str:
    """The table for people, in per cent, a seed each and their mean."""

    def cells(values: list[float]) -> str:
        return f"{', '.join(f'{100 * value:.1f}' for value in values)} | {100 * sum(values) / len(values):.1f}"

    columns = list(table["base"])
    lines = [f"| seeds {', '.join(map(str, seeds))} | {' | mean | '.join(columns)} | mean |"]
    lines.append("|---" * (1 + 2 * len(columns)) + "|")
    lines += [f"| {name} | {' | '.join(cells(row[column]) for column in columns)} |" for name, row in table.items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--seconds", type=int, default=60, help="of each training (default: %(default)s)")
    parser.add_argument("--split", choices=("test", "validation"), default="test", help="asked as `in`")
    parser.add_argument("--output", type=Path, default=Path("runs/med_rlvr_mini"), help="new folder")
    args = parser.parse_args()
    if args.output.exists():
        parser.error(f"{args.output} exists; name a new folder")
    runs = [measure(args.output.resolve() / f"seed{seed}", seed, args.seconds, args.split) for seed in args.seeds]
    columns = COLUMNS[args.split]
    table = {name: {column: [run["accuracy"][name][column] for run in runs] for column in columns} for name in ROWS}
    print(markdown(table, args.seeds))
    result = {
        "gain_points": [
            round(100 * (ppo - base), 1) for base, ppo in zip(table["base"]["in"], table["ppo"]["in"], strict=True)
        ],
        "seconds": [run["seconds"] for run in runs],
        "table": table,
        "steps": [run["steps"] for run in runs],
        "split": args.split,
        "trained_seconds": args.seconds,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
