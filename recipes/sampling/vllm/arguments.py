"""What a run's servers of vLLM are started with: `python -m recipes.sampling.vllm.arguments FILE [key=value ...]`.

Writes the options of `recipes.sampling.vllm.serve` that follow from the settings of the run to FILE, one a line, for
programs that start servers beside it, as slurm/lib/servers.sh does. Python, model, host and port are theirs to say.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from conversion import command
from recipes.monitor.run_folder import replace_file
from recipes.runtime.config import ConfigError
from recipes.runtime.loading import load
from recipes.runtime.rules import Stage


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
    # It brings torch: --help and a mistake in a setting are answered without.
    from recipes.sampling.vllm.servers import serve_options

    lines = serve_options(load(args.overrides, Stage.EVALUATE))
    replace_file(Path(args.file), "".join(f"{line}\n" for line in lines).encode())


if __name__ == "__main__":
    sys.exit(command.run(main, name="configuration", errors=(ConfigError,)))
