"""Prompt styles: how a question is put, in YAML files; those of `configs/prompt/` have names.

    system            text of the system role
    question          what the user says; its fields are {question}, {context}, {options} and {instruction}
    context, options  around a context ({context}) and around the options ({options}), where there are any; an empty
                      text in quotes for `options` shows none
    option, between   one option ({letter}, {text}), and what stands between two
    instruction       a text a task; a length that is asked for stands behind it
    before_question, before_answer   in plain text, which has no turns, and around worked examples
    says_target       whether a length that all prompts share is said

`question` alone must be there. A line of a text falls away where all of its fields are empty, and {instruction} stands
behind the question where `question` does not place it. A brace of the text itself is written twice. Values are put in
once and never read as text with fields, so a question may hold any brace.

Left out: files of other formats, and fields for anything but the question.
"""

from __future__ import annotations

import codecs
import difflib
import functools
import hashlib
import json
import reprlib
import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from recipes.data.errors import ExampleError
from recipes.data.example import TASKS, Example

_FOLDER = Path(__file__).resolve().parents[2] / "configs" / "prompt"
_ENDING = ".yaml"
BUILT_IN = tuple(sorted(path.stem for path in _FOLDER.glob(f"*{_ENDING}")))
# What results and runs call the prompts that had names before they had digests, so that old ones may stand beside new.
_NAMED = {
    "29aebeff07dda0c9b0ebadebe24d0c28fc3f6d6c6f995038355a420bb045cb84": "plain",
    "a040836a5ad20a512adc478adaa93af26bd6d4d5901e4e5b7c1bd540c2c9ece0": "med_u1",
    "63f01ae68f4d8d4d7e9f441b738966a0bc67e17f36381bf0507a1cb5717dd668": "med_rlvr",
}
# The fields of each text; the first must be there.
_FIELDS: dict[str, tuple[str, ...]] = {
    "system": (),
    "question": ("question", "context", "options", "instruction"),
    "context": ("context",),
    "options": ("options",),
    "option": ("text", "letter"),
    "between": (),
    "before_question": (),
    "before_answer": (),
}
# Of what a file leaves out. They stay as they are, since digests leave them out too.
_DEFAULTS: dict[str, Any] = {
    "system": "",
    "context": "{context}",
    "options": "{options}",
    "option": "{letter}. {text}",
    "between": "\n",
    "before_question": "",
    "before_answer": "\nAnswer:\n",
    "instruction": {},
    "says_target": True,
}
_MAY_BE_EMPTY = ("options", "between", "before_question", "before_answer")
_KEYS = (*_FIELDS, "instruction", "says_target")


class StyleError(ExampleError):
    """A prompt file that cannot be used: names file and key, what was expected and what was found."""


class Template:
    """A text with fields.

    Attributes:
        fields: those that it has.
    """

    def __init__(self, text: str, fields: tuple[str, ...]) -> None:
        """Reads it.

        Raises:
            ValueError: it has a field that is none of `fields`, or lacks the first of them, or a brace is no field.
        """
        self._lines = [_parts(line, fields) for line in text.split("\n")]
        self.fields = {field for line in self._lines for _, field in line if field}
        if text and fields and fields[0] not in self.fields:
            raise ValueError(f"expected a text with {{{fields[0]}}} in it, found {_shown(text)}")

    def filled(self, **values: str) -> str:
        """The text with its fields filled in; without the lines all of whose fields are empty."""
        lines = []
        for line in self._lines:
            named = [field for _, field in line if field]
            if not named or any(values[field] for field in named):
                lines.append("".join(literal + (values[field] if field else "") for literal, field in line))
        return "\n".join(lines)


def _parts(line: str, fields: tuple[str, ...]) -> list[tuple[str, str | None]]:
    known = f"its fields are {' '.join(f'{{{field}}}' for field in fields)}" if fields else "it has no fields"
    how = f"{known}, and a brace of the text itself is written twice, {{{{ or }}}}"
    parts: list[tuple[str, str | None]] = []
    try:
        for literal, field, form, conversion in string.Formatter().parse(line):
            if field is not None and (field not in fields or form or conversion):
                raise ValueError(f"{{{field}}} is no field")
            parts.append((literal, field))
    except ValueError as error:
        raise ValueError(f"{error}, in {_shown(line)}; {how}") from None
    return parts


@dataclass(frozen=True)
class Style:
    """How questions are put.

    Attributes:
        name: as it was given: of a built-in style, or a file's path.
        words: all that the file says.
        texts: its texts, those that it leaves out by their defaults.
        instruction: what is asked of the answer, by task.
        says_target: whether a length that all prompts share is said, or left to the reward.
    """

    name: str
    words: Mapping[str, Any]
    texts: Mapping[str, Template]
    instruction: Mapping[str, str]
    says_target: bool

    @property
    def digest(self) -> str:
        """SHA-256 of the words, whatever file they stand in, with whatever comments; defaults are as if left out."""
        own = {key: value for key, value in self.words.items() if value != _DEFAULTS.get(key)}
        return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()

    @property
    def spelled_out(self) -> dict[str, Any]:
        """The words with what the file leaves to its defaults; a file of them has the same digest."""
        found = {key: value for key, value in _DEFAULTS.items() if value or key in _MAY_BE_EMPTY} | dict(self.words)
        return {key: found[key] for key in _KEYS if key in found}

    @property
    def identity(self) -> str:
        """What results and runs know the words by."""
        return _NAMED.get(self.digest, self.digest)

    def text(self, key: str) -> str:
        """One of the texts that have no fields; empty where there is none."""
        return self.texts[key].filled()

    def fixed(self) -> dict[str, str]:
        """The texts that stand in prompts as they are, by their keys."""
        found = {key: self.text(key) for key, fields in _FIELDS.items() if not fields}
        found |= {f"instruction.{task}": text for task, text in self.instruction.items()}
        return {key: text for key, text in found.items() if text.strip()}

    @property
    def shows_letters(self) -> bool:
        """Whether options stand behind their letters."""
        return "letter" in self.texts["option"].fields and "options" in self.texts["options"].fields

    def check_letters(self, who: str) -> None:
        """Refuses a style without letters for what goes by them.

        Args:
            who: of several, what goes by letters.

        Raises:
            StyleError: the style shows no letters.
        """
        if not self.shows_letters:
            raise StyleError(
                f"data.style={self.name}: shows options without their letters, and {who} go by letters; take "
                "another style, or show {letter} in option"
            )

    def asked(self, example: Example, instruction: str = "") -> str:
        """What the user says.

        Raises:
            StyleError: the question has a context or options, and the style no place for them.
        """
        shown = example.options if self.texts["options"].fields else None
        for field, value in (("context", example.context), ("options", shown)):
            if value and field not in self.texts["question"].fields:
                raise StyleError(
                    f"data.style={self.name}: question: has no {{{field}}}, and the row with id {example.id!r} has "
                    f"{'a context' if field == 'context' else 'options'}; add the field, or leave such rows out"
                )
        options = (shown or {}).items()
        lines = self.text("between").join(self.texts["option"].filled(letter=key, text=text) for key, text in options)
        return self.texts["question"].filled(
            question=example.question,
            context=self.texts["context"].filled(context=example.context) if example.context else "",
            options=self.texts["options"].filled(options=lines) if lines else "",
            instruction=instruction,
        )


def is_style(name: str) -> bool:
    """Whether it is a built-in style's name, or the path of a file that may hold one."""
    return name in BUILT_IN or is_file(name)


def is_file(name: str) -> bool:
    """Whether it is a path, and not a name."""
    return name.endswith(_ENDING)


@functools.cache
def read_style(name: str) -> Style:
    """A built-in style, or that of a file; read once by a process, which asks in the words that it says it asks in.

    Raises:
        StyleError: there is no such file, or it is no prompt.
    """
    where = f"data.style={name}"
    path = Path(name) if is_file(name) else _FOLDER / f"{name}{_ENDING}"
    try:
        raw = path.read_bytes()
    except OSError as error:
        known = f"a prompt file, or one of {', '.join(BUILT_IN)}"
        raise StyleError(f"{where}: cannot be read ({error.strerror}); expected {known}") from None
    words = _parsed(raw, where)
    _check_keys(words, where)
    instruction, says_target = (words.get(key, _DEFAULTS[key]) for key in ("instruction", "says_target"))
    if not isinstance(says_target, bool):
        raise StyleError(f"{where}: says_target: expected true or false, found {_shown(says_target)}")
    before = words.get("before_answer", "")
    if isinstance(before, str) and before.count("<answer>") > before.count("</answer>"):
        raise StyleError(f"{where}: before_answer: opens <answer>, which is read in responses alone; end it before")
    told = {task: _read(f"instruction.{task}", text, (), where).filled() for task, text in instruction.items()}
    return Style(name, words, {key: _template(key, words, where) for key in _FIELDS}, told, says_target)


def _check_keys(words: Mapping[Any, Any], where: str) -> None:
    for key in words:
        if key not in _KEYS:
            near = difflib.get_close_matches(str(key), _KEYS, n=1)
            meant = f"; did you mean {near[0]}?" if near else ""
            raise StyleError(f"{where}: {key} is no key of a prompt; expected {', '.join(_KEYS)}{meant}")
    if "question" not in words:
        raise StyleError(f"{where}: question is missing, the text that {{question}} stands in")
    instruction = words.get("instruction", {})
    if not isinstance(instruction, dict):
        found = _shown(instruction)
        raise StyleError(f"{where}: instruction: expected a text a task, such as choice: TEXT, found {found}")
    for task in instruction:
        if task not in TASKS:
            raise StyleError(f"{where}: instruction.{task}: no task; expected {', '.join(TASKS)}")


def _template(key: str, words: Mapping[str, Any], where: str) -> Template:
    if key not in words:
        return Template(_DEFAULTS[key], _FIELDS[key])
    found = _read(key, words[key], _FIELDS[key], where)
    if key == "question" and "instruction" not in found.fields:
        return Template(f"{words[key]}\n{{instruction}}", _FIELDS[key])
    return found


def _read(key: str, value: Any, fields: tuple[str, ...], where: str) -> Template:
    if value is None:
        raise StyleError(f"{where}: {key}: expected a text, found nothing; leave the key out where there is none")
    if not isinstance(value, str):
        raise StyleError(
            f"{where}: {key}: expected a text, found {_shown(value)}, as YAML reads it; put the text in quotes"
        )
    if not value.strip() and key not in _MAY_BE_EMPTY:
        instead = "" if key == "question" else "; leave the key out where there is none"
        raise StyleError(f"{where}: {key}: expected a text, found {value!r}{instead}")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise StyleError(f"{where}: {key}: half of a character, {_shown(value)}; write the whole of it")
    try:
        return Template(value, fields)
    except ValueError as error:
        raise StyleError(f"{where}: {key}: {error}") from None


class _Loader(yaml.SafeLoader):
    """Refuses a mapping that names a key twice, of which YAML takes the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value]
        for place, (key, _) in enumerate(node.value):
            if key.value in names[:place]:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} stands there twice", key.start_mark)
        return super().construct_mapping(node, deep)


def _parsed(raw: bytes, where: str) -> dict[Any, Any]:
    if raw.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise StyleError(f"{where}: begins with a byte order mark; expected UTF-8 without one: save it so")
    try:
        words = yaml.load(raw.decode("utf-8"), _Loader)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise StyleError(f"{where}: line {line} is no UTF-8 text (byte 0x{raw[error.start]:02x}); save it so") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise StyleError(
            f"{where}: line {line} is no YAML ({error.problem}); a text with : or # or a brace at its start stands in "
            "quotes or behind |-, and lines are indented by spaces"
        ) from None
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        # A tag such as !!bool before what is none makes YAML fail with nearly anything.
        raise StyleError(f"{where}: no YAML ({' '.join(str(error).split())})") from None
    if not isinstance(words, dict):
        found = "nothing" if words is None else _shown(words)
        raise StyleError(f"{where}: expected the keys of a prompt, such as question: TEXT, found {found}")
    return words


def _shown(value: Any) -> str:
    # Bounded, as YAML's references make mappings that are endless when written out.
    short = reprlib.Repr()
    short.maxstring = short.maxother = 80
    short.maxlevel = 2
    return short.repr(value)
