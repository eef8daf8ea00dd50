"""Whether the ranks of a job can train where they are: their software, GPUs, network and shared folder.

The checks of `recipes.canary`; each problem names node, rank and fix.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections import Counter
from pathlib import Path

import torch
import torch.distributed as dist

from recipes.runtime import platform, versions
from recipes.runtime.config import Config
from recipes.runtime.launch import is_leader

# A GPU that another process uses has less of its memory free.
_FREE_SHARE = 0.9
_SIDE = 1024
# compute capability, and CUDA, that Transformer Engine's FP8 recipes need
_FP8_CAPABILITY = (8, 9)
_BLOCKWISE_CAPABILITY, _BLOCKWISE_CUDA = (9, 0), (12, 9)
# E4M3 has three bits behind the first: a value is rounded by up to 1/16, and a product of two such on average by a few
# hundredths.
_FP8_ERROR = 0.1


class CanaryError(RuntimeError):
    """This place cannot train; the message names node, rank and fix."""


def look(config: Config) -> None:
    """All checks on this rank; all ranks call it.

    Raises:
        CanaryError: on every rank, when any of them found a problem.
    """
    parts = versions.parts()
    if is_leader():
        print(versions.table(parts), flush=True)
    problems = [f"{part.name} {part.version or 'is missing'}: {part.problem}" for part in parts if part.problem]
    problems += _device_problems(config) + _arithmetic_problems() + _folder_problems(Path(config.output))
    places = _agree(problems)
    if is_leader():
        for place, count in Counter(places).items():
            print(f"{count:>4} x {place}", flush=True)
    # Its ranks wait for one another, so none may have given up before.
    _agree(_fp8_problems(config))


def _agree(problems: list[str]) -> list[str]:
    """What every rank runs on; raises CanaryError on all where one has a problem."""
    told: list[tuple[str, list[str]]] = [("", [])] * dist.get_world_size()
    dist.all_gather_object(told, (f"{socket.gethostname()}  {_device_name()}", problems))
    said = [f"rank {rank} ({place}): {text}" for rank, (place, found) in enumerate(told) for text in found]
    if said:
        more = f"; and {len(said) - 1} more" if len(said) > 1 else ""
        raise CanaryError(said[0] + more)
    return [place for place, _ in told]


def _device_name() -> str:
    return torch.cuda.get_device_name() if platform.on_gpu() else "CPU"


def _device_problems(config: Config) -> list[str]:
    if not platform.on_gpu():
        asked = os.environ.get("SLURM_GPUS_ON_NODE", "")
        if config.model.fp8 != "none":
            return [f"model.fp8={config.model.fp8}, but torch finds no GPU here; set model.fp8=none or mend the node"]
        # A cluster of CPUs asks for no precision that only GPUs are fast in.
        if asked and config.model.precision == "bfloat16":
            return [f"Slurm gave {asked} GPUs and torch finds none; is the driver there, and the container given it?"]
        return []
    found = []
    free, total = torch.cuda.mem_get_info()
    if free < _FREE_SHARE * total:
        found.append(
            f"GPU {torch.cuda.current_device()} has {free / 2**30:.0f} of {total / 2**30:.0f} GiB free; another "
            "process holds the rest, leave the node out (sbatch --exclude)"
        )
    if config.model.fp8 != "none":
        capability, cuda = torch.cuda.get_device_capability(), _version(torch.version.cuda)
        blockwise = config.model.fp8 == "blockwise"
        wanted = _BLOCKWISE_CAPABILITY if blockwise else _FP8_CAPABILITY
        if capability < wanted:
            found.append(f"model.fp8={config.model.fp8} needs compute capability {wanted}, this GPU has {capability}")
        if blockwise and cuda < _BLOCKWISE_CUDA:
            found.append(f"model.fp8=blockwise needs CUDA 12.9 or later, this is {torch.version.cuda}")
    return found


def _version(text: str | None) -> tuple[int, ...]:
    return tuple(int(part) for part in (text or "0").split(".")[:2])


def _arithmetic_problems() -> list[str]:
    device, ranks = platform.device(), dist.get_world_size()
    total = torch.tensor([dist.get_rank() + 1.0], device=device)
    dist.all_reduce(total)
    ones = torch.ones(_SIDE, _SIDE, device=device)
    product = ones @ ones
    found = []
    if total.item() != ranks * (ranks + 1) / 2:
        found.append(f"a sum over all ranks came out as {total.item()}, expected {ranks * (ranks + 1) / 2}")
    if not bool((product == _SIDE).all()):
        found.append("a product of matrices came out wrong; this device is broken, leave the node out")
    return found


def _fp8_problems(config: Config) -> list[str]:
    """A layer forward and backward in the run's FP8, its tokens as few and as divided as the run's may be."""
    if config.model.fp8 == "none" or not platform.on_gpu() or config.engine != "megatron":
        return []
    sequence, tensor = config.parallel.sequence, config.parallel.tensor
    groups = [dist.new_group(range(first, first + tensor)) for first in range(0, dist.get_world_size(), tensor)]
    tokens = config.token_multiple // (tensor if sequence else 1)
    try:
        found = _fp8_layer(config.model.fp8, tokens, groups[dist.get_rank() // tensor], sequence=sequence)
    except Exception as error:
        said = (str(error).splitlines() or [""])[0]
        return [
            f"model.fp8={config.model.fp8}: a layer of Transformer Engine on {tokens} tokens a rank failed "
            f"({type(error).__name__}: {said}); choose another image or recipe"
        ]
    if not 0 < found < _FP8_ERROR:
        return [
            f"model.fp8={config.model.fp8}: a layer's output is {found:.3g} of its norm from bfloat16's, expected "
            f"above 0 and below {_FP8_ERROR}; leave the node out, or set model.fp8=none"
        ]
    return []


def _fp8_layer(fp8: str, tokens: int, group: dist.ProcessGroup, *, sequence: bool) -> float:
    """How far a column parallel layer in FP8 is from itself in bfloat16, as a share of the output's norm."""
    import transformer_engine.pytorch as te
    from transformer_engine.common import recipe

    recipes = {
        "delayed": recipe.DelayedScaling(amax_history_len=1, amax_compute_algo="most_recent"),
        "tensorwise": recipe.Float8CurrentScaling(),
        "blockwise": recipe.Float8BlockScaling(),
    }
    size = dist.get_world_size(group)
    layer = te.LayerNormLinear(
        _SIDE,
        _SIDE,
        bias=False,
        normalization="RMSNorm",
        params_dtype=torch.bfloat16,
        parallel_mode="column" if size > 1 else None,
        tp_group=group,
        tp_size=size,
        sequence_parallel=sequence,
    )
    values = torch.randn(tokens, 1, _SIDE, device=platform.device(), dtype=torch.bfloat16, requires_grad=True)
    # Delayed scaling finds its scales in the first pass.
    for _ in range(2):
        with te.fp8_autocast(enabled=True, fp8_recipe=recipes[fp8], fp8_group=group):
            output = layer(values)
        output.float().square().mean().backward()
    expected = layer(values).detach().float()
    return float((output.detach().float() - expected).norm() / expected.norm())


def _folder_problems(folder: Path) -> list[str]:
    """Whether this rank sees at once what rank 0 writes to the run's folder."""
    token = [uuid.uuid4().hex]
    dist.broadcast_object_list(token, 0)
    file, found = folder / f".canary-{token[0]}", []
    if is_leader():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file.write_text(token[0])
        except OSError as error:
            found.append(f"cannot write to output={folder}: {error.strerror}; choose another folder")
    dist.barrier()
    if not found and not file.is_file():
        found.append(f"output={folder} is not the folder that rank 0 sees; set it to one on a shared file system")
    dist.barrier()
    if is_leader():
        file.unlink(missing_ok=True)
    return found
