"""Megatron to Hugging Face: `python -m conversion.megatron_to_hf SRC DST`.

SRC is a checkpoint of `hf_to_megatron`, of the training engine or of NeMo-Aligner, saved at any parallel layout. One
tensor is in memory at a time. Left out: optimizer state, which has no place in a Hugging Face folder.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from conversion import command, console
from conversion.checkpoint import copy_companions, dtype_name
from conversion.errors import CheckpointError
from conversion.finite import check_finite
from conversion.hf_folder import Shard, config_with_dtype, open_model, plan_shards, write_index
from conversion.megatron_folder import MegatronModel, open_megatron
from conversion.nemo import is_nemo, open_nemo
from conversion.publishing import build, check_destination
from conversion.safetensors_io import SafetensorsWriter

if TYPE_CHECKING:
    import torch

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
  python -m conversion.megatron_to_hf results/actor.nemo release/model --hf-files Llama-3.1-70B-Instruct
then:
  python -m conversion.verify runs/grpo/checkpoints/step-400 release/model"""


def convert(
    src: str | Path,
    dst: str | Path,
    *,
    dtype: torch.dtype | None = None,
    hf_files: str | Path | None = None,
    force: bool = False,
    progress: console.Progress = console.no_progress,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Path:
    """Convert the checkpoint `src` to a Hugging Face folder `dst`, and return its path.

    Args:
        src: checkpoint folder with weights, hf/ and manifest.json, or with `hf_files` what NeMo-Aligner saved.
        dst: folder to create; its parent must exist.
        dtype: dtype of the weights in `dst`; the checkpoint's own when None.
        hf_files: for a checkpoint of NeMo's own, the Hugging Face folder that it came from.
        force: replace `dst` if it exists, once the new one is complete.
        progress: told the bytes of the weights and how many are done.
        max_shard_bytes: more weights than this are divided into several files with an index.

    Raises:
        ConversionError: one of its subclasses, naming the file or tensor; then `src` and `dst` are as before.
    """
    source, target = Path(src), Path(dst)
    sources = [source, *([] if hf_files is None else [Path(hf_files)])]
    check_destination(target, sources=sources, force=force)
    with _open(source, None if hf_files is None else Path(hf_files), scratch=target.parent) as model:
        wanted = dtype or model.dtype
        entries = list(model.family.entries(model.architecture))
        with build(target, sources=[*sources, *model.origin], force=force) as tmp:
            shards = plan_shards(entries, wanted, max_shard_bytes)
            total = sum(entry.parameters for entry in entries) * model.dtype.itemsize
            with progress("converting", total) as advance:
                for shard in shards:
                    _write_shard(tmp, shard, model, source, wanted, advance)
            write_index(tmp, shards, wanted)
            copy_companions(model.hf_files, tmp)
            if dtype_name(wanted) != model.config_dtype:
                config = tmp / "config.json"
                config.write_bytes(config_with_dtype(config.read_bytes(), wanted))
    return target


@contextmanager
def _open(source: Path, hf_files: Path | None, scratch: Path) -> Iterator[MegatronModel]:
    if not is_nemo(source):
        yield open_megatron(source)
        return
    if hf_files is None:
        raise CheckpointError(
            f"{source}: a checkpoint of NeMo's own, without tokenizer and config.json; name the Hugging Face folder it "
            "came from, or the hf/ of the checkpoint, with --hf-files"
        )
    with open_nemo(source, hf_files, scratch) as model:
        yield model


def _write_shard(
    folder: Path, shard: Shard, model: MegatronModel, source: Path, dtype: torch.dtype, advance: console.Advance
) -> None:
    with SafetensorsWriter(folder / shard.file, shard.shapes, dtype) as writer:
        for entry in shard.entries:
            for name, piece in model.pieces(entry):
                converted = piece.to(dtype)
                check_finite(name, converted, source)
                writer.add(name, converted)
                advance(piece.nbytes)


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = console.conversion_parser(
        "megatron_to_hf",
        _DESCRIPTION,
        _EPILOG,
        src="Megatron checkpoint folder, or what NeMo-Aligner saved",
        dst="Hugging Face folder to create",
    )
    parser.add_argument(
        "--hf-files", type=command.path_argument, metavar="FOLDER", help="for NeMo's own: config.json and tokenizer"
    )
    arguments = parser.parse_args(argv)
    return _command(arguments)


def _command(arguments: argparse.Namespace) -> int:
    console.warn_of_leftovers(arguments.dst)
    convert(
        arguments.src,
        arguments.dst,
        dtype=console.dtype(arguments.dtype),
        hf_files=arguments.hf_files,
        force=arguments.force,
        progress=console.progress_bar,
    )
    written = open_model(arguments.dst)
    parameters = sum(entry.parameters for entry in written.family.entries(written.architecture))
    dtype = next(iter(written.tensors.values())).dtype
    print(console.converted(arguments.dst, written.family.name, len(written.tensors), parameters, dtype_name(dtype)))
    return 0


if __name__ == "__main__":
    sys.exit(command.run(main, interrupted="interrupted: nothing was changed"))
