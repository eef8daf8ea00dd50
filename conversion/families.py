"""Model families: one explicit weight map each, Hugging Face names on one side and Megatron keys on the other.

Adding a family is adding a table (`FAMILIES` at the end); nothing else knows family names.

The Megatron side is what `GPTModel.sharded_state_dict()` of megatron-core 0.16.1 asks for with homogeneous layers, and
the names are the same for the local and the Transformer Engine layer spec: the layers of one weight are stacked on a
leading axis, its experts on a second one, and the input norms carry the names of the fused Transformer Engine modules.
The one weight on whose name the two specs disagree (the norm before experts) is written under both.

Left out: shared experts, multi-token prediction and vision towers, which need keys this map does not have.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from conversion.architecture import MegatronArchitecture, MixtureOfExperts, RopeScaling, read_architecture
from conversion.errors import UnknownFamilyError
from conversion.hf_config import LLAMA, MISTRAL, QWEN2, QWEN3, QWEN3_MOE, ConfigClass, HfConfig

__all__ = [
    "FAMILIES",
    "Entry",
    "Family",
    "HfTensor",
    "MegatronArchitecture",
    "MixtureOfExperts",
    "RopeScaling",
    "Row",
    "Rule",
    "family_for",
]


class Rule(enum.Enum):
    """How the Hugging Face tensors of a row make its Megatron tensor; `conversion.merge` does the arithmetic."""

    IDENTITY = "identity"
    QKV = "qkv per query group"
    GATE_UP = "gate above up"


class HfTensor(NamedTuple):
    """A Hugging Face tensor: its name, with `{layer}` and `{expert}` for their numbers, and its symbolic shape."""

    name: str
    axes: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """One line of a weight map.

    Attributes:
        megatron: key in the distributed checkpoint.
        hf: the tensors that make it, in order.
        rule: how.
        alias: a second key for the same weight, where layer specs differ.
    """

    megatron: str
    hf: tuple[HfTensor, ...]
    rule: Rule
    alias: str | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        """Every key under which a converted checkpoint holds the weight."""
        return (self.megatron,) if self.alias is None else (self.megatron, self.alias)

    @property
    def stacked(self) -> tuple[str, ...]:
        """Symbolic names of the leading axes on which the checkpoint stacks the tensors of layers and experts."""
        return tuple(axis for axis in ("layer", "expert") if f"{{{axis}}}" in self.hf[0].name)


@dataclass(frozen=True)
class Entry:
    """One Megatron tensor to convert: a row at one layer and expert, with its shapes.

    `index` holds the numbers of layer and expert, as far as the row is stacked; `megatron_shape` is that of the slice
    `[index]` of `global_shape`, the shape in the checkpoint.
    """

    row: Row
    index: tuple[int, ...]
    hf_names: tuple[str, ...]
    hf_shapes: tuple[tuple[int, ...], ...]
    megatron_shape: tuple[int, ...]
    global_shape: tuple[int, ...]

    @property
    def vocabulary(self) -> bool:
        """Whether the leading axis is the vocabulary, which a training run may have padded."""
        return self.row.hf[0].axes[0] == "vocab"

    @property
    def parameters(self) -> int:
        """Number of values, the vocabulary unpadded."""
        return math.prod(self.megatron_shape)


def _hf(name: str, *axes: str) -> HfTensor:
    return HfTensor(name, axes)


def _one(megatron: str, name: str, *axes: str, alias: str | None = None) -> Row:
    return Row(megatron, (_hf(name, *axes),), Rule.IDENTITY, alias)


def _gate_up(megatron: str, mlp: str, size: str) -> Row:
    parts = tuple(_hf(f"{mlp}.{part}_proj.weight", size, "hidden") for part in ("gate", "up"))
    return Row(megatron, parts, Rule.GATE_UP)


_LAYER = "model.layers.{layer}."
_EMBEDDING = _one("embedding.word_embeddings.weight", "model.embed_tokens.weight", "vocab", "hidden")
_OUTPUT = _one("output_layer.weight", "lm_head.weight", "vocab", "hidden")

_ATTENTION: tuple[Row, ...] = (
    _one("decoder.layers.self_attention.linear_qkv.layer_norm_weight", _LAYER + "input_layernorm.weight", "hidden"),
    Row(
        "decoder.layers.self_attention.linear_qkv.weight",
        (
            _hf(_LAYER + "self_attn.q_proj.weight", "query", "hidden"),
            _hf(_LAYER + "self_attn.k_proj.weight", "kv", "hidden"),
            _hf(_LAYER + "self_attn.v_proj.weight", "kv", "hidden"),
        ),
        Rule.QKV,
    ),
    _one("decoder.layers.self_attention.linear_proj.weight", _LAYER + "self_attn.o_proj.weight", "hidden", "query"),
)
_MLP_NORM_KEY = "decoder.layers.mlp.linear_fc1.layer_norm_weight"
_MLP_NORM_NAME = _LAYER + "post_attention_layernorm.weight"
_MLP: tuple[Row, ...] = (
    _one(_MLP_NORM_KEY, _MLP_NORM_NAME, "hidden"),
    _gate_up("decoder.layers.mlp.linear_fc1.weight", _LAYER + "mlp", "ffn"),
    _one("decoder.layers.mlp.linear_fc2.weight", _LAYER + "mlp.down_proj.weight", "hidden", "ffn"),
)
_EXPERT = _LAYER + "mlp.experts.{expert}"
_EXPERTS: tuple[Row, ...] = (
    # Transformer Engine's spec has a norm of its own here; the local one maps it to the dense layer's name.
    _one("decoder.layers.pre_mlp_layernorm.weight", _MLP_NORM_NAME, "hidden", alias=_MLP_NORM_KEY),
    _one("decoder.layers.mlp.router.weight", _LAYER + "mlp.gate.weight", "expert", "hidden"),
    _gate_up("decoder.layers.mlp.experts.experts.linear_fc1.weight", _EXPERT, "expert_ffn"),
    _one("decoder.layers.mlp.experts.experts.linear_fc2.weight", _EXPERT + ".down_proj.weight", "hidden", "expert_ffn"),
)
_ENDS: tuple[Row, ...] = (
    _EMBEDDING,
    _one("decoder.final_layernorm.weight", "model.norm.weight", "hidden"),
    _OUTPUT,
)
_LLAMA_ROWS: tuple[Row, ...] = (*_ENDS, *_ATTENTION, *_MLP)

_QKV_BIAS = Row(
    "decoder.layers.self_attention.linear_qkv.bias",
    (
        _hf(_LAYER + "self_attn.q_proj.bias", "query"),
        _hf(_LAYER + "self_attn.k_proj.bias", "kv"),
        _hf(_LAYER + "self_attn.v_proj.bias", "kv"),
    ),
    Rule.QKV,
)

_QK_NORM: tuple[Row, ...] = (
    _one("decoder.layers.self_attention.q_layernorm.weight", _LAYER + "self_attn.q_norm.weight", "head"),
    _one("decoder.layers.self_attention.k_layernorm.weight", _LAYER + "self_attn.k_norm.weight", "head"),
)


@dataclass(frozen=True)
class Family:
    """A model family: its `model_type` in config.json, its weight map and what the config does not say itself."""

    name: str
    model_type: str
    config_class: ConfigClass
    rows: tuple[Row, ...]
    add_qkv_bias: bool = False
    qk_layernorm: bool = False
    experts: bool = False

    def read(self, hf_config: Mapping[str, Any]) -> HfConfig:
        """The config with the defaults of the family's class."""
        return HfConfig(hf_config, self.config_class)

    def megatron_architecture(self, hf_config: Mapping[str, Any]) -> MegatronArchitecture:
        """The model in megatron-core's names. Raises UnsupportedConfigError naming the offending key."""
        return read_architecture(
            self.read(hf_config),
            add_qkv_bias=self.add_qkv_bias,
            qk_layernorm=self.qk_layernorm,
            experts=self.experts,
        )

    def weight_map(self, architecture: MegatronArchitecture) -> tuple[Row, ...]:
        """The rows in force: without the output layer when it shares the embedding's weight."""
        if architecture.share_embeddings_and_output_weights:
            return tuple(row for row in self.rows if row is not _OUTPUT)
        return self.rows

    def entries(self, architecture: MegatronArchitecture) -> Iterator[Entry]:
        """Every Megatron tensor to convert, in the order of the source: first, layer by layer, last."""
        rows = self.weight_map(architecture)
        yield _entry(_EMBEDDING, (), architecture)
        for layer in range(architecture.num_layers):
            for row in (row for row in rows if row.stacked == ("layer",)):
                yield _entry(row, (layer,), architecture)
            for expert in range(architecture.dimension("expert") if self.experts else 0):
                for row in (row for row in rows if row.stacked == ("layer", "expert")):
                    yield _entry(row, (layer, expert), architecture)
        for row in rows:
            if not row.stacked and row is not _EMBEDDING:
                yield _entry(row, (), architecture)

    def extra_states(self, architecture: MegatronArchitecture) -> Iterator[str]:
        """Keys of the empty `_extra_state` objects that the layer specs ask for beside the weights.

        The local spec asks for those of the four linear modules, Transformer Engine also for those of its free-standing
        norms. They hold no data unless FP8 delayed scaling has run; without them a plain load fails on a missing key.
        """
        modules = ["self_attention.linear_qkv", "self_attention.linear_proj"]
        modules += ["pre_mlp_layernorm"] if self.experts else ["mlp.linear_fc1", "mlp.linear_fc2"]
        if self.qk_layernorm:
            modules += ["self_attention.q_layernorm", "self_attention.k_layernorm"]
        layers = architecture.num_layers
        experts = architecture.dimension("expert") if self.experts else 0
        for layer in range(layers):
            for module in modules:
                yield f"decoder.layers.{module}._extra_state/shard_{layer}_{layers}"
            for expert in range(experts):
                for module in ("linear_fc1", "linear_fc2"):
                    shard = f"shard_{layer}.{expert}_{layers}.{experts}"
                    yield f"decoder.layers.mlp.experts.experts.{module}._extra_state/{shard}"
        yield "decoder.final_layernorm._extra_state/shard_0_1"

    def tied_duplicate(self, architecture: MegatronArchitecture) -> tuple[str, str] | None:
        """(name, name of what it must equal) of an output weight that some tied checkpoints store a second time."""
        if architecture.share_embeddings_and_output_weights:
            return _OUTPUT.hf[0].name, _EMBEDDING.hf[0].name
        return None

    def is_buffer(self, hf_name: str) -> bool:
        """Whether a stored tensor is a computed buffer that early releases saved: the rotary frequencies."""
        return hf_name.endswith(".rotary_emb.inv_freq")


def _entry(row: Row, index: tuple[int, ...], architecture: MegatronArchitecture) -> Entry:
    numbers = dict(zip(row.stacked, index, strict=True))
    shapes = tuple(tuple(architecture.dimension(axis) for axis in tensor.axes) for tensor in row.hf)
    # Every rule stacks its parts along the leading axis, in one order or another.
    merged = (sum(shape[0] for shape in shapes), *shapes[0][1:])
    return Entry(
        row=row,
        index=index,
        hf_names=tuple(tensor.name.format(**numbers) for tensor in row.hf),
        hf_shapes=shapes,
        megatron_shape=merged,
        global_shape=(*(architecture.dimension(axis) for axis in row.stacked), *merged),
    )


FAMILIES: tuple[Family, ...] = (
    Family("Qwen2", "qwen2", QWEN2, (*_LLAMA_ROWS, _QKV_BIAS), add_qkv_bias=True),
    Family("Llama", "llama", LLAMA, _LLAMA_ROWS),
    Family("Qwen3", "qwen3", QWEN3, (*_LLAMA_ROWS, *_QK_NORM), qk_layernorm=True),
    Family("Mistral", "mistral", MISTRAL, _LLAMA_ROWS),
    Family(
        "Qwen3-MoE",
        "qwen3_moe",
        QWEN3_MOE,
        (*_ENDS, *_ATTENTION, *_EXPERTS, *_QK_NORM),
        qk_layernorm=True,
        experts=True,
    ),
)


def family_for(hf_config: Mapping[str, Any]) -> Family:
    """The family of a config.json, by its `model_type`.

    Raises UnknownFamilyError naming the `model_type` found and those known.
    """
    model_type = hf_config.get("model_type")
    for family in FAMILIES:
        if family.model_type == model_type:
            return family
    known = ", ".join(family.model_type for family in FAMILIES)
    inner = hf_config.get("text_config")
    parts = ", with other parts beside the text model of its text_config" if isinstance(inner, Mapping) else ""
    raise UnknownFamilyError(
        f"config.json: model_type is {model_type!r}{parts}; weight maps exist for {known}. Choose a model of these "
        "families; a new family is a new table in conversion/families.py"
    )
