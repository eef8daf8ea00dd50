"""Megatron to Hugging Face: `python -m conversion.megatron_to_hf SRC DST`.

SRC is a checkpoint of `hf_to_megatron` or of the training engine, saved at any parallel layout. One tensor is in memory
at a time. Left out: optimizer state, which has no place in a Hugging Face folder.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import torch

from conversion import console
from conversion.checkpoint import HF_DIR, build, dtype_name
from conversion.hf_folder import config_with_dtype, plan_shards, write_index
from conversion.megatron_folder import open_megatron
from conversion.safetensors_io import SafetensorsWriter

MAX_SHARD_BYTES = 5 * 1000**3

_DESCRIPTION = """\
Convert a Megatron checkpoint (from hf_to_megatron, or saved in training at any parallel layout) to a Hugging Face
folder that AutoModelForCausalLM.from_pretrained loads. Needs no GPU and little memory.

Vocabulary padding is cut and a tied output weight is not stored twice. config.json, the tokenizer, chat template and
generation config are those of the original model, byte for byte; only the dtype in config.json follows the weights.

DST appears only when it is complete. SRC is never written to."""

_EPILOG = """\
examples:
  python -m conversion.megatron_to_hf runs/grpo/checkpoints/step-400 release/model
  python -m conversion.megatron_to_hf checkpoints/tiny tiny-bf16 --dtype bfloat16
then:
  python -m conversion.verify runs/grpo/checkpoints/step-400 release/model"""


def convert(
    src: str | Path,
    dst: str | Path,
    *,
    dtype: torch.dtype | None = None,
    force: bool = False,
    advance: console.Advance = console.no_progress,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Path:
    """Convert the checkpoint folder `src` to a Hugging Face folder `dst`, and return its path.

    Args:
        src: checkpoint folder with model/, hf/ and manifest.json.
        dst: folder to create; its parent must exist.
        dtype: dtype of the weights in `dst`; the checkpoint's own when None.
        force: replace `dst` if it exists, once the new one is complete.
        advance: called with the number of bytes of each tensor done.
        max_shard_bytes: more weights than this are divided into several files with an index.

    Raises:
        ConversionError: one of its subclasses, naming the file or tensor; then `src` and `dst` are as before.
    """
    model = open_megatron(Path(src))
    checkpoint = model.checkpoint
    wanted = dtype or model.dtype
    entries = list(checkpoint.family.entries(checkpoint.architecture))
    with build(Path(dst), source=Path(src), force=force) as tmp:
        shards = plan_shards(entries, wanted, max_shard_bytes)
        for shard in shards:
            with SafetensorsWriter(tmp / shard.file, shard.shapes, wanted) as writer:
                for entry in shard.entries:
                    for name, part in zip(entry.hf_names, model.read(entry), strict=True):
                        writer.add(name, part.to(wanted))
                    advance(entry.parameters * model.dtype.itemsize)
        write_index(tmp, shards, wanted)
        for name in checkpoint.manifest.files:
            if name.startswith(f"{HF_DIR}/"):
                target = tmp / name.removeprefix(f"{HF_DIR}/")
                target.parent.mkdir(exist_ok=True)
                shutil.copyfile(checkpoint.path / name, target)
        if dtype_name(wanted) != checkpoint.manifest.source.dtype:
            config = tmp / "config.json"
            config.write_bytes(config_with_dtype(config.read_bytes(), wanted))
    return Path(dst)


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = console.parser("megatron_to_hf", _DESCRIPTION, _EPILOG)
    parser.add_argument("src", metavar="SRC", type=Path, help="Megatron checkpoint folder")
    parser.add_argument("dst", metavar="DST", type=Path, help="Hugging Face folder to create")
    parser.add_argument("--dtype", choices=console.DTYPES, help="dtype of the weights in DST (default: as in SRC)")
    parser.add_argument("--force", action="store_true", help="replace DST if it exists, once the new one is complete")
    arguments = parser.parse_args(argv)
    return console.run(lambda: _command(arguments))


def _command(arguments: argparse.Namespace) -> int:
    console.warn_of_leftovers(arguments.dst)
    model = open_megatron(arguments.src)
    manifest = model.checkpoint.manifest
    with console.progress_bar("converting", manifest.parameter_count * model.dtype.itemsize) as advance:
        convert(
            arguments.src,
            arguments.dst,
            dtype=console.DTYPES.get(arguments.dtype),
            force=arguments.force,
            advance=advance,
        )
    print(
        f"{arguments.dst}: {manifest.family}, {manifest.tensor_count} tensors, "
        f"{manifest.parameter_count:,} parameters, {arguments.dtype or manifest.dtype}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
