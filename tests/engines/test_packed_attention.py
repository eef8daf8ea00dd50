"""Attention of packed rows against one masked softmax over the whole row, by every kernel.

FlashAttention itself computes on a GPU alone: here its two operators are given plain implementations for the CPU, so
that how it is called, joined and differentiated is tried, and what they return is as torch's own shape functions say.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from recipes.engines.base import EngineError
from recipes.engines.core import kernels
from recipes.engines.core.host_copy import HostCopy
from recipes.engines.core.kernels import CpuBlocks, Flash, Kernel, PlainBlocks, attend
from recipes.engines.core.pieces import lay_out

CPU = torch.device("cpu")
Rows = tuple[list[int], list[list[int]]]
LAYOUTS: list[Rows] = [
    ([4], []),
    ([1, 1], [[1]]),
    ([5, 9, 40, 3], [[3, 1, 8], [2]]),
    ([300, 7], [[100, 30, 2, 64], [5, 5]]),
    ([17] * 6, [[n + 1, 20] for n in range(6)]),
    ([31, 3, 170, 16], [[1] * 9, [129], [4, 33]]),
]


def _scores(query: Tensor, key: Tensor, scale: float, causal: bool) -> Tensor:
    scores = torch.einsum("qhd,khd->hqk", query, key.repeat_interleave(query.shape[1] // key.shape[1], 1)) * scale
    return scores.masked_fill(torch.ones(scores.shape[1:]).triu(1).bool(), -torch.inf) if causal else scores


def _flash_forward(
    query: Tensor, key: Tensor, value: Tensor, query_ends: Tensor, key_ends: Tensor, *rest: Any, scale: float
) -> tuple[Tensor, ...]:
    longest_query, longest_key, dropout, causal, debug = rest
    assert query_ends.dtype == key_ends.dtype == torch.int32
    assert (dropout, debug) == (0.0, False)
    # As on a GPU: what belongs to no piece is left as it was found.
    out, lse = torch.full_like(query, torch.nan), torch.full(query.shape[1::-1], torch.nan)
    for (a, b), (c, d) in zip(pairwise(query_ends.tolist()), pairwise(key_ends.tolist()), strict=True):
        assert b - a <= longest_query
        assert d - c <= longest_key
        scores = _scores(query[a:b].float(), key[c:d].float(), scale, causal)
        seen = value[c:d].float().repeat_interleave(query.shape[1] // key.shape[1], 1)
        lse[:, a:b] = scores.logsumexp(-1)
        out[a:b] = torch.einsum("hqk,khd->qhd", scores.softmax(-1), seen).to(out.dtype)
    return out, lse, torch.zeros(2, dtype=torch.uint64), torch.zeros(0), torch.zeros(0)


def _flash_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    query_ends: Tensor,
    key_ends: Tensor,
    *rest: Any,
    scale: float,
) -> tuple[Tensor, ...]:
    causal = rest[3]
    assert lse.is_contiguous()
    groups = key.shape[1]
    grads = [torch.full_like(x, torch.nan) for x in (query, key, value)]
    for (a, b), (c, d) in zip(pairwise(query_ends.tolist()), pairwise(key_ends.tolist()), strict=True):
        q, k, v, g = query[a:b].float(), key[c:d].float(), value[c:d].float(), grad[a:b].float()
        each = query.shape[1] // groups
        shares = (_scores(q, k, scale, causal) - lse[:, a:b, None]).exp()
        of_shares = torch.einsum("qhd,khd->hqk", g, v.repeat_interleave(each, 1))
        of_scores = shares * (of_shares - (g * out[a:b].float()).sum(-1).t()[..., None]) * scale
        grads[0][a:b] = torch.einsum("hqk,khd->qhd", of_scores, k.repeat_interleave(each, 1)).to(query.dtype)
        for place, x in ((1, torch.einsum("hqk,qhd->khd", of_scores, q)), (2, torch.einsum("hqk,qhd->khd", shares, g))):
            grads[place][c:d] = x.unflatten(1, (groups, each)).sum(2).to(query.dtype)
    return tuple(grads)


@pytest.fixture
def flash_on_cpu() -> Iterator[None]:
    library = torch.library.Library("aten", "IMPL", "CPU")
    library.impl("_flash_attention_forward", _flash_forward)
    library.impl("_flash_attention_backward", _flash_backward)
    yield
    library._destroy()


def _masked(query: Tensor, key: Tensor, value: Tensor, rows: Rows, scale: float) -> Tensor:
    """One softmax over the row; zeros where nothing is seen."""
    seen = torch.zeros(len(query), len(query), dtype=torch.bool)
    roots, end = [], 0

    def add(length: int) -> slice:
        nonlocal end
        piece, end = slice(end, end + length), end + length
        seen[piece, piece] = True
        return piece

    roots = [add(length) for length in rows[0]]
    for root, branches in zip(roots, rows[1], strict=False):
        for length in branches:
            seen[add(length), root] = True
    seen &= torch.ones_like(seen).tril()
    scores = _scores(query, key, scale, causal=False).masked_fill(~seen, -torch.inf)
    scores = scores.masked_fill(~seen.any(-1)[None, :, None], 0.0)
    out = torch.einsum("hqk,khd->qhd", scores.softmax(-1), value.repeat_interleave(query.shape[1] // key.shape[1], 1))
    return out * seen.any(-1)[:, None, None]


def _differences(rows: Rows, heads: int, groups: int, kernel: Kernel, dtype: torch.dtype) -> list[float]:
    """Of output and gradients, relative to their norms, with three tokens at the end that do not count."""
    generator = torch.Generator().manual_seed(sum(rows[0]))
    tokens = sum(rows[0]) + sum(map(sum, rows[1])) + 3
    shapes = [(tokens, count, 16) for count in (heads, groups, groups, heads)]
    *inputs, grad = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
    query, key, value = own = [x.clone().requires_grad_() for x in inputs]
    out = attend(query, key, value, lay_out(*rows, CPU), 0.3, kernel)
    query, key, value = whole = [x.double().requires_grad_() for x in inputs]
    expected = _masked(query, key, value, rows, 0.3)
    out.backward(grad)
    expected.backward(grad.double())
    differences = []
    for ours, theirs in ((out, expected), *((x.grad, y.grad) for x, y in zip(own, whole, strict=True))):
        assert ours is not None
        assert theirs is not None
        # One token alone has a gradient of rounding only in its query and key.
        differences.append(float((ours.double() - theirs).detach().norm() / theirs.detach().norm().clamp_min(0.1)))
    return differences


@pytest.mark.parametrize("kernel", [CpuBlocks(), PlainBlocks(), Flash()], ids=lambda kernel: type(kernel).__name__)
@pytest.mark.usefixtures("flash_on_cpu")
def test_output_and_gradients_are_those_of_one_masked_softmax(kernel: Kernel) -> None:
    rng = random.Random(0)
    drawn: list[Rows] = []
    for _ in range(6):
        roots = [rng.choice((1, 2, 16, 17, 33, 70)) for _ in range(rng.randint(1, 6))]
        drawn.append(
            (roots, [[rng.randint(1, 90) for _ in range(rng.randint(1, 7))] for _ in roots[rng.randint(0, 2) :]])
        )
    for number, rows in enumerate([*LAYOUTS, *drawn]):
        heads, groups = ((4, 2), (3, 3), (4, 1))[number % 3]
        found = _differences(rows, heads, groups, kernel, torch.float32)
        assert max(found) < 3e-6, rows
    if not isinstance(kernel, PlainBlocks):
        # Outputs and gradients are rounded to 2^-9 of themselves, the joined ones twice.
        assert max(_differences(LAYOUTS[2], 4, 2, kernel, torch.bfloat16)) < 0.01


def test_flash_attention_is_called_as_torch_has_it() -> None:
    """torch's own operators on tensors without data: names, order and kinds of arguments, shapes of results."""
    rows = LAYOUTS[2]
    meta = torch.device("meta")
    query, key, value = (
        torch.empty(72, heads, 16, dtype=torch.bfloat16, device=meta, requires_grad=True) for heads in (4, 2, 2)
    )
    out = attend(query, key, value, lay_out(*rows, meta), 0.3, Flash())
    out.sum().backward()
    assert query.grad is not None
    assert key.grad is not None
    assert (out.shape, query.grad.shape, key.grad.shape) == (query.shape, query.shape, key.shape)


def test_a_flash_attention_of_another_layout_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Padded to the longest piece, as some kernels give them, log-sum-exps would join to something wrong in silence."""

    def padded(query: Tensor, *_: Any, **__: Any) -> tuple[Tensor, ...]:
        return query, torch.zeros(2, query.shape[1], 5), torch.zeros(0), torch.zeros(0), torch.zeros(0)

    monkeypatch.setattr(kernels, "_aten", SimpleNamespace(_flash_attention_forward=padded))
    query, key, value = (torch.randn(9, heads, 16) for heads in (4, 2, 2))
    with pytest.raises(EngineError, match=r"log-sum-exps of shape \(2, 4, 5\), expected \(4, 9\)"):
        attend(query, key, value, lay_out([5, 4], [], CPU), 0.3, Flash())


def test_a_long_sequence_pads_no_short_one() -> None:
    """A response of 3,000 tokens beside ten prompts: padded to each other they would be 33,000 tokens."""
    roots = [100] * 10 + [3000]
    own, shared = lay_out(roots, [[400, 380]] * 10, CPU)
    assert shared is not None
    for part, tokens in ((own, sum(roots) + 7800), (shared, 7800)):
        assert part.queries.stop - part.queries.start == tokens
        assert sum(block.queries.numel() for block in part.blocks) < 1.1 * tokens
        # Padding is never more than what counts.
        assert all(block.queries.numel() < 2 * len(block.tokens) for block in part.blocks)


def test_a_swap_exchanges_weights_and_allocates_nothing() -> None:
    policy = [torch.randn(4, 3), torch.randn(3), torch.randn(4, 3), torch.randn(4, 3).bfloat16()]
    first = [x.clone() for x in policy]
    held = HostCopy(policy, pin=False)
    second = [x.mul_(2).clone() for x in policy]
    memory = {x.data_ptr() for x in [*held._held, *held._spare.values()]}
    assert len(memory) == 4 + 3
    for expected in (first, second, first, second):
        held.swap(policy)
        assert all(map(torch.equal, policy, expected))
    assert {x.data_ptr() for x in [*held._held, *held._spare.values()]} == memory
