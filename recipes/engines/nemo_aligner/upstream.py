"""The door to NeMo-Aligner: checks that it is there, and imports it without what it needs for nothing of ours."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import os
import sys
import types
import warnings
from typing import Any

import torch

from recipes.engines.base import EngineError

# The versions that were released for one another, and that this engine was written for.
VERSIONS = {"nemo-aligner": "0.7", "nemo-toolkit": "2.1", "megatron-core": "0.10"}


def prepare() -> None:
    """Makes NeMo-Aligner importable in this process; to be called before anything imports megatron-core.

    Raises:
        EngineError: packages are missing or of other releases, or there is no GPU and nobody asked for the CPU.
    """
    for name, wanted in VERSIONS.items():
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found = "not installed"
        if not found.startswith(f"{wanted}."):
            raise EngineError(
                f"engine=nemo_aligner needs {name} {wanted}, and it is {found} here; run in the NeMo container, or in "
                "the environment that `make install-aligner` makes (see docs/engines.md)"
            )
    if os.environ.get("MEDATRON_DEVICE") == "cpu":
        from recipes.engines.nemo_aligner import cpu

        cpu.install_torch()
        _quietly()
        cpu.install_nemo()
    elif not torch.cuda.is_available():
        raise EngineError(
            "engine=nemo_aligner found no GPU; to run it on CPU, with NeMo patched for it, set MEDATRON_DEVICE=cpu"
        )
    _quietly()
    _without_tensorrt_llm()


def _without_tensorrt_llm() -> None:
    """nemo_aligner/utils/trt_llm.py imports TensorRT-LLM unguarded, and the actor imports that file.

    We sample with the training model and never call it, so where TensorRT-LLM is missing a module of ours stands in.
    """
    name = "nemo_aligner.utils.trt_llm"
    if name in sys.modules or importlib.util.find_spec("tensorrt_llm") is not None:
        return

    class Missing:
        def __init__(self, *_: Any, **__: Any) -> None:
            raise EngineError("TensorRT-LLM is not installed; leave model.reinforce.trt_llm.enable unset")

    module = types.ModuleType(name)
    module.__dict__["GPTGenerateTRTLLM"] = Missing
    sys.modules[name] = module


def _quietly() -> None:
    """Silences what NeMo and its libraries say on every start; their errors are heard."""
    warnings.filterwarnings("ignore")
    # The prompts are tokens by now, and its threads would not live through the fork of a save.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name in ("nemo_logger", "megatron", "lightning", "lightning.pytorch", "torch.distributed", "numexpr"):
        logging.getLogger(name).setLevel(logging.ERROR)
    from nemo.utils import logging as nemo_logging

    nemo_logging.setLevel(logging.ERROR)
