"""How training put its questions, as a release tells it: the words in a prompt file, all of it in the model card.

A run's origin has it under `asked` (`recipes.rollout.asked`):

    {"words": {"question": "{question}", ...}, "template": "chat" or "base", "shots": worked examples,
     "lengths": [{"mode": "exact" or "max", "sentence": "Think for N tokens.", "low": 100, "high": 2000}],
     "length_none_share": share of the prompts that ask for no length}

`low` and `high` bound N; they are null where N goes by each answer that was taught. Left out: checking that the words
are a prompt, which is for `data.style`, and the worked examples, which the origin names by their file's digest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from conversion.evaluation_tables import plain_markdown

PROMPT_FILE = "prompt.yaml"

_KEYS = {"words", "template", "shots", "lengths", "length_none_share"}
_STAGES = {"grpo": "Reinforcement learning", "sft": "Supervised fine-tuning"}


class _Dumper(yaml.SafeDumper):
    """Texts of several lines stand as they are, line below line, where YAML can."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # YAML reads line ends of other kinds as its own, but where they are escaped; and a block hides blanks at its start.
    quoted = text[:1].isspace() or re.search("[\r\x85\u2028\u2029]", text)
    style = '"' if quoted else "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def prompt_yaml(words: Mapping[str, Any]) -> str:
    """The words as YAML, which reads back as the same to the last character."""
    return yaml.dump(dict(words), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def check_asked(asked: Any) -> None:
    """Raises ValueError where a record is damaged."""
    try:
        json.dumps(asked, ensure_ascii=False).encode()  # half of a character cannot be written
        words, share = asked["words"], asked["length_none_share"]
        sound = (
            asked.keys() == _KEYS
            and isinstance(words["question"], str)
            and all(_are_words(value) for value in words.values())
            and asked["template"] in ("chat", "base")
            and _is_count(asked["shots"])
            and isinstance(share, int | float)
            and 0 <= share < 1
            and all(_is_length(length) for length in asked["lengths"])
        )
    except (AttributeError, KeyError, TypeError, UnicodeError):
        sound = False
    if not sound:
        raise ValueError("asked: not how a run put its questions")


def _are_words(value: Any) -> bool:
    texts = list(value.values()) if isinstance(value, dict) else [value]
    return isinstance(value, bool) or all(isinstance(text, str) for text in texts)


def _is_length(length: Mapping[str, Any]) -> bool:
    bounds = [length["low"], length["high"]]
    bounded = bounds == [None, None] or all(_is_count(bound) for bound in bounds)
    return length["mode"] in ("exact", "max") and isinstance(length["sentence"], str) and bounded


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def asked_section(origin: Mapping[str, Any]) -> str | None:
    """The model card's part on it, of the last stage and of those before; None where an older release kept nothing."""
    if "asked" not in origin:
        return None
    last = origin["asked"]
    again = "" if last["template"] == "chat" else " data.template=base"
    again += f" data.shots={last['shots']} data.few_shot=FILE" if last["shots"] else ""
    told = "`instruction` has a text a kind of task; where `question` does not place it, it stands at the end. "
    told = told if "instruction" in last["words"] else ""
    parts = [
        "## How it was asked",
        _stage(origin, "these words", "Asked otherwise, the model may answer otherwise."),
        _fenced(last["words"]),
        f"{told}`before_question` and `before_answer` stand in plain text and worked examples alone. Medatron asks in "
        f"these words with `data.style={PROMPT_FILE}{again}`.",
    ]
    for stage in _before(origin):
        if "asked" not in stage:
            parts.append(f"How {_title(stage).lower()} before it asked is not known.")
        elif stage["asked"]["words"] == last["words"]:
            parts.append(_stage(stage, "the same words"))
        else:
            parts += [_stage(stage, "words of its own"), _fenced(stage["asked"]["words"])]
    return "\n\n".join(parts)


def _before(origin: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    while origin := origin["before"]:
        yield origin


def _stage(origin: Mapping[str, Any], words: str, more: str = "") -> str:
    asked = origin["asked"]
    how = "through the chat template" if asked["template"] == "chat" else "as plain text, without the chat template"
    shots = f", behind {_examples(asked['shots'])}" if asked["shots"] else ""
    return f"{_title(origin)} put every question in {words}, {how}{shots}.{_lengths(asked)} {more}".rstrip()


def _title(origin: Mapping[str, Any]) -> str:
    return _STAGES.get(origin["stage"], "Training")


def _lengths(asked: Mapping[str, Any]) -> str:
    if not asked["lengths"]:
        return ""
    said = plain_markdown(" or ".join(map(_length, asked["lengths"])))
    none = f", and for none in {asked['length_none_share']:.0%} of the prompts" if asked["length_none_share"] else ""
    return f" Behind the instruction it asked for a length, {said}{none}."


def _length(length: Mapping[str, Any]) -> str:
    low, high = length["low"], length["high"]
    bounds = "N by the length of each answer" if low is None else f"N from {low:,} to {high:,}"
    return f'"{length["sentence"]}"' + ("" if low is not None and low == high else f" ({bounds})")


def _examples(count: int) -> str:
    return f"{count} worked example{'s' if count > 1 else ''}"


def _fenced(words: Mapping[str, Any]) -> str:
    text = prompt_yaml(words)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}yaml\n{text}{fence}"


def asked_unlike(result: Mapping[str, Any], origin: Mapping[str, Any]) -> list[str] | None:
    """How an evaluation asked otherwise than the last stage of training; None where that is not known."""
    if "asked" not in origin:
        return None
    asked, prompts = origin["asked"], result["measured"]["prompts"]
    found = [] if prompts.get("style") == origin.get("prompt") else [f"in other words (`{prompts.get('style')}`)"]
    if (template := prompts.get("template", "chat")) != asked["template"]:
        found.append("through the chat template" if template == "chat" else "as plain text")
    if (shots := prompts.get("shots", 0)) != asked["shots"]:
        found.append(f"behind {_examples(shots)}" if shots else "without worked examples")
    elif shots and prompts["few_shot"] not in {file["sha256"] for file in origin["data"]}:
        found.append("behind other worked examples")
    target, mode = prompts.get("length_target"), prompts.get("length_mode", "max")
    if target is None:
        found += ["without a length"] if asked["lengths"] and not asked["length_none_share"] else []
    elif not any(each["mode"] == mode and _reaches(each, target) for each in asked["lengths"]):
        found.append(f"for {'at most ' if mode == 'max' else ''}{target:,} tokens")
    return found


def _reaches(length: Mapping[str, Any], target: int) -> bool:
    return length["low"] is None or bool(length["low"] <= target <= length["high"])
