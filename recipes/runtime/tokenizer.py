"""The tokenizer that travels inside a checkpoint, proven fit for the form of a response."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from conversion.checkpoint import open_checkpoint
from conversion.errors import TokenizerError
from conversion.tokenizer_check import encode, end_ids, open_tokenizer

_TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_FORM = "<think>a</think><answer>B</answer>"


def load_tokenizer(checkpoint: str | Path) -> Any:
    """The tokenizer of a Megatron checkpoint, see `training_tokenizer`.

    Raises:
        CheckpointError: the checkpoint is missing or damaged.
        TokenizerError: its tokenizer cannot be trained with.
    """
    opened = open_checkpoint(checkpoint)
    return training_tokenizer(opened.hf_dir, opened.architecture.vocab_size)


def training_tokenizer(folder: Path, vocabulary: int) -> Any:
    """The tokenizer of a Hugging Face folder, proven by `open_tokenizer` and able to write a response's tags.

    Raises:
        TokenizerError: naming the fault and the fix.
    """
    tokenizer = open_tokenizer(folder, vocabulary)
    written = "".join(tokenizer.decode(encode(tokenizer, [_FORM])[0], skip_special_tokens=True).split())
    if written != _FORM:
        lost = [tag for tag in _TAGS if tag not in written]
        raise TokenizerError(
            f"{folder}: its tokenizer leaves {written!r} of the response {_FORM!r}, so none could have the form that "
            f"is paid; {', '.join(lost) or 'the tags'} must be ordinary text: set their special to false (added_tokens "
            "in tokenizer.json, added_tokens_decoder in tokenizer_config.json) and drop extra_special_tokens"
        )
    return tokenizer


def stop_ids(tokenizer: Any) -> tuple[int, ...]:
    """Tokens that end a response: the tokenizer's end token and those of its generation config."""
    return tuple(sorted({tokenizer.eos_token_id, *end_ids(Path(tokenizer.name_or_path))}))
