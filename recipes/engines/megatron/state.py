"""Checkpoints of a run: megatron-core's distributed checkpoints for weights and optimizer, and the loop's own state.

A folder holds `model/`, `hf/` and `manifest.json` as a converted checkpoint does, so that it converts back with the
same command; beside them `optimizer/` and `state.json`. It is written under another name and published by one rename.
"""

from __future__ import annotations

import json
import queue
import shutil
from pathlib import Path
from typing import Any

import torch.distributed as dist
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.strategies import filesystem_async

from conversion.checkpoint import Checkpoint, CheckpointError, open_checkpoint, partial_path, publish, write_manifest

STATE_FILE = "state.json"
_OPTIMIZER = {"distrib_optim_sharding_type": "fully_reshardable"}
# A synchronous save hands its results over within the process. megatron-core would start a manager process for it,
# which lives on when a rank is killed.
filesystem_async._results_queue = queue.Queue()


def load_weights(module: Any, folder: Path) -> None:
    """Fills the module from a distributed checkpoint written at any layout.

    Raises:
        CheckpointError: when it does not hold this model's tensors.
    """
    sharded = module.sharded_state_dict(prefix="")
    try:
        loaded = dist_checkpointing.load(sharded, str(folder))
    except Exception as error:
        raise CheckpointError(
            f"{folder}: cannot be loaded into this model ({type(error).__name__}: {error}); "
            "convert the checkpoint again with `python -m conversion.hf_to_megatron`"
        ) from error
    module.load_state_dict(loaded, strict=False)


def save_checkpoint(module: Any, optimizer: Any, source: Checkpoint, folder: Path, loop_state: dict[str, Any]) -> None:
    """Writes a checkpoint on all ranks; see the module's docstring for its files.

    Args:
        module, optimizer: of this rank.
        source: the opened checkpoint that the run began with; its Hugging Face files travel along.
        folder: where the checkpoint appears once it is whole.
        loop_state: JSON values.
    """
    name = [str(partial_path(folder))]
    dist.broadcast_object_list(name, 0)
    partial = Path(name[0])
    if dist.get_rank() == 0:
        shutil.rmtree(partial, ignore_errors=True)
        for part in ("model", "optimizer"):
            (partial / part).mkdir(parents=True)
        shutil.copytree(source.hf_dir, partial / "hf")
        (partial / STATE_FILE).write_text(json.dumps(loop_state, indent=1) + "\n")
    dist.barrier()
    weights = module.sharded_state_dict(prefix="")
    dist_checkpointing.save(weights, str(partial / "model"))
    model_state = module.sharded_state_dict(prefix="")
    dist_checkpointing.save(
        {"optimizer": optimizer.sharded_state_dict(model_state, metadata=_OPTIMIZER)}, str(partial / "optimizer")
    )
    dist.barrier()
    if dist.get_rank() == 0:
        write_manifest(partial, source=source.manifest.source)
        publish(partial, folder, force=True)
    dist.barrier()


def load_checkpoint(module: Any, optimizer: Any, folder: Path) -> dict[str, Any]:
    """Restores weights and optimizer on all ranks and returns the loop's state.

    Raises:
        CheckpointError: when the checkpoint is damaged or is a converted one without training state.
    """
    checkpoint = open_checkpoint(folder)
    if not (folder / STATE_FILE).is_file():
        raise CheckpointError(
            f"{folder / STATE_FILE}: missing; this is no training checkpoint, start a run from it instead"
        )
    load_weights(module, checkpoint.model_dir)
    model_state = module.sharded_state_dict(prefix="")
    wanted = {"optimizer": optimizer.sharded_state_dict(model_state, is_loading=True, metadata=_OPTIMIZER)}
    optimizer.load_state_dict(dist_checkpointing.load(wanted, str(folder / "optimizer"))["optimizer"])
    return json.loads((folder / STATE_FILE).read_text())
