"""What a GRPO or PPO run will need, before it is submitted: `python -m recipes.plan [experiment=NAME] [key=value ...]`.

Prints an estimate of memory by part with a verdict against the GPU's, seconds a step by phase, GPU-hours and cost, the
bottleneck and what to change. Takes the settings of `recipes.grpo`, no GPU and a second; `output` and
`model.path` may be missing. Without model.path the architecture is that of the published model which the experiment
names in model.architecture; with it, that of the config.json in a Hugging Face or converted folder.

    python -m recipes.plan experiment=grpo_70b_fp8
    python -m recipes.plan experiment=grpo_70b_fp8 rollout.group_size=32 parallel.pipeline=4 --response-tokens 900
    python -m recipes.plan experiment=grpo_70b --sweep               rank every legal layout that fits
    python -m recipes.plan experiment=grpo_70b rollout=vllm --sweep  and how many GPUs sample, how many train
    python -m recipes.plan experiment=grpo_70b algorithm=ppo --sweep with a critic, in turns with the policy and not
    python -m recipes.plan model.path=Qwen2.5-7B-Instruct model.precision=bfloat16 parallel.processes=4 --sweep
    python -m recipes.plan experiment=grpo_70b output=runs/70b       also write plan.txt, plan.json, plan.svg there

Everything is computed, for the GPUs of configs/cluster (cluster.price=3 sets the price of an hour), and nothing is
measured: docs/plan.md has the formulas, their sources, and the estimate beside published figures. Left out: SFT,
evaluation, queues, start-up and checkpoints.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from conversion import command
from conversion.command import count_argument
from recipes.monitor.run_folder import replace_file
from recipes.planning.architectures import architecture_of
from recipes.planning.estimate import Assumptions, Plan
from recipes.planning.picture import as_svg
from recipes.planning.sweep import check_layout, sweep
from recipes.planning.text import as_dict, as_text
from recipes.runtime.config import Config, ConfigError
from recipes.runtime.loading import load
from recipes.runtime.rules import Stage

# A prompt of Med-U1's style around a question of a few sentences: estimate.
_PROMPT_TOKENS = 300


def main() -> None:
    """Command line."""
    args = _parser().parse_intermixed_args()
    config = _load(args.overrides)
    architecture, source = architecture_of(config)
    check_layout(config, architecture)
    plan = Plan(config, architecture, _assumptions(config, args))
    layouts = sweep(plan) if args.sweep else None
    text, figures = as_text(plan, source, layouts), json.dumps(as_dict(plan, source, layouts), indent=1)
    print(figures if args.json else text)
    written = {args.picture: as_svg(plan)} if args.picture else {}
    if config.output:
        contents = {"plan.txt": text + "\n", "plan.json": figures + "\n", "plan.svg": as_svg(plan)}
        written |= {Path(config.output) / name: content for name, content in contents.items()}
    for path, content in written.items():
        _write(path, content)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.plan", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings, as for recipes.grpo")
    parser.add_argument(
        "--prompt-tokens", type=count_argument, default=_PROMPT_TOKENS, help="mean (default: %(default)s)"
    )
    parser.add_argument("--response-tokens", type=count_argument, help="mean (default: half of rollout.max_new_tokens)")
    parser.add_argument(
        "--rollout-nodes",
        type=_count,
        default=0,
        help="nodes of vLLM's servers beside parallel.processes GPUs; 0 for these GPUs themselves (default: 0)",
    )
    parser.add_argument(
        "--sweep", action="store_true", help="rank all legal layouts of the GPUs, with rollout=vllm also who samples"
    )
    parser.add_argument(
        "--picture", type=command.path_argument, metavar="FILE", help="write memory and time line as SVG"
    )
    parser.add_argument("--json", action="store_true", help="print JSON for machines instead of text")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number, at least 0")
    return int(text)


def _load(overrides: list[str]) -> Config:
    given = {override.split("=")[0] for override in overrides}
    return load([*(f"{key}=" for key in ("output", "model.path") if key not in given), *overrides], Stage.PLAN)


def _assumptions(config: Config, args: argparse.Namespace) -> Assumptions:
    limit = config.rollout.max_new_tokens
    response = args.response_tokens or max(1, limit // 2)
    if response >= limit:
        raise ConfigError(
            f"--response-tokens {response}: a mean must be below the limit, rollout.max_new_tokens={limit}; lower it"
        )
    return Assumptions(args.prompt_tokens, response, args.rollout_nodes)


def _write(path: Path, content: str) -> None:
    replace_file(path, content.encode())
    print(f"written: {path}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(command.run(main, name="configuration", errors=(ConfigError,)))
