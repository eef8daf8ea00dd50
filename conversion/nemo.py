"""NeMo's checkpoint form, `.nemo`: what NeMo-Aligner starts from and what it saves.

A `.nemo` is a folder, or an uncompressed tar of it, with `model_config.yaml` and `model_weights/`, a torch_dist
checkpoint whose keys begin with `model.`. Keys of the configuration are those that NeMo 2.1 reads
(nemo/collections/nlp/models/language_modeling/megatron_gpt_model.py and megatron_base_model.py).

Left out: NeMo 2's own folders (`context/`, `weights/`), adapters, and tensors of formats before torch_dist.
"""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import yaml

from conversion.checkpoint import LAYOUTS, MANIFEST_FILE, check_weights, companion_files, dtype_name, read_config
from conversion.errors import CheckpointError, UnsupportedConfigError
from conversion.families import MegatronArchitecture, family_for
from conversion.megatron_folder import MegatronModel

if TYPE_CHECKING:
    import torch

CONFIG_FILE = "model_config.yaml"
VOCABULARY_MULTIPLE = 128
# apply_rope_scaling of NeMo 2.1 knows no other factor.
_ROPE_FACTOR = 8.0


def padded_vocabulary(size: int) -> int:
    """Rows of the stored embedding: a multiple of 128, so that it divides at every usual tensor parallel size.

    NeMo would pad by the tensor parallel size of the day, and torch refuses to load other rows than were stored.
    """
    return -(-size // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE


def model_config(architecture: MegatronArchitecture, dtype: torch.dtype, tokenizer: Path) -> dict[str, Any]:
    """The content of model_config.yaml; parallel sizes and batch sizes are for the run to override.

    Raises UnsupportedConfigError for a rotary scaling that NeMo 2.1 cannot express.
    """
    scaling = architecture.rope_scaling
    if scaling is not None and scaling.factor != _ROPE_FACTOR:
        raise UnsupportedConfigError(
            f"config.json: rope scaling by {scaling.factor}; NeMo 2.1 scales by {_ROPE_FACTOR} only. Train this model "
            "on the Megatron engine"
        )
    bfloat16 = dtype_name(dtype) == "bfloat16"
    config: dict[str, Any] = {
        "target": "nemo.collections.nlp.models.language_modeling.megatron_gpt_model.MegatronGPTModel",
        "mcore_gpt": True,
        "transformer_engine": True,
        "precision": "bf16" if bfloat16 else 32,
        "megatron_amp_O2": bfloat16,
        "micro_batch_size": 1,
        "global_batch_size": 1,
        "tensor_model_parallel_size": 1,
        "pipeline_model_parallel_size": 1,
        "virtual_pipeline_model_parallel_size": None,
        "sequence_parallel": False,
        "encoder_seq_length": architecture.max_position_embeddings,
        "max_position_embeddings": architecture.max_position_embeddings,
        **architecture.layer_arguments(),
        **architecture.model_arguments(),
        "normalization": architecture.normalization.lower(),
        "activation": "fast-swiglu",
        "bias": architecture.add_bias_linear,
        "qkv_bias": architecture.add_qkv_bias,
        "rotary_percentage": 1.0,
        "scale_positional_embedding": scaling is not None,
        "make_vocab_size_divisible_by": VOCABULARY_MULTIPLE,
        "override_vocab_size": padded_vocabulary(architecture.vocab_size),
        "ffn_dropout": 0.0,
        "apply_query_key_layer_scaling": False,
        "bias_activation_fusion": False,
        "bias_dropout_add_fusion": False,
        # NeMo's model and Aligner's trainers read these without a default.
        "gradient_accumulation_fusion": False,
        "persist_layer_norm": False,
        "seed": 1234,
        "activations_checkpoint_granularity": None,
        "activations_checkpoint_method": None,
        "activations_checkpoint_num_layers": None,
        "activations_checkpoint_layers_per_pipeline": None,
        "dist_ckpt_format": "torch_dist",
        "tokenizer": {"library": "huggingface", "type": str(tokenizer), "use_fast": True},
    }
    if architecture.moe is not None:
        config["moe_aux_loss_coeff"] = 0.0
    return config


def write_config(path: Path, config: dict[str, Any]) -> None:
    """Write model_config.yaml."""
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def is_nemo(path: Path) -> bool:
    """Whether NeMo itself saved this, without our manifest: a `.nemo` file or folder, or a training checkpoint."""
    from conversion.unpickling import METADATA_FILE

    if path.is_file():
        return tarfile.is_tarfile(path)
    return not (path / MANIFEST_FILE).exists() and any(
        (folder / METADATA_FILE).exists() for folder in (path, path / LAYOUTS["nemo"].weights)
    )


def _unpack(archive: tarfile.TarFile, folder: Path) -> None:
    """Write a tar's files and folders into an empty folder; a member that is neither, or leads out of it, is an error.

    TarFile's own extraction filters are not in every Python 3.11.

    Raises TarError with the member's name.
    """
    for member in archive:
        name = PurePosixPath(member.name)
        if name.is_absolute() or ".." in name.parts or "\0" in member.name:
            raise tarfile.TarError(f"{member.name!r} lies outside of it")
        source = archive.extractfile(member) if member.isreg() else None
        if source is None and not member.isdir():
            raise tarfile.TarError(f"{member.name!r} is a link or a device, expected files and folders alone")
        target = folder / name
        try:
            (target if source is None else target.parent).mkdir(parents=True, exist_ok=True)
            if source is not None:
                with source, target.open("wb") as copy:
                    shutil.copyfileobj(source, copy, 2**24)
        except (FileExistsError, IsADirectoryError, NotADirectoryError):
            raise tarfile.TarError(f"{member.name!r} is a file and a folder in it") from None


@contextmanager
def open_nemo(path: Path, hf_files: Path, scratch: Path) -> Iterator[MegatronModel]:
    """Open what NeMo saved: a `.nemo` file or folder, or a training checkpoint of NeMo-Aligner.

    Args:
        path: of it.
        hf_files: Hugging Face folder or hf/ of the checkpoint that training began with; its config.json tells the
            family and its files surround the exported weights.
        scratch: folder in which a tar is unpacked for the time of the context.

    Raises CheckpointError, TensorMapError or HuggingFaceError as `open_megatron` does.
    """
    from conversion.torch_dist import TorchDistReader

    with TemporaryDirectory(dir=scratch, prefix=".nemo-") as unpacked:
        if path.is_file():
            try:
                with tarfile.open(path) as archive:
                    _unpack(archive, Path(unpacked))
            except (tarfile.TarError, EOFError) as error:
                raise CheckpointError(f"{path}: cannot be unpacked ({error}); copy or save it again") from error
            folder = Path(unpacked)
        else:
            folder = path
        weights = folder / LAYOUTS["nemo"].weights
        reader = TorchDistReader(weights if weights.is_dir() else folder, prefix=LAYOUTS["nemo"].prefix)
        config = read_config(hf_files)
        family = family_for(config)
        architecture = family.megatron_architecture(config)
        stored = check_weights(reader, family, architecture)
        yield MegatronModel(
            family=family,
            architecture=architecture,
            reader=reader,
            weights=stored,
            hf_files={name: hf_files / name for name in companion_files(hf_files)},
            config_dtype=config.get("dtype") or config.get("torch_dtype") or "float32",
        )
