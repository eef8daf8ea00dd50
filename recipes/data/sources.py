"""Where a published set's rows come from: a file or folder here, or a name that `datasets.load_dataset` knows.

Left out: downloading anything else. What `datasets` fetches lies in its own cache; a licence is for a person to read
first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from conversion.digests import combined, file_digest, file_digests
from recipes.data.errors import ExampleError
from recipes.data.tables import Row, read_rows, rows_of_file


@dataclass(frozen=True)
class FileSource:
    """A file or folder here; which split it holds, it does not say."""

    path: Path
    split: ClassVar[None] = None

    @property
    def name(self) -> str:
        """The path as it was given."""
        return str(self.path)

    def rows(self, *, keyed_by: str | None = None, columns: Sequence[str] = ()) -> Iterator[Row]:
        """The rows from the first, as `read_rows` gives them."""
        return read_rows(self.path, keyed_by=keyed_by, columns=columns)

    def origin(self) -> dict[str, Any]:
        """Path and SHA-256; of a folder, that of its files' names and digests."""
        if self.path.is_file():
            return {"path": str(self.path.absolute()), "sha256": file_digest(self.path)}
        names = sorted(str(file.relative_to(self.path)) for file in self.path.rglob("*") if file.is_file())
        return {"path": str(self.path.absolute()), "sha256": combined(file_digests(self.path, names))}


@dataclass(frozen=True)
class HubSource:
    """A data set of the Hugging Face hub, or a local folder that `datasets` builds one from.

    Attributes:
        dataset: the name, as `datasets.load_dataset` takes it.
        split: the split to read.
        config: its configuration, where it has several.
        revision: commit, tag or branch of the hub.
    """

    dataset: str
    split: str
    config: str | None = None
    revision: str | None = None
    path: ClassVar[None] = None

    @property
    def name(self) -> str:
        """Data set, configuration and split."""
        return " ".join(part for part in (self.dataset, self.config, self.split) if part)

    def rows(self, *, keyed_by: str | None = None, columns: Sequence[str] = ()) -> Iterator[Row]:
        """The rows from the first; `datasets` knows their columns itself.

        Raises:
            ExampleError: the set cannot be loaded.
        """
        yield from rows_of_file(((None, values) for values in self._loaded()), self.name)

    def origin(self) -> dict[str, Any]:
        """Name, configuration, split and revision, and the SHA-256 of the rows as read, a line of JSON each."""
        digest = hashlib.sha256()
        for values in self._loaded():
            digest.update(json.dumps(values, sort_keys=True, default=str).encode() + b"\n")
        asked = {"config": self.config, "split": self.split, "revision": self.revision}
        return {"dataset": self.dataset, **{k: v for k, v in asked.items() if v}, "sha256_of_rows": digest.hexdigest()}

    def _loaded(self) -> Any:
        import datasets

        datasets.disable_progress_bars()
        try:
            builder = datasets.load_dataset_builder(self.dataset, self.config, revision=self.revision)
            # Of a CSV, pandas would take options such as "None" and "NA" for nothing.
            kept = {"keep_default_na": False} if hasattr(builder.config, "keep_default_na") else {}
            return datasets.load_dataset(self.dataset, self.config, split=self.split, revision=self.revision, **kept)
        except Exception as error:  # of this library, its hub, its builders and the network: one answer for all
            said = (str(error).splitlines() or [""])[0]
            raise ExampleError(
                f"{self.name}: `datasets` cannot load it ({type(error).__name__}: {said}); check name, configuration, "
                "split and network, or fetch its files and name one of them instead"
            ) from error


Source = FileSource | HubSource
