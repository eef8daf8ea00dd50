"""What servers are asked, and what counts as an answer."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from recipes.engines.base import Completion, Sampling
from recipes.sampling.vllm.client import AnswerError, cut_at, read_answer, requests, seed_of
from recipes.sampling.vllm.gate import make_probes


def _body(**changes: Any) -> dict[str, Any]:
    """vLLM's answer of three tokens by version 4."""
    choice = {
        "finish_reason": "stop",
        "token_ids": [5, 6, 7],
        "weight_versions": [{"version": "4", "start": 0, "end": 3}],
        "logprobs": {"content": [{"token_id": t, "logprob": -t / 10} for t in (5, 6, 7)]},
    }
    return {"choices": [choice | changes], "usage": {"prompt_tokens_details": {"cached_tokens": 128}}}


def test_an_answer_is_read_whole() -> None:
    completion, cached = read_answer(_body(), 4)
    assert completion == Completion((5, 6, 7), (-0.5, -0.6, -0.7), True, ((4, 3),))
    assert cached == 128
    assert not read_answer(_body(finish_reason="length"), 4)[0].finished


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"finish_reason": "abort"}, "abort"),
        ({"finish_reason": "error"}, "error"),
        ({"finish_reason": None}, "None"),
        ({"weight_versions": [{"version": "3", "start": 0, "end": 3}]}, "3"),
        ({"weight_versions": [{"version": "default", "start": 0, "end": 3}]}, "default"),
        (
            {"weight_versions": [{"version": "3", "start": 0, "end": 1}, {"version": "4", "start": 1, "end": 3}]},
            "expected version 4",
        ),
        ({"weight_versions": None}, "expected version 4"),
        ({"weight_versions": [{"version": "4", "start": 0, "end": 2}]}, "do not fit"),
        ({"token_ids": [5, 6]}, "do not fit"),
        ({"token_ids": [5, 6, 8]}, "do not fit"),
    ],
)
def test_what_is_broken_off_or_by_other_weights_is_no_answer(changes: dict[str, Any], said: str) -> None:
    """An aborted request comes with status 200, and so does one by weights of before."""
    with pytest.raises(AnswerError, match=said):
        read_answer(_body(**changes), 4)


def test_every_response_is_asked_for_once_with_its_own_limit_and_seed() -> None:
    asked = requests([[1, 2], [3]], Sampling(2, 0.7, 9, (4,), seed=8, limits=(9, 5), top_k=3))
    assert [r.prompt for r in asked] == [(1, 2), (1, 2), (3,), (3,)]
    assert [r.parameters["max_tokens"] for r in asked] == [9, 9, 5, 5]
    assert len({r.parameters["seed"] for r in asked}) == 4
    assert all(r.parameters["top_k"] == 3 and r.parameters["stop_token_ids"] == [4] for r in asked)
    assert all(r.parameters["ignore_eos"] and not r.parameters["detokenize"] for r in asked)


def test_seeds_differ_in_every_part_and_fit_vllm() -> None:
    """Of steps, batches, prompts and copies; the first two are one number with 40 bits for steps."""
    seeds = [0, 1, 2, 1_000_003, 1 << 40, (1 << 40) + 1, -1]
    found = [seed_of(*parts) for parts in itertools.product(seeds, range(30), range(30))]
    assert len(set(found)) == len(found)
    assert all(0 <= seed < 2**63 for seed in found)


def _decode(rows: list[list[int]]) -> list[str]:
    """Letters, where 9 is the first half of a character and 8 the second."""
    return ["".join(chr(97 + i) if i < 8 else "�" for i in row).replace("��", "é") for row in rows]


@pytest.mark.parametrize(
    ("ids", "strings", "left", "finished"),
    [
        ((0, 1, 2, 3), ("bc",), 3, True),
        ((0, 1, 2, 3), ("d",), 4, True),
        ((0, 1, 9, 8, 3), ("é",), 4, True),
        ((0, 1, 9, 2), ("b",), 2, True),
        ((0, 1, 2), ("x",), 3, False),
    ],
)
def test_a_response_ends_with_the_token_that_completes_a_stop_string(
    ids: tuple[int, ...], strings: tuple[str, ...], left: int, finished: bool
) -> None:
    """Where vLLM has found it a token later, or not at all."""
    whole = Completion(ids, tuple(-float(i) for i in ids), False, ((2, len(ids)),))
    cut = cut_at(whole, strings, _decode)
    assert cut == Completion(ids[:left], whole.logprobs[:left], finished, ((2, left),))


@pytest.mark.parametrize("examples", [[[1, 2, 3]], [list(range(50))] * 40, [[7]] * 2, []])
def test_probes_fill_a_block_of_the_cache_and_leave_room(examples: list[list[int]]) -> None:
    probes = make_probes(examples, 200)
    assert {len(probe) for probe in probes} == {160}
    assert len(probes) == 4
    assert {len(probe) for probe in make_probes(examples, 40)} == {24}
