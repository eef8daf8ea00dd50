"""Rows of the difficulty that a policy can learn from: Examples of which so many sampled answers were right.

As MedVLThinker filters its questions (16 answers each; what is always or never right teaches GRPO nothing). The answers
are those of an evaluation of the very file, `recipes.evaluate` with several samples a question, which asks any sampler
or endpoint and resumes by itself. Left out: answers to shuffled or shortened variants.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from conversion import command
from recipes.data.errors import ExampleError
from recipes.data.example import Example
from recipes.data.readers.base import LeftOut, Reader
from recipes.data.readers.examples import READER as EXAMPLES
from recipes.data.sources import Source
from recipes.data.tables import Row, read_rows


@dataclass
class _Passes:
    """The answers to one question.

    Attributes:
        gold: the right one, as it was graded by.
        answers: how many there are.
        right, ungraded: how many of them are right, and how many the reward server could not grade.
    """

    gold: str
    answers: int = 0
    right: int = 0
    ungraded: int = 0


def _rows(source: Source, ids: str, answers: Path, passes: Sequence[int], order: bool) -> Iterator[Example | LeftOut]:
    counted = _counted(answers)
    low, high = passes
    each = next(iter(counted.values())).answers
    if not 0 <= low <= high <= each:
        raise ExampleError(
            f"--passes {low} {high}: expected two numbers, the lower one first, up to the {each} answers to each "
            f"question in {answers}"
        )
    kept: list[tuple[int, Example]] = []
    for row in EXAMPLES.rows(source, ids):
        assert isinstance(row, Example)
        own = row.id.removeprefix(f"{ids}/" if ids else "")
        found = counted.get(own)
        if found and found.gold != row.gold():
            raise ExampleError(
                f"{answers}: was graded by {found.gold!r} for {own!r}, and {source.name} has {row.gold()!r} there; "
                "evaluate on this file"
            )
        if found is None:
            yield LeftOut(f"no answer in {answers.name}", repr(own))
        elif found.ungraded:
            yield LeftOut("answers that the reward server could not grade", repr(own))
        elif not low <= found.right <= high:
            yield LeftOut(f"{found.right} of {each} answers right", repr(own))
        elif order:
            kept.append((found.right, row))
        else:
            yield row
    yield from (row for _, row in sorted(kept, key=lambda pair: -pair[0]))


def _counted(path: Path) -> dict[str, _Passes]:
    """By the question's id, what its answers came to.

    Raises:
        ExampleError: a row is no answer, its status is none, or questions have more answers than others.
    """
    # The client takes its time to import, and so does --help.
    from reward_server.client import SERVER_FAULTS
    from reward_server.client.wire import STATUSES

    counted: dict[str, _Passes] = {}
    for row in read_rows(path):
        if row.values.get("variant", "plain") == "plain":
            identity, answer, status = (_text(row, name) for name in ("id", "answer", "status"))
            if status not in STATUSES:
                raise row.wrong("status", f"one of {', '.join(STATUSES)}", status)
            found = counted.setdefault(identity, _Passes(answer))
            found.answers += 1
            found.right += status == "correct"
            found.ungraded += status in SERVER_FAULTS
    fewest, most = (pick((found.answers for found in counted.values()), default=0) for pick in (min, max))
    if fewest != most or not most:
        raise ExampleError(
            f"{path}: has {fewest} to {most} answers a question; expected equally many of each, as `recipes.evaluate` "
            "writes them"
        )
    return counted


def _text(row: Row, name: str) -> str:
    if not isinstance(row[name], str):
        raise row.wrong(name, "a text", row[name])
    return str(row[name])


READER = Reader(
    "difficulty",
    "Examples of which a policy answered so many of several samples right (MedVLThinker)",
    _rows,
    {
        "--answers": {
            "required": True,
            "type": command.path_argument,
            "metavar": "FILE",
            "help": "NAME.jsonl of an evaluation on SOURCE with several samples a question",
        },
        "--passes": {
            "required": True,
            "nargs": 2,
            "type": int,
            "metavar": ("LOW", "HIGH"),
            "help": "how many right answers a row may have, both included; MedVLThinker keeps 1 to 7 of 16",
        },
        "--order": {
            "action": "store_true",
            "help": "easy rows first; train with data.shuffle=false to draw them so",
        },
    },
    ids="",
)
