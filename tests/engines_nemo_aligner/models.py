"""Tiny random Hugging Face folders as transformers 4.48, NeMo's release of it, writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from tests.conversion.companions import COMPANIONS

# No multiple of any parallel size, so that every load pads the vocabulary.
VOCABULARY = 99
_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 80,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
# The only factor that NeMo 2.1 knows; the bands cut through these tiny models' frequencies.
_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
MODELS: dict[str, Any] = {
    "qwen2": lambda: Qwen2Config(**_COMMON, tie_word_embeddings=True),
    "llama": lambda: LlamaConfig(**_COMMON, tie_word_embeddings=False, rope_theta=500000.0, rope_scaling=_ROPE),
}


def save_folder(name: str, path: Path) -> Path:
    """A model whose every tensor is random, biases and norms too, and whose attention is far from uniform."""
    torch.manual_seed(sorted(MODELS).index(name))
    model = AutoModelForCausalLM.from_config(MODELS[name]()).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "norm" in key:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            else:
                parameter.normal_(std=0.15 if "q_proj" in key or "k_proj" in key else 0.07)
    model.save_pretrained(path)
    for file, content in COMPANIONS.items():
        (path / file).write_bytes(content)
    return path


@torch.no_grad()
def logits(folder: Path, ids: list[int]) -> torch.Tensor:
    """transformers' logits [tokens, vocabulary] in float32."""
    model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32, attn_implementation="eager").eval()
    return model(torch.tensor([ids])).logits[0]


def response_logprobs(folder: Path, sequence: dict[str, Any], temperature: float) -> list[float]:
    """transformers' log-probabilities of a response's tokens."""
    ids, start = sequence["ids"], sequence["prompt_length"]
    values = torch.log_softmax(logits(folder, ids)[start - 1 : -1] / temperature, -1)
    return values.gather(-1, torch.tensor(ids[start:])[:, None])[:, 0].tolist()
