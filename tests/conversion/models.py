"""Tiny random Hugging Face folders of every family, made with transformers, and what surrounds their weights."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import (
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)
from transformers.models.auto import AutoModelForCausalLM

from tests.conversion.companions import COMPANIONS

# 99 is no multiple of any parallel size, so every multi-process load pads the vocabulary.
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
_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}

# Name of a case: family, then what is particular about it.
CASES = (
    "qwen2-tied",
    "qwen2-untied",
    "llama-scaled-tied",
    "llama-classic-config",
    "qwen3-tied",
    "qwen3-untied",
    "mistral-untied",
    "mistral-tied",
    "qwen3moe-untied",
    "qwen3moe-tied",
)


def hf_config(case: str, vocabulary: int = VOCABULARY, **sizes: int) -> PreTrainedConfig:
    """The transformers config of a case, its sizes replaced by those given."""
    common = {**_COMMON, "vocab_size": vocabulary, **sizes}
    tied = case.endswith("-tied")
    if case.startswith("qwen2"):
        return Qwen2Config(**common, tie_word_embeddings=tied)
    if case.startswith("qwen3moe"):
        experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
        return Qwen3MoeConfig(**common, **experts, head_dim=24, norm_topk_prob=not tied, tie_word_embeddings=tied)
    if case.startswith("qwen3"):
        return Qwen3Config(**{"head_dim": 24, **common}, tie_word_embeddings=tied)
    if case.startswith("mistral"):
        return MistralConfig(**common, sliding_window=None, tie_word_embeddings=tied)
    return LlamaConfig(**common, rope_parameters=_LLAMA3_ROPE, tie_word_embeddings=tied)


def hf_model(case: str, dtype: torch.dtype, vocabulary: int = VOCABULARY, **sizes: int) -> PreTrainedModel:
    """A model whose every tensor is random, biases and norms too, and whose attention is far from uniform."""
    torch.manual_seed(CASES.index(case))
    model = AutoModelForCausalLM.from_config(hf_config(case, vocabulary, **sizes)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            else:
                parameter.normal_(std=0.15 if "q_proj" in name or "k_proj" in name else 0.07)
    return model.to(dtype)


def save_folder(
    case: str,
    path: Path,
    dtype: torch.dtype = torch.float32,
    max_shard_size: str = "5GB",
    vocabulary: int = VOCABULARY,
    **sizes: int,
) -> Path:
    """Save a case as a Hugging Face folder with its companions; returns `path`."""
    hf_model(case, dtype, vocabulary, **sizes).save_pretrained(path, max_shard_size=max_shard_size)
    for name, content in COMPANIONS.items():
        (path / name).write_bytes(content)
    if case == "llama-classic-config":
        _make_classic(path / "config.json")
    return path


def _make_classic(path: Path) -> None:
    """Rewrite a config as transformers 4 did: rope_theta and torch_dtype at the top, rope_scaling beside."""
    config = json.loads(path.read_text())
    scaling = config.pop("rope_parameters")
    config["rope_theta"] = scaling.pop("rope_theta")
    config["rope_scaling"] = scaling
    config["torch_dtype"] = config.pop("dtype")
    path.write_text(json.dumps(config, indent=4))
