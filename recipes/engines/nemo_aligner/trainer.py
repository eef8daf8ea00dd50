"""The Lightning trainer that a NeMo model wants: it says who this rank is and how gradients are clipped, no more.

The loop, the process group, the data and the checkpoints are ours.
"""

from __future__ import annotations

import os
from typing import Any

import torch.distributed as dist
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.environments import ClusterEnvironment
from lightning.pytorch.strategies import DDPStrategy

from recipes.runtime.config import Config
from recipes.runtime.platform import backend, on_gpu


class Ranks(ClusterEnvironment):
    """The process group that exists already."""

    @property
    def creates_processes_externally(self) -> bool:
        """That ranks need not be started."""
        return True

    @property
    def main_address(self) -> str:
        """Host of rank 0."""
        return os.environ["MASTER_ADDR"]

    @property
    def main_port(self) -> int:
        """Port of rank 0."""
        return int(os.environ["MASTER_PORT"])

    @staticmethod
    def detect() -> bool:
        """Never by itself."""
        return False

    def world_size(self) -> int:
        """All ranks."""
        return dist.get_world_size()

    def set_world_size(self, size: int) -> None:
        """Nothing: it is fixed."""

    def global_rank(self) -> int:
        """Of this process."""
        return dist.get_rank()

    def set_global_rank(self, rank: int) -> None:
        """Nothing: it is fixed."""

    def local_rank(self) -> int:
        """On this node."""
        return int(os.environ["LOCAL_RANK"])

    def node_rank(self) -> int:
        """Number of this node."""
        return self.global_rank() // int(os.environ.get("LOCAL_WORLD_SIZE", self.world_size()))


def make_trainer(config: Config) -> Any:
    """A trainer for the initialised process group."""
    world = dist.get_world_size()
    local = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    return Trainer(
        accelerator="gpu" if on_gpu() else "cpu",
        devices=local,
        num_nodes=max(1, world // local),
        strategy=DDPStrategy(cluster_environment=Ranks(), process_group_backend=backend()),
        precision="32-true",
        gradient_clip_val=config.optimizer.clip_grad,
        max_steps=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
