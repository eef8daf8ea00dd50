"""The tokenizer that travels in a checkpoint, and the tokens that end a response."""

from __future__ import annotations

from pathlib import Path

import pytest

from conversion.checkpoint import CheckpointError
from recipes.pretrain_tiny import END, END_TURN
from recipes.runtime.tokenizer import load_tokenizer, stop_ids


def test_it_comes_from_the_checkpoint_alone(tiny_checkpoint: Path) -> None:
    tokenizer = load_tokenizer(tiny_checkpoint)
    text = "<think>4*0.8=3.2 (B)</think>"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer.chat_template


def test_both_ends_stop_a_response(tiny_checkpoint: Path) -> None:
    """The end of the turn from the tokenizer, the end of the document from generation_config.json."""
    tokenizer = load_tokenizer(tiny_checkpoint)
    assert stop_ids(tokenizer) == tuple(sorted(tokenizer.convert_tokens_to_ids([END, END_TURN])))


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere: no such folder"):
        load_tokenizer(tmp_path / "nowhere")
