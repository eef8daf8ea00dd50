"""Trains the tiny model to keep to a length that its prompt asks for, and measures how well it does.

    python benchmarks/med_u1_mini.py [--seeds 0 1 2] [--output runs/med_u1_mini] [key=value ...]

Data, conversion, the quickstart's SFT and `experiment=med_u1_mini`; further arguments are settings of the latter. The
warm start and the result answer held-out questions of all three kinds of task without a length and at every budget, in
both modes. The last line is one JSON object of lists, a value a seed: `exact_error` and `exact_error_before`
(mean |y - n| / n over budgets, mode exact), `within_budget`, `within_budget_before` (mode max), `accuracy` (mean over
budgets, mode exact), `accuracy_before` (of the warm start without a length, as it was trained; `accuracy_before_asked`
at the budgets), `stderr` of `accuracy` at one budget, and `seconds` of all that was not evaluation.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# Its folder, which comes first, has modules of the same names as some of the product's.
sys.path[0] = str(ROOT)

from benchmarks.stages import stage  # noqa: E402
from recipes.quickstart import BASE  # noqa: E402
from recipes.runtime.run_folder import last_checkpoint  # noqa: E402

BUDGETS = (20, 30, 40, 50, 60)


def timed(module: str, *arguments: str) -> float:
    """Runs an entry point and returns its seconds."""
    began = time.monotonic()
    stage(None, module, *arguments)
    return time.monotonic() - began


def evaluated(run: Path, name: str, model: Path, mode: str) -> dict[str, Any]:
    """The result of an evaluation without a length and at every budget."""
    stage(
        None,
        "recipes.evaluate",
        *("experiment=quickstart_base", f"output={run}", f"name={name}", f"model.path={model}"),
        *(f"data.test=[{run}/data/test.jsonl]", "reward.length_mode=none", "reward.length_target=null"),
        *(f"evaluation.budgets={list(BUDGETS)}".replace(" ", ""), f"evaluation.budget_mode={mode}"),
    )
    result: dict[str, Any] = json.loads((run / "evaluation" / f"{name}.json").read_text())
    return result


def mean(result: dict[str, Any], key: str) -> float:
    """Over budgets."""
    return sum(point[key] for point in result["budgets"]["points"]) / len(BUDGETS)


def measure(run: Path, seed: int, settings: list[str]) -> dict[str, float]:
    data = run / "data"
    seconds = timed("recipes.prepare_data", "embedded", str(data), "--seed", str(seed))
    seconds += timed("conversion.hf_to_megatron", str(BASE), str(run / "base"))
    shared = ("parallel.timeout_minutes=5", f"seed={seed}")
    seconds += timed(
        "recipes.sft",
        *("experiment=quickstart_sft", f"output={run / 'sft'}", f"model.path={run / 'base'}", *shared),
        f"data.train=[{data / 'sft.jsonl'}]",
    )
    warm = last_checkpoint(run / "sft")
    before, before_max = (evaluated(run, f"before_{mode}", warm, mode) for mode in ("exact", "max"))
    seconds += timed(
        "recipes.grpo",
        *("experiment=med_u1_mini", f"output={run}", f"model.path={warm}", *shared),
        *(f"data.train=[{data / 'train.jsonl'}]", *settings),
    )
    final = last_checkpoint(run)
    after, after_max = (evaluated(run, f"after_{mode}", final, mode) for mode in ("exact", "max"))
    return {
        "exact_error": mean(after, "error"),
        "exact_error_before": mean(before, "error"),
        "within_budget": mean(after_max, "within_share"),
        "within_budget_before": mean(before_max, "within_share"),
        "accuracy": mean(after, "accuracy"),
        "accuracy_before": before["all"]["accuracy"],
        "accuracy_before_asked": mean(before, "accuracy"),
        "stderr": after["all"]["stderr"],
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("runs/med_u1_mini"))
    arguments, settings = parser.parse_known_args()
    rows = [measure(arguments.output.resolve() / f"seed{seed}", seed, settings) for seed in arguments.seeds]
    print(json.dumps({key: [round(row[key], 4) for row in rows] for key in rows[0]}))


if __name__ == "__main__":
    main()
