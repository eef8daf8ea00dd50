"""The engines that train a policy; all stand behind `recipes.engines.base.PolicyEngine`."""

from __future__ import annotations

from recipes.engines.base import PolicyEngine
from recipes.runtime.config import Config


def create_engine(config: Config) -> PolicyEngine:
    """The engine that the configuration names, with its model loaded; collective over all ranks.

    Raises:
        EngineError: the environment does not fit the engine.
    """
    if config.engine == "nemo_aligner":
        from recipes.engines.nemo_aligner import upstream

        upstream.prepare()
        from recipes.engines.nemo_aligner.engine import NemoAlignerEngine

        return NemoAlignerEngine(config)
    from conversion import megatron_cpu

    megatron_cpu.install()
    from recipes.engines.megatron.engine import MegatronEngine

    return MegatronEngine(config)
