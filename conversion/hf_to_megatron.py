"""Hugging Face to Megatron: `python -m conversion.hf_to_megatron SRC DST`.

Runs on a login node: no GPU, no Transformer Engine, no process group, and one tensor in memory at a time. Left out:
resuming a stopped conversion; a rerun starts clean, and what was left beside DST can never be opened.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from conversion import command, console, nemo
from conversion.checkpoint import (
    HF_DIR,
    LAYOUTS,
    Checkpoint,
    Source,
    companion_files,
    copy_companions,
    dtype_name,
    open_checkpoint,
    write_manifest,
)
from conversion.errors import DestinationError, HuggingFaceError
from conversion.families import Entry
from conversion.finite import check_finite
from conversion.hf_folder import HuggingFaceModel, open_model
from conversion.merge import PIECE_BYTES, STACKED, merge
from conversion.model_card import CARD_FILE
from conversion.publishing import build
from conversion.tokenizer_check import open_tokenizer

if TYPE_CHECKING:
    import torch

    from conversion.torch_dist import TorchDistWriter

_DESCRIPTION = """\
Convert a Hugging Face model folder to a Megatron checkpoint that megatron-core loads at any tensor and pipeline
parallel size. Needs no GPU and little memory.

DST/model/         weights (torch_dist distributed checkpoint)
DST/hf/            config.json, tokenizer, chat template, generation config: copied byte for byte
DST/manifest.json  family, dtype, counts, size of every file

With --layout nemo, for NeMo-Aligner, the weights are in DST/model_weights/ beside DST/model_config.yaml, as in a .nemo.

DST appears only when it is complete. SRC is never written to."""

_EPILOG = """\
examples:
  python -m conversion.hf_to_megatron Qwen2.5-7B-Instruct checkpoints/qwen2.5-7b
  python -m conversion.hf_to_megatron tiny-float32 checkpoints/tiny --dtype bfloat16 --force
  python -m conversion.hf_to_megatron Llama-3.1-70B-Instruct checkpoints/llama-70b.nemo --layout nemo
then:
  python -m conversion.verify Qwen2.5-7B-Instruct checkpoints/qwen2.5-7b"""


def convert(
    src: str | Path,
    dst: str | Path,
    *,
    dtype: torch.dtype | None = None,
    layout: str = "megatron",
    force: bool = False,
    progress: console.Progress = console.no_progress,
) -> Checkpoint:
    """Convert the Hugging Face folder `src` to a Megatron checkpoint folder `dst`.

    Args:
        src: folder with config.json and safetensors weights.
        dst: folder to create; its parent must exist.
        dtype: dtype of the weights in `dst`; the source's own when None.
        layout: `megatron` or `nemo`, see `conversion.checkpoint`.
        force: replace `dst` if it exists, once the new one is complete.
        progress: told the bytes of the source and how many are done.

    Raises:
        ConversionError: one of its subclasses, naming the file or tensor; then `src` and `dst` are as before.
    """
    model = open_model(Path(src))
    open_tokenizer(model.path, model.architecture.vocab_size)
    if dtype is None and model.dtype is None:
        names = sorted({dtype_name(tensor.dtype) for tensor in model.tensors.values()})
        raise HuggingFaceError(f"{src}: weights of mixed dtypes ({', '.join(names)}); choose one with --dtype")
    from conversion.torch_dist import TorchDistWriter

    companions = {name: model.path / name for name in companion_files(model.path)}
    with build(Path(dst), sources=[Path(src)], force=force) as tmp:
        place = LAYOUTS[layout]
        (tmp / place.weights).mkdir()
        with TorchDistWriter(tmp / place.weights, prefix=place.prefix) as writer:
            with progress("converting", model.nbytes) as advance:
                _write_weights(model, writer, dtype, advance, padded=layout == "nemo")
            for key in model.family.extra_states(model.architecture):
                writer.add_empty_object(key)
            writer.finish()
        copy_companions(companions, tmp / HF_DIR)
        if layout == "nemo":
            wanted = dtype or next(iter(model.tensors.values())).dtype
            tokenizer = Path(dst).absolute() / HF_DIR
            nemo.write_config(tmp / nemo.CONFIG_FILE, nemo.model_config(model.architecture, wanted, tokenizer))
        source = Source(
            path=str(model.path.resolve()),
            dtype="mixed" if model.dtype is None else dtype_name(model.dtype),
            files=model.weight_files,
        )
        write_manifest(tmp, source=source, layout=layout)
    return open_checkpoint(dst)


def _write_weights(
    model: HuggingFaceModel,
    writer: TorchDistWriter,
    dtype: torch.dtype | None,
    advance: console.Advance,
    *,
    padded: bool,
) -> None:
    for entry in model.family.entries(model.architecture):
        shape = entry.global_shape
        if padded and entry.vocabulary:
            shape = (nemo.padded_vocabulary(shape[0]), *shape[1:])
        for start, piece in _pieces(model, entry):
            converted = piece.to(dtype or piece.dtype)
            check_finite(entry.row.megatron, converted, model.path)
            offsets = (*entry.index, start, *(0 for _ in piece.shape[1:]))
            stacked = converted.view(*(1 for _ in entry.index), *piece.shape)
            for key in entry.row.keys:
                writer.add_tensor(key, stacked, shape, offsets)
            advance(piece.nbytes)
        if shape != entry.global_shape:
            rows = converted.new_zeros(shape[0] - entry.global_shape[0], *shape[1:])
            writer.add_tensor(entry.row.megatron, rows, shape, (entry.global_shape[0], *(0 for _ in shape[1:])))


def _pieces(model: HuggingFaceModel, entry: Entry) -> Iterator[tuple[int, torch.Tensor]]:
    """An entry's Megatron tensor as rows after rows, each with the number of its first row."""
    if entry.row.rule not in STACKED:
        yield 0, merge(entry.row.rule, model.read(entry), model.architecture)
        return
    base = 0
    for name in entry.hf_names:
        stored = model.tensors[name]
        rows = stored.shape[0]
        step = max(1, rows * PIECE_BYTES // max(1, stored.nbytes))
        for start in range(0, rows, step):
            yield base + start, stored.read_rows(start, min(rows, start + step))
        base += rows


def made_before(src: Path, dst: Path, *, dtype: str | None, layout: str) -> Checkpoint:
    """The checkpoint `dst`, which was made of the folder `src` as it is; of weights, which may be gone, sizes count.

    Raises:
        CheckpointError: `dst` is no whole checkpoint.
        DestinationError: it was made of another folder, or of one that has changed, or in another dtype or layout.
    """
    made = open_checkpoint(dst)
    manifest = made.manifest
    wanted = (str(src.resolve()), dtype or manifest.dtype, layout)
    found = (manifest.source.path, manifest.dtype, manifest.layout)
    ours, theirs = ({name: path / name for name in companion_files(path)} for path in (made.hf_dir, src))
    changed = [name for name in ours | theirs if not _same(ours.get(name), theirs.get(name)) and name != CARD_FILE]
    weights = [(name, src / name, size) for name, size in manifest.source.files.items()]
    changed += [name for name, path, size in weights if path.exists() and path.stat().st_size != size]
    if found != wanted or changed:
        than = (
            f"another {changed[0]} than is there" if found == wanted else f"{' '.join(found)}, not {' '.join(wanted)}"
        )
        raise DestinationError(
            f"{dst}: was made of {than}; choose another destination, or take it as it is unconverted"
        )
    return made


def _same(one: Path | None, other: Path | None) -> bool:
    return one is not None and other is not None and one.read_bytes() == other.read_bytes()


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = console.conversion_parser(
        "hf_to_megatron",
        _DESCRIPTION,
        _EPILOG,
        src="Hugging Face folder: config.json and safetensors",
        dst="checkpoint folder to create",
    )
    parser.add_argument("--layout", choices=LAYOUTS, default="megatron", help="form of DST (default: %(default)s)")
    parser.add_argument(
        "--reuse",
        action="store_true",
        help="leave DST as it is where it was made of SRC, if by another process",
    )
    arguments = parser.parse_args(argv)
    return _command(arguments)


def _command(arguments: argparse.Namespace) -> int:
    console.warn_of_leftovers(arguments.dst)
    try:
        checkpoint = _reused(arguments) or convert(
            arguments.src,
            arguments.dst,
            dtype=console.dtype(arguments.dtype),
            layout=arguments.layout,
            force=arguments.force,
            progress=console.progress_bar,
        )
    except DestinationError:
        # What another process has published meanwhile is as good.
        theirs = _reused(arguments)
        if theirs is None:
            raise
        checkpoint = theirs
    made = checkpoint.manifest
    for note in checkpoint.family.read(checkpoint.hf_config).left_out():
        print(f"note: {note}", file=sys.stderr)
    print(console.converted(checkpoint.path, made.family, made.tensor_count, made.parameter_count, made.dtype))
    return 0


def _reused(arguments: argparse.Namespace) -> Checkpoint | None:
    if not (arguments.reuse and arguments.dst.exists()):
        return None
    return made_before(arguments.src, arguments.dst, dtype=arguments.dtype, layout=arguments.layout)


if __name__ == "__main__":
    sys.exit(command.run(main, interrupted="interrupted: nothing was changed"))
