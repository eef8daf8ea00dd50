"""All that a run of Med-U1 takes, of a folder of published files: `prepare_data med-u1-run FOLDER OUT`.

    OUT/train.jsonl                 choice, calculation and open answers
    OUT/in_distribution.jsonl       held-out questions of the sets that are trained on
    OUT/out_of_distribution.jsonl   held-out questions of others: MMLU-Pro's on health, and MedXpertQA

each with its manifest. The files are known by the names that their authors give them, at any depth of FOLDER; where it
has several for one purpose, the first of `PLACES` is taken. Rows of `train.jsonl` that are like a held-out question are
left out: Med-U1's own choice questions are test questions of MedQA and MedXpertQA for the most part.
`meta.distribution` of a held-out question keeps the two kinds of sets apart in an evaluation. OUT appears whole, by one
rename.

Left out: EHRNoteQA and other files that want credentials, but for what `train_medoption.parquet` holds of them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from conversion.digests import file_digest
from conversion.errors import DestinationError
from conversion.publishing import build
from recipes.data.errors import ExampleError
from recipes.data.example import Example
from recipes.data.manifest import manifest_path
from recipes.data.prepared import write_prepared
from recipes.data.readers import READERS, LeftOut
from recipes.data.sources import FileSource

KIND = "med-u1-run"
TRAIN, IN, OUT = "train", "in_distribution", "out_of_distribution"
HELD_OUT = (IN, OUT)


@dataclass(frozen=True)
class Place:
    """One file that a run takes: of which purpose, and which files may be it.

    Attributes:
        part: the file of OUT that its rows go into.
        what: its questions, in words.
        files: kind of reader and the end of the file's path, in lower case and with wildcards, the best first.
    """

    part: str
    what: str
    files: Sequence[tuple[str, str]]


PLACES = (
    Place(
        TRAIN,
        "choice questions to train on",
        (
            ("medu1", "train_medoption.parquet"),
            ("mediq", "all_dev_good.jsonl"),
            ("medqa", "phrases_no_exclude_train.jsonl"),
        ),
    ),
    Place(
        TRAIN,
        "calculations to train on",
        (
            ("medu1", "train_medcalc.parquet"),
            ("medcalc", "train_data*.csv"),
            ("medcalc", "*valid_split.csv"),
        ),
    ),
    Place(TRAIN, "open answers to train on", (("medu1", "train_huatuo.parquet"),)),
    Place(IN, "choice questions to evaluate on", (("medqa", "phrases_no_exclude_test.jsonl"),)),
    Place(IN, "calculations to evaluate on", (("medcalc", "test_data*.csv"),)),
    Place(IN, "open answers to evaluate on", (("medu1", "huatuo_test.json"),)),
    Place(
        OUT,
        "MMLU-Pro's questions on health",
        (("mmlu-pro", "mmlu?pro/test.jsonl"), ("mmlu-pro", "mmlu?pro/*test-*.parquet")),
    ),
    Place(OUT, "MedXpertQA", (("medxpertqa", "medxpertqa_test*.jsonl"), ("medxpertqa", "text/test.jsonl"))),
)


@dataclass(frozen=True)
class Chosen:
    """A published file for a place."""

    place: Place
    kind: str
    path: Path

    def rows(self) -> Iterator[Example | LeftOut]:
        """Its Examples; ids begin with kind and file, since a run may read two files of a kind."""
        for row in READERS[self.kind].rows(FileSource(self.path), f"{self.kind}/{self.path.stem}"):
            if isinstance(row, Example) and self.place.part != TRAIN:
                row = dataclasses.replace(row, meta={**row.meta, "distribution": self.place.part.replace("_", " ")})
            yield row


@dataclass(frozen=True)
class Part:
    """What one file of OUT is made of."""

    folder: Path
    chosen: Sequence[Chosen]

    @property
    def name(self) -> str:
        """The folder of the published files."""
        return str(self.folder)

    def origin(self) -> dict[str, Any]:
        """Folder, and of each file kind, path and SHA-256."""
        files = [{"kind": each.kind, **FileSource(each.path).origin()} for each in self.chosen]
        return {"path": str(self.folder.absolute()), "files": files}

    def rows(self) -> Iterator[Example | LeftOut]:
        """The files' Examples, one file after another."""
        for each in self.chosen:
            yield from each.rows()


def prepare(folder: Path, out: Path, *, force: bool = False) -> dict[str, dict[str, Any]]:
    """Writes the folder `out` and returns its manifests, by the files' names without their ends.

    Args:
        folder: with the published files; never written to.
        out: folder to create.
        force: replace `out` where it was made here and nobody has added to it.

    Raises:
        ExampleError: `folder` lacks a file, has one twice, or has a row that cannot be read; it is named.
        DestinationError: `out` exists, or lies in `folder`.
    """
    parts = find(folder)
    if not out.resolve().is_relative_to(folder.resolve()):
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
    with build(out, sources=[folder], force=force) as new:
        made = {name: _write(new, name, parts[name]) for name in HELD_OUT}
        made[TRAIN] = _write(
            new,
            TRAIN,
            parts[TRAIN],
            against=[_file(new, name) for name in HELD_OUT],
            # As they will be called; `new` has another name yet.
            named=[{"path": str(_file(out.absolute(), n)), "sha256": made[n]["sha256"]} for n in HELD_OUT],
        )
    return {name: made[name] for name in (TRAIN, *HELD_OUT)}


def made_before(folder: Path, out: Path) -> dict[str, dict[str, Any]]:
    """The manifests of `out`, which was made of the files of `folder` as they are.

    Raises:
        ExampleError: as `prepare`.
        DestinationError: `out` was made of other files, or has changed since.
    """
    made = {}
    for name, part in find(folder).items():
        file = _file(out, name)
        try:
            made[name] = json.loads(manifest_path(file).read_text(encoding="utf-8"))
            whole = made[name]["sha256"] == file_digest(file)
            before, now = (
                {each["sha256"]: each["path"] for each in origin["files"]}
                for origin in (made[name]["source"], part.origin())
            )
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise DestinationError(
                f"{out}: is no data of {KIND} ({file.name}: {error}); choose another folder"
            ) from None
        if not whole:
            raise DestinationError(f"{file}: has changed since it was made; delete {out}, and it is made again")
        if before.keys() != now.keys():
            changed = next(path for digest, path in (now | before).items() if not (digest in now and digest in before))
            raise DestinationError(
                f"{out}: was made of another {changed} than is there; choose another folder, or delete it, and it is "
                "made again"
            )
    return made


def find(folder: Path) -> dict[str, Part]:
    """The published files that are taken, by the part of OUT that they go into.

    Raises:
        ExampleError: naming what is missing and the names that are looked for, or two files of one name.
    """
    if not folder.is_dir():
        raise ExampleError(f"{folder}: is no folder; name one with the published files in it")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    chosen = [_chosen(place, folder, files) for place in PLACES]
    if missing := [place for place, found in zip(PLACES, chosen, strict=True) if found is None]:
        wanted = "; ".join(f"{each.what}: {' or '.join(name for _, name in each.files)}" for each in missing)
        raise ExampleError(
            f"{folder}: lacks files that a run of Med-U1 takes, by the names of their authors: {wanted}. Put or link "
            "them into it, or into a folder in it (links to folders are not followed)"
        )
    found = [each for each in chosen if each is not None]
    return {name: Part(folder, [each for each in found if each.place.part == name]) for name in (TRAIN, *HELD_OUT)}


def _chosen(place: Place, folder: Path, files: Sequence[Path]) -> Chosen | None:
    for kind, name in place.files:
        ends = [path for path in files if fnmatchcase(f"/{path.relative_to(folder).as_posix().lower()}", f"*/{name}")]
        if len(ends) > 1:
            raise ExampleError(f"{folder}: {ends[0]} and {ends[1]} may both be {place.what}; leave one of them there")
        if ends:
            return Chosen(place, kind, ends[0])
    return None


def _write(
    folder: Path, name: str, part: Part, *, against: Sequence[Path] = (), named: Sequence[dict[str, str]] = ()
) -> dict[str, Any]:
    return write_prepared(
        _file(folder, name),
        part.rows(),
        kind=KIND,
        ids="",
        source=part,
        options={"against": named},
        against=against,
    )


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.jsonl"
