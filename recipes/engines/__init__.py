"""The engines that train a policy; all stand behind `recipes.engines.base.PolicyEngine`."""

from __future__ import annotations

from recipes.engines.base import PolicyEngine
from recipes.runtime.config import Config


def create_engine(config: Config) -> PolicyEngine:
    """The engine that the configuration names, with its model loaded; collective over all ranks."""
    from conversion import megatron_cpu

    megatron_cpu.install()
    from recipes.engines.megatron.engine import MegatronEngine

    return MegatronEngine(config)
