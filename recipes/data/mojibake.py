"""Text whose UTF-8 was read as Windows' encoding before it was published, such as "MÃ©niÃ¨re" for "Ménière",
or of which characters were lost (U+FFFD).

It is found and named, not mended: who read it wrong may also have lost characters. Left out: other encodings, and
letters that stand so in a language's own words (a capital A with a tilde before a quotation mark).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from recipes.data.example import Example

# The bytes 80 to BF in Windows' encoding, and as Latin-1 leaves them.
_BEHIND = "\u0080-\u00bf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ"
_MISREAD = re.compile(f"[ÂÃÎÏ][{_BEHIND}]|â[{_BEHIND}]{{2}}|ï»¿|ðŸ[{_BEHIND}]{{2}}|\ufffd")
_SHOWN = 12


def misread(example: Example) -> str | None:
    """The first place of a row's texts that was read in the wrong encoding, with what stands around it; else None."""
    for text in _texts(example):
        if not text.isascii() and (found := _MISREAD.search(text)):
            return text[max(0, found.start() - _SHOWN) : found.end() + _SHOWN]
    return None


def _texts(example: Example) -> Iterator[str]:
    yield from (example.question, example.context or "", *(example.options or {}).values(), *example.aliases)
    if isinstance(example.answer, str):
        yield example.answer
