"""Do two folders hold the same weights? `python -m conversion.verify A B`, each of them in either format.

Every tensor is compared under its Hugging Face name by dtype, shape and SHA-256 of its bytes (16 hex digits of it), one
at a time, whatever the size of the model; one that is not finite is a difference though both have it. With prompts, the
logits of both are compared too, one model in memory at a time: equal tensors say nothing about a rotary base or scaling
that one side forgot.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from conversion import command, console
from conversion.checkpoint import MANIFEST_FILE, dtype_name
from conversion.families import Entry
from conversion.finite import count_non_finite
from conversion.hf_folder import HuggingFaceModel, open_model
from conversion.logits import compare_logits, read_prompts
from conversion.megatron_folder import MegatronModel, open_megatron
from conversion.safetensors_io import raw_bytes

if TYPE_CHECKING:
    import torch

_DESCRIPTION = """\
Compare the weights of two model folders, each a Hugging Face folder or a Megatron checkpoint, tensor by tensor:
name, dtype, shape and SHA-256 of the bytes. With --prompts also the float32 logits of both, as transformers and
megatron-core compute them (needs memory for one model in float32), at positions beyond 4,096 too where config.json
scales positions or speaks of a window. Prints every difference and exits with 1 if there is one."""

_EPILOG = """\
examples:
  python -m conversion.verify Qwen2.5-7B-Instruct checkpoints/qwen2.5-7b
  python -m conversion.verify Qwen2.5-7B-Instruct checkpoints/qwen2.5-7b --prompts questions.jsonl
  python -m conversion.verify tiny-float32 checkpoints/tiny-bf16 --dtype bfloat16"""


@dataclass(frozen=True)
class Comparison:
    """Outcome of `compare`: the tensors seen, a combined SHA-256 of each side, and one line for each difference."""

    tensor_count: int
    digests: tuple[str, str]
    differences: tuple[str, ...]


def compare(
    a: str | Path, b: str | Path, *, dtype: torch.dtype | None = None, progress: console.Progress = console.no_progress
) -> Comparison:
    """Compare the weights of two folders.

    Args:
        a: Hugging Face folder or Megatron checkpoint folder.
        b: the other one, in either format.
        dtype: compare after rounding both sides to this dtype; exactly as stored when None.
        progress: told the bytes of `a` and how many are done.

    Raises:
        ConversionError: one of the folders is damaged or does not fit its config.json.
    """
    models = _open(Path(a)), _open(Path(b))
    totals = hashlib.sha256(), hashlib.sha256()
    differences: list[str] = []
    entries = tuple({name: entry for entry in _entries(model) for name in entry.hf_names} for model in models)
    for side, other, path in ((0, 1, b), (1, 0, a)):
        differences += [f"{name}: not in {path}" for name in entries[side] if name not in entries[other]]
    if not differences and models[0].architecture != models[1].architecture:
        differences.append("config.json: the two describe different models of the same tensor names")
    count = 0
    parameters = sum(entry.parameters for entry in _entries(models[0]))
    # Weights of mixed dtypes are taken for float32; it is the length of a bar.
    width = models[0].dtype.itemsize if models[0].dtype else 4
    with progress("comparing", parameters * width) as advance:
        for entry in _entries(models[0]):
            shared = entries[1].get(entry.hf_names[0])
            if shared is None:
                continue
            sides = models[0].read(entry), models[1].read(shared)
            for name, left, right in zip(entry.hf_names, *sides, strict=True):
                count += 1
                described = tuple(_describe(tensor, dtype) for tensor in (left, right))
                for total, text in zip(totals, described, strict=True):
                    total.update(f"{name} {text}\n".encode())
                differences += [
                    f"{name}: {lost:,} of {tensor.numel():,} values in {path} are NaN or infinite"
                    for tensor, path in ((left, a), (right, b))
                    if (lost := count_non_finite(tensor.to(dtype or tensor.dtype)))
                ]
                if described[0] != described[1]:
                    differences.append(f"{name}: {described[0]} in {a}, {described[1]} in {b}")
            advance(sum(tensor.nbytes for tensor in sides[0]))
    return Comparison(count, (totals[0].hexdigest(), totals[1].hexdigest()), tuple(differences))


def _open(path: Path) -> HuggingFaceModel | MegatronModel:
    return open_megatron(path) if (path / MANIFEST_FILE).exists() else open_model(path)


def _entries(model: HuggingFaceModel | MegatronModel) -> Iterator[Entry]:
    return model.family.entries(model.architecture)


def _describe(tensor: torch.Tensor, dtype: torch.dtype | None) -> str:
    """Dtype, shape and checksum of a tensor, as one line."""
    data = tensor.to(dtype or tensor.dtype)
    digest = hashlib.sha256(raw_bytes(data)).hexdigest()
    return f"{dtype_name(data.dtype)}{list(data.shape)} {digest[:16]}"


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = console.parser("verify", _DESCRIPTION, _EPILOG)
    parser.add_argument("a", metavar="A", type=command.path_argument, help="Hugging Face folder or Megatron checkpoint")
    parser.add_argument("b", metavar="B", type=command.path_argument, help="Hugging Face folder or Megatron checkpoint")
    parser.add_argument(
        "--prompts", type=command.path_argument, help="also compare logits on these: a text or a JSON object a line"
    )
    parser.add_argument(
        "--max-prompts", type=int, default=8, metavar="N", help="use the first N (default: %(default)s)"
    )
    parser.add_argument("--dtype", choices=console.DTYPES, help="round both sides to this dtype before comparing")
    arguments = parser.parse_args(argv)
    return _command(arguments)


def _command(arguments: argparse.Namespace) -> int:
    dtype = console.dtype(arguments.dtype)
    result = compare(arguments.a, arguments.b, dtype=dtype, progress=console.progress_bar)
    for line in result.differences:
        print(line)
    if result.differences:
        print(f"DIFFERENT: {len(result.differences)} differences, {result.tensor_count} tensors compared")
    else:
        print(f"identical: {result.tensor_count} tensors, sha256 {result.digests[0]}")
    agrees = arguments.prompts is None or _compare_logits(arguments)
    return 0 if agrees and not result.differences else 1


def _compare_logits(arguments: argparse.Namespace) -> bool:
    found = compare_logits(arguments.a, arguments.b, read_prompts(arguments.prompts)[: arguments.max_prompts])
    print(
        f"logits {'agree' if found.agrees else 'DIFFER'}: {found.tokens} positions up to {found.furthest:,}, "
        f"largest difference {found.max_abs_difference:.1e}, largest KL {found.max_kl:.1e} nats, "
        f"same first choice at {found.argmax_agreement:.2%}"
    )
    return found.agrees


if __name__ == "__main__":
    sys.exit(command.run(main, interrupted="interrupted: nothing was changed"))
