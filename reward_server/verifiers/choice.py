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

import itertools
import re
from collections.abc import Mapping
from typing import Literal

from reward_server.verifiers.base import MALFORMED, MAX_SHORT_CHARS, NO_ANSWER, Verdict, judged
from reward_server.verifiers.carriers import (
    ALTERNATIVE,
    COUNTED,
    NEGATION,
    SUFFIXES,
    TAILS,
    is_filler,
    lead_length,
    number_words,
)
from reward_server.verifiers.phrases import behind_phrase, compared, normal, phrases
from reward_server.verifiers.plain import readable
from reward_server.verifiers.reasons import LETTERED, labels, named, split_reason, strays, takes_back
from reward_server.verifiers.spelling import misspelt, opposite

VERSION = "3"
MAX_OPTIONS = 14  # A to N

Match = Literal["strict", "lenient"]

_BARE = re.compile(r"[\s(\[\"'.:]*([A-Za-z])[\s)\]\"'.,:;!]*")
# A label is strong where its punctuation makes it one. "E. coli" and "A patient" have a weak one's form.
_LABEL = re.compile(
    r"(?P<open>[(\[]\s?)?(?P<letter>[A-Za-z])(?(open)\s?[)\]])"
    r"(?P<mark>\s?(?:[)\]:=\u2014]|->|-(?=\s)|\.?\n)(?:[.:,](?![0-9])|\s|-(?=\s))*|\s?[.,;](?![0-9])\s?|\s|(?(open)"
    r"|(?!)))"
    r"(?P<rest>.+)",
    re.DOTALL,
)
_WEAK_MARK = re.compile(r"\s?[.,;]?\s?")
# "C-Heparin": no label by itself, since "C-section" is none.
_HYPHENATED = re.compile(r"([A-Za-z])-(.+)", re.DOTALL)
_CONNECTIVE = re.compile(r"(?:which is|i\.?e\.?,?|that is,?|namely)\s", re.IGNORECASE)
_BRACKETED = re.compile(r"(?:(?<!\w)(\w{1,20}))?\s?[(\[]\s?(?:option\s|choice\s)?([A-Za-z])\s?[)\]]", re.IGNORECASE)
# A label behind the option's text.
_LABEL_BEHIND = re.compile(
    r"[\s,;:.\u2014-]*(?i:(?:i\.e\.,?|that is,?|which is|so)\s)?(?i:(?:option|choice|answer|letter)\s)?"
    r"[(\[]?\s?([A-Z])\s?[)\]]?(?=[\s.,;:!]*$)"
)
_CONNECTORS = frozenset({"and", "or", "to", "both", "either", "all", "e", "y", "und", "et", "o"})
_SYMBOL = re.compile(r"[^\w\s.,;:!?()\[\]\"'\u2014&-]|[0-9_]")


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
    read = _read(text, {letter: normal(option) for letter, option in options.items()})
    return judged(read == gold, read) if isinstance(read, str) else read


def _read(text: str, options: Mapping[str, str]) -> str | Verdict:
    """The letter that an answer commits to; a verdict where it commits to none."""
    for suffix in SUFFIXES:
        text = suffix.pattern.sub("", text)
    bare = text[lead_length(text) :].lstrip(" \"'")
    for candidate in dict.fromkeys((text, bare)):
        if letters := _plain(candidate, options):
            return letters.pop() if len(letters) == 1 else NO_ANSWER
    letter = _labelled(bare, options) or _worded(bare, options) or _worded(text, options)
    if letter is not None:
        return letter
    several = _several(bare, options) or len((strays(text) | named(text)) & options.keys()) > 1
    return NO_ANSWER if several or NEGATION.search(text) or phrases(text, options) else MALFORMED


def _plain(text: str, options: Mapping[str, str]) -> set[str]:
    """The options of an answer that is nothing but a letter, an option's text, or a letter with its own text."""
    if (found := _BARE.fullmatch(text)) and found[1].upper() in options:
        return {found[1].upper()}
    whole = compared(text)
    letters = {letter for letter, option in options.items() if option and option == whole}
    labelled = [(match["letter"], match["rest"])] if (match := _LABEL.match(text)) else []
    labelled += [(match[1], match[2])] if (match := _HYPHENATED.fullmatch(text)) else []
    # Twin options (the same text under two letters) are told apart by their letter.
    return letters | {
        name.upper() for name, rest in labelled if (own := options.get(name.upper())) and own == compared(rest)
    }


def _labelled(text: str, options: Mapping[str, str]) -> str | None:
    """The letter at the start of the answer, where it is a label and nothing beside it says otherwise."""
    found = _LABEL.match(text)
    if not found or (letter := found["letter"].upper()) not in options:
        return None
    spans = phrases(text, options)
    if any(span.start == 0 for span in spans):
        return None
    said, reason = split_reason(text, spans)
    said = said[found.start("rest") :].strip()
    if reason and takes_back(reason, letter, options):
        return None
    if not said.strip(" .,;:!)"):
        return letter
    strong = bool(found["open"]) or not _WEAK_MARK.fullmatch(found["mark"]) or "\n" in found["mark"]
    said = said[connective.end() :] if (connective := _CONNECTIVE.match(said)) else said
    return letter if _agrees(said, letter, options, strong=strong, reasoned=bool(reason)) else None


def _agrees(said: str, letter: str, options: Mapping[str, str], *, strong: bool, reasoned: bool) -> bool:
    """Whether the text beside a label says the same, or nothing else."""
    own, plain = options[letter], compared(said)
    others = {name: option for name, option in options.items() if option != own}
    if plain in others.values() or phrases(said, others, within=own):
        return False
    near, far = misspelt(plain, own), [misspelt(plain, option) for option in others.values()]
    if any(distance is not None and (near is None or distance <= near) for distance in far):
        return False
    cut_short = not reasoned and len(plain) > 3 and re.match(re.escape(plain) + r"\b", own) is not None
    if plain == own or near is not None or cut_short or _is_predicate(said):
        return True
    behind = behind_phrase(said, own)
    if behind is not None:
        return is_filler(_unbracketed(behind, letter)) and labels(behind) & options.keys() <= {letter}
    if _worded(said, options) == letter:
        return True
    # A word or a symbol of its own is another answer's; several words may tell of this one.
    return strong and len(plain.split()) > 1 and not (opposite(plain, own) or _unaccounted(said, letter, options))


def _worded(text: str, options: Mapping[str, str]) -> str | None:
    """The option whose text stands in the answer as a whole phrase, among words that say nothing."""
    said, reason = split_reason(text, phrases(text, options))
    spans = sorted(phrases(said, options), key=lambda span: span.start)
    letters = {span.letter for span in spans}
    if len(letters) != 1 or not all(is_filler(said[one.end : two.start]) for one, two in itertools.pairwise(spans)):
        return None
    (letter,) = letters
    if reason and takes_back(reason, letter, options):
        return None
    before, behind = said[: spans[0].start], said[spans[-1].end :]
    if (labels(before, article_at_end=True) | labels(behind)) & options.keys() - {letter} or not is_filler(before):
        return None
    if found := _LABEL_BEHIND.match(behind):
        return letter if found[1] == letter else None
    return letter if is_filler(_unbracketed(behind, letter)) else None


def _unbracketed(text: str, letter: str) -> str:
    """`text` without labels in brackets; with them where one is another option's or part of a name."""
    found = list(_BRACKETED.finditer(text))
    if any(match[2].upper() != letter or (match[1] or "").lower() in LETTERED for match in found):
        return text
    return _BRACKETED.sub(lambda match: match[1] or "", text)


def _unaccounted(text: str, letter: str, options: Mapping[str, str]) -> bool:
    """Whether words beside a label hold something that the label does not account for."""
    if _SYMBOL.search(text) or any(pattern.search(text) for pattern in (NEGATION, ALTERNATIVE, COUNTED)):
        return True
    return bool(number_words(text) or (labels(text) | named(text)) & options.keys() - {letter})


def _is_predicate(text: str) -> bool:
    """Whether the words behind a label only call it the answer."""
    return any((found := tail.pattern.match(text)) and is_filler(text[found.end() :]) for tail in TAILS)


def _several(text: str, options: Mapping[str, str]) -> bool:
    """Whether an answer is nothing but letters ("A, C", "B or D", "ABCD"), and several."""
    runs = [word.upper() for word in re.findall(r"\w+", text) if word.lower() not in _CONNECTORS]
    letters = "".join(runs)
    distinct = all(len(set(run)) == len(run) for run in runs)
    return distinct and len(set(letters)) > 1 and set(letters) <= options.keys()
