"""Checkpoints in NeMo's form, as megatron-core 0.10 writes them.

A training checkpoint is the folder of a `.nemo`: `model_config.yaml` and `model_weights/`, beside them the hf/ files,
the manifest, `optimizer/` and `state.json` of `recipes.engines.core.state`. Conversion brings it back to Hugging
Face, and a run may start from it. Optimizer state is saved by parameter, so TP, PP and DP may differ
between save and load.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from conversion import nemo
from conversion.checkpoint import HF_DIR, Checkpoint
from recipes.engines.core import state


class ModelSpaceOptimizer:
    """megatron-core 0.10's distributed optimizer under the name of 0.16's way to save state by parameter."""

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer

    def sharded_state_dict(self, model_state: Any, is_loading: bool = False, metadata: Any = None) -> Any:
        """What `dist_checkpointing` saves and loads; `metadata` is 0.16's."""
        # Before the first step there are no moments, and what is not saved cannot be loaded.
        self._optimizer.init_state_fn(self._optimizer.optimizer)
        return self._optimizer.sharded_state_dict(
            model_state, is_loading=is_loading, sharding_type="fully_sharded_model_space"
        )

    def load_state_dict(self, values: Any) -> None:
        """Restores what `sharded_state_dict` described."""
        # Groups are stored as the first pipeline stage orders them: another's norms would be decayed by them.
        own = [{key: group[key] for key in ("wd_mult", "lr_mult")} for group in self._optimizer.param_groups]
        self._optimizer.load_state_dict(values)
        for group, multiples in zip(self._optimizer.param_groups, own, strict=True):
            group.update(multiples)


class NemoSaves(state.Saves):
    """Saves in NeMo's form; `dtype` is that of the weights."""

    layout = "nemo"

    def __init__(self, deadline_s: float, dtype: torch.dtype) -> None:
        super().__init__(deadline_s)
        self._dtype = dtype

    def _prepare(self, partial: Path, folder: Path, source: Checkpoint, loop_state: str, parts: Iterable[str]) -> None:
        super()._prepare(partial, folder, source, loop_state, parts)
        settings = nemo.model_config(source.architecture, self._dtype, folder.absolute() / HF_DIR)
        nemo.write_config(partial / nemo.CONFIG_FILE, settings)
