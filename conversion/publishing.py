"""How a finished folder appears, and what may be replaced by it.

A folder is built as `DST.partial-<pid>` beside DST and appears as DST by one rename, after everything in it is on disk.
What is built here names its files with their sizes, in manifest.json (a checkpoint) or in .medatron.json (a Hugging
Face folder): with `--force` a folder is replaced only where one of the two names all that lies in it. So a folder of
somebody else's, notes put beside the weights and a model card that was edited cost nothing but another command.

Left out: a lock on DST; of two commands that build the same DST the second to finish fails.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from conversion.errors import DestinationError

MANIFEST_FILE = "manifest.json"
FORMAT = "medatron-checkpoint"
MARKER_FILE = ".medatron.json"
PARTIAL = ".partial-"
_MARK = "medatron-files"
# What only training writes.
_STATE_FILE = "state.json"


def partial_path(dst: str | os.PathLike[str]) -> Path:
    """Where to build what will be published as `dst`: beside it, on the same file system, named after this process."""
    target = Path(dst).absolute()
    return target.with_name(f"{target.name}{PARTIAL}{os.getpid()}")


def check_destination(dst: Path, *, sources: Iterable[Path] = (), force: bool = False) -> None:
    """Raise DestinationError if `dst` exists, or if one of `dst` and a source contains the other.

    With `force` an existing `dst` may be an empty folder, or one that this project has built and nobody has added to,
    and that no training has saved.
    """
    for source in sources:
        a, b = dst.resolve(), source.resolve()
        if a == b or a in b.parents or b in a.parents:
            raise DestinationError(f"{dst}: overlaps the source {source}; choose another destination")
    if (dst.exists() or dst.is_symlink()) and not force:
        raise DestinationError(f"{dst}: exists; choose another destination or pass --force to replace it")
    if dst.exists() or dst.is_symlink():
        reason = _not_ours(dst)
        if reason is not None:
            raise DestinationError(f"{dst}: {reason}, so --force does not delete it; delete it yourself")
    if not dst.parent.is_dir():
        raise DestinationError(f"{dst.parent}: no such folder; create it first")


@contextmanager
def build(dst: Path, *, sources: Iterable[Path], force: bool = False) -> Iterator[Path]:
    """Context of one process building `dst`: yields the empty folder to fill, publishes it, removes it on an error.

    Raises DestinationError beforehand for a destination that exists (unless `force`) or overlaps a source.
    """
    check_destination(dst, sources=sources, force=force)
    tmp = partial_path(dst)
    tmp.mkdir()
    try:
        yield tmp
        if not (tmp / MANIFEST_FILE).exists():
            (tmp / MARKER_FILE).unlink(missing_ok=True)
            marker = {"format": _MARK, "files": {name: {"size": size} for name, size in _files(tmp).items()}}
            (tmp / MARKER_FILE).write_text(json.dumps(marker, indent=1) + "\n", encoding="utf-8")
        publish(tmp, dst, force=force)
    except BaseException:
        shutil.rmtree(tmp, ignore_errors=True)
        raise


def publish(tmp: str | os.PathLike[str], dst: str | os.PathLike[str], *, force: bool = False) -> None:
    """Make the finished folder `tmp` appear as `dst` by one rename, once every file and folder in it is on disk.

    `tmp` lies on the same file system, as `partial_path` chooses it. With `force` an existing `dst` is first renamed to
    `DST.replaced-<pid>` and deleted afterwards: there is never a moment with half of either.
    Raises DestinationError if `dst` exists and `force` is false. Call it on one rank.
    """
    built, target = Path(tmp), Path(dst).absolute()
    for path in (*built.rglob("*"), built):
        _fsync(path)
    replaced = None
    if target.exists():
        if not force:
            raise DestinationError(f"{target}: exists; choose another destination or replace it on purpose")
        replaced = target.with_name(f"{target.name}.replaced-{os.getpid()}")
        target.rename(replaced)
    try:
        built.rename(target)
    except OSError as error:
        if replaced is not None:
            replaced.rename(target)
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            raise DestinationError(f"{target}: another process has just put it there") from error
        raise
    _fsync(target.parent)
    if replaced is not None:
        shutil.rmtree(replaced)


def _not_ours(path: Path) -> str | None:
    """Why deleting the folder could cost more than what this project has built there; None where it could not."""
    if path.is_symlink():
        return f"is a link to {path.readlink()}"
    if not path.is_dir():
        return "is no folder"
    found = _files(path)
    if not found:
        return None
    listed = _listed(path / MANIFEST_FILE, FORMAT) or _listed(path / MARKER_FILE, _MARK)
    if listed is None:
        return f"was not built by this project (no {MANIFEST_FILE} or {MARKER_FILE} of it inside)"
    for name, size in found.items():
        if name not in (MANIFEST_FILE, MARKER_FILE) and listed.get(name) != size:
            return f"holds {name}, which was {'changed since' if name in listed else 'put there by somebody else'}"
    return "is a checkpoint that training saved" if _STATE_FILE in listed else None


def _files(folder: Path) -> dict[str, int]:
    """Names and sizes of all that is no folder in it."""
    found = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return {path.relative_to(folder).as_posix(): path.lstat().st_size for path in found}


def _listed(path: Path, form: str) -> dict[str, int] | None:
    """The files that a manifest or marker names, with their sizes; None where there is none of that form."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        files = {name: record["size"] for name, record in values["files"].items()}
        return files if values["format"] == form else None
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return None


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
