"""Every layout that the model, the number of GPUs and the batch allow, ranked by seconds a step.

Legal is what the training run itself would accept: `validate` and `validate_model` decide. Left out: layouts whose
tensor parallel groups span nodes, which are legal and never faster.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from conversion.architecture import MegatronArchitecture
from recipes.planning.estimate import Plan
from recipes.planning.memory import verdict
from recipes.runtime.config import Config, ConfigError
from recipes.runtime.rules import Stage, validate, validate_model

_MICRO_BATCHES = (4096, 8192, 16384, 32768)


def legal_layouts(config: Config, architecture: MegatronArchitecture, per_node: int) -> Iterator[Config]:
    """The configuration under every legal tensor x pipeline x data parallel size, micro-batch and recomputation."""
    processes = config.parallel.processes
    for tensor in range(1, min(processes, per_node) + 1):
        for pipeline in range(1, processes // tensor + 1):
            if processes % (tensor * pipeline):
                continue
            for tokens in _MICRO_BATCHES:
                for recompute in (False, True):
                    parallel = dataclasses.replace(
                        config.parallel,
                        tensor=tensor,
                        pipeline=pipeline,
                        sequence=tensor > 1,
                        recompute=recompute,
                        micro_batch_tokens=tokens,
                    )
                    candidate = dataclasses.replace(config, parallel=parallel)
                    try:
                        check_layout(candidate, architecture)
                    except ConfigError:
                        continue
                    yield candidate


def check_layout(config: Config, architecture: MegatronArchitecture) -> None:
    """Raises ConfigError where the training run would."""
    validate(config, Stage.PLAN)
    validate_model(
        config,
        layers=architecture.num_layers,
        heads=architecture.num_attention_heads,
        query_groups=architecture.num_query_groups,
        context=architecture.max_position_embeddings,
    )


def sweep(plan: Plan) -> tuple[list[Plan], int]:
    """Plans of the legal layouts that fit, fastest first, and how many do not fit.

    Seconds are compared to a tenth, since that is more than they are worth; the one with more memory left goes first.
    """
    found = [
        dataclasses.replace(plan, config=config)
        for config in legal_layouts(plan.config, plan.architecture, plan.gpu.per_node)
    ]
    fitting = [p for p in found if verdict(p.memory, p.gpu.memory) != "does not fit"]
    return sorted(fitting, key=lambda p: (round(p.step_seconds, 1), p.memory.peak)), len(found) - len(fitting)
