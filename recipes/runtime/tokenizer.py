"""The tokenizer that travels inside a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers import __version__ as transformers_version

from conversion.checkpoint import open_checkpoint

# transformers 5's name for a tokenizer that its file alone describes.
_V5_CLASS = "TokenizersBackend"


def load_tokenizer(checkpoint: str | Path) -> Any:
    """The tokenizer of a Megatron checkpoint, from its own files and no hub.

    Raises:
        CheckpointError: the checkpoint is missing or damaged.
    """
    folder = open_checkpoint(checkpoint).hf_dir
    settings = _settings(folder)
    if settings.get("tokenizer_class") == _V5_CLASS and int(transformers_version.split(".")[0]) < 5:
        return _read_v5(folder, settings)
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _read_v5(folder: Path, settings: dict[str, Any]) -> Any:
    """A tokenizer that transformers 5 wrote, for the transformers 4 of NeMo's environment, which has not its class."""
    special = {
        name: settings[name] for name in ("bos_token", "eos_token", "unk_token", "pad_token") if name in settings
    }
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), clean_up_tokenization_spaces=False, **special
    )
    template = folder / "chat_template.jinja"
    if template.is_file():
        tokenizer.chat_template = template.read_text(encoding="utf-8")
    tokenizer.name_or_path = str(folder)
    return tokenizer


def stop_ids(tokenizer: Any) -> tuple[int, ...]:
    """Tokens that end a response: the tokenizer's end token and those of its generation config."""
    found = {tokenizer.eos_token_id}
    generation = Path(tokenizer.name_or_path) / "generation_config.json"
    if generation.is_file():
        ends = json.loads(generation.read_text()).get("eos_token_id")
        found |= set(ends) if isinstance(ends, list) else {ends}
    return tuple(sorted(token for token in found if token is not None))
