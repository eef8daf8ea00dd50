"""The checkpoint folder shared by the converters and the training engine.

    DST/model/         the weights: a torch_dist checkpoint for megatron.core.dist_checkpointing at any TP, PP and EP
    DST/hf/            the source's config.json, tokenizer files, chat template, generation config, byte for byte
    DST/manifest.json  what it is and the size of every file, written last

In the layout of NeMo's `.nemo` the weights are in `model_weights/`, every key begins with `model.`, and
`model_config.yaml` stands beside them (`conversion.nemo`); all else is the same.

It is published by one rename (`conversion.publishing`). A folder without a manifest, or whose files are not those of
the manifest, never opens. The engine adds files of its own (optimizer, random states, data cursor); the manifest covers
them too.

To open a folder compares sizes, and digests under hf/ alone; `Checkpoint.digest` reads the weights, too (why:
`conversion.digests`).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from conversion.digests import SHOWN, combined, file_digest, file_digests
from conversion.errors import CheckpointError, HuggingFaceError, TensorMapError
from conversion.families import Family, MegatronArchitecture, Row, family_for
from conversion.publishing import FORMAT, MANIFEST_FILE, PARTIAL

if TYPE_CHECKING:
    import torch

    from conversion.torch_dist import TorchDistReader

__all__ = [
    "FORMAT",
    "FORMAT_VERSION",
    "HF_DIR",
    "LAYOUTS",
    "MANIFEST_FILE",
    "MODEL_DIR",
    "Checkpoint",
    "CheckpointError",
    "FileRecord",
    "Manifest",
    "Source",
    "StoredWeights",
    "check_link",
    "check_weights",
    "companion_files",
    "copy_companions",
    "dtype_name",
    "open_checkpoint",
    "read_config",
    "write_manifest",
]


class Layout(NamedTuple):
    """Where a checkpoint folder keeps its weights, and what stands before each of their keys."""

    weights: str
    prefix: str


FORMAT_VERSION = 1
MODEL_DIR = "model"
LAYOUTS = {"megatron": Layout(MODEL_DIR, ""), "nemo": Layout("model_weights", "model.")}
HF_DIR = "hf"
# Weights in any form, the only files of a Hugging Face folder that do not travel.
_WEIGHT_SUFFIXES = (
    *(".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx", ".ot"),
    *(".safetensors.index.json", ".bin.index.json"),
)
# The one subfolder that transformers reads beside the weights.
_TEMPLATE_DIR = "additional_chat_templates"


@dataclass(frozen=True)
class Source:
    """Where the weights first came from: a Hugging Face folder, its weights' dtype and its weight files with sizes."""

    path: str
    dtype: str
    files: Mapping[str, int]


@dataclass(frozen=True)
class FileRecord:
    """Size of a file in bytes; for weights and files under hf/ also their SHA-256."""

    size: int
    sha256: str | None = None


@dataclass(frozen=True)
class Manifest:
    """Content of manifest.json. Counts are those of the model: the vocabulary unpadded, a tied weight once."""

    family: str
    dtype: str
    tensor_count: int
    parameter_count: int
    source: Source
    files: Mapping[str, FileRecord]
    extra: Mapping[str, Any] = field(default_factory=dict)
    layout: str = "megatron"

    def to_json(self) -> str:
        """The text of manifest.json."""
        values = {"format": FORMAT, "version": FORMAT_VERSION, **asdict(self)}
        values["files"] = {
            name: {key: value for key, value in asdict(record).items() if value is not None}
            for name, record in self.files.items()
        }
        return json.dumps(values, indent=2) + "\n"


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint folder: complete, every file of the size its manifest says."""

    path: Path
    manifest: Manifest

    @property
    def model_dir(self) -> Path:
        """The torch_dist checkpoint, for `dist_checkpointing.load(sharded_state_dict, str(model_dir))`."""
        return self.path / LAYOUTS[self.manifest.layout].weights

    def reader(self) -> TorchDistReader:
        """The weights, by key without the layout's prefix."""
        from conversion.torch_dist import TorchDistReader

        return TorchDistReader(self.model_dir, prefix=LAYOUTS[self.manifest.layout].prefix)

    @property
    def has_digests(self) -> bool:
        """Whether the manifest keeps digests of the weights; an older release's does not."""
        weights = f"{LAYOUTS[self.manifest.layout].weights}/"
        return all(record.sha256 for name, record in self.manifest.files.items() if name.startswith(weights))

    def digest(self, *, read: bool) -> str:
        """What the model is, by content (`conversion.digests`).

        Args:
            read: every byte again, and not what the manifest has kept of them. Of a checkpoint that an older release
                wrote, whose manifest has kept nothing, they are always read.

        Raises:
            CheckpointError: a file is not the one that was written; the message names it and both digests.
        """
        inside = (f"{LAYOUTS[self.manifest.layout].weights}/", f"{HF_DIR}/")
        kept = {name: record.sha256 for name, record in self.manifest.files.items() if name.startswith(inside)}
        found = file_digests(self.path, [name for name, digest in kept.items() if read or digest is None])
        for name, digest in found.items():
            wanted = kept[name]
            if wanted not in (None, digest):
                raise CheckpointError(
                    f"{self.path / name}: sha256 {digest[:SHOWN]}, was {wanted[:SHOWN]} when it was written; it was "
                    "changed since, restore it or make the checkpoint anew"
                )
        return combined({name: found.get(name) or digest or "" for name, digest in kept.items()})

    @property
    def hf_dir(self) -> Path:
        """config.json, tokenizer and chat template, for `AutoTokenizer.from_pretrained`."""
        return self.path / HF_DIR

    @cached_property
    def hf_config(self) -> dict[str, Any]:
        """The parsed hf/config.json."""
        return read_config(self.hf_dir)

    @property
    def family(self) -> Family:
        """The model family of hf/config.json."""
        return family_for(self.hf_config)

    @property
    def architecture(self) -> MegatronArchitecture:
        """The model in megatron-core's names."""
        return self.family.megatron_architecture(self.hf_config)


def read_config(directory: Path) -> dict[str, Any]:
    """Parse `directory`/config.json. Raises HuggingFaceError when it is missing or not a JSON object."""
    path = directory / "config.json"
    check_link(path)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise HuggingFaceError(f"{path}: no such file; expected a Hugging Face model folder") from error
    except ValueError as error:
        raise HuggingFaceError(f"{path}: not valid JSON ({error}); copy the model's config.json again") from error
    if not isinstance(config, dict):
        raise HuggingFaceError(f"{path}: expected a JSON object; copy the model's config.json again")
    return config


def check_link(file: Path) -> None:
    """Raise HuggingFaceError if `file` is a link to nothing, as in a cache whose blobs were deleted."""
    if file.is_symlink() and not file.exists():
        raise HuggingFaceError(f"{file}: a link to {file.readlink()}, which is gone; download the model again")


def dtype_name(dtype: torch.dtype) -> str:
    """`float32` for torch.float32, as config.json spells it."""
    return str(dtype).removeprefix("torch.")


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Open a checkpoint folder after checking that every file of its manifest is there, whole and unchanged under hf/.

    Raises CheckpointError naming the missing, truncated or changed file.
    """
    root = Path(path)
    if PARTIAL in root.name:
        raise CheckpointError(
            f"{root}: a leftover of an interrupted conversion or save; it is incomplete, delete it and use the folder "
            f"named {root.name.split(PARTIAL)[0]} if there is one"
        )
    manifest = _read_manifest(root)
    _refuse_ways_out(root, manifest)
    for name, record in manifest.files.items():
        file = root / name
        if not file.is_file():
            raise CheckpointError(f"{file}: missing; copy the checkpoint again or make it anew")
        size = file.stat().st_size
        if size != record.size:
            raise CheckpointError(
                f"{file}: {size} bytes, expected {record.size}; it is truncated or was changed, copy the checkpoint "
                "again or make it anew"
            )
        if name.startswith(f"{HF_DIR}/") and record.sha256 is not None and file_digest(file) != record.sha256:
            raise CheckpointError(f"{file}: was changed after the conversion; restore it or convert the source again")
    return Checkpoint(root, manifest)


def companion_files(src: Path) -> list[str]:
    """Names of everything beside the weights in a Hugging Face folder.

    These are the files of the top level, less hidden ones, and the folder of additional chat templates: config,
    tokenizer, templates, generation config, licence. Raises HuggingFaceError naming a link to a file that is gone, or
    that lies neither in the folder nor among the blobs of the Hugging Face cache that the folder is a snapshot of.
    """
    root = src.resolve()
    inside = (root, root.parent.parent / "blobs") if root.parent.name == "snapshots" else (root,)
    found = [
        file
        for file in (*src.iterdir(), *(src / _TEMPLATE_DIR).glob("*"))
        if not file.name.startswith(".") and not file.name.endswith(_WEIGHT_SUFFIXES)
    ]
    for file in found:
        check_link(file)
        if file.is_file() and not any(file.resolve().is_relative_to(folder) for folder in inside):
            raise HuggingFaceError(
                f"{file}: leads out of the model's folder, to {file.resolve()}; copy the file there if it belongs to "
                "the model, delete the link if not"
            )
    return sorted(file.relative_to(src).as_posix() for file in found if file.is_file())


def copy_companions(files: Mapping[str, Path], dst: Path) -> None:
    """Copy files byte for byte into `dst`, which is created, under the names given."""
    for name, file in files.items():
        (dst / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, dst / name)


@dataclass(frozen=True)
class StoredWeights:
    """What `check_weights` found: the one dtype, and under which key each row of the weight map is stored."""

    dtype: torch.dtype
    keys: Mapping[Row, str]


def check_weights(reader: TorchDistReader, family: Family, architecture: MegatronArchitecture) -> StoredWeights:
    """Check the keys and shapes under model/ against the family's weight map.

    The vocabulary axis may be longer than the config's (padding). Raises TensorMapError naming the first tensor that
    is missing, left over or of another shape, and when dtypes are mixed.
    """
    stored = reader.tensors()
    expected = {entry.row: entry for entry in family.entries(architecture)}
    keys: dict[Row, str] = {}
    for row, entry in expected.items():
        key = next((key for key in row.keys if key in stored), None)
        if key is None:
            raise TensorMapError(
                f"{row.megatron}: missing from the checkpoint; config.json ({family.name}) asks for it with shape "
                f"{entry.global_shape}. Check model_type and tie_word_embeddings"
            )
        keys[row] = key
        shape = stored[key][0]
        fits = len(shape) == len(entry.global_shape) and (
            shape == entry.global_shape
            or (entry.vocabulary and shape[0] > entry.global_shape[0] and shape[1:] == entry.global_shape[1:])
        )
        if not fits:
            raise TensorMapError(
                f"{key}: shape {shape} in the checkpoint, {entry.global_shape} by config.json; "
                "the two do not belong together"
            )
    left_over = sorted(set(stored) - {key for row in expected for key in row.keys})
    if left_over:
        raise TensorMapError(
            f"{left_over[0]}: in the checkpoint but not in the weight map of {family.name} "
            f"({len(left_over)} such); check model_type and tie_word_embeddings in config.json"
        )
    dtypes = {dtype: key for key, (_, dtype) in stored.items()}
    if len(dtypes) > 1:
        found = sorted(f"{key} is {dtype_name(dtype)}" for dtype, key in dtypes.items())
        raise TensorMapError(f"mixed dtypes in the checkpoint: {', '.join(found)}; save all weights in one dtype")
    return StoredWeights(next(iter(dtypes)), keys)


def write_manifest(
    directory: str | os.PathLike[str],
    *,
    source: Source,
    extra: Mapping[str, Any] | None = None,
    layout: str = "megatron",
    digests: Mapping[str, str] | None = None,
) -> Manifest:
    """Describe and seal a folder that holds the weights and hf/; call it last, on one rank, then `publish`.

    Family, dtype and counts are read from the folder itself, so they cannot contradict it, and the weights are checked
    against the family's map: what cannot be exported is not sealed. `source` of a training checkpoint is that of the
    checkpoint it started from. `extra` holds the engine's own JSON values, `digests` those of weight files whose
    writers took them, by name; the others are read here.

    Raises TensorMapError, CheckpointError or HuggingFaceError naming the tensor or file.
    """
    from conversion.torch_dist import TorchDistReader

    root = Path(directory)
    config = read_config(root / HF_DIR)
    family = family_for(config)
    architecture = family.megatron_architecture(config)
    place = LAYOUTS[layout]
    weights = check_weights(TorchDistReader(root / place.weights, prefix=place.prefix), family, architecture)
    entries = list(family.entries(architecture))
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    inside, known = (f"{place.weights}/", f"{HF_DIR}/"), dict(digests or {})
    known |= file_digests(root, [name for name in names if name.startswith(inside) and name not in known])
    files = {name: FileRecord((root / name).stat().st_size, known.get(name)) for name in names if name != MANIFEST_FILE}
    manifest = Manifest(
        family=family.name,
        dtype=dtype_name(weights.dtype),
        tensor_count=sum(len(entry.hf_names) for entry in entries),
        parameter_count=sum(entry.parameters for entry in entries),
        source=source,
        files=files,
        extra=dict(extra or {}),
        layout=layout,
    )
    (root / MANIFEST_FILE).write_text(manifest.to_json(), encoding="utf-8")
    return manifest


def _refuse_ways_out(root: Path, manifest: Manifest) -> None:
    """Nothing that travels on with a checkpoint may come from outside of it."""
    for name in manifest.files:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise CheckpointError(f"{root / MANIFEST_FILE}: names {name!r}, which lies outside of the checkpoint")
    for file in (root / HF_DIR).rglob("*"):
        if file.is_symlink() and not file.resolve().is_relative_to(root.resolve()):
            raise CheckpointError(f"{file}: a link to {file.readlink()}, out of the checkpoint; copy the file there")


def _read_manifest(root: Path) -> Manifest:
    path = root / MANIFEST_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if not root.is_dir():
            raise CheckpointError(
                f"{root}: no such folder; give that of a checkpoint, as python -m conversion.hf_to_megatron makes one"
            ) from error
        if (root / "config.json").exists():
            raise CheckpointError(
                f"{root}: a Hugging Face folder, not a Megatron checkpoint; first run "
                f"python -m conversion.hf_to_megatron {root} DST"
            ) from error
        raise CheckpointError(
            f"{path}: missing, so the checkpoint is incomplete or something else; convert or save it again"
        ) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON ({error}); convert or save the checkpoint again") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not the manifest of a {FORMAT}; give the folder of a checkpoint")
    if values.get("version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format version {values.get('version')!r}, this release reads {FORMAT_VERSION}; "
            "use the release that wrote it, or convert again"
        )
    try:
        if values["layout"] not in LAYOUTS:
            raise CheckpointError(f"{path}: layout {values['layout']!r} is unknown; this release reads {[*LAYOUTS]}")
        values["source"] = Source(**values["source"])
        values["files"] = {name: FileRecord(**record) for name, record in values["files"].items()}
        return Manifest(**{key: value for key, value in values.items() if key not in ("format", "version")})
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: damaged ({error}); convert or save the checkpoint again") from error
