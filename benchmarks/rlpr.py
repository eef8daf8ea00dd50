"""A reward without a verifier beside the rule's: open answers, the same warm start and seconds.

    python benchmarks/rlpr.py [--output runs/rlpr] [--seconds 120] [--seed 0]

The tiny base model, the embedded open answers alone, two CPU cores, about eight minutes. After the quickstart's warm
start GRPO twice, by the preset `gated` and by `reward.likelihood=[text]`, in which no verifier has a say; both with Dr.
GRPO's advantages, so that likelihoods which are nearly alike weigh little. The last line is one JSON object:

    before, rule, likelihood   accuracy of held-out open answers in per cent, greedy, with its standard error
    gain_rule, gain_likelihood in points over `before`
    steps, seconds             of training, of either run by its name
    seconds_in_all
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
from recipes.monitor.loggers import read_metrics  # noqa: E402
from recipes.monitor.run_folder import evaluation_path  # noqa: E402
from recipes.runtime.run_folder import last_checkpoint  # noqa: E402
from reward_server.process import RewardServerProcess  # noqa: E402

BASE = ROOT / "recipes" / "data" / "tiny_base"
TEXT = ("data.mix.choice=0", "data.mix.calculation=0")
ARMS = {"rule": (), "likelihood": ("reward.likelihood=[text]",)}


def accuracy(run: Path, name: str, checkpoint: Path, test: Path, url: str) -> list[float]:
    """Of the held-out open answers, in per cent, with its standard error."""
    stage(
        run / f"{name}.log",
        "recipes.evaluate",
        *("experiment=quickstart_base", f"output={run}", f"name={name}", f"model.path={checkpoint}"),
        *(f"data.test=[{test}]", f"reward.url={url}"),
    )
    result = json.loads(evaluation_path(run, name).read_text())
    return [round(100 * result["mean"], 1), round(100 * result["stderr"], 1)]


def only_text(source: Path, target: Path) -> Path:
    """The open questions of a file."""
    rows = [line for line in source.read_text().splitlines() if json.loads(line)["task"] == "text"]
    target.write_text("\n".join(rows) + "\n")
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/rlpr"))
    parser.add_argument("--seconds", type=int, default=120, help="of training, each (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    began, output = time.monotonic(), args.output.resolve()
    if output.exists():
        parser.error(f"{output} exists; name another folder with --output")
    output.mkdir(parents=True)
    data, megatron, sft = output / "data", output / "base", output / "sft"
    stage(output / "data.log", "recipes.prepare_data", "embedded", str(data), "--seed", str(args.seed))
    stage(output / "convert.log", "conversion.hf_to_megatron", str(BASE), str(megatron))
    stage(
        output / "sft.log",
        "recipes.sft",
        *("experiment=quickstart_sft", f"output={sft}", f"model.path={megatron}", f"seed={args.seed}"),
        f"data.train=[{data / 'sft.jsonl'}]",
    )
    warm, test = last_checkpoint(sft), only_text(data / "test.jsonl", data / "open.jsonl")
    found: dict[str, Any] = {"steps": {}, "seconds": {}}
    with RewardServerProcess(log_path=output / "reward_server.log") as server:
        found["before"] = accuracy(output, "before", warm, test, server.url)
        for name, own in ARMS.items():
            run = output / name
            stage(
                output / f"{name}.log",
                "recipes.grpo",
                *("experiment=quickstart_grpo", f"output={run}", f"name={name}", f"model.path={warm}"),
                *(f"data.train=[{data / 'train.jsonl'}]", f"seed={args.seed}", f"reward.url={server.url}", *TEXT, *own),
                *("algorithm.advantage=dr_grpo", "trainer.steps=1000", f"trainer.max_seconds={args.seconds}"),
            )
            rows = read_metrics(run)
            found["steps"][name], found["seconds"][name] = len(rows), round(rows[-1]["seconds"])
            found[name] = accuracy(run, "after", last_checkpoint(run), test, server.url)
            found[f"gain_{name}"] = round(found[name][0] - found["before"][0], 1)
    print(json.dumps({**found, "seconds_in_all": round(time.monotonic() - began)}))


if __name__ == "__main__":
    main()
