"""Writes data files of Examples: `python -m recipes.prepare_data KIND [SOURCE] OUT`.

`embedded` generates train, SFT, validation and test files with exact labels; the other kinds convert files in the
formats that their authors publish. What was left out, and why, is printed and never silent.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from pathlib import Path

from conversion import command
from recipes.data.calculators import CALCULATORS
from recipes.data.example import Example, ExampleError, write_examples
from recipes.data.generator import ELEMENTARY, GROUPS, PERFECT, TEACHER, Generator
from recipes.data.published import READERS


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
    counts = {}
    for name, generator, rows, file_seed in plans:
        rng = random.Random(f"{file_seed}/{name}")
        examples: list[Example] = []
        for group in GROUPS:
            if name in ("train", "sft"):
                drawn = {e.id: e for e in (generator.draw(rng, group) for _ in range(rows))}
                examples += drawn.values()
            else:
                examples += generator.unique(rng, group, rows)
        counts[name] = write_examples(out / f"{name}.jsonl", examples)
    return counts


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.prepare_data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    own = kinds.add_parser("embedded", help="generate questions with exact labels")
    own.add_argument("out", type=command.path_argument, help="folder to write into")
    own.add_argument("--seed", type=int, default=0, help="of the training rows (default: %(default)s)")
    own.add_argument("--train", type=int, default=4000, help="rows a kind of task to draw (default: %(default)s)")
    own.add_argument("--sft", type=int, default=3000, help="rows a kind of task with traces (default: %(default)s)")
    own.add_argument("--heldout", type=int, default=200, help="questions a kind of task (default: %(default)s)")
    own.add_argument("--calculators", choices=("elementary", "all"), default="elementary", help="which to use")
    for name, reader in READERS.items():
        sub = kinds.add_parser(name, help=reader.help)
        sub.add_argument("source", type=command.path_argument, help="the published file")
        sub.add_argument("out", type=command.path_argument, help="JSONL file to write")
    args = parser.parse_args()
    if args.kind == "embedded":
        settings = {key: value for key, value in vars(args).items() if key not in ("kind", "out")}
        with command.naming(args.out):
            counts = embedded(args.out, **settings)
        for name, count in counts.items():
            print(f"{args.out / name}.jsonl: {count} rows")
        return
    examples, skipped = READERS[args.kind].read(args.source)
    with command.naming(args.out):
        rows = write_examples(args.out, examples)
    print(f"{args.out}: {rows} rows")
    for reason, count in Counter(skipped).most_common():
        print(f"left out {count} rows: {reason}")


if __name__ == "__main__":
    sys.exit(command.run(main, name="prepare_data", errors=(ExampleError,)))
