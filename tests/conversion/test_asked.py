"""What a model card says of how training asked, and how evaluations asked otherwise."""

from __future__ import annotations

import json
from typing import Any

import pytest

from conversion.asked import asked_section, asked_unlike, check_asked
from tests.conversion.asked import ASKED, LENGTHS


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        ({"style": "e" * 64}, f"in other words (`{'e' * 64}`)"),
        ({"template": "base", "shots": 3}, "as plain text, behind 3 worked examples"),
        ({"length_target": 4000, "length_mode": "exact"}, "for 4,000 tokens"),
        ({"length_target": 41}, "for at most 41 tokens"),
        ({"length_target": 40}, None),
        ({"length_target": 20, "length_mode": "exact"}, None),
    ],
)
def test_a_card_says_how_an_evaluation_asked_otherwise(prompts: dict[str, Any], said: str | None) -> None:
    result = {"measured": {"prompts": {"style": "plain", "length_target": None, **prompts}}}
    origin = {"prompt": "plain", "asked": ASKED}
    assert asked_unlike(result, {}) is None
    assert asked_unlike(result, origin) == ([] if said is None else said.split(", "))
    shown = {"prompt": "plain", "asked": {**ASKED, "shots": 3}, "data": [{"path": "few.jsonl", "sha256": "ab" * 32}]}
    for file, found in (("ab", []), ("cd", ["behind other worked examples"])):
        same = {"style": "plain", "length_target": 40, "shots": 3, "few_shot": file * 32}
        assert asked_unlike({"measured": {"prompts": same}}, shown) == found
    always = {**origin, "asked": {**ASKED, "length_none_share": 0.0}}
    assert ("without a length" in (asked_unlike(result, always) or [])) == ("length_target" not in prompts)


def test_a_card_has_the_words_of_every_stage() -> None:
    warm = {"stage": "sft", "before": {"stage": "sft", "before": None}}
    warm |= {"asked": {**ASKED, "words": {"question": "Say: {question}"}, "lengths": []}}
    section = asked_section({"stage": "grpo", "asked": {**ASKED, "template": "base", "shots": 2}, "before": warm})
    assert section is not None
    assert "`instruction`" not in section
    told = {**ASKED, "words": {"question": "{question}", "instruction": {"choice": "One."}}}
    assert "`instruction` has a text" in str(asked_section({"stage": "grpo", "asked": told, "before": None}))
    assert "`data.style=prompt.yaml data.template=base data.shots=2 data.few_shot=FILE`" in section
    assert section.endswith(
        "Supervised fine-tuning put every question in words of its own, through the chat template.\n\n"
        "```yaml\nquestion: 'Say: {question}'\n```\n\nHow supervised fine-tuning before it asked is not known."
    )


@pytest.mark.parametrize(
    "change",
    [
        *({key: None} for key in ASKED),
        *({"words": words} for words in ({}, {"question": 5}, {"question": "?", "instruction": {"choice": 1}})),
        *({"template": "CHAT"}, {"shots": "2"}, {"shots": -1}, {"shots": True}, {"length_none_share": 1}, {"more": 1}),
        *({"lengths": lengths} for lengths in ("Think", ["Think"], [{**LENGTHS[0], "low": None}])),
        {"words": {"question": "{question} \ud83d"}},
    ],
)
def test_a_damaged_record_is_refused(change: dict[str, Any]) -> None:
    check_asked(json.loads(json.dumps(ASKED)))
    with pytest.raises(ValueError, match="asked: not how a run put its questions"):
        check_asked({**ASKED, **change})
