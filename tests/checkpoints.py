"""What is in a run's checkpoints, for comparisons to the last bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from recipes.runtime.run_folder import RunFolder


def checkpoint_tensors(folder: Path, tmp_path: Path) -> dict[str, torch.Tensor]:
    """Everything in the last checkpoint's weights and optimizers, by name."""
    latest, found = RunFolder(folder).latest(), {}
    assert latest is not None
    for part in sorted(path.parent.name for path in latest.glob("*/.metadata")):
        target = tmp_path / f"{part}.pt"
        dcp_to_torch_save(latest / part, target)

        def walk(value: Any, name: str) -> None:
            if isinstance(value, dict):
                for key, each in value.items():
                    walk(each, f"{name}/{key}")
            elif isinstance(value, list):
                for number, each in enumerate(value):
                    walk(each, f"{name}/{number}")
            elif isinstance(value, torch.Tensor):
                found[name] = value

        walk(torch.load(target, weights_only=False), part)
    return found
