"""What a run's servers of vLLM are started with: `python -m recipes.sampling.vllm.arguments FILE [key=value ...]`.

Writes the options of `recipes.sampling.vllm.serve` that follow from the settings of the run to FILE, one a line, for
programs that start servers beside it: slurm/lib/servers.sh does. Model, host and port are theirs to say.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from conversion import command
from recipes.monitor.run_folder import replace_file
from recipes.runtime.config import Config, ConfigError
from recipes.runtime.loading import load
from recipes.runtime.rules import Stage


def serve_arguments(config: Config) -> list[str]:
    """Options of `recipes.sampling.vllm.serve`; equal settings give equal ones."""
    rollout = config.rollout
    filtered = rollout.top_k > 0 or rollout.top_p < 1
    return [
        f"--tensor={max(1, rollout.tensor)}",
        f"--max-length={config.model.max_length}",
        f"--precision={config.model.precision}",
        f"--memory-share={rollout.vllm.memory_share:g}",
        # Those of the sampling temperature; behind filters they would be those of the filtered distribution.
        f"--logprobs={'raw' if filtered else 'processed'}",
        f"--seed={config.seed}",
        *(["--sleep"] if rollout.vllm.sleep else []),
    ]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.sampling.vllm.arguments",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=command.path_argument, metavar="FILE", help="to write")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of the run")
    args = parser.parse_intermixed_args()
    lines = serve_arguments(load(args.overrides, Stage.EVALUATE))
    replace_file(Path(args.file), "".join(f"{line}\n" for line in lines).encode())


if __name__ == "__main__":
    sys.exit(command.run(main, name="configuration", errors=(ConfigError,)))
