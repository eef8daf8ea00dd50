"""Options and right answers in the many shapes that multiple-choice sets are published and exported in.

A row is read as a person would read it, or refused: an answer that fits two options is no label. An index alone is
taken only where counting from 0 and from 1 cannot both be meant.
"""

from __future__ import annotations

import ast
import difflib
import io
import json
import math
import re
import tokenize
from typing import Any

from recipes.data.errors import ExampleError
from recipes.data.tables import Row
from recipes.data.text_files import NOTHING
from reward_server.reference import LETTERS, is_blank


class TwoLabelsError(ExampleError):
    """A row whose labels mean two options, so that one of them is wrong and nothing tells which."""


class NoLabelError(ExampleError):
    """A row whose label is null, NaN or blank, as in test splits that are published without."""


class NoOptionError(ExampleError):
    """A row whose label is no letter, index or text of its options."""


OPTION_FIELDS = ("options", "Options", "choices")
# Columns of one option each, from the first on: of CSV tables, and MedMCQA's.
_OPTION_COLUMNS = (tuple(LETTERS), tuple(f"op{letter.lower()}" for letter in LETTERS))
# Fields of the right answer: pointers hold a letter or an index, answers may hold an option's text.
_POINTERS = ("answer_idx", "answer_index", "Correct Option", "label")
_ANSWERS = ("answer", "Correct Answer")
_KEYS = ("key", "letter", "label", "id")
_TEXTS = ("value", "text", "content")
_LABEL = re.compile(r"[(\[]?([A-Za-z])[)\].:]?")
_LABELLED = re.compile(r"\s*[(\[]?([A-Za-z])[)\].:]\s*(\S.*)", re.DOTALL)
_INDEX = re.compile(r"[0-9]{1,2}(?:\.0)?")
# Where an option begins within a text: at a line's begin, or in brackets behind a space.
_BEGINS = (
    re.compile(r"^[ \t]*[(\[]?([A-Z])[)\].:](?=\s)", re.MULTILINE),
    re.compile(r"(?:^|(?<=\s))\(([A-Z])\)(?=\s)"),
)
_HEADING = re.compile(r"(?:^|\n)\s*(?:answer choices|options|choices)\s*:?\s*$", re.IGNORECASE)


def choice_of(row: Row) -> tuple[dict[str, str], str]:
    """The options by letter and the right letter of a published row.

    Raises:
        TwoLabelsError: when its letter and its answer's text contradict each other.
        NoLabelError: when it has none.
        NoOptionError: when it is none of the options.
        ExampleError: naming the row and the field that is missing or can be read in two ways.
    """
    name = next((name for name in OPTION_FIELDS if name in row.values), None)
    if name is None:
        columns = next((names for names in _OPTION_COLUMNS if names[0] in row.values), ("options",))
        pairs = [
            (letter, row.values[name]) for letter, name in zip(LETTERS, columns, strict=False) if name in row.values
        ]
        options, keys = _options(row, columns[0], pairs or row[columns[0]])
    else:
        options, keys = _options(row, name, row[name])
    return options, _answer(row, options, keys)


def letter_at(row: Row, name: str, index: Any, *, first: int, count: int) -> str:
    """The letter of an index that is known to count from `first`, of `count` options.

    Raises:
        ExampleError: naming row and field, where no option has it.
    """
    if isinstance(index, bool) or index not in range(first, first + count):
        raise row.wrong(name, f"a number from {first} to {first + count - 1}", index)
    return LETTERS[int(index) - first]


def split_options(text: str) -> tuple[str, dict[str, str]]:
    """A question and the options at its end: lines "A. ..." or, on one line, "(A) ... (B) ...".

    An option may name earlier ones ("both (A) and (B)"). Where a letter is missing, nothing is split.

    Returns:
        The text before the options, without a heading such as "Answer Choices:", and letter to text; the whole text and
        nothing where it does not end with at least two options from A on.
    """
    for begins in _BEGINS:
        found = list(begins.finditer(text))
        runs = [_in_turn(found[place:]) for place, match in enumerate(found) if match[1] == "A"]
        # Of two as long, the later: the question may begin with a name such as "A. fumigatus".
        run = max(reversed(runs), key=len, default=[])
        if len(run) >= 2:
            ends = [match.start() for match in run[1:]] + [len(text)]
            texts = [text[match.end() : end].strip() for match, end in zip(run, ends, strict=True)]
            return _HEADING.sub("", text[: run[0].start()]).strip(), dict(zip(LETTERS, texts, strict=False))
    return text, {}


def _in_turn(found: list[re.Match[str]]) -> list[re.Match[str]]:
    """The letters from A on, each in its turn, without those that name an earlier option; none where one is missing."""
    run: list[re.Match[str]] = []
    for match in found:
        place = LETTERS.find(match[1])
        if place > len(run):
            return []
        if place == len(run):
            run.append(match)
    return run


def _options(row: Row, name: str, value: Any) -> tuple[dict[str, str], dict[str, str]]:
    """Letter to text, and letter to the key that the file has for it."""
    expected = "an object of letters and texts, or a list of texts"
    pairs = _pairs(parsed_cell(value))
    if not pairs:
        raise row.wrong(name, expected, value)
    # Tables of rows with four and with five options fill the fifth with nothing.
    while pairs and is_missing(pairs[-1][1]):
        pairs.pop()
    for key, text in pairs:
        if not isinstance(text, str) or is_blank(text):
            raise row.wrong(name, f"a text for option {key}", text)
    keys = [key for key, _ in pairs]
    letters = _letters(keys)
    if not letters:
        raise row.wrong(name, f"at most {len(LETTERS)} letters from A, or numbers one after another", keys)
    texts = (text for _, text in pairs)
    return dict(zip(letters, texts, strict=True)), dict(zip(letters, keys, strict=True))


def parsed_cell(value: Any) -> Any:
    """The list or object that a CSV cell holds in JSON's or Python's writing or as lines "A. ..."; else None."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        try:
            found = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            stem, options = split_options(value)
            return options if not stem else None
        return None if _joins_texts(value) else found


def _joins_texts(value: str) -> bool:
    """Whether Python makes one text of several, as of numpy's ['a' 'b'], where nothing tells that they were two."""
    tokens = tokenize.generate_tokens(io.StringIO(value.strip()).readline)
    texts = [node for node in ast.walk(ast.parse(value.strip(), mode="eval")) if isinstance(node, ast.Constant)]
    return sum(token.type == tokenize.STRING for token in tokens) > sum(isinstance(text.value, str) for text in texts)


def _pairs(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        # A column store of options: {"key": [...], "value": [...]}.
        names = [next((n for n in group if isinstance(value.get(n), list)), None) for group in (_KEYS, _TEXTS)]
        if None not in names and len(value[names[0]]) == len(value[names[1]]):
            return list(zip(map(str, value[names[0]]), value[names[1]], strict=True))
        return [(str(key), text) for key, text in value.items()]
    if not isinstance(value, list | tuple) or not value:
        return []
    if all(isinstance(part, dict) for part in value):
        key, text = (next((n for n in group if n in value[0]), None) for group in (_KEYS, _TEXTS))
        return [(str(part.get(key)), part.get(text)) for part in value] if key and text else []
    if all(isinstance(part, list | tuple) and len(part) == 2 for part in value):
        return [(str(key), text) for key, text in value]
    found = [_LABELLED.fullmatch(part) if isinstance(part, str) else None for part in value]
    labels = [match[1] for match in found if match]
    if len(labels) == len(value) and sorted(_letters(labels)) == list(LETTERS[: len(value)]):
        # In another order "A" would be the first or the one that says so.
        return [(match[1], match[2]) for match in found if match] if labels == sorted(labels) else []
    return list(zip(LETTERS, value, strict=False)) if len(value) <= len(LETTERS) else []


def _letters(keys: list[str]) -> list[str]:
    """A letter for each key: itself in upper case, or by place where keys are numbers that count up by one."""
    bare = [match[1].upper() for key in keys if (match := _LABEL.fullmatch(key.strip()))]
    if len(set(bare)) == len(keys) and set(bare) <= set(LETTERS):
        return bare
    if all(_INDEX.fullmatch(key.strip()) for key in keys) and len(keys) <= len(LETTERS):
        numbers = [int(float(key)) for key in keys]
        if numbers and numbers[0] in (0, 1) and numbers == list(range(numbers[0], numbers[0] + len(keys))):
            return list(LETTERS[: len(keys)])
    return []


def _answer(row: Row, options: dict[str, str], keys: dict[str, str]) -> str:
    given = {name: _single(row.values[name]) for name in (*_POINTERS, *_ANSWERS) if name in row.values}
    given = {name: value for name, value in given.items() if not is_missing(value)}
    if not given:
        found = [row.values[name] for name in (*_POINTERS, *_ANSWERS) if name in row.values] or [row["answer"]]
        raise NoLabelError(str(row.wrong("answer", f"one of the letters {', '.join(options)}", found[-1])))
    left, pointed = set(options), False
    for name, value in given.items():
        meant = _meant(value, options, keys, pointer=name in _POINTERS)
        if not meant and pointed and name in _ANSWERS:
            # That option misspelt, or else an answer to another question: columns that were joined or sorted apart.
            left &= _resembled(str(value), options)
            continue
        if not meant:
            expected = f"one of the letters {', '.join(options)}, or an option's text"
            raise NoOptionError(str(row.wrong("answer", expected, value)))
        left &= meant
        pointed |= name in _POINTERS
    if not left:
        raise TwoLabelsError(f"{row.where}: the labels contradict each other: {given}")
    if len(left) > 1:
        both = " or ".join(sorted(left))
        raise row.wrong("answer", f"what means one option, not {both}; give the letter as answer_idx", given)
    letter = left.pop()
    [(name, value), *others] = given.items()
    text = str(value).strip()
    told = any(_same_key(key, text) for key in keys.values()) or letter in _with_text(text, options)
    if not others and not told and _INDEX.fullmatch(text) and (name in _POINTERS or not isinstance(value, str)):
        _check_counts_alike(row, name, int(float(text)) - list(options).index(letter))
    return letter


def _check_counts_alike(row: Row, name: str, first: int) -> None:
    """Refuses a file whose labels, indices alone, count from 0 in one row and from 1 in another."""
    counts, where = row.of_file.setdefault("counts from", (first, row.where))
    if counts != first:
        raise row.wrong(
            name,
            f"an index that counts from {counts}, as in {where}",
            f"{row.values[name]!r}, which counts from {first}",
        )


def _meant(value: Any, options: dict[str, str], keys: dict[str, str], *, pointer: bool) -> set[str]:
    """The options that a label may mean."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return set()
    text = str(value).strip()
    own = {letter for letter, key in keys.items() if _same_key(key, text)}
    if match := _LABEL.fullmatch(text):
        own |= {match[1].upper()} & set(options)
    indexed: set[str] = set()
    if not own and _INDEX.fullmatch(text) and (pointer or not isinstance(value, str)):
        letters, number = list(options), int(float(text))
        indexed = {letters[place] for place in (number, number - 1) if 0 <= place < len(letters)}
    if pointer and (own or indexed):
        return own or indexed
    if found := own | indexed | _with_text(text, options):
        return found
    match = _LABELLED.fullmatch(text)
    return {match[1].upper()} & _with_text(match[2], options) if match else set()


def _with_text(text: str, options: dict[str, str]) -> set[str]:
    plain = " ".join(text.split())
    found = {letter for letter, option in options.items() if " ".join(option.split()) == plain}
    folded = plain.casefold()
    return found or {letter for letter, option in options.items() if " ".join(option.split()).casefold() == folded}


def _resembled(text: str, options: dict[str, str]) -> set[str]:
    """The options that a text is most like, if it is like any."""
    folded = {letter: option.casefold() for letter, option in options.items()}
    near = difflib.get_close_matches(text.strip().casefold(), folded.values(), 1)
    return {letter for letter, option in folded.items() if option in near}


def _same_key(key: str, text: str) -> bool:
    return key.strip() == text or (
        bool(_INDEX.fullmatch(key.strip()) and _INDEX.fullmatch(text)) and float(key) == float(text)
    )


def _single(value: Any) -> Any:
    """What a list of one holds: data sets with several right answers publish single ones so."""
    return value[0] if isinstance(value, list | tuple) and len(value) == 1 else value


def is_missing(value: Any) -> bool:
    """Whether a cell holds nothing: null, NaN also as a text, or a blank text."""
    return (
        value is None
        or (isinstance(value, float) and math.isnan(value))
        or (isinstance(value, str) and (is_blank(value) or value.strip() in NOTHING))
    )
