"""What no reading of an amount (a number, a date, a duration) accounts for, in symbols and in words.

The three readers take their amount out of an answer and ask of the rest whether anything in it changes the amount.
"""

from __future__ import annotations

import re
import unicodedata

# Seen in the answer as written, since `plain.clean` takes it for a mark of quotation or for the border of a table: a
# bound at the start of a line, the bars of an absolute value.
HIDDEN = re.compile(
    r"^[ \t]*(?:>|&gt;)\s*(?:[^\w\s*#`>\"']|[\"'(*]*[-\u2010-\u2013\u2212]?\s?[0-9.]|(?:about|approx|roughly|around|circa|ca|some)\b)"
    r"|^[ \t]*[-\u2010-\u2013\u2212][ \t]+(?:[^\w\s.*#`_-]|(?:about|approx|roughly|around|circa|ca|some)\b)"
    r"|\|\s?[-\u2010-\u2013\u2212]\s?[0-9.]",
    re.IGNORECASE | re.MULTILINE,
)
# Beside a date or a duration stand words and punctuation; every other symbol may change it.
SYMBOL = re.compile(r"[^\w\s.,;:!?()\[\]\"'\u2014~\u2248=>-]|[\d_]|(?<!-)>|-\s?$|(?<!\w)-\s?\n|-\s?[(\[\"']*\n|\(\s?-\s?\)")
# Words that make another number of the one beside them.
OPERATION = re.compile(
    r"(?<![^\W\d_])(?:sqrt|root|log(?:arithm)?|l[gn]|exp|(?:arc|a)?(?:sin|cos|tan|cot|csc)h?|abs(?:olute)?|mod(?:ulo|ulus)?"
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
