"""`python -m recipes.runtime.versions [PART ...]`: what training is made of, what is here of it, and what a lack costs.

It exits with 1 when nothing would train with what was found, or when a named PART is missing. An image checks itself so
when it is built, and a job when it starts (`recipes.canary`).
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata

from conversion import command

MEGATRON_CORE = "0.16.1"
# What megatron-core 0.16.1's own metadata asks for.
TRANSFORMER_ENGINE = ((2, 9), (2, 12))
# What NeMo-Aligner 0.7.0 was released for; its environment holds no other, and engine=megatron does not run there.
ALIGNER_MEGATRON_CORE = "0.10"


# What a result depends on: another release of one of these may give other answers or other numbers.
_DECIDING = ("medatron", "torch", "megatron-core", "transformer-engine", "transformers", "tokenizers", "vllm", "numpy")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on, of those that are here."""
    found = {name: version for name in _DECIDING if (version := _installed(name, name.replace("-", "_")))}
    return {"python": platform.python_version(), **found}


@dataclass(frozen=True)
class Part:
    """One line of the table.

    Attributes:
        name: of the package or library.
        version: what was found, or None.
        lack: what its absence costs.
        problem: why nothing trains with what was found; None where it does.
    """

    name: str
    version: str | None
    lack: str
    problem: str | None = None


def parts() -> list[Part]:
    """Everything that is looked at, without importing more than torch."""
    import torch

    gpu = torch.cuda.is_available()
    megatron, aligner = _installed("megatron-core", "megatron_core"), _installed("nemo-aligner", "nemo_aligner")
    engine = _installed("transformer-engine", "transformer_engine")
    nccl = _quietly(lambda: ".".join(map(str, torch.cuda.nccl.version()))) if gpu else None
    return [
        Part("torch", torch.__version__, "nothing trains"),
        Part("CUDA", torch.version.cuda if gpu else None, "training on CPU, for tests alone"),
        Part("NCCL", nccl, "no training on more than one GPU"),
        Part("megatron-core", megatron, "nothing trains", _megatron_problem(megatron, aligner is not None)),
        Part(
            "transformer-engine",
            engine,
            "no FP8 (model.fp8 is refused), slower layers",
            None if aligner else _transformer_engine_problem(engine),
        ),
        Part("apex", _installed("apex"), "torch's optimizer kernels instead of fused ones; NeMo-Aligner wants it"),
        Part("flash-attn", _installed("flash-attn", "flash_attn"), "nothing: attention is torch's own"),
        Part("vllm", _installed("vllm"), "responses come from the embedded sampler"),
        Part("nemo-aligner", aligner, "no engine=nemo_aligner"),
    ]


def table(found: list[Part]) -> str:
    """The parts as lines of text."""
    lines = [f"{'part':<20}{'found':<28}"]
    for part in found:
        note = part.problem or ("" if part.version else f"without it: {part.lack}")
        lines.append(f"{part.name:<20}{part.version or '-':<28}{note}".rstrip())
    return "\n".join(lines)


def _installed(*names: str) -> str | None:
    for name in names:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def _quietly(ask: Callable[[], str]) -> str | None:
    try:
        return ask()
    except Exception:
        return None


def _megatron_problem(found: str | None, aligner: bool) -> str | None:
    if aligner:
        if found is not None and found.startswith(f"{ALIGNER_MEGATRON_CORE}."):
            return None
        return f"NeMo-Aligner 0.7.0 wants {ALIGNER_MEGATRON_CORE}; use the NeMo image or requirements/nemo_aligner.txt"
    if found == MEGATRON_CORE:
        return None
    return f"expected {MEGATRON_CORE}; pip install --no-deps megatron-core=={MEGATRON_CORE}"


def _transformer_engine_problem(found: str | None) -> str | None:
    if found is None:
        return None
    low, high = TRANSFORMER_ENGINE
    if low <= tuple(int(part) for part in found.split(".")[:2]) < high:
        return None
    return f"megatron-core {MEGATRON_CORE} wants {low[0]}.{low[1]} to below {high[0]}.{high[1]}; choose another image"


def main() -> int:
    """Prints the table; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.runtime.versions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("wanted", nargs="*", metavar="PART", help="a part that must be there")
    wanted = parser.parse_args().wanted
    found = parts()
    print(table(found))
    there = {part.name for part in found if part.version}
    missing = [name for name in wanted if name not in there]
    if missing:
        print(f"missing: {', '.join(missing)}", file=sys.stderr)
    return int(bool(missing) or any(part.problem for part in found))


if __name__ == "__main__":
    sys.exit(command.run(main))
