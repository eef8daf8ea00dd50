"""What surrounds the weights of a tiny Hugging Face folder: a tokenizer that fits it, a template, a licence."""

from __future__ import annotations

import json

# 95 characters of ASCII and the end of a turn: as much of a tokenizer as a vocabulary of 99 has room for. Byte-level
# vocabularies, and transformers for every Qwen2, spell a space as U+0120.
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
_TOKENIZER = {
    "version": "1.0",
    "added_tokens": [
        {"id": 95, "content": "<|im_end|>", "special": True, "normalized": False}
        | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
    ],
    "pre_tokenizer": _BYTES,
    "decoder": _BYTES,
    "model": {"type": "BPE", "vocab": {chr(32 + i) if i else "\u0120": i for i in range(95)}, "merges": []},
}

# Files that must come back byte for byte; their odd spacing and line ends would not survive parsing.
COMPANIONS = {
    "tokenizer.json": json.dumps(_TOKENIZER, separators=(",   ", ":")).encode() + b"\r\n",
    "tokenizer_config.json": b'{"eos_token":"<|im_end|>","tokenizer_class":"PreTrainedTokenizerFast"}',
    "vocab.json": '{"naïve": 0}'.encode(),
    "merges.txt": b"#version: 0.2\n",
    "chat_template.jinja": b"{% for m in messages %}{{ m.content }}\n{% endfor %}\n\n",
    "LICENSE": b"apache-2.0\n",
}
