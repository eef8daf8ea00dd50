"""MedReason (Wu et al., 2025): 32,682 reasonings along a knowledge graph's paths, for SFT before RL.

Its answers are an option's text with an explanation behind it ("Zinc. Explanation: ..."), a verdict ("The final
decision is: yes."), or a text. Choice questions learn the letter, open ones the answer without its explanation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from recipes.data.choices import NoOptionError, is_missing, split_options
from recipes.data.example import Example
from recipes.data.readers.base import Ids, LeftOut, Reader, choice_example, label_of, text_example, text_of
from recipes.data.sources import Source

_EXPLANATION = re.compile(r"\.?\s*Explanation:.*", re.DOTALL)
_VERDICT = re.compile(r"(?:the )?(?:final )?decision is:?\s*\**(yes|no|maybe)\b.*", re.IGNORECASE | re.DOTALL)


def _rows(source: Source, ids: str) -> Iterator[Example | LeftOut]:
    named = Ids(source, ids)
    for row in source.rows():
        answer = _EXPLANATION.sub("", text_of(row, "answer", row["answer"])).strip()
        options = row.values.get("options")
        fields: dict[str, Any] = {
            "id": named.of(row, row.number),
            "source": "MedReason",
            "question": text_of(row, "question", row["question"]),
            "think": text_of(row, "reasoning", row["reasoning"]),
            "license": "Apache-2.0",
            "meta": {"category": label_of(row.values.get("dataset_name")), "split": source.split},
        }
        if is_missing(options) or options in ("None", "{}"):
            yield text_example(row, answer=answer, **fields)
            continue
        verdict = _VERDICT.fullmatch(answer)
        row = row.having(
            options=split_options(options)[1] or options if isinstance(options, str) else options,
            answer=verdict[1] if verdict else answer,
        )
        try:
            yield choice_example(row, **fields)
        except NoOptionError:
            yield LeftOut("its answer is no option's text", row.where)


READER = Reader("medreason", "MedReason: choice and open questions with their reasoning, for SFT", _rows)
