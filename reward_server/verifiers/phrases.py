"""Whole option texts in an answer, and the form in which texts are compared."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Mapping
from typing import NamedTuple

from reward_server.verifiers.plain import GREEK_NAMES, clean, spelled_out

# Longer texts are no phrases of a sentence; as whole answers and behind their label they are read all the same.
_LONGEST_PHRASE = 300
# Options that common sentences hold by chance.
COMMON_WORDS = frozenset({"yes", "no", "maybe", "true", "false", "none", "all", "both", "neither"})
_SPACED = re.compile(r"\s?([()\[\]/<>=+*^%-])\s?")
_AMOUNT_SPACE = re.compile(r"(?<=[0-9])\s(?=[a-z%\u00b0\u03bc])")
_NAKED_DECIMAL = re.compile(r"(?<![\w.])\.(?=[0-9])")
# Of tables, headings and lists: what stands at a line's start in an option stands behind the label in an answer.
_LAYOUT = re.compile(r"[|#]+|(?<![0-9])\*|\*(?![0-9])|^(?:-\s)+(?=[^\d\s])")
_LEADING_DOTS = re.compile(r"^[.\s]+(?=[^\s\d.])")
_BRACKETS = re.compile(r"\(([^()]*)\)|\[([^\[\]]*)\]")
# What may not touch an option's text: the rest of a word, a number, a compound, a ratio.
_TOUCHING_BEFORE = re.compile(r"(?:(?:[\w/+*^<>=~%\u00b1#!-]|[0-9]\s?[.,*x/-]\s?|-\s).|[.,][0-9])\Z", re.DOTALL)
_TOUCHING_BEHIND = re.compile(r"[\w/+*^<>=~%#-]|[.,][0-9]|\s[%*/+^x]|\s-\s?[0-9]")
_ARTICLE = re.compile(r"^(?:an?|the)\s(?=\S)")
_SAID_ARTICLE = re.compile(r"^(?:an|the)\s(?=\S)")
_ARTICLE_BEFORE = re.compile(r"(?:an?|the)\s$")
_PLUS = re.compile(r"(?<=[a-z)])\s(?:\+|plus)\s(?=[a-z(])", re.IGNORECASE)
_LAST_COMMA = re.compile(r",(?=\s(?:and|or)\s)", re.IGNORECASE)
# Of a name, not of a pronoun.
_POSSESSIVE = re.compile(r"\b(?!(?:it|that|here|there|let|what|who|he|she)')([a-z]{2,30})'s\b", re.IGNORECASE)
_LATIN = re.compile("[\u00c0-\u024f\u1e00-\u1eff]")
_CONTENT_WORD = re.compile(r"[^\W_]+")
_EMPTY = "a an the of for to in on at by with and or is are was be this that it its as from"
_CONTENTLESS = frozenset(_EMPTY.split())
_AND_A_WORD = re.compile(r"\s(?!is\b|because\b|since\b|as\b)[a-z]")


# Of two such texts only one is an option of most questions; where both are, neither is read for the other.
_ROMAN = {"4": "iv", "3": "iii", "2": "ii", "1": "i"}
_WAYS = tuple(
    (re.compile(pattern), way)
    for pattern, way in (
        (r"^(all|none)(?: of)? (?:the above|these|those|them|the (?:options|choices)|the listed(?: options)?)$", r"\1"),
        (r"^all (?:of them )?(?:are|is) (?:correct|true|right)$", "all"),
        (r"^both\s(?=.+,|.+\band\b)", ""),
        (r"^(?:type )?(ab|a|b|o)-$", r"\1 negative"),
        (r"^(?:type )?(ab|a|b|o)\+$", r"\1 positive"),
        (r"\bneg\b", "negative"),
        (r"\bpos\b", "positive"),
        (r"^(?:more|greater) than\s?|^over\s(?=[0-9])", ">"),
        (r"^(?:less|fewer) than\s?|^under\s(?=[0-9])", "<"),
        (r"(?<=[0-9])\s?to\s(?=[0-9])", "-"),
        *((rf"(?<=stage |grade |class ){roman}(?![a-z])", arabic) for arabic, roman in _ROMAN.items()),
        (r"^only\s|\s?\bonly$|(?<=[0-9])only$|^(?:statements?|options?)\s(?=[0-9])", ""),
        (r"(?<=[a-z0-9)])-(?=[a-z(])", " "),
        (rf"\b({'|'.join(GREEK_NAMES)})[ -]?(?=[0-9])", r"\1"),
        (r",?(?:\s|(?<=[0-9]))(?:and|&)\s", ","),
        (r",\s", ","),
        (r"(?<=[0-9])\.0+(?![0-9])", ""),
        (r"(?<=[0-9])milligrams?\b", "mg"),
        (r"(?<=[0-9])(?:micrograms?|mcg|ug)\b", "\u03bcg"),
        (r"(?<=[0-9])millilit(?:er|re)s?\b", "ml"),
        (r"(?<=[0-9])grams?\b", "g"),
        (r"(?<=[a-z])\+\+(?!\+)", "2+"),
        (r"(?<=[0-9])\s(?=[a-z])", ""),
        (r"\brh[ -](?=positive|negative)|^(?:blood )?(?:type|group)\s(?=(?:a|b|ab|o)[ -](?:rh[ -])?(?:posi|nega))", ""),
    )
)


class Span(NamedTuple):
    """An option's text at [start:end] of an answer."""

    letter: str
    start: int
    end: int


@functools.lru_cache(maxsize=8192)
def normal(text: str) -> str:
    """An option's text as it is compared with an answer's."""
    return compared(canonical(clean(text)))


def canonical(plain: str) -> str:
    """Plain text in one of the ways in which the same list or name is written."""
    text = _LAST_COMMA.sub("", _PLUS.sub(" and ", spelled_out(plain)))
    return _POSSESSIVE.sub(r"\1", text)


def _unaccented(text: str) -> str:
    if text.isascii():
        return text
    return _LATIN.sub(lambda found: unicodedata.normalize("NFD", found[0])[0], text)


def same(said: str, option: str) -> bool:
    """Whether two compared texts are the same but for an article; "a" in front of what is said may be a label."""
    return said == option or said == _ARTICLE.sub("", option) or _SAID_ARTICLE.sub("", said) == option


def alike(said: str, option: str) -> bool:
    """Whether two compared texts are two ways of writing the same (`_WAYS`)."""
    return same(_one_way(said), _one_way(option))


@functools.lru_cache(maxsize=8192)
def _one_way(compared_text: str) -> str:
    for pattern, way in _WAYS:
        compared_text = pattern.sub(way, compared_text)
    return compared_text


def differ_by_case(texts: Mapping[str, str]) -> bool:
    """Whether two of these texts are the same but for capitals that count: "AA" and "Aa", "Mg" and "mg"."""
    found: dict[str, str] = {}
    counted = [text if len(text) <= 3 else text[:1].lower() + text[1:] for text in texts.values()]
    return any(found.setdefault(text.lower(), text) != text for text in counted)


@functools.lru_cache(maxsize=8192)
def content_words(compared_text: str) -> frozenset[str]:
    """The words of a text that say something, in the singular."""
    words = _CONTENT_WORD.findall(compared_text)
    return frozenset(
        word[:-1] if len(word) > 4 and word.endswith("s") and not word.endswith("ss") else word
        for word in words
        if word not in _CONTENTLESS
    )


def compared(plain: str) -> str:
    """Plain text as it is compared: lower case, without the punctuation and the brackets around it."""
    text = " ".join(_LAYOUT.sub(" ", lowered(plain)).split()).lstrip(" ,;:\"'").rstrip(" .,;:!\"'")
    if found := _BRACKETS.fullmatch(text):
        text = (found[1] or found[2] or text).strip()
    text = _LEADING_DOTS.sub("", text).replace(";", ",")
    return _NAKED_DECIMAL.sub("0.", _AMOUNT_SPACE.sub("", _SPACED.sub(r"\1", text)))


def lowered(text: str) -> str:
    """Lower case without accents, with every character in its place."""
    plain = _unaccented(text)
    lower = plain.lower()
    return lower if len(lower) == len(text) else "".join(c.lower() if len(c.lower()) == 1 else c for c in plain)


def phrases(text: str, options: Mapping[str, str], within: str = "") -> list[Span]:
    """Whole option texts (`normal` ones) in `text`, the longest first: "aspirin and heparin" names no aspirin.

    `within` is a text whose own words are not looked at: the label's option.
    """
    lower = lowered(text)
    taken = [False] * len(lower)
    spans: list[Span] = []
    texts = {option for option in (*options.values(), within) if 1 < len(option) <= _LONGEST_PHRASE}
    for option in sorted(texts, key=len, reverse=True):
        for found in _pattern(option).finditer(lower):
            start, end = found.span()
            touched = _TOUCHING_BEFORE.search(lower[max(0, start - 4) : start + 1]) or _TOUCHING_BEHIND.match(
                lower, end
            )
            # "No answer" is no "no".
            joined = option in COMMON_WORDS and _AND_A_WORD.match(lower, end)
            if touched or joined or any(taken[start:end]):
                continue
            taken[start:end] = [True] * (end - start)
            if option != within:
                spans += [Span(letter, start, end) for letter, text_of in options.items() if text_of == option]
    return spans


def behind_phrase(text: str, option: str) -> str | None:
    """What stands behind an option's text at the start of `text`; None where it does not start with it."""
    spans = phrases(text, {"": option, "-": _ARTICLE.sub("", option)}) if len(option) > 1 else []
    return next((text[span.end :] for span in spans if begins(text, span)), None)


def begins(text: str, span: Span) -> bool:
    """Whether an option's text stands at the start of `text`, with its article or without."""
    return not _ARTICLE_BEFORE.sub("", text[: span.start].lower()).strip(" ([\"'")


@functools.lru_cache(maxsize=1024)
def _pattern(option: str) -> re.Pattern[str]:
    """An option's text with spaces, or none, where they make no difference; none at its ends."""
    amounts = re.sub(r"(?<=[0-9])(?=[a-z%\u00b0\u03bc])", " ", option)
    loose = re.sub(r"(\W)", _loosely, amounts)
    return re.compile(loose.removeprefix(r"\s?").removesuffix(r"\s?"))


def _loosely(found: re.Match[str]) -> str:
    mark = re.escape(found[1])
    if found[1] == " ":
        before, after = found.string[found.start() - 1], found.string[found.end() : found.end() + 1]
        return r"\s?" if before.isdigit() and after and not after.isdigit() else r"\s"
    return rf"\s?{mark}\s?" if _SPACED.fullmatch(found[1]) else mark
