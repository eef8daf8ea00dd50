"""Folders shared by the conversion tests; the shared ones are never written to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from conversion import hf_to_megatron
from tests.conversion.models import save_folder


@pytest.fixture(scope="session")
def hf_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`hf_folder(case, dtype)`: a Hugging Face folder, made once a session."""
    root = tmp_path_factory.mktemp("hf")

    def make(case: str, dtype: torch.dtype = torch.float32) -> Path:
        path = root / f"{case}-{dtype}"
        return path if path.exists() else save_folder(case, path, dtype)

    return make


@pytest.fixture(scope="session")
def megatron_folder(tmp_path_factory: pytest.TempPathFactory, hf_folder: Callable[..., Path]) -> Callable[..., Path]:
    """`megatron_folder(case, dtype)`: the same model converted, once a session."""
    root = tmp_path_factory.mktemp("megatron")

    def make(case: str, dtype: torch.dtype = torch.float32) -> Path:
        path = root / f"{case}-{dtype}"
        return path if path.exists() else hf_to_megatron.convert(hf_folder(case, dtype), path).path

    return make
