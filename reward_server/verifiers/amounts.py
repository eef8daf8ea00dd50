"""What no reading of an amount (a number, a date, a duration) accounts for, in symbols and in words.

The three readers take their amount out of an answer and ask of the rest whether anything in it changes the amount.
"""

from __future__ import annotations

import re
import unicodedata

from reward_server.verifiers.carriers import ALTERNATIVE, NEGATION

_ABOUT = r"(?:about|approx|roughly|around|circa|ca|some)\b"
# Seen in the answer as written, since `plain.clean` takes it for a mark of quotation or for the border of a table: a
# bound at the start of a line, the bars of an absolute value.
HIDDEN = re.compile(
    rf"^[ \t]*\\?(?:>|&gt;)\s*(?:[^\w\s*#`>\"']|[\"'(*]*[-\u2010-\u2013\u2212]?\s?[0-9.]|{_ABOUT})"
    rf"|^[ \t]*[-\u2010-\u2013\u2212][ \t]+(?:[^\w\s.*#`_-]|{_ABOUT})"
    r"|^[ \t]*[\u2014\u2015\u2e3a\u2e3b]\s*[0-9.]"
    r"|\|\s?[-\u2010-\u2013\u2212]\s?[0-9.]",
    re.IGNORECASE | re.MULTILINE,
)
# Beside a date or a duration (\x00 here) stand words and punctuation; every other symbol may change it. A dash in front
# may be a minus.
SYMBOL = re.compile(
    r"[^\w\s.,;:!?()\[\]\"'\u2014~\u2248=>\x00-]|[\d_]|(?<!-)>|[~\u2248](?!\s?\x00)|=(?!\s?\x00)"
    r"|-\s?[(\[\"'~\u2248]*\s?\x00|\x00\s?-(?![^\W\d_])(?!>)|\(\s?-\s?\)"
)
_AROUND = " .,;:!?()[]\"'"
# The same amount in another form is no alternative.
SAME_AGAIN = re.compile(r"\x00,?\s(?:or|i\.e\.,?)\s\x00", re.IGNORECASE)
# What a due date and a gestational age are counted from, and by which rule; it is named as such and no answer.
_LMP = r"(?:the |an? |her |their )?(?:LMP|last (?:normal )?menstrual period)(?: date)?"
_DAY = r"\(?(?:[0-9]{1,2}/[0-9]{1,2}/[0-9]{4}|[0-9]{4}-[0-9]{2}-[0-9]{2})\)?"
_TERM = r"(?:280 days|40 weeks|9 months (?:and|\+|plus) 7 days)"
_RULE = (
    (re.compile(r"\b(?:an? |the |her )?[0-9]{2}[- ]days? (?:menstrual )?cycles?\b", re.IGNORECASE), "cycle"),
    (re.compile(rf"\b{_LMP}(?: (?:of )?{_DAY})? ?(?:\+|plus) ?{_TERM}(?: ?->)?", re.IGNORECASE), "rule"),
    (re.compile(rf"\b{_TERM} (?:after|from|past|since) {_LMP}(?: (?:of |on )?{_DAY})?", re.IGNORECASE), "rule"),
    (
        re.compile(
            rf"\badding {_TERM}(?: to (?:{_LMP}(?: (?:of )?{_DAY})?|{_DAY}))?,? (?=gives|yields)", re.IGNORECASE
        ),
        "rule ",
    ),
    (re.compile(rf"\b(?:based on|given|from|with|using|by) {_LMP}(?: of| on|,|:)? {_DAY}", re.IGNORECASE), "by LMP"),
    (re.compile(rf"\A{_LMP}(?: of| on|:)? ?{_DAY} ?->", re.IGNORECASE), "LMP "),
    (re.compile(rf"\b(?:because|since|as) {_LMP} (?:was|is)(?: on)? {_DAY}", re.IGNORECASE), "by LMP"),
    (re.compile(rf"\b(?:after|from|past|since) {_LMP}(?: of| on|,|:)?(?: {_DAY})?", re.IGNORECASE), "by LMP"),
)
# Words that make another number of the one beside them.
OPERATION = re.compile(
    r"(?<![^\W\d_])(?:sqrt|root|log(?:arithm)?|l[gn]|exp|(?:arc|a)?(?:sin|cos|tan|cot|csc)h?|abs"
    r"|absolute(?! (?:neutrophil|lymphocyte|eosinophil|risk|count))|mod(?:ulo|ulus)?"
    r"|factorial|squared?|cubed?|raised|times|plus|minus|negative|neg|divided|multiplied|inverse|reciprocal|power"
    r"|(?:per|pro)[ -]?mil(?:le?)?|ppm|ppb|ppt|bps|basis points?|percentage points?|percentiles?|x|below"
    r"|point (?:one|two|five)|(?:and|to) one|one (?:and|to|point))\b",
    re.IGNORECASE,
)


def foreign_numeral(text: str) -> bool:
    """Whether a character of `text` is a number of its own, though no digit: a fraction, a circled or a Chinese one."""
    return not text.isascii() and any(
        not character.isdecimal() and unicodedata.numeric(character, None) is not None for character in text
    )


def is_alone(between: str) -> bool:
    """Whether nothing but punctuation stands around the one amount, \\x00: the most answers, and the fastest read."""
    return between.strip(_AROUND) == "\0"


def without_rule(text: str) -> str:
    """`text` without the last menstrual period, the days that are added to it and the length of a cycle."""
    for pattern, name in _RULE:
        text = pattern.sub(name, text)
    return text


def result(text: str) -> str:
    """The text behind the last "=" where a calculation stands in front of it ("125 / 7 ="), else all of it."""
    if "=" not in text:
        return text
    working, sign, behind = text.rpartition("=")
    calculated = re.search(
        r"[0-9](?:\s?[a-z]{1,5})?\s?[+*/\u00f7-]\s?[0-9]",
        re.sub(r"[0-9]+/[0-9]+/[0-9]+|[0-9]+-[0-9]+-[0-9]+", "1", working),
    )
    ended = re.search(r"[;\n<>]|[.!?]\s", working) or working.count("(") > working.count(")")
    if not sign or not calculated or ended or NEGATION.search(working) or ALTERNATIVE.search(working):
        return text
    return behind.strip()
