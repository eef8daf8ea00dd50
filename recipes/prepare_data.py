"""Writes data files of Examples: `python -m recipes.prepare_data KIND [SOURCE] OUT`.

`embedded` generates train, SFT, validation and test files with exact labels, and a test in wordings that none of them
has; `difficulty` and `context` make one file of questions from another; `med-u1-run` makes all that a run of Med-U1
takes of a folder of published files; the other kinds convert files in the formats
that their authors publish (JSON in any form, CSV, parquet or Arrow, packed or not), row by row, so that a file may be
longer than memory. With --split, SOURCE is a name for `datasets.load_dataset` instead. What was left out, and why, is
printed, and stands in OUT.manifest.json with everything that OUT was made of. Only a whole file replaces OUT.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conversion import command
from conversion.command import count_argument
from conversion.console import warn_of_leftovers
from conversion.errors import ConversionError, DestinationError
from recipes.data import med_u1_run
from recipes.data.calculators import CALCULATORS
from recipes.data.contamination import LIKENESSES
from recipes.data.example import Example, ExampleError, write_examples
from recipes.data.generator import ELEMENTARY, GROUPS, PERFECT, TEACHER, Generator
from recipes.data.manifest import manifest_path
from recipes.data.prepared import write_prepared
from recipes.data.readers import READERS
from recipes.data.sources import FileSource, HubSource, Source

# Those whose message says all there is to say.
ERRORS = (ValueError, ConversionError)


def embedded(
    out: Path,
    *,
    seed: int,
    train: int,
    sft: int,
    heldout: int,
    calculators: str,
    tasks: Sequence[str] = GROUPS,
    wordiness: int = 0,
) -> dict[str, int]:
    """Writes {train,sft,validation,test,unseen}.jsonl into `out`; rows a kind of task in each.

    The held-out files are the same for every seed, so that results of several seeds can be compared. Calculations have
    no unseen wording, so that there is no such file where there is no other task.
    """
    names = list(CALCULATORS) if calculators == "all" else list(ELEMENTARY)
    plans = [
        ("train", Generator("train", PERFECT, TEACHER, names), train, seed),
        ("sft", Generator("train", dataclasses.replace(TEACHER, wordiness=wordiness), TEACHER, names), sft, seed + 1),
        ("validation", Generator("validation", PERFECT, TEACHER, names), heldout, 10_001),
        ("test", Generator("test", PERFECT, TEACHER, names), heldout, 10_002),
        ("unseen", Generator("unseen", PERFECT, TEACHER, names), heldout, 10_003),
    ]
    drawn: dict[str, list[Example]] = {}
    for name, generator, rows, file_seed in plans:
        rng = random.Random(f"{file_seed}/{name}")
        drawn[name] = []
        for group in GROUPS:
            if group not in tasks or (name, group) == ("unseen", "calculation"):
                continue
            if name in ("train", "sft"):
                drawn[name] += {e.id: e for e in (generator.draw(rng, group) for _ in range(rows))}.values()
            else:
                drawn[name] += generator.unique(rng, group, rows)
    written = {name: write_examples(out / f"{name}.jsonl", examples) for name, examples in drawn.items() if examples}
    for name in drawn.keys() - written.keys():
        # Of an earlier call with other tasks, beside which the new files would stand as if they were of one.
        (out / f"{name}.jsonl").unlink(missing_ok=True)
    return written


def convert(
    kind: str,
    source: Source,
    out: Path,
    ids: str | None = None,
    *,
    against: Sequence[Path] = (),
    allow_contamination: Sequence[str] = (),
    **options: Any,
) -> dict[str, Any]:
    """Writes a published set as Examples, and its manifest, which it returns.

    Args:
        kind: a reader's.
        source: where its rows are.
        out: the file to write; `out`.manifest.json goes beside it.
        ids: what ids begin with, if not with the kind.
        against: files of Examples to evaluate on; rows that are like one of their questions are left out.
        allow_contamination: of these the ways of being alike in which a row stays (`recipes.data.contamination`).
        options: the reader's own.

    Raises:
        ExampleError, FileNotFoundError: naming file and row; `out` is as it was before.
    """
    if allow_contamination and not against:
        raise ExampleError("--allow-contamination: of which questions those are, --against FILE tells")
    read = [(source.path, "the published file itself"), *((path, "a file of --against") for path in against)]
    read += [(path, "a file that is read") for path in options.values() if isinstance(path, Path)]
    for path, what in read:
        if path and path.exists() and out.exists() and path.samefile(out):
            raise ExampleError(f"{out}: is {what}; name another file to write")
    reader = READERS[kind]
    ids = next(word for word in (ids, reader.ids, kind) if word is not None)
    return write_prepared(
        out,
        reader.rows(source, ids, **options),
        kind=kind,
        ids=ids,
        source=source,
        options=options | {"against": against, "allow_contamination": allow_contamination},
        against=against,
        allow_contamination=allow_contamination,
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.prepare_data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    own = kinds.add_parser("embedded", help="generate questions with exact labels")
    own.add_argument("out", type=command.path_argument, help="folder to write into")
    own.add_argument("--seed", type=int, default=0, help="of the training rows (default: %(default)s)")
    own.add_argument(
        "--train", type=count_argument, default=4000, help="rows a kind of task to draw (default: %(default)s)"
    )
    own.add_argument(
        "--sft", type=count_argument, default=3000, help="rows a kind of task with traces (default: %(default)s)"
    )
    own.add_argument(
        "--heldout", type=count_argument, default=200, help="questions a kind of task (default: %(default)s)"
    )
    own.add_argument("--tasks", nargs="+", choices=GROUPS, default=GROUPS, help="kinds of task (default: all)")
    own.add_argument(
        "--wordiness",
        type=count_argument,
        default=0,
        help="traces of every length, from which a policy can learn to keep to one: with first steps left out, or with "
        "what they came to said up to so many times more (default: every trace in full)",
    )
    own.add_argument("--calculators", choices=("elementary", "all"), default="elementary", help="which to use")
    whole = kinds.add_parser(
        med_u1_run.KIND,
        help="all that a run of Med-U1 takes, of a folder of published files",
        description=med_u1_run.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole.add_argument("source", metavar="FOLDER", type=command.path_argument, help="folder with the published files")
    whole.add_argument("out", metavar="OUT", type=command.path_argument, help="folder to create")
    whole.add_argument("--reuse", action="store_true", help="leave OUT as it is where it was made of FOLDER's files")
    whole.add_argument("--force", action="store_true", help="replace OUT, once the new one is whole")
    for name, reader in READERS.items():
        sub = kinds.add_parser(name, help=reader.help, description=reader.help)
        sub.add_argument(
            "source",
            metavar="SOURCE",
            type=command.path_argument,
            help="the published file, or with --split a data set's name",
        )
        sub.add_argument("out", metavar="OUT", type=command.path_argument, help="JSONL file to write")
        sub.add_argument(
            "--ids",
            help="first part of the rows' ids; another for each file of a run that is prepared from the same data set "
            f"(default: {name if reader.ids is None else 'ids as they are'})",
        )
        apart = sub.add_argument_group("contamination")
        apart.add_argument(
            "--against",
            nargs="+",
            default=(),
            type=command.path_argument,
            metavar="FILE",
            help="files of Examples to evaluate on: rows that are like one of their questions are left out",
        )
        apart.add_argument(
            "--allow-contamination",
            nargs="+",
            default=(),
            choices=LIKENESSES,
            metavar="LIKENESS",
            help=f"rows that are like one so stay, and are counted: {', '.join(LIKENESSES)}",
        )
        hub = sub.add_argument_group("by name, through datasets.load_dataset")
        hub.add_argument("--split", help="the split to read; SOURCE is then a name of the hub, or a folder of files")
        hub.add_argument("--config", help="the configuration, where there are several")
        hub.add_argument("--revision", help="commit, tag or branch of the hub")
        own_options = sub.add_argument_group(f"of {name}") if reader.options else sub
        for option, settings in reader.options.items():
            own_options.add_argument(option, **settings)
    args = parser.parse_args()
    if args.kind == "embedded":
        settings = {key: value for key, value in vars(args).items() if key not in ("kind", "out")}
        with command.naming(args.out):
            counts = embedded(args.out, **settings)
        for name, count in counts.items():
            print(f"{args.out / name}.jsonl: {count} rows")
        return
    if args.kind == med_u1_run.KIND:
        _med_u1_run(args.source, args.out, reuse=args.reuse, force=args.force)
        return
    _convert(vars(args))


def _med_u1_run(folder: Path, out: Path, *, reuse: bool, force: bool) -> None:
    warn_of_leftovers(out)
    try:
        with command.naming(out):
            made = reuse and out.exists() and med_u1_run.made_before(folder, out)
            made = made or med_u1_run.prepare(folder, out, force=force)
    except DestinationError:
        # What another process has published meanwhile is as good.
        if not (reuse and out.exists()):
            raise
        made = med_u1_run.made_before(folder, out)
    for name, manifest in made.items():
        _tell(out / f"{name}.jsonl", manifest)


def _convert(settings: dict[str, Any]) -> None:
    kind, path, out, ids, split, config, revision = (
        settings.pop(key) for key in ("kind", "source", "out", "ids", "split", "config", "revision")
    )
    if not split and (config or revision):
        raise ExampleError("--config and --revision are of a data set by name; say which --split of it to read")
    source = HubSource(str(path), split, config, revision) if split else FileSource(path)
    if not split and not path.exists():
        raise FileNotFoundError(f"{path}: no such file; for a data set by name, say which --split of it to read")
    with command.naming(out):
        manifest = convert(kind, source, out, ids, **settings)
    _tell(out, manifest)


def _tell(out: Path, manifest: dict[str, Any]) -> None:
    print(f"{out}: {manifest['rows']} rows")
    for reason in manifest["left_out"]:
        print(f"left out {reason['rows']} rows: {reason['reason']} (the first: {reason['first']})")
    for found in manifest["let_through"]:
        print(
            f"kept {found['rows']} rows like a question of --against: {found['likeness']} (the first: {found['first']})"
        )
    if count := manifest["misread"]["rows"]:
        first = manifest["misread"]["first"]
        print(f"kept {count} rows with text that was read in a wrong encoding (the first: {first})")
    print(f"{manifest_path(out)}: what they were made of")


if __name__ == "__main__":
    sys.exit(command.run(main, name="prepare_data", errors=ERRORS))
