"""Checkpoints on the same questions: `python -m recipes.compare A B [C ...]`, as in before.json after.json.

Each is the NAME.json or NAME.jsonl of an evaluation, of one run or several. They must have been measured alike: the
same questions, reward, prompts and decoding, by their digests; what differs is named and the comparison refused. Greedy
answers of another sampler, such as an endpoint's beside a checkpoint's, are compared, and a note says what that leaves
open (`recipes.evaluation.comparable`).

Of two it prints accuracy, the change with its paired bootstrap interval, and McNemar's exact test, by task, set and
subject; and writes A_B.json (with the ids of all questions that changed), A_B.md and A_B.html, with pass@k of both in
one picture where questions have several answers, into the folder `comparison` of the last one's run, or --out. Of more
it prints and writes accuracy of each with its interval, and the same of every pair by task and set, with Holm's
correction of p for the pairs.

Left out: a correction for many sets.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from conversion import command
from conversion.errors import ConversionError
from conversion.evaluation_tables import markdown_table
from recipes.evaluation.comparison import columns, compare, described, notes, rows, titles
from recipes.evaluation.comparison_page import comparison_page
from recipes.evaluation.comparison_several import (
    ACCURACY_COLUMNS,
    PAIR_COLUMNS,
    accuracy_rows,
    compare_several,
    described_several,
    notes_of_several,
    pair_rows,
)
from recipes.evaluation.comparison_several_page import comparison_several_page
from recipes.evaluation.reading import Evaluated, read_evaluated
from recipes.monitor.run_folder import replace_file

# In bytes; file systems take 255, endings and what a file is called while it is written among them.
_LONGEST_NAME = 200


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, what in (("A", "the first, such as the model before training"), ("B", "the second")):
        parser.add_argument(name.lower(), metavar=name, type=command.path_argument, help=what)
    parser.add_argument("more", metavar="C", nargs="*", type=command.path_argument, help="further ones")
    parser.add_argument("--out", type=command.path_argument, metavar="FOLDER", help="where to write")
    args = parser.parse_args()
    evaluations = [read_evaluated(path) for path in (args.a, args.b, *args.more)]
    text, contents = _of_several(evaluations) if args.more else _of_two(*evaluations)
    print(text)
    stem = (args.out or evaluations[-1].run / "comparison") / _name(evaluations)
    for suffix, content in contents.items():
        path = stem.with_name(stem.name + suffix)
        replace_file(path, content.encode("utf-8", "replace"))
        print(f"written: {path}", file=sys.stderr)


def _of_two(a: Evaluated, b: Evaluated) -> tuple[str, dict[str, str]]:
    """What to print, and the files by their endings."""
    comparison = compare(a, b)
    first, second = titles(comparison)
    tables = [markdown_table(columns(comparison), rows(comparison))]
    return described(comparison), {
        ".json": json.dumps(comparison, indent=1) + "\n",
        ".md": _markdown(f"{second} against {first}", tables, notes(comparison)),
        ".html": comparison_page(comparison, a, b),
    }


def _of_several(evaluations: Sequence[Evaluated]) -> tuple[str, dict[str, str]]:
    comparison = compare_several(evaluations)
    names = list(comparison["evaluations"])
    tables = [
        markdown_table((*ACCURACY_COLUMNS, *names), accuracy_rows(comparison)),
        markdown_table(PAIR_COLUMNS, pair_rows(comparison)),
    ]
    return described_several(comparison), {
        ".json": json.dumps(comparison, indent=1) + "\n",
        ".md": _markdown(", ".join(names), tables, notes_of_several(comparison)),
        ".html": comparison_several_page(comparison),
    }


def _name(evaluations: Sequence[Evaluated]) -> str:
    """Of the files; with the runs' names where there are two runs, or names that several evaluations have."""
    runs, names = ({each.run for each in evaluations}, {each.name for each in evaluations})
    alone = len(runs) == 1 or (len(evaluations) > 2 and len(names) == len(evaluations))
    stems = [each.name if alone else f"{each.run.name}.{each.name}" for each in evaluations]
    whole = "_".join(stems)
    return whole if len(whole.encode()) <= _LONGEST_NAME else f"{stems[0]}_and_{len(stems) - 1}_more"


def _markdown(title: str, tables: Sequence[str], about: Sequence[str]) -> str:
    lines = "\n".join(f"- {note}" for note in about)
    return "\n\n".join([f"## {title}", *tables, lines]) + "\n"


if __name__ == "__main__":
    sys.exit(command.run(main, name="comparison", errors=(ConversionError,)))
