"""The weight maps and the reading of config.json, against transformers' own models and against hand calculation."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from conversion.errors import UnknownFamilyError, UnsupportedConfigError
from conversion.families import FAMILIES, MegatronArchitecture, MixtureOfExperts, RopeScaling, Rule, family_for
from conversion.merge import merge, split
from tests.conversion.models import CASES, hf_config

# Without the list that transformers 5 writes, a switch and the first windowed layer say which layers have one.
_BY_LAYER = {"layer_types": None, "max_window_layers": 0}


def _config(case: str, **changes: Any) -> dict[str, Any]:
    return {**json.loads(hf_config(case).to_json_string(use_diff=False)), **changes}


@pytest.mark.parametrize("case", CASES)
def test_weight_map_names_exactly_the_tensors_of_transformers(case: str, hf_folder: Callable[..., Path]) -> None:
    stored = load_file(hf_folder(case) / "model.safetensors")
    config = _config(case)
    family = family_for(config)
    mapped: dict[str, tuple[int, ...]] = {}
    for entry in family.entries(family.megatron_architecture(config)):
        assert not mapped.keys() & set(entry.hf_names)
        mapped.update(zip(entry.hf_names, entry.hf_shapes, strict=True))
    assert mapped == {name: tuple(tensor.shape) for name, tensor in stored.items()}


def test_families_are_distinct() -> None:
    assert [family.model_type for family in FAMILIES] == ["qwen2", "llama", "qwen3", "mistral", "qwen3_moe"]


def test_architecture_of_qwen3_has_its_own_head_size() -> None:
    architecture = family_for(_config("qwen3-untied")).megatron_architecture(_config("qwen3-untied"))
    assert architecture == MegatronArchitecture(
        num_layers=4,
        hidden_size=64,
        num_attention_heads=4,
        num_query_groups=2,
        kv_channels=24,
        ffn_hidden_size=80,
        layernorm_epsilon=1e-6,
        add_qkv_bias=False,
        qk_layernorm=True,
        share_embeddings_and_output_weights=False,
        rotary_base=10000.0,
        rope_scaling=None,
        seq_len_interpolation_factor=None,
        vocab_size=99,
        max_position_embeddings=256,
    )


def test_experts_of_qwen3_in_the_published_and_the_new_spelling() -> None:
    new = _config("qwen3moe-untied")
    published = {key: value for key, value in new.items() if key != "num_local_experts"} | {"num_experts": 4}
    family = family_for(new)
    expected = MixtureOfExperts(num_experts=4, top_k=2, ffn_hidden_size=48, pre_softmax=False)
    assert family.megatron_architecture(new).moe == expected
    assert family.megatron_architecture(published).moe == expected
    assert family.megatron_architecture({**new, "norm_topk_prob": False}).moe == replace(expected, pre_softmax=True)


def test_classic_and_new_form_of_the_rotary_keys_agree() -> None:
    new = _config("llama-scaled-tied")
    classic = {key: value for key, value in new.items() if key != "rope_parameters"}
    classic["rope_scaling"] = dict(new["rope_parameters"])
    classic["rope_theta"] = classic["rope_scaling"].pop("rope_theta")
    family = family_for(new)
    assert family.megatron_architecture(classic) == family.megatron_architecture(new)
    assert family.megatron_architecture(new).rope_scaling == RopeScaling(32.0, 1.0, 4.0, 8192)
    # Releases before 4.43 spelled rope_type as type.
    older = {**classic, "rope_scaling": {"type": "linear", "factor": 2.0}}
    assert family.megatron_architecture(older).seq_len_interpolation_factor == 2.0


def test_unknown_family_names_itself_and_the_known_ones() -> None:
    with pytest.raises(UnknownFamilyError, match=r"'gpt2'.*qwen2, llama, qwen3, mistral"):
        family_for({"model_type": "gpt2"})


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("qwen2-tied", {"num_key_value_heads": 3}, r"num_attention_heads 4 is not a multiple of num_key_value_heads 3"),
        ("qwen2-tied", {"num_hidden_layers": None}, r"has no num_hidden_layers"),
        ("qwen2-tied", {"vocab_size": "99"}, r"vocab_size is '99'; expected a positive integer"),
        ("qwen2-tied", {"rope_parameters": None, "rope_theta": None}, r"has no rope_theta"),
        ("qwen2-tied", {"use_sliding_window": True, "sliding_window": 64, **_BY_LAYER}, r"sliding_window is 64"),
        ("qwen2-tied", {"hidden_act": "gelu"}, r"hidden_act is 'gelu'"),
        ("qwen2-tied", {"quantization_config": {"bits": 4}}, r"quantization_config"),
        ("qwen2-tied", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4}}, r"'yarn'"),
        ("llama-scaled-tied", {"attention_bias": True}, r"attention_bias is true"),
        ("llama-scaled-tied", {"mlp_bias": True}, r"mlp_bias is true"),
        ("llama-scaled-tied", {"hidden_size": 66, "head_dim": None}, r"hidden_size 66 is not a multiple"),
        ("mistral-tied", {"sliding_window": 4096}, r"sliding_window is 4096"),
        ("qwen3-tied", {"head_dim": None}, r"has no head_dim"),
        ("qwen3moe-tied", {"mlp_only_layers": [0]}, r"mlp_only_layers or decoder_sparse_step"),
        ("qwen3moe-tied", {"decoder_sparse_step": 2}, r"mlp_only_layers or decoder_sparse_step"),
        ("qwen3moe-tied", {"num_experts_per_tok": 5}, r"num_experts_per_tok 5 is more than num_local_experts 4"),
        ("qwen3moe-tied", {"moe_intermediate_size": None}, r"has no moe_intermediate_size"),
    ],
)
def test_what_cannot_be_carried_is_refused_by_name(case: str, changes: dict[str, Any], message: str) -> None:
    config = _config(case, **changes)
    with pytest.raises(UnsupportedConfigError, match=message):
        family_for(config).megatron_architecture(config)


def test_llama3_bands_that_megatron_fixes_are_refused() -> None:
    config = _config("llama-scaled-tied")
    config["rope_parameters"]["high_freq_factor"] = 8.0
    with pytest.raises(UnsupportedConfigError, match=r"\(1.0, 8.0, 8192\).*fixes them at \(1.0, 4.0, 8192\)"):
        family_for(config).megatron_architecture(config)


def test_qkv_order_by_hand() -> None:
    """Four heads of size 1 in two groups: q0 q1 k0 v0, then q2 q3 k1 v1."""
    config = _config("qwen2-tied", hidden_size=4, head_dim=1)
    architecture = family_for(config).megatron_architecture(config)
    q, k, v = torch.tensor([0, 1, 2, 3]), torch.tensor([10, 11]), torch.tensor([20, 21])
    merged = merge(Rule.QKV, [q, k, v], architecture)
    assert merged.tolist() == [0, 1, 10, 20, 2, 3, 11, 21]


@settings(deadline=None, max_examples=25)
@given(groups=st.integers(1, 4), share=st.integers(1, 4), head=st.integers(1, 5), tail=st.integers(0, 3))
def test_split_undoes_merge(groups: int, share: int, head: int, tail: int) -> None:
    config = _config("llama-scaled-tied", num_attention_heads=groups * share, num_key_value_heads=groups, head_dim=head)
    architecture = family_for(config).megatron_architecture(config)
    shape = () if tail == 0 else (tail,)
    parts = [torch.randn(count * head, *shape) for count in (groups * share, groups, groups)]
    found = split(Rule.QKV, merge(Rule.QKV, parts, architecture), architecture)
    assert all(torch.equal(a, b) for a, b in zip(parts, found, strict=True))
    gate_up = [torch.randn(6, *shape), torch.randn(6, *shape)]
    found = split(Rule.GATE_UP, merge(Rule.GATE_UP, gate_up, architecture), architecture)
    assert all(torch.equal(a, b) for a, b in zip(gate_up, found, strict=True))
