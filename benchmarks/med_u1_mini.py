"""Trains the tiny model to keep to a length that its prompt asks for, and measures how well it does.

    python benchmarks/med_u1_mini.py [--seeds 0 1 2] [--output runs/med_u1_mini] [key=value ...]

Data with traces of every length, conversion, SFT whose prompts ask for what each trace keeps
(`experiment=med_u1_mini_sft`) and `experiment=med_u1_mini`; further arguments are settings of the latter. Beside it SFT
on the same traces without a word of length, which is what a run without length control begins with: "before". Held-out
questions of all three kinds of task are answered without a length and at every budget, in both modes, by "before", the
warm start and the result.

The last line is one JSON object of lists, a value a seed:

    exact_error          mean |y - n| / n over budgets, mode exact; `exact_error_before`, `exact_error_warm`
    within_budget        share within the budget, mean over budgets, mode max; `within_budget_before`, `..._warm`
    accuracy             mean over budgets, mode exact; `accuracy_before` and `accuracy_warm` without a length
    accuracy_max         mean over budgets, mode max
    accuracy_free        without a length
    stderr               of an accuracy at one budget
    choice, calculation, text   accuracy without a length of "before" and of the result
    seconds              of data, conversion, the warm start and GRPO
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
from recipes.data.generator import GROUPS  # noqa: E402
from recipes.quickstart import BASE  # noqa: E402
from recipes.runtime.run_folder import last_checkpoint  # noqa: E402

BUDGETS = (20, 30, 40, 50, 60, 70)
RESTATES = 9


def timed(module: str, *arguments: str) -> float:
    """Runs an entry point and returns its seconds."""
    began = time.monotonic()
    stage(None, module, *arguments)
    return time.monotonic() - began


def evaluated(run: Path, name: str, model: Path) -> dict[str, dict[str, Any]]:
    """The results of an evaluation without a length and at every budget, by mode."""
    results: dict[str, dict[str, Any]] = {}
    for mode in ("exact", "max"):
        stage(
            None,
            "recipes.evaluate",
            *("experiment=quickstart_base", f"output={run}", f"name={name}_{mode}", f"model.path={model}"),
            *(f"data.test=[{run}/data/test.jsonl]", "reward.length_mode=none", "reward.length_target=null"),
            *(f"evaluation.budgets={list(BUDGETS)}".replace(" ", ""), f"evaluation.budget_mode={mode}"),
            "rollout.max_new_tokens=112",
        )
        results[mode] = json.loads((run / "evaluation" / f"{name}_{mode}.json").read_text())
    return results


def mean(result: dict[str, Any], key: str) -> float:
    """Over budgets."""
    return sum(point[key] for point in result["budgets"]["points"]) / len(BUDGETS)


def measure(run: Path, seed: int, settings: list[str]) -> dict[str, Any]:
    data = run / "data"
    shared = ("parallel.timeout_minutes=5", f"seed={seed}")
    taught = (*shared, f"model.path={run / 'base'}", f"data.train=[{data / 'sft.jsonl'}]")
    made = ("recipes.prepare_data", "embedded", str(data), "--seed", str(seed), "--restates", str(RESTATES))
    seconds = timed(*made)
    seconds += timed("conversion.hf_to_megatron", str(BASE), str(run / "base"))
    stage(None, "recipes.sft", "experiment=med_u1_mini_sft", "data.say_length=none", f"output={run / 'plain'}", *taught)
    seconds += timed("recipes.sft", "experiment=med_u1_mini_sft", f"output={run / 'sft'}", *taught)
    seconds += timed(
        "recipes.grpo",
        *("experiment=med_u1_mini", f"output={run}", f"model.path={last_checkpoint(run / 'sft')}", *shared),
        *(f"data.train=[{data / 'train.jsonl'}]", *settings),
    )
    models = {"before": run / "plain", "warm": run / "sft", "after": run}
    found = {name: evaluated(run, name, last_checkpoint(folder)) for name, folder in models.items()}
    row: dict[str, Any] = {"seconds": round(seconds)}
    for name, suffix in (("after", ""), ("before", "_before"), ("warm", "_warm")):
        row[f"exact_error{suffix}"] = mean(found[name]["exact"], "error")
        row[f"within_budget{suffix}"] = mean(found[name]["max"], "within_share")
        row[f"accuracy{suffix}" if suffix else "accuracy_free"] = found[name]["exact"]["all"]["accuracy"]
    row["accuracy"], row["accuracy_max"] = (mean(found["after"][mode], "accuracy") for mode in ("exact", "max"))
    row["stderr"] = found["after"]["exact"]["all"]["stderr"]
    for group in GROUPS:
        row[group] = [found[name]["exact"]["tasks"][group]["accuracy"] for name in ("before", "after")]
    return row


def rounded(value: Any) -> Any:
    return [round(each, 4) for each in value] if isinstance(value, list) else round(value, 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("runs/med_u1_mini"))
    arguments, settings = parser.parse_known_args()
    rows = [measure(arguments.output.resolve() / f"seed{seed}", seed, settings) for seed in arguments.seeds]
    print(json.dumps({key: [rounded(row[key]) for row in rows] for key in rows[0]}))


if __name__ == "__main__":
    main()
