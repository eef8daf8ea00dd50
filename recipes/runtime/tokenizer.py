"""The tokenizer that travels inside a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from conversion.checkpoint import open_checkpoint


def load_tokenizer(checkpoint: str | Path) -> Any:
    """The tokenizer of a Megatron checkpoint, from its own files and no hub.

    Raises:
        CheckpointError: the checkpoint is missing or damaged.
    """
    return AutoTokenizer.from_pretrained(open_checkpoint(checkpoint).hf_dir, local_files_only=True)


def stop_ids(tokenizer: Any) -> tuple[int, ...]:
    """Tokens that end a response: the tokenizer's end token and those of its generation config."""
    found = {tokenizer.eos_token_id}
    generation = Path(tokenizer.name_or_path) / "generation_config.json"
    if generation.is_file():
        ends = json.loads(generation.read_text()).get("eos_token_id")
        found |= set(ends) if isinstance(ends, list) else {ends}
    return tuple(sorted(token for token in found if token is not None))
