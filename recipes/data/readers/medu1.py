"""Med-U1's own data (arXiv 2506.12307): the JSON of its splits and the parquet that its script makes for verl.

A problem may begin with `<Context>...</Context> <Question>...</Question>`. The parquet holds whole prompts in Qwen's
chat form with instructions behind the question, which are taken off here: a run adds its own (`data.style`). Its
`num_tokens`, the length that a prompt asked for, stays in `meta`. Answers are graded by what they are: a letter, a
date, weeks and days, a number within limits, or a text.

EHRNoteQA's rows, made of MIMIC-IV, are read with their licence, which forbids passing them on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from recipes.data.choices import OPTION_FIELDS, split_options
from recipes.data.example import Example, example_from_row
from recipes.data.readers.base import (
    NO_LABEL,
    Ids,
    LeftOut,
    Reader,
    choice_example,
    label_of,
    text_example,
    text_of,
    untagged,
)
from recipes.data.readers.medcalc import date_of, duration_of, has_no_label, number_of
from recipes.data.sources import Source
from recipes.data.tables import Row

_LICENSES = {
    "MedIQ": "CC-BY-4.0",
    "MedXpertQA": "MIT",
    "EHRNoteQA": "PhysioNet Credentialed Health Data License",
    "MedCalc-Bench": "CC-BY-SA-4.0",
    "medical-o1-reasoning-SFT": "Apache-2.0",
}
_NAMES = {"MedIQ": "MediQ"}
_CALCULATED, _OPEN = "MedCalc-Bench", "medical-o1-reasoning-SFT"
_USER_TURN = re.compile(r"<\|im_start\|>user\n(.*?)<\|im_end\|>", re.DOTALL)
_LENGTH = re.compile(r"\s*Think for (?:maximum )?[0-9]+ tokens\.\s*$")
_INSTRUCTION = re.compile(
    r"\s*Please provide (?:only the single option letter|the numerical value|your text answer)"
    r"[^<]*within the <answer> </answer> tags\.\s*$"
)
_WRAPPED = re.compile(r"\s*<Context>(.*?)</Context>\s*<Question>(.*?)</Question>(.*)", re.DOTALL)
_LETTER = re.compile(r"[A-N]")
_DATE, _WEEKS = re.compile(r"\d{1,2}/\d{1,2}/\d{4}"), re.compile(r".*\d\s*weeks?.*", re.DOTALL)


def _rows(source: Source, ids: str) -> Iterator[Example | LeftOut]:
    named = Ids(source, ids)
    for row in source.rows():
        row = _flat(row) if "reward_model" in row.values else row
        origin = text_of(row, "Source", row["Source"])
        context, question = _unwrapped(text_of(row, "problem", row["problem"]))
        common: dict[str, Any] = {
            "id": named.of(row, row.number),
            "source": _NAMES.get(origin, origin),
            "context": context,
            "license": _LICENSES.get(origin, "unknown"),
        }
        meta = {
            "subject": label_of(row.values.get("body_system")),
            "category": label_of(row.values.get("medical_task")),
            "split": row.values.get("split") or source.split,
            "num_tokens": row.values.get("num_tokens"),
        }
        if origin == _OPEN:
            answer, think = (text_of(row, name, row.values.get(name)) for name in ("answer", "think"))
            yield text_example(
                row, answer=untagged(answer, "answer"), think=think, question=question, meta=meta, **common
            )
        elif origin == _CALCULATED:
            yield _calculated(row, {**common, "question": question, "meta": meta})
        else:
            yield _choice(row, question, meta, common)


def _flat(row: Row) -> Row:
    """A row of the parquet under the names of the JSON."""
    prompt, reward, extra = row["prompt"], row["reward_model"], row["extra_info"]
    for name, value in (("reward_model", reward), ("extra_info", extra)):
        if not isinstance(value, dict):
            raise row.wrong(name, "an object", value)
    last = prompt[-1] if isinstance(prompt, list) and prompt else None
    content = last.get("content") if isinstance(last, dict) else None
    if not isinstance(content, str):
        raise row.wrong("prompt", 'a list of {"role", "content"}', prompt)
    turns = _USER_TURN.findall(content)
    question = _INSTRUCTION.sub("", _LENGTH.sub("", turns[-1] if turns else content))
    return row.having(
        Source=row["data_source"],
        problem=question,
        answer=reward.get("ground_truth"),
        num_tokens=reward.get("num_tokens"),
        split=extra.get("split"),
        **{"Lower Limit": reward.get("lower_limit"), "Upper Limit": reward.get("upper_limit")},
    )


def _unwrapped(problem: str) -> tuple[str | None, str]:
    found = _WRAPPED.fullmatch(problem)
    return (found[1].strip(), (found[2] + found[3]).strip()) if found else (None, problem.strip())


def _calculated(row: Row, fields: dict[str, Any]) -> Example | LeftOut:
    if has_no_label(row["answer"]):
        return LeftOut(NO_LABEL, row.where)
    gold = str(row["answer"]).strip()
    if _DATE.fullmatch(gold):
        answer: dict[str, Any] = {"task": "date", "answer": date_of(row, "answer")}
    elif _WEEKS.fullmatch(gold):
        answer = {"task": "duration", "answer": duration_of(row, "answer")}
    else:
        lower, upper = sorted((number_of(row, "Lower Limit"), number_of(row, "Upper Limit")))
        answer = {"task": "number", "answer": number_of(row, "answer"), "lower": lower, "upper": upper}
    return example_from_row({**fields, **answer}, row.where)


def _choice(row: Row, question: str, meta: dict[str, Any], common: dict[str, Any]) -> Example | LeftOut:
    """Options stand in the text, in a column, or in both; the text keeps none of them."""
    stem, options = split_options(question)
    if not set(OPTION_FIELDS) & set(row.values):
        if not options:
            return LeftOut("has no options", row.where)
        row = row.having(options=options)
    made = choice_example(row, question=question, meta=meta, **common)
    if isinstance(made, Example) and made.options and _words(made.options) == _words(options):
        return replace(made, question=stem)
    return made


def _words(options: dict[str, str]) -> dict[str, list[str]]:
    return {letter: text.split() for letter, text in options.items()}


READER = Reader("medu1", "Med-U1's splits in JSON, and its parquet for verl", _rows)
