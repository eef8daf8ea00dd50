"""The engines that train a policy; all stand behind `recipes.engines.base.PolicyEngine`."""

from __future__ import annotations

import dataclasses

from recipes.engines.base import PolicyEngine
from recipes.runtime.config import AlgorithmConfig, Config


def create_engine(config: Config, *, bare: bool = False) -> PolicyEngine:
    """The engine that the configuration names, with its model loaded; collective over all ranks.

    Args:
        config: of the run.
        bare: without critic and reference policy, which updates of `config.algorithm` alone need.

    Raises:
        EngineError: the environment does not fit the engine.
    """
    if bare:
        config = dataclasses.replace(config, algorithm=AlgorithmConfig(kl_coef=0.0))
    if config.engine == "nemo_aligner":
        from recipes.engines.nemo_aligner import upstream

        upstream.prepare()
        from recipes.engines.nemo_aligner.engine import NemoAlignerEngine

        return NemoAlignerEngine(config)
    from conversion import megatron_cpu

    megatron_cpu.install()
    from recipes.engines.megatron.engine import MegatronEngine

    return MegatronEngine(config)
