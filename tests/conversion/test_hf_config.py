"""config.json is read as transformers reads it: defaults, rotary keys and windows against its own classes."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.auto import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from conversion.errors import UnsupportedConfigError
from conversion.families import FAMILIES, Family, MegatronArchitecture, family_for

_SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}


def _architecture(config: dict[str, Any]) -> MegatronArchitecture:
    return family_for(config).megatron_architecture(config)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_the_table_is_that_of_the_configuration_class(family: Family) -> None:
    ours, theirs = family.config_class, CONFIG_MAPPING[family.model_type]
    assert theirs.__name__ == ours.name
    declared = {field.name: field.default for field in dataclasses.fields(theirs)}
    assert {key: declared[key] for key in ours.defaults} == dict(ours.defaults)
    # A key that the class knows and the table does not would be read as absent.
    ends = ("_bias", "_window", "_layers", "layer_types", "_size", "_heads", "head_dim", "_eps", "_act", "_step")
    assert {key for key in declared if key.endswith(ends)} - {"chunk_size_feed_forward"} <= set(ours.defaults)
    for key in ("num_key_value_heads", "head_dim"):
        try:
            AutoModelForCausalLM.from_config(theirs(**_SIZES, vocab_size=8, **{"num_experts": 2, key: None}))
            loads = True
        except Exception:
            loads = False
        assert (key in ours.nullable) == loads, key


_THETAS = st.sampled_from([10000.0, 5e5, 1000000])
_SCALINGS = st.sampled_from(
    [
        None,
        {},
        {"rope_type": "default"},
        {"type": "linear", "factor": 4.0},
        {"rope_type": "linear", "factor": 2, "type": "default"},
        {"rope_type": "dynamic", "factor": 2.0},
        _LLAMA3,
        {**_LLAMA3, "high_freq_factor": 8.0},
        {key: value for key, value in _LLAMA3.items() if key != "original_max_position_embeddings"},
        _YARN,
        {"rope_type": "default", "rope_theta": 2e5},
        {**_LLAMA3, "rope_theta": 7e4},
    ]
)
_KINDS = st.sampled_from(["full_attention", "sliding_attention"])
_OPTIONAL = {
    "num_key_value_heads": st.sampled_from([1, 2, 4]),
    "head_dim": st.sampled_from([16, 24]),
    "rms_norm_eps": st.sampled_from([1e-5, 1e-6]),
    "max_position_embeddings": st.sampled_from([512, 8192, 131072]),
    "tie_word_embeddings": st.booleans(),
    "rope_theta": _THETAS,
    "rope_scaling": _SCALINGS,
    "rope_parameters": _SCALINGS,
    "original_max_position_embeddings": st.sampled_from([8192, 4096]),
    "sliding_window": st.sampled_from([None, 64, 4096]),
    "use_sliding_window": st.booleans(),
    "max_window_layers": st.sampled_from([0, 1, 2, 28]),
    "layer_types": st.lists(_KINDS, min_size=2, max_size=2),
    "attention_bias": st.booleans(),
    "mlp_bias": st.booleans(),
    "num_experts": st.sampled_from([8, 16]),
    "norm_topk_prob": st.booleans(),
    "hidden_act": st.sampled_from(["silu", "gelu"]),
    "vocab_size": st.sampled_from([64, 99]),
}


def _carried(config: Any) -> bool:
    """Whether a config that transformers has loaded asks for no more than the weight maps and megatron-core have."""
    rope = config.rope_parameters
    bands = [rope.get(key) for key in list(_LLAMA3)[2:]]
    sliding = "sliding_attention" in (getattr(config, "layer_types", None) or ())
    by_layer = config.model_type in ("qwen2", "qwen3")
    return (
        config.hidden_act == "silu"
        and (
            rope["rope_type"] in ("default", "linear") or (rope["rope_type"] == "llama3" and bands == [1.0, 4.0, 8192])
        )
        and not sliding
        and (by_layer or getattr(config, "sliding_window", None) is None)
        and (config.model_type in ("qwen2", "mistral") or not config.attention_bias)
        and not (config.model_type == "llama" and config.mlp_bias)
        and config.num_attention_heads % config.num_key_value_heads == 0
    )


@settings(deadline=None, max_examples=300)
@given(
    family=st.sampled_from(FAMILIES),
    values=st.fixed_dictionaries({}, optional=_OPTIONAL).map(lambda drawn: {**_SIZES, **drawn}),
)
def test_any_config_means_here_what_it_means_in_transformers(family: Family, values: dict[str, Any]) -> None:
    config = json.loads(json.dumps({"model_type": family.model_type, **values}))
    theirs = CONFIG_MAPPING[family.model_type](**json.loads(json.dumps(values)))
    theirs.standardize_rope_params()  # as the rotary embedding does once the model is built
    if not _carried(theirs):
        with pytest.raises(UnsupportedConfigError, match=r"config\.json"):
            _architecture(config)
        return
    ours = _architecture(config)
    rope = theirs.rope_parameters
    head_dim = getattr(theirs, "head_dim", theirs.hidden_size // theirs.num_attention_heads)
    assert (ours.num_query_groups, ours.kv_channels) == (theirs.num_key_value_heads, head_dim)
    assert (ours.vocab_size, ours.layernorm_epsilon) == (theirs.vocab_size, theirs.rms_norm_eps)
    assert ours.max_position_embeddings == theirs.max_position_embeddings
    assert ours.share_embeddings_and_output_weights == theirs.tie_word_embeddings
    assert ours.rotary_base == rope["rope_theta"]
    assert ours.seq_len_interpolation_factor == (rope["factor"] if rope["rope_type"] == "linear" else None)
    assert (ours.rope_scaling is not None) == (rope["rope_type"] == "llama3")
    if ours.moe is not None:
        assert (ours.moe.num_experts, ours.moe.pre_softmax) == (theirs.num_experts, not theirs.norm_topk_prob)


_BASE = {**_SIZES, "num_key_value_heads": 2, "vocab_size": 99, "max_position_embeddings": 32768}
_QWEN2 = {"model_type": "qwen2", **_BASE, "rms_norm_eps": 1e-6}
_QWEN3 = {"model_type": "qwen3", **_BASE, "head_dim": 16}
_MISTRAL = {"model_type": "mistral", **_BASE}
_LLAMA = {"model_type": "llama", **_BASE}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        # What published configs leave out: the base of Llama 2, all but the sizes of a tokenizer's model.
        (_LLAMA, {"rotary_base": 10000.0, "layernorm_epsilon": 1e-6, "share_embeddings_and_output_weights": False}),
        ({"model_type": "qwen3", "num_hidden_layers": 2}, {"kv_channels": 128, "num_query_groups": 32}),
        # Qwen3-MoE's class has no head size of its own.
        ({"model_type": "qwen3_moe", **_BASE, "num_experts": 8}, {"kv_channels": 16, "max_position_embeddings": 32768}),
        # The three places of a base.
        (
            {**_LLAMA, "rope_theta": 1e4, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
            {"rotary_base": 5e5},
        ),
        (
            {**_LLAMA, "rope_theta": 5e5, "rope_parameters": {"rope_type": "linear", "factor": 2.0}},
            {"rotary_base": 5e5},
        ),
        (
            {**_QWEN3, "rope_parameters": _YARN, "rope_scaling": {"type": "linear", "factor": 4.0}, "rope_theta": 1e6},
            {"rotary_base": 1e6, "seq_len_interpolation_factor": 4.0},
        ),
        # Scaled from 8,192, which stands beside the scaling.
        (
            {**_LLAMA, "rope_scaling": {**_LLAMA3, "original_max_position_embeddings": 4096}}
            | {"original_max_position_embeddings": 8192, "rope_theta": 5e5},
            {"rotary_base": 5e5},
        ),
        # Windows that are off: by switch, as DeepSeek's distillations have it, past the last layer, layer by layer.
        ({**_QWEN2, "sliding_window": 4096, "max_window_layers": 0, "use_mrope": False}, {}),
        ({**_QWEN2, "sliding_window": 4096, "use_sliding_window": True, "max_window_layers": 28}, {}),
        ({**_QWEN2, "use_sliding_window": True, "max_window_layers": 0, "layer_types": ["full_attention"] * 2}, {}),
        ({**_MISTRAL, "sliding_window": None, "head_dim": 24}, {"kv_channels": 24}),
        # Keys of others that the class does not read; stored biases would still be found left over.
        (
            {**_QWEN2, "attention_bias": True, "dual_chunk_attention_config": {"chunk_size": 262144}},
            {"add_qkv_bias": True},
        ),
    ],
)
def test_what_published_configs_leave_unsaid(config: dict[str, Any], expected: dict[str, Any]) -> None:
    found = dataclasses.asdict(_architecture(config))
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            _MISTRAL,
            r"sliding_window is 4096 \(absent, so the default of transformers' MistralConfig\) in 2 of 2 layers",
        ),
        ({**_MISTRAL, "sliding_window": 4096, "use_sliding_window": False}, r"set sliding_window to null"),
        ({**_QWEN2, "use_sliding_window": True, "max_window_layers": 1}, r"is 4096 \(absent.* in 1 of 2 layers"),
        ({**_QWEN3, "use_sliding_window": True, "max_window_layers": 0}, r"set use_sliding_window to false"),
        ({**_QWEN2, "layer_types": ["full_attention", "sliding_attention"]}, r"make every entry of layer_types full"),
        ({**_QWEN2, "layer_types": ["full_attention"]}, r"layer_types is .*expected a list of num_hidden_layers 2"),
        ({**_LLAMA, "layer_types": ["full_attention", "chunked_attention"]}, r"layer_types names 'chunked_attention'"),
        ({**_LLAMA, "sliding_window": 4096}, r"sliding_window is 4096"),
        ({"model_type": "qwen3_moe", **_BASE, "use_sliding_window": True}, r"sliding_window is 4096 \(absent"),
        ({**_QWEN2, "num_attention_heads": 28, "hidden_size": 3584}, r"28 is not a multiple of num_key_value_heads 3"),
        (
            {**_QWEN3, "rope_scaling": {**_YARN, "attn_factor": 0.878}},
            r"rope_scaling: rope_type is 'yarn'.*added by hand",
        ),
        ({**_LLAMA, "rope_scaling": _YARN, "rope_parameters": {"rope_type": "default"}}, r"rope_scaling: .*'yarn'"),
        ({**_LLAMA, "rope_scaling": {"type": "dynamic", "factor": 2.0}}, r"'dynamic'.*beyond max_position_embeddings"),
        ({**_LLAMA, "rope_scaling": {"type": "longrope", "factor": 2.0}}, r"'longrope'.*Choose another model"),
        ({**_QWEN2, "rope_scaling": {"type": "mrope", "mrope_section": [4, 2, 2]}}, r"'mrope'"),
        ({**_QWEN2, "rope_scaling": {"rope_type": ["linear"]}}, r"rope_type is \['linear'\]"),
        ({**_QWEN3, "rope_parameters": {"full_attention": {"rope_theta": 1e6}}}, r"of its own for full_attention"),
        ({**_QWEN3, "rope_scaling": "linear"}, r"rope_scaling is 'linear'; expected an object or null"),
        ({**_LLAMA, "rope_scaling": {k: v for k, v in _LLAMA3.items() if k[0] != "o"}}, r"\(1.0, 4.0, 32768\)"),
        ({**_LLAMA, "partial_rotary_factor": 0.5}, r"partial_rotary_factor is 0.5"),
        ({**_LLAMA, "quantization_config": {"quant_method": "awq", "bits": 4}}, r"quantization_config is set"),
        ({**_LLAMA, "compression_config": {"format": "float-quantized"}}, r"compression_config is set"),
        ({**_LLAMA, "quantization": {"group_size": 64, "bits": 4}}, r"quantization is set"),
        ({**_QWEN2, "is_causal": False}, r"is_causal is false"),
        ({**_LLAMA, "per_layer_config": {"0": {"intermediate_size": 48}}}, r"per_layer_config makes layers differ"),
        ({**_LLAMA, "hidden_act": "gelu_pytorch_tanh"}, r"hidden_act is 'gelu_pytorch_tanh'"),
        ({**_MISTRAL, "sliding_window": None, "num_key_value_heads": None}, r"has no num_key_value_heads: it is null"),
        ({**_QWEN2, "head_dim": None}, r"has no head_dim: it is null.*Qwen2Config does not load"),
        ({**_QWEN2, "use_sliding_window": "false"}, r"use_sliding_window is 'false'; expected true or false"),
        ({**_LLAMA, "tie_word_embeddings": None}, r"tie_word_embeddings is None; expected true or false"),
    ],
)
def test_what_transformers_would_do_otherwise_is_refused(config: dict[str, Any], message: str) -> None:
    if "28 is not" in message:  # of 32 heads of keys and values that the class has where the config says nothing
        config = {key: value for key, value in config.items() if key != "num_key_value_heads"}
    with pytest.raises(UnsupportedConfigError, match=message):
        _architecture(config)
