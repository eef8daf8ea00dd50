"""Multiple choice: which option letter does an answer commit to?

`strict` is Med-U1's rule: the answer is the letter. `lenient` reads the whole answer, carriers and all (`carriers`):

    answer := lead-in* (label [option's own text] | option's text [label]) tail* [reason]

It gives a letter only when exactly one option is meant and nothing beside it is unaccounted for. A label whose text is
another option's commits to nothing; one whose text is its own option's, misspelt by a letter or two, is that label. An
option's text counts as a whole phrase among words that say nothing, never within a compound, a range, a ratio, a dose
by weight or under a negation. A letter that belongs to a word ("E. coli", "vitamin C", "type A", "stage II") is none.

Left out: paraphrases of an option. Rules cannot tell one from its neighbour; the answer's letter can.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Mapping
from typing import Literal

from reward_server.verifiers.base import MALFORMED, MAX_SHORT_CHARS, NO_ANSWER, Verdict, judged
from reward_server.verifiers.carriers import (
    ALTERNATIVE,
    NEGATION,
    REASONS,
    SUFFIXES,
    TAILS,
    is_filler,
    lead_length,
)
from reward_server.verifiers.plain import clean, readable
from reward_server.verifiers.spelling import misspelt, opposite

VERSION = "3"
MAX_OPTIONS = 14  # A to N

Match = Literal["strict", "lenient"]

_BARE = re.compile(r"[\s(\[\"'.:]*([A-Za-z])[\s)\]\"'.,:;!]*")
# A label is strong where its punctuation makes it one. "E. coli" and "A patient" have a weak one's form.
_LABEL = re.compile(
    r"(?P<open>[(\[]\s?)?(?P<letter>[A-Za-z])(?(open)\s?[)\]])"
    r"(?P<mark>\s?(?:[)\]:=\u2014]|->|-(?=\s)|\.?\n)(?:[.:,](?![0-9])|\s|-(?=\s))*|[.,;](?![0-9])\s?|\s)(?P<rest>.+)",
    re.DOTALL,
)
_BRACKETED = re.compile(r"(?:(?<!\w)(\w{1,20}))?\s?[(\[]\s?(?:option\s)?([A-Za-z])\s?[)\]]", re.IGNORECASE)
# A label behind the option's text.
_LABEL_BEHIND = re.compile(
    r"[\s,;:.\u2014-]*(?:(?:i\.e\.,?|that is,?|which is|so)\s)?(?:(?:option|choice|answer|letter)\s)?"
    r"[(\[]?\s?([A-Z])\s?[)\]]?(?=[\s.,;:!]*$)"
)
# Naming a label as the answer, wherever it stands.
_NAMED = re.compile(
    r"(?i:\b(?:answer|option|choice|choose|pick|select|go with|correct|it's|it is|is)\b)[\s:=(\[]{0,3}"
    r"([A-N])\b(?!\s[a-z]|')"
    r"|[(\[]\s?([A-N])\s?[)\]]|(?:^|[.;,\n]\s?)([A-N])(?=[\s.,;:]*$|[.):]\s)"
    r"|\b([A-N])(?i:\s(?:is|are|would be|could be|may be|might be)\s"
    r"(?:also|the|a|correct|right|best|better|likely|possible|most)\b)"
)
_SINGLE = re.compile(r"(?<![\w'-])([A-Za-z])(?![\w'+-])")
_STRAY = re.compile(r"(?:(?<!\w)(\w{1,20})\s)?(?<![\w'-])([A-Z])(?![\w'+-]|\s[a-z])")
# A single letter after one of these is part of a name.
_NAMING = """
vitamin vitamins hepatitis type types group class grade stage factor protein influenza immunoglobulin interferon
strain chromosome phase category serotype complement
"""
_LETTERED = frozenset(_NAMING.split())
_RETRACTION = re.compile(
    r"\b(?:wait|actually|on second thoughts?|second thoughts|instead|correction|scratch that|my mind|alternatively"
    r"|not sure|unsure|i guess|hmm+)\b",
    re.IGNORECASE,
)
_DENIED = (
    r"(?i:\bnot\s(?:\w+\s){{0,2}}\(?{0}\b|"
    r"\b{0}\)?\s(?:is|was|would be)(?:n't|\snot|\s(?:\w+\s)?(?:wrong|incorrect|false|unlikely)))"
)
_CONNECTORS = frozenset({"and", "or", "to", "both", "either", "all", "e", "y", "und", "et", "o"})
# Options that common sentences hold by chance.
_COMMON_WORDS = frozenset({"yes", "no", "maybe", "true", "false", "none", "all", "both", "neither"})
_SPACED = re.compile(r"\s?([()\[\]/<>=+*^%-])\s?")
_NAKED_DECIMAL = re.compile(r"(?<![\w.])\.(?=[0-9])")
# Longer texts are no phrases of a sentence; as whole answers and behind their label they are read all the same.
_LONGEST_PHRASE = 300
# What may not touch an option's text: the rest of a word, a number, a compound, a ratio.
_TOUCHING_BEFORE = re.compile(r"(?:(?:[\w/+*^<>=~%\u00b1#-]|[0-9]\s?[.,*x/-]\s?|-\s).|[.,][0-9])\Z", re.DOTALL)
_TOUCHING_BEHIND = re.compile(r"[\w/+*^<>=~%#-]|[.,][0-9]|\s[%*/+^x]|\s-\s?[0-9]")


def verify(answer: str, gold: str, options: Mapping[str, str], match: Match = "lenient") -> Verdict:
    """Judges a multiple-choice answer.

    Args:
        answer: the text of the answer block.
        gold: the right letter, a key of `options`.
        options: letter (A to N) to option text, at most 14.
        match: strict takes the letter alone; lenient as the module says.
    """
    text = answer.strip() if match == "strict" else readable(answer, MAX_SHORT_CHARS)
    if not text:
        return MALFORMED if text is None else NO_ANSWER
    if match == "strict":
        return judged(text == gold, text) if text in options else MALFORMED
    read = _read(text, {letter: _normal(option) for letter, option in options.items()})
    return judged(read == gold, read) if isinstance(read, str) else read


def _read(text: str, normal: Mapping[str, str]) -> str | Verdict:
    """The letter that an answer commits to; a verdict where it commits to none."""
    for suffix in SUFFIXES:
        text = suffix.pattern.sub("", text)
    bare = text[lead_length(text) :]
    for candidate in dict.fromkeys((text, bare)):
        if letters := _plain(candidate, normal):
            return letters.pop() if len(letters) == 1 else NO_ANSWER
    letter = _labelled(bare, normal) or _worded(bare, normal) or _worded(text, normal)
    if letter is not None:
        return letter
    several = _several(bare, normal) or len((_strays(text) | _named(text, normal)) & normal.keys()) > 1
    return NO_ANSWER if several or NEGATION.search(text) or _phrases(text, normal) else MALFORMED


def _plain(text: str, normal: Mapping[str, str]) -> set[str]:
    """The options of an answer that is nothing but a letter, an option's text, or a letter with its own text."""
    if (found := _BARE.fullmatch(text)) and found[1].upper() in normal:
        return {found[1].upper()}
    whole = _normal(text)
    letters = {letter for letter, option in normal.items() if option and option == whole}
    if (found := _LABEL.match(text)) and found["letter"].upper() in normal:
        letter = found["letter"].upper()
        if normal[letter] and _normal(found["rest"]) == normal[letter]:
            # Twin options (the same text under two letters) are told apart by their letter.
            letters.add(letter)
    return letters


def _labelled(text: str, normal: Mapping[str, str]) -> str | None:
    """The letter at the start of the answer, where it is a label and nothing beside it says otherwise."""
    found = _LABEL.match(text)
    if not found or (letter := found["letter"].upper()) not in normal or _starts_with_option(text, normal):
        return None
    rest, own = found["rest"], normal[letter]
    others = {name: option for name, option in normal.items() if option != own}
    strong = bool(found["open"]) or not re.fullmatch(r"[.,;]?\s?", found["mark"]) or "\n" in found["mark"]
    said, reason = _split_reason(found["mark"] + rest)
    said = said.removeprefix(found["mark"]).strip() if said else said
    if reason and _takes_back(reason, letter, others):
        return None
    if not said.strip(" .,;:!)"):
        return letter
    plain = _normal(said)
    if plain in others.values() or _phrases(said, others, within=own):
        return None
    near, far = misspelt(plain, own), [misspelt(plain, option) for option in others.values()]
    if any(distance is not None and (near is None or distance <= near) for distance in far):
        return None
    if near is not None or (len(plain) > 3 and own.startswith(plain) and not own[len(plain)].isdigit()):
        return letter
    behind = _behind_phrase(said, own)
    if behind is None and _is_predicate(said):
        return letter
    if (behind is None and not strong) or (behind is None and own and opposite(plain, own)):
        return None
    free = said if behind is None else behind
    return letter if not _unaccounted(free, letter, normal) else None


def _worded(text: str, normal: Mapping[str, str]) -> str | None:
    """The option whose text stands in the answer as a whole phrase, among words that say nothing."""
    said, reason = _split_reason(text)
    phrases = sorted(_phrases(said, normal), key=lambda span: span[1])
    letters = {letter for letter, _, _ in phrases}
    if len(letters) != 1 or not all(is_filler(said[one[2] : two[1]]) for one, two in itertools.pairwise(phrases)):
        return None
    (letter,) = letters
    start, end = phrases[0][1], phrases[-1][2]
    others = {name: option for name, option in normal.items() if name != letter}
    if reason and _takes_back(reason, letter, others):
        return None
    before, behind = said[:start], said[end:]
    if found := _LABEL_BEHIND.match(behind):
        return letter if found[1] == letter and is_filler(before) else None
    position = lead_length(before)
    # "a heparin infusion" after "The answer is" is an article; a capital is a label.
    if (single := re.match(r"[\s(\[]*([A-Za-z])\b", before[position:])) and single[1].upper() in others:
        article = single[1] == "a" and position > 0
        if not article:
            return None
    return letter if is_filler(before) and is_filler(_BRACKETED.sub("", behind)) and _agrees(behind, letter) else None


def _agrees(text: str, letter: str) -> bool:
    return all(found[2].upper() == letter and not found[1] for found in _BRACKETED.finditer(text))


def _split_reason(text: str) -> tuple[str, str]:
    """What is said, and the reason behind it; the reason is empty where there is none."""
    found = [match for reason in REASONS if (match := reason.pattern.search(text))]
    first = min(found, key=lambda match: match.start(), default=None)
    return (text, "") if first is None else (text[: first.start()], text[first.start() :])


def _takes_back(reason: str, letter: str, others: Mapping[str, str]) -> bool:
    """Whether a reason names another option as the answer, or denies the one that it is for."""
    telling = {name: option for name, option in others.items() if option not in _COMMON_WORDS}
    if _phrases(reason, telling) or _RETRACTION.search(reason) or re.search(_DENIED.format(letter), reason):
        return True
    return bool(_named(reason, others) or _strays(reason) & others.keys())


def _strays(text: str) -> set[str]:
    """Capital letters that neither begin a clause of their own ("A fails") nor belong to a name ("vitamin C")."""
    return {found[2] for found in _STRAY.finditer(text) if found[1] is None or found[1].lower() not in _LETTERED}


def _unaccounted(text: str, letter: str, normal: Mapping[str, str]) -> bool:
    """Whether words beside a label hold something that the label does not account for."""
    if re.search(r"[0-9+*/^<>=\u00b1%|\\]", text) or NEGATION.search(text) or ALTERNATIVE.search(text):
        return True
    singles = {single.upper() for single in _SINGLE.findall(text) if single.isupper()} & normal.keys() - {letter, "I"}
    return bool(singles or _RETRACTION.search(text) or _named(text, normal) - {letter})


def _is_predicate(text: str) -> bool:
    """Whether the words behind a label only call it the answer."""
    return any((found := tail.pattern.match(text)) and is_filler(text[found.end() :]) for tail in TAILS)


def _named(text: str, normal: Mapping[str, str]) -> set[str]:
    """The letters that `text` names as answers."""
    return {letter for groups in _NAMED.findall(text) for letter in groups if letter in normal}


def _several(text: str, normal: Mapping[str, str]) -> bool:
    """Whether an answer is nothing but letters ("A, C", "B or D", "ABCD"), and several."""
    runs = [word for word in re.findall(r"\w+", text) if word.lower() not in _CONNECTORS]
    letters = "".join(runs)
    distinct = all(len(set(run)) == len(run) for run in runs)
    return distinct and len(set(letters)) > 1 and set(letters) <= normal.keys()


def _starts_with_option(text: str, normal: Mapping[str, str]) -> bool:
    return any(start == 0 for _, start, _ in _phrases(text, normal))


def _phrases(text: str, normal: Mapping[str, str], within: str = "") -> list[tuple[str, int, int]]:
    """Whole option texts in `text` as (letter, start, end), the longest first: "aspirin and heparin" names no aspirin.

    `within` is a text whose own words are not looked at: the label's option.
    """
    lowered = _lowered(text)
    taken = [False] * len(lowered)
    spans: list[tuple[str, int, int]] = []
    texts = sorted(
        {option for option in (*normal.values(), within) if 1 < len(option) <= _LONGEST_PHRASE}, key=len, reverse=True
    )
    for option in texts:
        pattern = _phrase_pattern(option)
        for found in pattern.finditer(lowered):
            start, end = found.span()
            touched = _TOUCHING_BEFORE.search(lowered[max(0, start - 4) : start + 1])
            if touched or any(taken[start:end]) or _TOUCHING_BEHIND.match(lowered, end):
                continue
            taken[start:end] = [True] * (end - start)
            if option != within:
                spans += [(letter, start, end) for letter, text_of in normal.items() if text_of == option]
    return spans


@functools.lru_cache(maxsize=1024)
def _phrase_pattern(option: str) -> re.Pattern[str]:
    """An option's text with spaces, or none, where they make no difference."""
    return re.compile(re.sub(r"(\W)", _loosely, option))


def _loosely(found: re.Match[str]) -> str:
    mark = re.escape(found[1])
    return r"\s" if found[1] == " " else rf"\s?{mark}\s?" if _SPACED.fullmatch(found[1]) else mark


def _behind_phrase(text: str, option: str) -> str | None:
    """What stands behind an option's text at the start of `text`; None where it does not start with it."""
    spans = _phrases(text, {"": option}) if len(option) > 1 else []
    return next((text[end:] for _, start, end in spans if start == 0), None)


def _lowered(text: str) -> str:
    """Lower case with every character in its place, and option texts' way of writing decimals."""
    lowered = text.lower()
    return lowered if len(lowered) == len(text) else "".join(c.lower() if len(c.lower()) == 1 else c for c in text)


@functools.lru_cache(maxsize=8192)
def _normal(text: str) -> str:
    plain = " ".join(_lowered(clean(text)).split()).strip(" ,;:!\"'").rstrip(" .,;:!\"'")
    return _NAKED_DECIMAL.sub("0.", _SPACED.sub(r"\1", plain))
