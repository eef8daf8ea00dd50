"""A config.json as transformers 5 loads it: defaults of absent keys, rotary keys in every spelling, windows by layer.

transformers itself is not imported: a plan needs neither it nor torch, and the second engine lives beside transformers
4. What its configuration classes say is in the table at the end, and `tests/conversion/test_hf_config.py` holds it
against the classes. Left out: whether a value can be carried, which `conversion.architecture` judges.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from conversion.errors import UnsupportedConfigError

_DEFAULT_ROTARY_BASE = 10000.0
_ORIGINAL_LENGTH = "original_max_position_embeddings"


@dataclass(frozen=True)
class ConfigClass:
    """What transformers' configuration class of a family says.

    Attributes:
        name: of the class.
        defaults: by key, for all keys of the class that matter here; what config.json leaves out has this value.
        nullable: keys of head counts and sizes that may be null, and are then derived from others.
    """

    name: str
    defaults: Mapping[str, Any]
    nullable: frozenset[str] = frozenset()


@dataclass(frozen=True)
class HfConfig:
    """The content of a config.json, read with the eyes of its class."""

    values: Mapping[str, Any]
    config_class: ConfigClass

    def get(self, key: str) -> Any:
        """The value of a key, its class's default where config.json leaves it out, or None."""
        return self.values.get(key, self.config_class.defaults.get(key))

    def origin(self, key: str) -> str:
        """For a message: where a value comes from that config.json does not say; empty if it does."""
        return "" if key in self.values else f" (absent, so the default of transformers' {self.config_class.name})"

    def integer(self, key: str) -> int:
        """A positive integer. Raises UnsupportedConfigError naming the key."""
        return integer({key: self.get(key)}, key)

    def number(self, key: str) -> float:
        """A positive number. Raises UnsupportedConfigError naming the key."""
        return number({key: self.get(key)}, key)

    def boolean(self, key: str) -> bool:
        """True or false. Raises UnsupportedConfigError naming the key."""
        value = self.get(key)
        if not isinstance(value, bool):
            raise UnsupportedConfigError(f"config.json: {key} is {value!r}; expected true or false")
        return value

    def has(self, key: str) -> bool:
        """Whether there is a value, in config.json or by default; null counts as none where the class derives it.

        Raises UnsupportedConfigError for a null that transformers does not load either.
        """
        if key in self.values and self.values[key] is None and key not in self.config_class.nullable:
            raise UnsupportedConfigError(
                f"config.json has no {key}: it is null, which transformers' {self.config_class.name} does not load; "
                "take the model's original config.json or remove the key"
            )
        return self.get(key) is not None

    def rotary(self) -> tuple[str, dict[str, Any]]:
        """The rotary parameters in transformers 5's names, and where in config.json they are, for messages.

        A `rope_scaling` that is not empty replaces `rope_parameters` whole; then come `rope_theta` and
        `partial_rotary_factor` beside them, then base 10000 (`convert_rope_params_to_dict` of transformers).
        """
        for key in ("rope_scaling", "rope_parameters"):
            value = self.values.get(key)
            if value is not None and not isinstance(value, Mapping):
                raise UnsupportedConfigError(f"config.json: {key} is {value!r}; expected an object or null")
        place = next((key for key in ("rope_scaling", "rope_parameters") if self.values.get(key)), None)
        where = "config.json" if place is None else f"config.json: {place}"
        parameters = dict(self.values[place]) if place is not None else {}
        nested = sorted(key for key, value in parameters.items() if isinstance(value, Mapping))
        if nested:
            raise UnsupportedConfigError(
                f"{where}: a rotary embedding of its own for {', '.join(nested)}; only one for all layers is carried"
            )
        parameters.setdefault("rope_theta", self.values.get("rope_theta", _DEFAULT_ROTARY_BASE))
        parameters.setdefault("partial_rotary_factor", self.values.get("partial_rotary_factor"))
        parameters.setdefault("rope_type", parameters.get("type", "default"))
        if _ORIGINAL_LENGTH in self.values:
            parameters[_ORIGINAL_LENGTH] = self.values[_ORIGINAL_LENGTH]
        parameters.setdefault(_ORIGINAL_LENGTH, self.get("max_position_embeddings"))
        return where, parameters

    def windowed_layers(self) -> list[int]:
        """Numbers of the layers that attend to a window of `sliding_window` positions only.

        Classes with a switch (`use_sliding_window`) take the window when it is on, those with `max_window_layers` from
        that layer on, and `layer_types` overrides both. Llama's class has no window; that its layers all have one where
        config.json says so is what other engines make of it.

        Raises UnsupportedConfigError for `layer_types` of another length or kind.
        """
        layers, defaults = self.integer("num_hidden_layers"), self.config_class.defaults
        by_layer = "max_window_layers" in defaults
        kinds = self.get("layer_types")
        if kinds is not None:
            if not isinstance(kinds, list) or len(kinds) != layers:
                raise UnsupportedConfigError(
                    f"config.json: layer_types is {kinds!r}; expected a list of num_hidden_layers {layers} entries; "
                    "one of the two is wrong"
                )
            other = [kind for kind in kinds if kind not in ("full_attention", "sliding_attention")]
            if other:
                raise UnsupportedConfigError(
                    f"config.json: layer_types names {other[0]!r}; only models whose layers are all full_attention are "
                    "carried"
                )
            named = [layer for layer, kind in enumerate(kinds) if kind == "sliding_attention"]
            if named or by_layer:
                return named
        if self.get("sliding_window") is None:
            return []
        if "use_sliding_window" in defaults and not self.boolean("use_sliding_window"):
            return []
        first = self.get("max_window_layers") if by_layer else 0
        if isinstance(first, bool) or not isinstance(first, int):
            raise UnsupportedConfigError(f"config.json: max_window_layers is {first!r}; expected an integer")
        return list(range(max(first, 0), layers))

    @property
    def far_positions_differ(self) -> bool:
        """Whether misreading it could show between far positions only: it scales positions or speaks of a window."""
        _, parameters = self.rotary()
        return parameters["rope_type"] != "default" or any(map(self.get, ("sliding_window", "use_sliding_window")))

    def left_out(self) -> list[str]:
        """What config.json says and transformers does not act on, a sentence each."""
        notes = []
        chunks = self.values.get("dual_chunk_attention_config")
        if chunks:
            notes.append(
                f"config.json: dual_chunk_attention_config {chunks} is left out, as transformers does; it acts on "
                "sequences longer than a chunk"
            )
        if self.values.get("rope_scaling") and self.values.get("rope_parameters"):
            where, parameters = self.rotary()
            used = {key: parameters[key] for key in ("rope_type", "rope_theta", "factor") if key in parameters}
            notes.append(f"{where} replaces rope_parameters, as in transformers, which gives {used}; is it meant so?")
        return notes


def required(values: Mapping[str, Any], key: str, where: str = "config.json") -> Any:
    """The value of a key. Raises UnsupportedConfigError when it is absent or null."""
    if values.get(key) is None:
        raise UnsupportedConfigError(f"{where} has no {key}; take the model's original config.json")
    return values[key]


def integer(values: Mapping[str, Any], key: str, where: str = "config.json") -> int:
    """A positive integer. Raises UnsupportedConfigError naming the key."""
    value = required(values, key, where)
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise UnsupportedConfigError(f"{where}: {key} is {value!r}; expected a positive integer")
    return value


def number(values: Mapping[str, Any], key: str, where: str = "config.json") -> float:
    """A positive number. Raises UnsupportedConfigError naming the key."""
    value = required(values, key, where)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise UnsupportedConfigError(f"{where}: {key} is {value!r}; expected a positive number")
    return float(value)


_COMMON: dict[str, Any] = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
_SWITCHED: dict[str, Any] = {"use_sliding_window": False, "sliding_window": 4096}
_QWEN2: dict[str, Any] = {
    **_COMMON,
    **_SWITCHED,
    "vocab_size": 151936,
    "intermediate_size": 22016,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "max_window_layers": 28,
    "layer_types": None,
}

LLAMA = ConfigClass(
    "LlamaConfig",
    {
        **_COMMON,
        "vocab_size": 32000,
        "intermediate_size": 11008,
        "num_key_value_heads": None,
        "head_dim": None,
        "max_position_embeddings": 2048,
        "attention_bias": False,
        "mlp_bias": False,
    },
    nullable=frozenset({"num_key_value_heads", "head_dim"}),
)
QWEN2 = ConfigClass("Qwen2Config", _QWEN2, nullable=frozenset({"num_key_value_heads"}))
QWEN3 = ConfigClass(
    "Qwen3Config", {**_QWEN2, "head_dim": 128, "attention_bias": False}, nullable=frozenset({"num_key_value_heads"})
)
MISTRAL = ConfigClass(
    "MistralConfig",
    {
        **_COMMON,
        "vocab_size": 32000,
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "head_dim": None,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
    },
    nullable=frozenset({"head_dim"}),
)
QWEN3_MOE = ConfigClass(
    "Qwen3MoeConfig",
    {
        **_COMMON,
        **_SWITCHED,
        "vocab_size": 151936,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 24,
        "num_key_value_heads": 4,
        "max_position_embeddings": 32768,
        "attention_bias": False,
        "decoder_sparse_step": 1,
        "mlp_only_layers": None,
        "moe_intermediate_size": 768,
        "num_experts_per_tok": 8,
        "num_experts": 128,
        "norm_topk_prob": False,
    },
)
