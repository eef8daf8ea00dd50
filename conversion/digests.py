"""Digests: which weights, files and rows something was made of, whatever path leads to them.

The digest of a file is its SHA-256, as `sha256sum` prints it. That of a model is the SHA-256 of the names and digests
of its weight files and of all in hf/ (config.json, tokenizer, chat template): a copy or another spelling of its path
has the same, another save never has.

A model of 70B parameters is 140 GB, which one core takes 93 s to digest (1.5 GB/s). So each file is digested once when
it is written, by the rank that wrote it and whose memory still holds it, and the manifest keeps it. To open a
checkpoint compares sizes alone. An evaluation and a release, whose word others rely on, read every byte again, several
files at a time. Optimizer state, six times as large, is never digested: no claim is made about it.

Left out: digests of tensors, equal for every layout; they need torch and read one tensor at a time
(`conversion.verify`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SHOWN = 12
# hashlib lets go of the interpreter's lock; more readers than that make a shared file system no faster.
_THREADS = min(16, os.cpu_count() or 1)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes in hexadecimal. Raises OSError."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def file_digests(root: Path, names: Iterable[str]) -> dict[str, str]:
    """Digests of files under `root` by name, several read at a time. Raises OSError."""
    chosen = list(names)
    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(chosen, pool.map(lambda name: file_digest(root / name), chosen), strict=True))


def combined(digests: Mapping[str, str]) -> str:
    """One digest of files by their names and digests, whatever their order."""
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()
