"""Completions as JSON values, for a checkpoint."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recipes.engines.base import Completion

Groups = list[list[Completion]]


def pack(groups: Groups) -> dict[str, Any]:
    """Completions as JSON values, to the last bit: about 16 bytes a token, where numbers in decimals take 26."""
    flat = [completion for group in groups for completion in group]
    return {
        "copies": len(groups[0]),
        "ids": _encoded([token for each in flat for token in each.ids], "<i4"),
        "logprobs": _encoded([value for each in flat for value in each.logprobs], "<f8"),
        "finished": [int(each.finished) for each in flat],
        "versions": [each.versions for each in flat],
        "partial": [n for n, each in enumerate(flat) if each.partial],
    }


def unpack(packed: Mapping[str, Any]) -> Groups:
    """What `pack` was given."""
    ids, logprobs = _decoded(packed["ids"], "<i4"), _decoded(packed["logprobs"], "<f8")
    partial = set(packed.get("partial", ()))
    flat, end = list[Completion](), 0
    for finished, versions in zip(packed["finished"], packed["versions"], strict=True):
        spans = tuple((version, count) for version, count in versions)
        begin, end = end, end + sum(count for _, count in spans)
        flat.append(
            Completion(tuple(ids[begin:end]), tuple(logprobs[begin:end]), bool(finished), spans, len(flat) in partial)
        )
    copies = packed["copies"]
    return [flat[n : n + copies] for n in range(0, len(flat), copies)]


def _encoded(values: Sequence[float], kind: str) -> str:
    return base64.b64encode(np.array(values, dtype=kind).tobytes()).decode()


def _decoded(text: str, kind: str) -> list[Any]:
    values: list[Any] = np.frombuffer(base64.b64decode(text), dtype=kind).tolist()
    return values
