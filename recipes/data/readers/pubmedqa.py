"""PubMedQA PQA-L (Jin et al., 2019): yes, no or maybe of an abstract without its conclusion.

The authors' object of rows by PubMed id, or the Hugging Face hub's rows with a `pubid`. Half of the 1,000 labelled rows
are the official test split, which `test_ground_truth.json` names; the hub's one split holds both halves.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from conversion import command
from recipes.data.choices import parsed_cell
from recipes.data.errors import ExampleError
from recipes.data.example import Example
from recipes.data.readers.base import Ids, LeftOut, Reader, choice_example, text_of
from recipes.data.sources import Source
from recipes.data.tables import read_rows

_OPTIONS = {"A": "yes", "B": "no", "C": "maybe"}
_LETTERS = {text: letter for letter, text in _OPTIONS.items()}


def _rows(
    source: Source, ids: str, *, part: str = "train", test_ids: Path | None = None
) -> Iterator[Example | LeftOut]:
    rows, named = source.rows(keyed_by="QUESTION"), Ids(source, ids)
    first = next(rows, None)
    if first is None:
        return
    path, test = (None, set()) if part == "all" else _test_ids(source, test_ids)
    found = False
    for row in (first, *rows):
        # pandas writes 123 as 123.0 where a column has gaps.
        identity = row.key or str(row["pubid"]).removesuffix(".0")
        name = named.of(row, identity)
        split = "test" if identity in test else "train"
        found |= split == "test"
        if part not in ("all", split):
            yield LeftOut(f"row of the official {split} split", row.where)
            continue
        context = row["CONTEXTS"] if row.key else row["context"]
        if (
            isinstance(context, str)
            and context.startswith("{")
            and not isinstance(context := parsed_cell(context), dict)
        ):
            raise row.wrong("context", "an object {\"contexts\": [...]} in JSON's or Python's writing", row["context"])
        decision = row["final_decision"]
        yield choice_example(
            row.having(options=_OPTIONS, answer_idx=_LETTERS.get(str(decision).strip().casefold(), decision)),
            id=name,
            source="PubMedQA",
            question=row["QUESTION" if row.key else "question"],
            context=text_of(row, "context", context.get("contexts") if isinstance(context, dict) else context),
            license="MIT",
            meta={"split": None if part == "all" else split},
        )
    if path and not found:
        raise ExampleError(
            f"{path}: names no row of {source.name}, so that nothing tells the official test rows, which must not be "
            "trained on; expected the authors' test_ground_truth.json; a file without test rows is read by --part all"
        )


def _test_ids(source: Source, given: Path | None) -> tuple[Path, set[str]]:
    """The file of the official test rows, and the keys in it, which are their ids."""
    path = given or (source.path.with_name("test_ground_truth.json") if source.path else None)
    if path is None or not path.is_file():
        raise FileNotFoundError(
            f"{path or 'test_ground_truth.json'}: missing; it names the official test rows, which must not be trained "
            "on; name it with --test-ids, or read all rows with --part all"
        )
    return path, {str(key) for row in read_rows(path) for key in row.values}


READER = Reader(
    "pubmedqa",
    "PubMedQA PQA-L (ori_pqal.json, or the hub's pqa_labeled), its training half",
    _rows,
    {
        "--part": {
            "choices": ("train", "test", "all"),
            "default": "train",
            "help": "the official half to read, or all (default: %(default)s)",
        },
        "--test-ids": {
            "type": command.path_argument,
            "metavar": "FILE",
            "help": "test_ground_truth.json, where it is not beside SOURCE",
        },
    },
)
