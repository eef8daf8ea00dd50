"""The planner's estimate beside every published figure that it can be put beside.

    python benchmarks/plan.py            print the table and one JSON object as the last line
    python benchmarks/plan.py --write    also write the table into docs/plan.md

No GPU, a second. `median_error_percent` is over the rows on which no constant was fitted, `median_time_error_percent`
over those of them that are not memory; `rows` counts all rows, `fitted_rows` names the fitted ones, `missed_rows` those
that are off by more than 25 %.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
# This file shares its name with a module of the package that it measures, and its folder comes first.
sys.path[0] = str(ROOT)

from recipes.planning.architectures import parameters, published  # noqa: E402
from recipes.planning.hardware import Kernels, gpu_of  # noqa: E402
from recipes.planning.layout import Layout, Rollout  # noqa: E402
from recipes.planning.memory import memory_of  # noqa: E402
from recipes.planning.timing import (  # noqa: E402
    Generator,
    Model,
    generation_seconds,
    handover_seconds,
    pass_seconds,
    swap_seconds,
    update_seconds,
)
from recipes.runtime.config import ClusterConfig  # noqa: E402

H100 = gpu_of(ClusterConfig())
ROWS = Path(__file__).with_name("plan_rows.yaml")
DOCUMENT = ROOT / "docs" / "plan.md"
BEGIN, END = "<!-- table: python benchmarks/plan.py --write -->\n", "<!-- end of table -->\n"
ATTENTION = {"fa2": 0.35, "fa3": 0.55}
ALLOWED = 25.0
# NeMo-RL trains on packed rows of one sequence's limit; NeMo-Aligner packs nothing, but has no pipeline here either.
PACKED = 4096


def tokens_a_second(row: dict[str, Any]) -> float:
    """Tokens a second and GPU of training alone; gradients are taken as sent beside the backward pass."""
    row = {"tensor": 1, "pipeline": 1, "context": 1, "virtual": 1, "micro_batch": 1, "recompute": 0} | row
    layout = Layout(
        row["tensor"],
        row["pipeline"],
        row["gpus"] // (row["tensor"] * row["pipeline"] * row["context"]),
        sequence=row["tensor"] > 1,
        recompute=row["recompute"],
        micro_batch_tokens=row["sequence"] * row["micro_batch"],
        fp8=row.get("fp8", False),
        context=row["context"],
        virtual=row["virtual"],
    )
    kernels = Kernels(ATTENTION[row["attention"]], row.get("hides_tensor_parallel", False))
    gpu = dataclasses.replace(H100, hbm=float(row.get("hbm", H100.hbm)))
    model = Model(published(row["model"]), layout, gpu, kernels)
    tokens = row["sequence"] * row["batch"]
    parts = pass_seconds(model, tokens, row["sequence"] / 2, trained=row.get("trained", "all"), recomputes_output=False)
    return tokens / sum(parts.values()) / layout.gpus


def step_seconds(row: dict[str, Any]) -> float:
    """Seconds of a whole RL step with an inference engine."""
    model = _trainer(row)
    limit = row["limit"] if "limit" in row else row["total"] - row["prompt"]
    rollout = Rollout(row["groups"], row["copies"], row["prompt"], row["response"], limit)
    generator = Generator("engine", **({"tensor": 1} | row["generate"]))
    generation = sum(generation_seconds(model, generator, rollout).values())
    forward = row["forwards"] * sum(pass_seconds(model, *computed(row, rollout), trained="nothing").values())
    update = training(model, rollout, row)
    handing = handover(row | {"gpus": model.layout.gpus}) if row.get("handover", True) else 0.0
    if row.get("overlapped"):
        return max(generation, forward + update) + handing
    if "critic" not in row:
        return generation + forward + update + handing
    return with_server(row, rollout, generator, before=update + handing, generation=generation, after=forward)


def with_server(
    row: dict[str, Any], rollout: Rollout, generator: Generator, *, before: float, generation: float, after: float
) -> float:
    """Seconds of a step of NeMo-Aligner's PPO, whose critic and reward model are one server on GPUs of its own.

    The server trains while the policy does, and then scores and values the responses of a round while the next one is
    written: two passes, and one model's weights from host memory, since the GPUs hold one at a time. The policy waits
    for the last of them once it has its log-probabilities (nemo_aligner/algorithms/ppo.py, critic_server_trainer.py and
    models/nlp/gpt/megatron_gpt_critic.py, 0.7.0). Requests that come in meanwhile are taken together, so that a round
    is one call. Left out: what HTTP moves, some 40 MB a step.

    Args:
        row: of the table.
        rollout, generator: as for the policy.
        before: the policy's updates and the hand-over of its weights.
        generation: all rounds.
        after: its passes over what was generated.
    """
    model = dataclasses.replace(_trainer(row | {"train": row["critic"]}), critic=True)
    rounds = math.ceil(rollout.responses / (generator.gpus / generator.tensor) / (generator.rows or rollout.responses))
    passes = 2 * sum(pass_seconds(model, *computed(row, rollout), trained="nothing").values())
    answers = passes + rounds * swap_seconds(model) / 2
    started = max(training(model, rollout, row), before + generation / rounds)
    answered = max(started + answers, before + generation + answers / rounds)
    return max(before + generation + after, answered)


def training(model: Model, rollout: Rollout, row: dict[str, Any]) -> float:
    """Seconds of an epoch over a rollout."""
    updates = row["updates"]
    passes = pass_seconds(model, *computed(row, rollout), trained="all", updates=updates, recomputes_output=False)
    return sum(passes.values()) + updates * sum(update_seconds(model).values())


def computed(row: dict[str, Any], rollout: Rollout) -> tuple[float, float]:
    """Tokens of a pass, and how many each attends to: packed, or every row as long as the longest response."""
    if not row.get("padded"):
        return rollout.tokens, rollout.span
    length = rollout.prompt_tokens + rollout.longest(rollout.responses)
    return rollout.responses * length, length / 2


def _trainer(row: dict[str, Any]) -> Model:
    train = {"tensor": 1, "pipeline": 1, "recompute": 0, "fp8": False} | row["train"]
    layout = Layout(
        train["tensor"],
        train["pipeline"],
        train["gpus"] // (train["tensor"] * train["pipeline"]),
        sequence=train["tensor"] > 1,
        recompute=train["recompute"],
        micro_batch_tokens=PACKED,
        fp8=train["fp8"],
    )
    return Model(published(row["model"]), layout, H100, Kernels(ATTENTION["fa3"], hides_tensor_parallel=False))


def handover(row: dict[str, Any]) -> float:
    """Seconds to hand a model's weights in bfloat16 over to an inference engine."""
    architecture = published(row["model"])
    model = Model(architecture, Layout(), H100, Kernels(ATTENTION["fa3"], hides_tensor_parallel=False))
    return sum(handover_seconds(model, 2 * parameters(architecture), row["gpus"]).values())


def gigabytes(row: dict[str, Any]) -> float:
    """GB of the named parts, and of what the row itself sizes."""
    layout = Layout(
        row["tensor"],
        sequence=row.get("sequence_parallel", False),
        recompute=row.get("recompute", 0),
        micro_batch_tokens=row["micro_batch_tokens"],
    )
    # Rollouts do not matter to the parts that rows name.
    rollout = Rollout(1, 2, 1, 1, 2)
    memory = memory_of(published(row["model"]), layout, rollout, reference=False, longest_prompt=1)
    return sum(memory.parts[part] for part in row["parts"]) / 1e9 + row.get("more", 0)


def estimate(row: dict[str, Any]) -> float:
    """What the planner says of a row, in the row's unit."""
    if "training" in row:
        return tokens_a_second(row["training"])
    if "handover" in row:
        return handover(row["handover"])
    return step_seconds(row["step"]) if "step" in row else gigabytes(row["memory"])


def compare() -> list[tuple[dict[str, Any], float, float]]:
    """Every row with its estimate and the estimate's error in percent."""
    return [(row, value, 100 * (value / row["published"] - 1)) for row in _read()["rows"] for value in [estimate(row)]]


def _read() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(ROWS.read_text(encoding="utf-8"))
    return content


def table() -> str:
    """The comparison as Markdown, then what is missed and why, then what was not put beside it."""
    compared = compare()
    lines = ["| published | source | unit | figure | estimate | error |", "|---|---|---|---|---|---|"]
    for row, value, error in compared:
        mark = f" (fits `{row['fitted']}`)" if "fitted" in row else ""
        lines.append(
            f"| {row['what']}{mark} | {row['source']} | {row['unit']} | {row['published']:,} | {_rounded(value)} "
            f"| {error:+.0f}% |"
        )
    found = summary()
    lines += [
        "",
        f"Median error over the {found['rows'] - len(found['fitted_rows'])} rows that nothing was fitted on: "
        f"{found['median_error_percent']}%; over those of them that are time, {found['median_time_error_percent']}%.",
    ]
    lines += ["", "Inputs that the sources do not print:", ""]
    lines += [f"- {row['id']}: {row['assumed']}." for row, _, _ in compared if "assumed" in row]
    lines += ["", f"Off by more than {ALLOWED:.0f}%, with the likely reason:", ""]
    lines += [f"- {row['id']} ({error:+.0f}%): {row['reason']}." for row, _, error in compared if abs(error) > ALLOWED]
    lines += ["", "Not put beside the estimate:", ""]
    lines += [f"- {what}: {why}." for what, why in _read()["not_beside"].items()]
    return "\n".join(lines) + "\n"


def _rounded(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def summary() -> dict[str, Any]:
    """Median absolute error over the rows that nothing was fitted on, and which rows are what."""
    compared = compare()
    free = {row["id"]: abs(error) for row, _, error in compared if "fitted" not in row}
    time = [free[row["id"]] for row, _, _ in compared if row["id"] in free and "memory" not in row]
    return {
        "median_error_percent": round(statistics.median(free.values()), 1),
        "median_time_error_percent": round(statistics.median(time), 1),
        "rows": len(compared),
        "fitted_rows": [row["id"] for row, _, _ in compared if "fitted" in row],
        "missed_rows": [row["id"] for row, _, error in compared if abs(error) > ALLOWED],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the table into docs/plan.md")
    args = parser.parse_args()
    made = table()
    if args.write:
        before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
        after = rest.partition(END)[2]
        DOCUMENT.write_text(f"{before}{BEGIN}{made}{END}{after}", encoding="utf-8")
    print(made)
    print(json.dumps(summary()))


if __name__ == "__main__":
    main()
