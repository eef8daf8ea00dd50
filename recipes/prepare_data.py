"""Writes data files of Examples: `python -m recipes.prepare_data KIND [SOURCE] OUT`.

`embedded` generates train, SFT, validation and test files with exact labels; `context` puts passages of a corpus in
front of the questions of a file (`recipes.data.context`); the other kinds convert files in the formats that their
authors publish (JSON in any form, CSV, parquet or Arrow, packed or not), row by row, so that a file may be longer than
memory. What was left out, and why, is printed and never silent. Only a whole file replaces OUT.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conversion import command
from recipes.data.calculators import CALCULATORS
from recipes.data.context import CONDITIONS, Settings, prepare
from recipes.data.example import Example, ExampleError, write_examples
from recipes.data.generator import ELEMENTARY, GROUPS, PERFECT, TEACHER, Generator
from recipes.data.published import READERS, LeftOut


def embedded(out: Path, *, seed: int, train: int, sft: int, heldout: int, calculators: str) -> dict[str, int]:
    """Writes train.jsonl, sft.jsonl, validation.jsonl and test.jsonl into `out`; rows a kind of task in each.

    The held-out files are the same for every seed, so that results of several seeds can be compared.
    """
    names = list(CALCULATORS) if calculators == "all" else list(ELEMENTARY)
    plans = [
        ("train", Generator("train", PERFECT, TEACHER, names), train, seed),
        ("sft", Generator("train", TEACHER, TEACHER, names), sft, seed + 1),
        ("validation", Generator("validation", PERFECT, TEACHER, names), heldout, 10_001),
        ("test", Generator("test", PERFECT, TEACHER, names), heldout, 10_002),
    ]
    drawn: dict[str, list[Example]] = {}
    for name, generator, rows, file_seed in plans:
        rng = random.Random(f"{file_seed}/{name}")
        drawn[name] = []
        for group in GROUPS:
            if name in ("train", "sft"):
                drawn[name] += {e.id: e for e in (generator.draw(rng, group) for _ in range(rows))}.values()
            else:
                drawn[name] += generator.unique(rng, group, rows)
    return {name: write_examples(out / f"{name}.jsonl", examples) for name, examples in drawn.items()}


def convert(kind: str, source: Path, out: Path, ids: str) -> tuple[int, dict[str, list[Any]]]:
    """Writes a published file as Examples; returns how many, and by reason how many were left out and where the first.

    Raises:
        ExampleError, FileNotFoundError: naming file and row; `out` is as it was before.
    """
    if source.exists() and out.exists() and source.samefile(out):
        raise ExampleError(f"{out}: is the published file itself; name another file to write")
    left_out: dict[str, list[Any]] = {}
    return write_examples(out, _examples(kind, source, ids, left_out)), left_out


def _examples(kind: str, source: Path, ids: str, left_out: dict[str, list[Any]]) -> Iterator[Example]:
    empty = True
    for row in READERS[kind].rows(source, ids):
        if isinstance(row, LeftOut):
            left_out.setdefault(row.reason, [0, row.where])[0] += 1
        else:
            empty = False
            yield row
    if empty:
        why = ", ".join(f"{count} left out: {reason}" for reason, (count, _) in left_out.items())
        raise ExampleError(f"{source}: holds no rows to write" + (f" ({why})" if why else ""))


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.prepare_data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    own = kinds.add_parser("embedded", help="generate questions with exact labels")
    own.add_argument("out", type=command.path_argument, help="folder to write into")
    own.add_argument("--seed", type=int, default=0, help="of the training rows (default: %(default)s)")
    own.add_argument("--train", type=_count, default=4000, help="rows a kind of task to draw (default: %(default)s)")
    own.add_argument("--sft", type=_count, default=3000, help="rows a kind of task with traces (default: %(default)s)")
    own.add_argument("--heldout", type=_count, default=200, help="questions a kind of task (default: %(default)s)")
    own.add_argument("--calculators", choices=("elementary", "all"), default="elementary", help="which to use")
    context = kinds.add_parser("context", help="put passages or solved cases in front of questions (MedRGB)")
    context.add_argument("questions", type=command.path_argument, help="JSONL file of Examples")
    context.add_argument("out", type=command.path_argument, help="JSONL file to write")
    context.add_argument("--corpus", type=command.path_argument, required=True, help="passages, or solved Examples")
    context.add_argument("--passages", type=_count, default=5, help="how many a question (default: %(default)s)")
    context.add_argument("--condition", choices=CONDITIONS, default="relevant", help="what they are like")
    context.add_argument("--share", type=float, default=0.5, help="of unrelated or false ones (default: %(default)s)")
    context.add_argument("--seed", type=int, default=0, help="of what is drawn (default: %(default)s)")
    for name, reader in READERS.items():
        sub = kinds.add_parser(name, help=reader.help)
        sub.add_argument("source", type=command.path_argument, help="the published file")
        sub.add_argument("out", type=command.path_argument, help="JSONL file to write")
        sub.add_argument(
            "--ids",
            default=name,
            help="first part of the rows' ids; another for each file of a run that "
            "is prepared from the same data set (default: %(default)s)",
        )
    args = parser.parse_args()
    if args.kind == "embedded":
        values = {key: value for key, value in vars(args).items() if key not in ("kind", "out")}
        with command.naming(args.out):
            counts = embedded(args.out, **values)
        for name, count in counts.items():
            print(f"{args.out / name}.jsonl: {count} rows")
        return
    with command.naming(args.out):
        if args.kind == "context":
            settings = Settings(args.condition, args.passages, args.share, args.seed)
            rows, left_out = prepare(args.questions, args.corpus, args.out, settings)
        else:
            rows, left_out = convert(args.kind, args.source, args.out, args.ids)
    print(f"{args.out}: {rows} rows")
    for reason, (count, first) in left_out.items():
        print(f"left out {count} rows: {reason} (the first: {first})")


if __name__ == "__main__":
    sys.exit(command.run(main, name="prepare_data", errors=(ValueError,)))
