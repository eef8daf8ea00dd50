"""Runs the quickstart for several seeds, each with its SFT control, and prints what it gained, took and needed.

    python benchmarks/quickstart.py [--seeds 0 1 2] [--control 0 1 2] [--output runs/benchmark]

The last line is one JSON object: `seeds` (per seed: `before`, `after` and `sft_control` accuracies by kind of task with
their `mean`, the control's null where it did not run; `gain` = after - before in points of the mean;
`worst_task_in_stderr` = the smallest change of a task over that task's standard error; `contradictions` before and
after; `seconds` without the control), `peak_memory_gib` (the largest sum of the proportional set sizes of all
processes) and `export_ok`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil


class PeakMemory(threading.Thread):
    """Samples the proportional set size of a process and all its descendants twice a second."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.root = psutil.Process(pid)
        self.peak = 0

    def run(self) -> None:
        while True:
            total = 0
            try:
                for process in [self.root, *self.root.children(recursive=True)]:
                    try:
                        total += process.memory_full_info().pss
                    except (psutil.NoSuchProcess, psutil.AccessDenied):
                        continue
            except psutil.NoSuchProcess:
                return
            self.peak = max(self.peak, total)
            time.sleep(0.5)


def accuracies(run: Path, name: str) -> dict[str, float]:
    result = json.loads((run / "evaluation" / f"{name}.json").read_text())
    return {g: round(t["accuracy"], 4) for g, t in result["tasks"].items()} | {"mean": round(result["mean"], 4)}


def measure(output: Path, seed: int, *, control: bool) -> dict[str, object]:
    run = output / f"seed{seed}"
    command = [sys.executable, "-m", "recipes.quickstart", "--output", str(run), "--seed", str(seed)]
    if control:
        command.append("--sft-control")
    began = time.monotonic()
    child = subprocess.Popen(command)
    memory = PeakMemory(child.pid)
    memory.start()
    if child.wait(timeout=3600):
        sys.exit(f"seed {seed}: the quickstart failed with exit code {child.returncode}")
    whole = time.monotonic() - began
    before, after = accuracies(run, "before"), accuracies(run, "after")
    details = [json.loads((run / "evaluation" / f"{n}.json").read_text())["tasks"] for n in ("before", "after")]
    summary = json.loads((run / "summary.json").read_text())
    return {
        "seed": seed,
        "before": before,
        "after": after,
        "sft_control": accuracies(run, "sft_control") if control else None,
        "gain": round(100 * (after["mean"] - before["mean"]), 1),
        "worst_task_in_stderr": round(
            min((after[g] - before[g]) / max(t["stderr"], 1e-9) for g, t in details[1].items()), 2
        ),
        "contradictions": {
            n: {g: t["contradiction_share"] for g, t in d.items()}
            for n, d in zip(("before", "after"), details, strict=True)
        },
        "seconds": summary["seconds"],
        "seconds_with_control": round(whole, 1),
        "peak_gib": round(memory.peak / 2**30, 2),
        "export": summary["export"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("runs/benchmark"))
    parser.add_argument("--control", type=int, nargs="*", help="seeds with an SFT control (default: all)")
    args = parser.parse_args()
    controls = args.seeds if args.control is None else args.control
    rows = [measure(args.output, seed, control=seed in controls) for seed in args.seeds]
    for row in rows:
        print(json.dumps(row, indent=1))
    result = {
        "seeds": rows,
        "peak_memory_gib": max(row["peak_gib"] for row in rows),
        "export_ok": all(r["export"]["greedy_equal"] and r["export"]["max_abs_logit_difference"] < 1e-4 for r in rows),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
