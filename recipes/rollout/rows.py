"""What a run trains on, and in which order: rows of `data.train`, held against the questions of `data.test` and
`data.validation`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain

from recipes.data.contamination import check_training
from recipes.data.example import REPORT_GROUPS, Example, iterate_examples, read_examples
from recipes.rollout.prompts import DataError, Prompt, PromptOrder
from recipes.runtime.config import Config, DataConfig
from recipes.runtime.launch import is_leader


def training_rows(data: DataConfig) -> list[Example]:
    """Reads the rows to train on.

    Raises:
        ExampleError: a row is no Example, or rows are questions that are held out; rank 0 alone looks for that.
        DataError: `data.only` names a row that is not there.
    """
    rows = chosen(read_examples(*data.train), data.only)
    if is_leader() and (told := contamination(rows, data)):
        print(f"note: {told}", file=sys.stderr)
    return rows


def chosen(rows: Iterable[Example], only: Sequence[str]) -> list[Example]:
    """The rows of these ids, in their own order; all of them where there is no id."""
    wanted = set(only)
    found = [row for row in rows if not only or row.id in wanted]
    if missing := wanted - {row.id for row in found}:
        raise DataError(f"data.only names {', '.join(sorted(missing))}, which no row of data.train has for an id")
    return found


def taught(rows: Iterable[Example], teach: str) -> list[Example]:
    """The rows that SFT learns from, with what it learns as their trace (`data.teach`).

    Args:
        rows: to learn from.
        teach: worked for the traces that they have; answer for their labels, with no reasoning before them.
    """
    if teach == "worked":
        return [row for row in rows if "trace" in row.meta]
    return [replace(row, meta={**row.meta, "trace": {"think": "", "answer": row.gold()}}) for row in rows]


def contamination(rows: Iterable[Example], data: DataConfig) -> str | None:
    """What `data.allow_contamination` lets through of these rows, if anything.

    Raises:
        ExampleError: rows are like questions of `data.test` or `data.validation` in other ways.
    """
    if not (files := held_out(data)):
        return None
    questions = chain.from_iterable(iterate_examples(*each) for each in files.values())
    return check_training(rows, questions, data.allow_contamination, " or ".join(files))


def held_out(data: DataConfig) -> dict[str, list[str]]:
    """Files of questions that may not be trained on, by the settings that name any."""
    return {f"data.{key}": files for key in ("test", "validation") if (files := getattr(data, key))}


def prompt_order(prompts: Sequence[Prompt], config: Config, *, adaptive: bool = False) -> PromptOrder:
    """The order in which a run draws its prompts.

    Raises:
        DataError: `data.mix` asks for a kind of task that has no prompt.
    """
    data = config.data
    try:
        return PromptOrder(prompts, mix=data.mix, adaptive=adaptive, seed=config.seed, shuffle=data.shuffle)
    except DataError as error:
        if not data.only:
            raise
        raise DataError(
            f"{error}: data.only leaves {len(prompts)} of their rows; leave data.mix out, or name rows of these kinds "
            "in data.only too"
        ) from None


def check_best(prompts: Sequence[Prompt], config: Config) -> None:
    """Raises DataError where `trainer.best` goes by a kind of task that is never drawn, and so would have no value."""
    drawn = {kind for kind, weight in config.data.mix.items() if weight > 0} or {p.example.group for p in prompts}
    for kind in config.trainer.best.split("/"):
        if kind in REPORT_GROUPS and kind not in drawn:
            raise DataError(
                f"trainer.best={config.trainer.best}: no {kind} question is trained on, so that no checkpoint would be "
                f"the best; take one of {', '.join(sorted(drawn))}, or the mean"
            )
