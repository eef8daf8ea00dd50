"""Which architecture a plan is for, and what follows from it: parameters, and bytes of cached keys and values.

It comes from the config.json at `model.path`, or, before there is a checkpoint, from `model.architecture`, the name of
a published model of the table below (facts from the models' own config.json). Imports no torch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from conversion.architecture import MegatronArchitecture
from conversion.errors import ConversionError
from conversion.families import family_for
from recipes.runtime.config import Config, ConfigError


def _published(model_type: str, sizes: tuple[int, ...], **rest: Any) -> dict[str, Any]:
    hidden, layers, heads, groups, ffn, vocabulary = sizes
    return {
        "model_type": model_type,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "intermediate_size": ffn,
        "vocab_size": vocabulary,
        **rest,
    }


_LLAMA: dict[str, Any] = {
    "rms_norm_eps": 1e-5,
    "rope_theta": 5e5,
    "max_position_embeddings": 131072,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}
_QWEN: dict[str, Any] = {"rms_norm_eps": 1e-6, "rope_theta": 1e6, "max_position_embeddings": 32768}
_QWEN3: dict[str, Any] = _QWEN | {"head_dim": 128, "max_position_embeddings": 40960}
_TIED: dict[str, Any] = {"tie_word_embeddings": True}

PUBLISHED: dict[str, dict[str, Any]] = {
    "Llama-3.1-8B": _published("llama", (4096, 32, 32, 8, 14336, 128256), **_LLAMA),
    "Llama-3.1-70B": _published("llama", (8192, 80, 64, 8, 28672, 128256), **_LLAMA),
    "Llama-3.1-405B": _published("llama", (16384, 126, 128, 8, 53248, 128256), **_LLAMA),
    "Qwen2.5-3B": _published("qwen2", (2048, 36, 16, 2, 11008, 151936), **_QWEN, **_TIED),
    "Qwen2.5-7B": _published("qwen2", (3584, 28, 28, 4, 18944, 152064), **_QWEN),
    "Qwen2.5-32B": _published("qwen2", (5120, 64, 40, 8, 27648, 152064), **_QWEN),
    "Qwen2.5-72B": _published("qwen2", (8192, 80, 64, 8, 29568, 152064), **_QWEN),
    "Qwen3-4B": _published("qwen3", (2560, 36, 32, 8, 9728, 151936), **_QWEN3, **_TIED),
    "Qwen3-8B": _published("qwen3", (4096, 36, 32, 8, 12288, 151936), **_QWEN3),
    "Qwen3-32B": _published("qwen3", (5120, 64, 64, 8, 25600, 151936), **_QWEN3),
}


def published(name: str) -> MegatronArchitecture:
    """A published model's architecture.

    Raises:
        ConfigError: the table has none of that name.
    """
    if name not in PUBLISHED:
        raise ConfigError(f"model.architecture={name}: expected one of {', '.join(PUBLISHED)}, or null with model.path")
    return family_for(PUBLISHED[name]).megatron_architecture(PUBLISHED[name])


def architecture_of(config: Config) -> tuple[MegatronArchitecture, str]:
    """The architecture, and where it was found.

    Raises:
        ConfigError: there is neither a config.json nor a known name, or it is a mixture of experts.
    """
    if not config.model.path:
        if config.model.architecture is None:
            raise ConfigError(
                "a plan needs an architecture: give model.path=FOLDER (Hugging Face or converted), or "
                f"model.architecture=NAME, one of {', '.join(PUBLISHED)}"
            )
        return published(config.model.architecture), f"the published {config.model.architecture}"
    return _read("model.path", config.model.path, "name a published model with model.architecture")


def critic_architecture(config: Config, policy: MegatronArchitecture) -> MegatronArchitecture | None:
    """The architecture of the critic, which is the policy's where `critic.path` names no other; None without a critic.

    Raises:
        ConfigError: as `architecture_of`.
    """
    if not config.algorithm.has_critic:
        return None
    if not config.critic.path:
        return policy
    return _read("critic.path", config.critic.path, "start the critic from the policy")[0]


def _read(key: str, path: str, otherwise: str) -> tuple[MegatronArchitecture, str]:
    """The architecture of a Hugging Face or converted folder, and the file that says so."""
    folder = Path(path)
    # A converted checkpoint keeps the original's files in hf/.
    found = next((path for path in (folder / "hf" / "config.json", folder / "config.json") if path.is_file()), None)
    if found is None:
        raise ConfigError(
            f"{key}={folder}: no config.json there; give a Hugging Face or converted folder, or leave {key} out and "
            f"{otherwise}"
        )
    try:
        values = json.loads(found.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("expected a JSON object; copy the model's config.json again")
        architecture = family_for(values).megatron_architecture(values)
    except (ValueError, ConversionError) as error:
        raise ConfigError(f"{found}: {error}") from None
    if architecture.moe is not None:
        raise ConfigError(f"{found}: a mixture of experts; the engine trains dense models only, and so does the plan")
    return architecture, str(found)


def layer_matrices(architecture: MegatronArchitecture) -> int:
    """Weights of one layer's matrices: Q, K, V, output, gate, up and down."""
    hidden, ffn = architecture.hidden_size, architecture.ffn_hidden_size
    query, key = architecture.dimension("query"), architecture.dimension("kv")
    return hidden * (query + 2 * key) + query * hidden + 3 * hidden * ffn


def _layer_vectors(architecture: MegatronArchitecture) -> int:
    norms = 2 * architecture.hidden_size + (2 * architecture.kv_channels if architecture.qk_layernorm else 0)
    biases = architecture.dimension("query") + 2 * architecture.dimension("kv") if architecture.add_qkv_bias else 0
    return norms + biases


def embedding_weights(architecture: MegatronArchitecture) -> int:
    """Weights of the embedding, and of the output matrix where that is another one."""
    return architecture.vocab_size * architecture.hidden_size


def parameters(architecture: MegatronArchitecture, *, critic: bool = False) -> int:
    """Parameters of the whole model. A critic has a value head, hidden size to 1, in place of the output matrix."""
    ends = 1 if critic or architecture.share_embeddings_and_output_weights else 2
    layers = architecture.num_layers * (layer_matrices(architecture) + _layer_vectors(architecture))
    head = architecture.hidden_size if critic else 0
    return layers + ends * embedding_weights(architecture) + architecture.hidden_size + head


def stage_parameters(architecture: MegatronArchitecture, tensor: int, pipeline: int, *, critic: bool = False) -> float:
    """Parameters on the GPU that has most: a first or last stage. Vectors are counted as if divided too (under 0.1 %).

    Where both ends are one stage a shared embedding is there once; over several, first and last stage have one each. A
    critic has one on its first stage alone.
    """
    layers = architecture.num_layers / pipeline * (layer_matrices(architecture) + _layer_vectors(architecture))
    ends = 2 if pipeline == 1 and not critic and not architecture.share_embeddings_and_output_weights else 1
    return (layers + ends * embedding_weights(architecture)) / tensor


def cache_bytes(architecture: MegatronArchitecture, bytes_per_value: int = 2) -> int:
    """Bytes of the keys and values of one token in all layers."""
    return architecture.num_layers * 2 * architecture.dimension("kv") * bytes_per_value
