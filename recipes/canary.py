"""A minute on every rank before hours: `python -m recipes.canary output=RUN [key=value ...]`, started as training is.

All ranks meet, add up a number over the whole job, multiply matrices, and read what rank 0 has written to `output`;
each says what GPU it has and how much of its memory is free. With FP8, each tensor parallel group then takes one layer
of Transformer Engine forward and backward at the run's recipe, on as few tokens a rank as a step may have. Rank 0
prints a table of software and one of nodes. What would fail later fails here, with a name: a node without its GPUs or
with a busy one, a network that does not carry collectives, a folder that is not shared, FP8 without what it needs.

`parallel.timeout_minutes` is how long ranks wait for one another.
"""

from __future__ import annotations

from recipes.runtime.config import Config
from recipes.runtime.launch import run
from recipes.runtime.rules import Stage


def canary(config: Config) -> None:
    """All checks on this rank; all ranks call it.

    Raises:
        CanaryError: on every rank, when any of them found a problem.
    """
    # Brings torch: --help and a mistake in a setting are answered without.
    from recipes.runtime.node_checks import look

    look(config)


if __name__ == "__main__":
    run(canary, "recipes.canary", __doc__, Stage.CANARY)
