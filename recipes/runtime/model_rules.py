"""What a configuration must be for the model that it names: rules that need the model's architecture."""

from __future__ import annotations

from conversion.architecture import MegatronArchitecture
from recipes.runtime.config import Config, ConfigError, require

_SCORES_BYTES = 1e9


def float32_attention(config: Config, *, heads: int) -> str | None:
    """A warning for GPUs where attention in float32 would take more than 1 GB of a layer; None where not.

    torch's fused kernels for CUDA take half precision, or no grouped queries (up to 2.13), so the scores of a sequence
    are written out: heads / tensor x max_length^2 values of 4 bytes, at a layer and sequence.
    """
    length = config.model.max_length
    size = 4 * heads / config.parallel.tensor * length**2
    if config.model.precision != "float32" or size <= _SCORES_BYTES:
        return None
    return (
        f"model.precision=float32: attention writes out {size / 1e9:.1f} GB of scores a layer for a sequence of "
        f"model.max_length={length} tokens, and more beside them; set model.precision=bfloat16 to train on GPUs"
    )


def validate_model(config: Config, model: MegatronArchitecture) -> None:
    """Raises ConfigError where a model does not fit layout or length, naming the key and the values that would work."""
    tensor, pipeline = config.parallel.tensor, config.parallel.pipeline
    # Query groups are key-value heads.
    layers, heads, query_groups = model.num_layers, model.num_attention_heads, model.num_query_groups
    context = model.max_position_embeddings
    require(
        query_groups % tensor == 0 and heads % tensor == 0,
        f"parallel.tensor={tensor} does not divide the model's {query_groups} key-value heads ({heads} attention "
        f"heads); use one of {[n for n in range(1, query_groups + 1) if query_groups % n == 0]}",
    )
    require(
        layers % pipeline == 0,
        f"parallel.pipeline={pipeline} does not divide the model's {layers} layers; use one of "
        f"{[n for n in range(1, layers + 1) if layers % n == 0]}",
    )
    require(
        config.model.max_length <= context,
        f"model.max_length={config.model.max_length} is over the model's context of {context} tokens; set it to at "
        "most that, or to 0 for what the model allows",
    )


def validate_critic(config: Config, critic: MegatronArchitecture, policy: MegatronArchitecture) -> None:
    """Raises ConfigError where a critic cannot read the policy's tokens, or does not fit its layout."""
    require(
        critic.vocab_size == policy.vocab_size,
        f"critic.path={config.critic.path}: a vocabulary of {critic.vocab_size} tokens, and the policy has "
        f"{policy.vocab_size}; a critic reads the policy's tokens: give a model of its family, or null",
    )
    try:
        validate_model(config, critic)
    except ConfigError as error:
        raise ConfigError(f"critic.path={config.critic.path}, which has the policy's layout: {error}") from None
