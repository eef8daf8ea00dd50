"""What exported weights must be, for the tests of both engines; imports no engine."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from conversion import megatron_to_hf
from tests.engines.constants import BUCKETS
from tests.engines.steps import tensor_digest


def check_exports(
    ranks: list[dict[str, Any]], *, source: Path, saved: Path, precision: torch.dtype, scratch: Path
) -> None:
    """Checks what `export_all` found on every rank against the model's source and the converted checkpoint."""
    wanted = _digests(source, precision)
    layers = 1 + max(int(number) for name in wanted for number in re.findall(r"layers\.(\d+)\.", name))
    ends = len([name for name in wanted if ".layers." not in name])
    trained = _digests(megatron_to_hf.convert(saved, scratch / "trained"), precision)
    assert trained.keys() == wanted.keys()
    assert trained != wanted
    for number, rank in enumerate(ranks):
        assert rank.keys() == {f"start {limit} {ev}" for limit in BUCKETS for ev in (False, True)} | {
            *("trained", "later", "loaded")
        }
        for key, buckets in rank.items():
            everywhere, pieces = not key.endswith("False"), [b["pieces"] for b in buckets]
            assert pieces == [b["pieces"] for b in ranks[0][key]], "ranks see different buckets"
            held = {name: digest for bucket in buckets for name, digest in bucket["held"].items()}
            if everywhere or number == 0:
                assert held == trained if key in ("trained", "loaded") else (held == wanted) is (key != "later"), key
                for bucket in buckets:
                    ends_at = [start + math.prod(shape) for _, shape, start in bucket["pieces"]]
                    assert [start for _, _, start in bucket["pieces"]] == [0, *ends_at[:-1]]
                    assert bucket["bytes"] == ends_at[-1] * precision.itemsize
            else:
                assert not held
                assert all(bucket["bytes"] is None for bucket in buckets)
            _check_order([[name for name, _, _ in bucket] for bucket in pieces])
        small, medium, large = (len(rank[f"start {limit} True"]) for limit in BUCKETS)
        assert small == layers + ends
        assert small > medium > large == 1


def _check_order(buckets: list[list[str]]) -> None:
    """Embedding, layers in order, norm, output; no layer in two buckets."""
    places = [[_place(name) for name in bucket] for bucket in buckets]
    assert all(bucket == sorted(bucket) for bucket in places)
    assert all(before[-1] < after[0] for before, after in pairwise(places))


def _place(name: str) -> tuple[int, int]:
    found = re.fullmatch(r"model\.layers\.(\d+)\..*", name)
    if found:
        return 1, int(found[1])
    return {"model.embed_tokens.weight": (0, 0), "model.norm.weight": (2, 0), "lm_head.weight": (3, 0)}[name]


def _digests(folder: Path, precision: torch.dtype) -> dict[str, str]:
    tensors = {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}
    return {name: tensor_digest(tensor.to(precision)) for name, tensor in tensors.items()}
