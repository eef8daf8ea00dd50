"""Prompts in packed rows: every token stands where it should, the shared are computed once, attention is the same."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from recipes.engines.core.kernels import attend
from recipes.engines.core.pieces import lay_out
from recipes.engines.core.prompt_rows import families, prompt_rows

CPU = torch.device("cpu")
HEAD = [7, 7, 1]
SETS = {
    "one": [[5]],
    "all alike": [[1, 2, 3]] * 3,
    "beginnings of one another": [[1], [1, 2], [1, 2, 3], [1, 2, 3, 4]],
    "two kinds behind a template": [[*HEAD, *[kind] * 5, n, n] for kind in (2, 3) for n in range(4)],
    "nothing alike": [[n, 9, 9] for n in range(4)],
    "mixed": [[*HEAD, 4], [8, 8, 8], [*HEAD, 4, 4, 4], [8, 8, 8, 8], [8, 1], HEAD],
}


@pytest.mark.parametrize("most", [1, 9, 10_000])
@pytest.mark.parametrize("name", SETS)
def test_rows_hold_every_prompt_whole(name: str, most: int) -> None:
    prompts = SETS[name]
    # Keys and values by token and position, so that a wrong place in the row is a wrong value.
    generator = torch.Generator().manual_seed(0)
    tables = [torch.randn(16, 64, 2, 8, generator=generator) for _ in range(3)]
    found, computed = [], 0
    for row in prompt_rows(prompts, most, CPU):
        positions, parts = row.positions, lay_out(row.roots, row.branches, CPU)
        query, key, value = (table[row.ids, positions] for table in tables)
        out = attend(query, key, value, parts, 0.3)
        computed += len(row.ids)
        assert len(row.ids) <= most or len(row.numbers) == 1
        for number, places, end in zip(row.numbers.tolist(), row.places, row.ends.tolist(), strict=True):
            prompt = torch.tensor(prompts[number])
            own = places[: len(prompt)]
            assert row.ids[own].tolist() == prompts[number]
            assert positions[own].tolist() == list(range(len(prompt)))
            assert end == own[-1]
            alone = [table[prompt, torch.arange(len(prompt))].transpose(0, 1) for table in tables]
            expected = scaled_dot_product_attention(*alone, is_causal=True, scale=0.3).transpose(0, 1)
            torch.testing.assert_close(out[own], expected)
            found.append(number)
    assert sorted(found) == list(range(len(prompts)))
    if most == 10_000:
        assert computed == sum(map(len, prompts)) - sum(family.saved for family in families(prompts))


def _most_saved(prompts: list[list[int]]) -> int:
    """By trying every way to put sorted neighbours together."""
    order = sorted(prompts)
    best = [0] * (len(order) + 1)
    for end, start in itertools.product(range(1, len(order) + 1), range(len(order))):
        if start < end:
            first, last = order[start], order[end - 1]
            most = min(len(ids) for ids in order[start:end]) - 1
            alike = next((n for n in range(most) if first[n] != last[n]), most)
            best[end] = max(best[end], best[start] + (end - start - 1) * alike)
    return best[-1]


def test_nothing_is_shared_that_differs_and_little_is_missed() -> None:
    drawn = random.Random(0)
    found = possible = 0
    for _ in range(200):
        prompts = [[drawn.randrange(2) for _ in range(drawn.randrange(1, 9))] for _ in range(drawn.randrange(1, 9))]
        grouped = families(prompts)
        assert sorted(n for family in grouped for n in family.members) == list(range(len(prompts)))
        for family in grouped:
            assert len({tuple(prompts[n][: family.shared]) for n in family.members}) == 1
            assert all(len(prompts[n]) > family.shared for n in family.members)
        found += sum(family.saved for family in grouped)
        possible += _most_saved(prompts)
    assert 0.9 * possible <= found <= possible
