"""What a Hugging Face config.json says about a decoder, in megatron-core's own names.

Left out on purpose, each refused with an error that names the key: sliding-window and bidirectional attention, biases
outside Q, K and V, activations other than SwiGLU, rotary scaling other than none, `linear` and `llama3`, quantised
weights, and models whose layers differ. Dropping one of these would give a checkpoint that loads, runs and answers
wrongly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from conversion.errors import UnsupportedConfigError
from conversion.hf_config import HfConfig, integer, number


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3's rotary scaling (`rope_type` llama3): `GPTModel(rope_scaling=True, rope_scaling_factor=factor)`.

    megatron-core 0.16.1 takes only the factor and fixes the other three at 1, 4 and 8192, so a config with other bands
    is refused when it is read.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


_MEGATRON_BANDS = (1.0, 4.0, 8192)

# yarn changes every position, dynamic scaling only those beyond the context.
_REMEDIES = {
    "yarn": "If it was added by hand to lengthen the context, remove it in a copy of the model; else choose another",
    "dynamic": "It acts beyond max_position_embeddings alone: if every sequence is shorter, remove it in a copy",
}


@dataclass(frozen=True)
class MixtureOfExperts:
    """The experts of a model that has them in every layer; routing is softmax over experts, top-k, none shared.

    Attributes:
        num_experts: `num_moe_experts`.
        top_k: `moe_router_topk`.
        ffn_hidden_size: `moe_ffn_hidden_size`, of one expert.
        pre_softmax: `moe_router_pre_softmax`: the weights of the chosen experts are their shares of all experts and do
            not add up to one (config.json's `norm_topk_prob` false).
    """

    num_experts: int
    top_k: int
    ffn_hidden_size: int
    pre_softmax: bool


@dataclass(frozen=True)
class MegatronArchitecture:
    """All that TransformerConfig and GPTModel need besides the parallel layout, dtype and kernels.

    The MLP is always gated SwiGLU without bias, the normalisation RMSNorm, the positions rotary, dropout zero.

    `rotary_base` goes to GPTModel, as do `rope_scaling` (None: off), `seq_len_interpolation_factor` (None: off),
    `vocab_size` (unpadded: the tokenizer's side of the embedding) and `share_embeddings_and_output_weights`.
    """

    num_layers: int
    hidden_size: int
    num_attention_heads: int
    num_query_groups: int
    kv_channels: int
    ffn_hidden_size: int
    layernorm_epsilon: float
    add_qkv_bias: bool
    qk_layernorm: bool
    share_embeddings_and_output_weights: bool
    rotary_base: float
    rope_scaling: RopeScaling | None
    seq_len_interpolation_factor: float | None
    vocab_size: int
    max_position_embeddings: int
    moe: MixtureOfExperts | None = None
    gated_linear_unit: bool = True
    normalization: str = "RMSNorm"
    add_bias_linear: bool = False

    def layer_arguments(self) -> dict[str, Any]:
        """What TransformerConfig and NeMo's model_config.yaml call by one name."""
        arguments: dict[str, Any] = {
            "num_layers": self.num_layers,
            "hidden_size": self.hidden_size,
            "ffn_hidden_size": self.ffn_hidden_size,
            "num_attention_heads": self.num_attention_heads,
            "num_query_groups": self.num_query_groups,
            "kv_channels": self.kv_channels,
            "layernorm_epsilon": self.layernorm_epsilon,
            "qk_layernorm": self.qk_layernorm,
            "attention_dropout": 0.0,
            "hidden_dropout": 0.0,
        }
        if self.moe is not None:
            arguments |= {
                "num_moe_experts": self.moe.num_experts,
                "moe_router_topk": self.moe.top_k,
                "moe_ffn_hidden_size": self.moe.ffn_hidden_size,
                "moe_router_pre_softmax": self.moe.pre_softmax,
            }
        return arguments

    def model_arguments(self) -> dict[str, Any]:
        """What GPTModel and NeMo's model_config.yaml call by one name."""
        return {
            "share_embeddings_and_output_weights": self.share_embeddings_and_output_weights,
            "rotary_base": self.rotary_base,
            "seq_len_interpolation_factor": self.seq_len_interpolation_factor,
            "position_embedding_type": "rope",
        }

    def dimension(self, name: str) -> int:
        """Size behind a symbolic axis of the weight map, the keys below and those of experts."""
        if name in ("expert", "expert_ffn"):
            assert self.moe is not None, "a dense model has no expert axis"
            return self.moe.num_experts if name == "expert" else self.moe.ffn_hidden_size
        return {
            "layer": self.num_layers,
            "vocab": self.vocab_size,
            "hidden": self.hidden_size,
            "query": self.num_attention_heads * self.kv_channels,
            "kv": self.num_query_groups * self.kv_channels,
            "head": self.kv_channels,
            "ffn": self.ffn_hidden_size,
        }[name]


def read_architecture(
    config: HfConfig, *, add_qkv_bias: bool, qk_layernorm: bool, experts: bool
) -> MegatronArchitecture:
    """Read a config.json of the Llama lineage, in the classic form or that of transformers 5 (`rope_parameters`).

    Raises UnsupportedConfigError naming the key when one is inconsistent or cannot be expressed.
    """
    hidden, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    groups = config.integer("num_key_value_heads") if config.has("num_key_value_heads") else heads
    if heads % groups:
        raise UnsupportedConfigError(
            f"config.json: num_attention_heads {heads} is not a multiple of num_key_value_heads {groups}"
            f"{config.origin('num_key_value_heads')}; one of the two is wrong"
        )
    if config.has("head_dim"):
        head_dim = config.integer("head_dim")
    elif hidden % heads == 0:
        head_dim = hidden // heads
    else:
        raise UnsupportedConfigError(
            f"config.json: hidden_size {hidden} is not a multiple of num_attention_heads {heads} and there is no "
            "head_dim; give head_dim"
        )
    _refuse_unsupported(config)
    base, scaling, interpolation = _rotary(config)
    return MegatronArchitecture(
        num_layers=config.integer("num_hidden_layers"),
        hidden_size=hidden,
        num_attention_heads=heads,
        num_query_groups=groups,
        kv_channels=head_dim,
        ffn_hidden_size=config.integer("intermediate_size"),
        layernorm_epsilon=config.number("rms_norm_eps"),
        add_qkv_bias=add_qkv_bias,
        qk_layernorm=qk_layernorm,
        share_embeddings_and_output_weights=config.boolean("tie_word_embeddings"),
        rotary_base=base,
        rope_scaling=scaling,
        seq_len_interpolation_factor=interpolation,
        vocab_size=config.integer("vocab_size"),
        max_position_embeddings=config.integer("max_position_embeddings"),
        moe=_mixture_of_experts(config) if experts else None,
    )


def _mixture_of_experts(config: HfConfig) -> MixtureOfExperts:
    if config.get("mlp_only_layers") or config.get("decoder_sparse_step") != 1:
        raise UnsupportedConfigError(
            "config.json: mlp_only_layers or decoder_sparse_step makes some layers dense; only models whose layers all "
            "have experts are carried"
        )
    # transformers 5 writes num_local_experts, the published configs say num_experts.
    name = "num_local_experts" if config.get("num_local_experts") is not None else "num_experts"
    experts, top_k = config.integer(name), config.integer("num_experts_per_tok")
    if top_k > experts:
        raise UnsupportedConfigError(
            f"config.json: num_experts_per_tok {top_k} is more than {name} {experts}{config.origin(name)}; "
            "one of the two is wrong"
        )
    return MixtureOfExperts(
        num_experts=experts,
        top_k=top_k,
        ffn_hidden_size=config.integer("moe_intermediate_size"),
        pre_softmax=not config.boolean("norm_topk_prob"),
    )


def _refuse_unsupported(config: HfConfig) -> None:
    # The key's name today, that of compressed-tensors' first releases, and MLX's.
    for key in ("quantization_config", "compression_config", "quantization"):
        if config.get(key):
            raise UnsupportedConfigError(f"config.json: {key} is set; convert the unquantised model instead")
    activation = config.get("hidden_act")
    if activation not in ("silu", "swish"):
        raise UnsupportedConfigError(f"config.json: hidden_act is {activation!r}; only silu (SwiGLU) is carried")
    for key in ("attention_bias", "mlp_bias"):
        if key in config.config_class.defaults and config.boolean(key):
            raise UnsupportedConfigError(
                f"config.json: {key} is true; no weight map here has a place for these biases, choose a model without"
            )
    if config.get("is_causal") is False:
        raise UnsupportedConfigError(
            "config.json: is_causal is false; a model that reads in both directions cannot be trained to generate"
        )
    if config.get("per_layer_config"):
        raise UnsupportedConfigError(
            "config.json: per_layer_config makes layers differ; only models whose layers are alike are carried"
        )
    _refuse_windows(config)


def _refuse_windows(config: HfConfig) -> None:
    layers = config.windowed_layers()
    if not layers:
        return
    if config.get("layer_types"):
        remedy = "make every entry of layer_types full_attention"
    elif "use_sliding_window" in config.config_class.defaults:
        remedy = "set use_sliding_window to false"
    else:
        remedy = "set sliding_window to null"
    window = f"sliding_window is {config.get('sliding_window')}{config.origin('sliding_window')}"
    raise UnsupportedConfigError(
        f"config.json: {window} in {len(layers)} of {config.integer('num_hidden_layers')} layers; attention windows "
        f"are not carried. If every sequence will be shorter than the window, {remedy} in a copy of the model"
    )


def _rotary(config: HfConfig) -> tuple[float, RopeScaling | None, float | None]:
    """Rotary base, llama3 scaling and linear interpolation factor."""
    where, parameters = config.rotary()
    base = number(parameters, "rope_theta", where)
    for partial in (parameters["partial_rotary_factor"], config.get("partial_rotary_factor")):
        if partial not in (1, None):
            raise UnsupportedConfigError(
                f"config.json: partial_rotary_factor is {partial!r}, not 1; partial rotary is not carried"
            )
    kind = parameters["rope_type"]
    if kind == "default":
        return base, None, None
    if kind == "linear":
        return base, None, number(parameters, "factor", where)
    if kind != "llama3":
        raise UnsupportedConfigError(
            f"{where}: rope_type is {kind!r}; megatron-core's GPTModel is given default, linear or llama3 scaling only"
            f". {_REMEDIES.get(str(kind), 'Choose another model')}"
        )
    llama3 = RopeScaling(
        factor=number(parameters, "factor", where),
        low_freq_factor=number(parameters, "low_freq_factor", where),
        high_freq_factor=number(parameters, "high_freq_factor", where),
        original_max_position_embeddings=integer(parameters, "original_max_position_embeddings", where),
    )
    bands = (llama3.low_freq_factor, llama3.high_freq_factor, llama3.original_max_position_embeddings)
    if bands != _MEGATRON_BANDS:
        raise UnsupportedConfigError(
            f"{where}: low_freq_factor, high_freq_factor, original_max_position_embeddings are {bands}; "
            f"megatron-core 0.16.1 fixes them at {_MEGATRON_BANDS}"
        )
    return base, llama3, None
