"""A tokenizer of 99 tokens over the letters a to g and é, whose two bytes stand in one token or in two."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

from tests.conversion.models import VOCABULARY

_LETTERS = "abcdefg"
_PAIRS = ["".join(pair) for pair in itertools.product(_LETTERS, repeat=2)]
_FIRST, _SECOND = "é".encode()[:1], "é".encode()[1:]
PIECES = [
    *(piece.encode() for piece in (*_LETTERS, *_PAIRS, "é", *(f"{letter}é" for letter in _LETTERS))),
    _FIRST,
    _SECOND,
    *(piece.encode() + _FIRST for piece in (*_LETTERS, *_PAIRS[::5])),
    *(_SECOND + piece.encode() for piece in (*_LETTERS, *_PAIRS[1::5])),
][:VOCABULARY]


def text(ids: list[int]) -> str:
    """What the tokenizer decodes; a cut character becomes U+FFFD."""
    return b"".join(PIECES[i] for i in ids).decode("utf-8", "replace")


def save_tokenizer(folder: Path) -> None:
    """Writes the tokenizer into a Hugging Face folder; byte-level vocabularies spell a byte by its Latin-1 letter."""
    tokenizer = {
        "version": "1.0",
        "added_tokens": [],
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
        "model": {"type": "BPE", "vocab": {p.decode("latin-1"): i for i, p in enumerate(PIECES)}, "merges": []},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
