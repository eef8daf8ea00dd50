"""MMLU-Pro (Wang et al., 2024), the questions of its category health, with 3 to 10 options.

`src` says which MMLU subject a question comes from. The hub's earliest rows fill up options with "N/A", which are left
out of the row.
"""

from __future__ import annotations

from collections.abc import Iterator

from recipes.data.choices import is_missing, letter_at
from recipes.data.example import Example
from recipes.data.readers.base import Ids, LeftOut, Reader, choice_example, label_of, text_of
from recipes.data.sources import Source
from recipes.data.tables import Row

_SOURCES = ("ori_mmlu-", "cot_lib-", "stemez-", "scibench-", "theoremQA-")


def _rows(source: Source, ids: str, *, category: str = "health") -> Iterator[Example | LeftOut]:
    named = Ids(source, ids)
    for row in source.rows():
        if text_of(row, "category", row["category"]) != category:
            yield LeftOut(f"its category is not {category}", row.where)
            continue
        identity = next((row.values[name] for name in ("question_id", "realidx") if name in row.values), row.number)
        subject = label_of(row.values.get("src"))
        for prefix in _SOURCES:
            subject = subject and subject.removeprefix(prefix)
        yield choice_example(
            _answered(row),
            id=named.of(row, identity),
            source="MMLU-Pro",
            question=row["question"],
            license="MIT",
            meta={"subject": subject, "category": category, "split": source.split},
        )


def _answered(row: Row) -> Row:
    """The hub's lists of options, without what fills them up, and its index, which counts from 0."""
    options, index = row["options"], row.values.get("answer_index")
    if not isinstance(options, list | tuple):
        return row
    options = list(options)
    while options and options[-1] == "N/A":
        options.pop()
    if not is_missing(index):
        index = letter_at(row, "answer_index", index, first=0, count=len(options))
    return row.having(options=options, answer_index=index)


READER = Reader(
    "mmlu-pro",
    "MMLU-Pro, category health: the hub's rows or JSONL",
    _rows,
    {"--category": {"default": "health", "help": "which to read (default: %(default)s)"}},
)
