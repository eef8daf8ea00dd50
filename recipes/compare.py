"""Two checkpoints on the same questions: `python -m recipes.compare A B`, as in before.json after.json.

A and B are the NAME.json or NAME.jsonl of two evaluations, of one run or two. They must have been measured alike: the
same questions, reward, prompts and decoding, by their digests; what differs is named and the comparison refused. Greedy
answers of another sampler, such as an endpoint's beside a checkpoint's, are compared, and a note says what that leaves
open (`recipes.evaluation.comparable`).

Prints accuracy of both, the change with its paired bootstrap interval, and McNemar's exact test, by task, set and
subject; and writes A_B.json (with the ids of all questions that changed), A_B.md and A_B.html, with pass@k of both in
one picture where questions have several answers, into the folder `comparison` of B's run, or --out.

Left out: more than two at a time, and a correction for many sets.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from typing import Any

from conversion import command
from conversion.errors import ConversionError
from conversion.evaluation_tables import markdown_table
from recipes.evaluation.comparison import columns, compare, described, notes, rows, titles
from recipes.evaluation.comparison_page import comparison_page
from recipes.evaluation.reading import Evaluated, read_evaluated
from recipes.monitor.run_folder import replace_file


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, what in (("A", "the first, such as the model before training"), ("B", "the second")):
        parser.add_argument(name.lower(), metavar=name, type=command.path_argument, help=what)
    parser.add_argument("--out", type=command.path_argument, metavar="FOLDER", help="where to write")
    args = parser.parse_args()
    a, b = read_evaluated(args.a), read_evaluated(args.b)
    comparison = compare(a, b)
    print(described(comparison))
    stem = (args.out or b.run / "comparison") / _name(a, b)
    contents = {
        ".json": json.dumps(comparison, indent=1) + "\n",
        ".md": _markdown(comparison),
        ".html": comparison_page(comparison, a, b),
    }
    for suffix, content in contents.items():
        path = stem.with_name(stem.name + suffix)
        replace_file(path, content.encode("utf-8", "replace"))
        print(f"written: {path}", file=sys.stderr)


def _name(a: Evaluated, b: Evaluated) -> str:
    """Of the files; with the runs' names where there are two."""
    names = [each.name if a.run == b.run else f"{each.run.name}.{each.name}" for each in (a, b)]
    return "_".join(names)


def _markdown(comparison: Mapping[str, Any]) -> str:
    a, b = titles(comparison)
    about = "\n".join(f"- {note}" for note in notes(comparison))
    return f"## {b} against {a}\n\n{markdown_table(columns(comparison), rows(comparison))}\n\n{about}\n"


if __name__ == "__main__":
    sys.exit(command.run(main, name="comparison", errors=(ConversionError,)))
