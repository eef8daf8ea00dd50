"""The embedded sampler: greedy decoding is transformers', draws depend on no layout, filters keep what they say.

`choose` is tested by hand-calculated numbers, the rest on engines in real processes.
"""

from __future__ import annotations

import math

import pytest
import torch

from recipes.engines.base import EngineError, Sampling
from recipes.engines.core.drawing import choose
from tests.engines import reference
from tests.engines.conftest import (
    FILTER,
    GREEDY_STOP_STRINGS,
    LIMIT,
    LIMITS,
    PROMPT_LENGTHS,
    SELDOM,
    STOP_STRINGS,
    World,
)
from tests.engines.words import PIECES, text

pytestmark = pytest.mark.multiprocess
LAYOUTS = ("tp1", "tp2", "pp2", "dp2")
TASKS = [
    *((layout, "generate") for layout in LAYOUTS),
    *(("tp2", "generate sequence parallel"), ("tp2", "generate alone"), ("pp2", "generate alone")),
]


@pytest.mark.parametrize(("layout", "task"), TASKS)
def test_greedy_is_transformers_generate(layout: str, task: str, world: World) -> None:
    """Prompts of 1 to 30 tokens in one batch: padding or a wrong position would show at once."""
    for rank in world.results(layout):
        found = rank[task]["greedy"]
        assert [ids for [ids] in found["ids"]] == world.greedy()
        assert found["finished"] == [[False]] * len(PROMPT_LENGTHS)
        # A prompt of one token by itself is a prompt, and not the next token of a response.
        assert rank[task]["shortest alone"] == world.greedy()[PROMPT_LENGTHS.index(1)][:8]


@pytest.mark.parametrize(("layout", "task"), TASKS)
def test_a_stop_token_ends_a_response_and_belongs_to_it(layout: str, task: str, world: World) -> None:
    stop = world.stop()
    expected = [r[: r.index(stop) + 1] if stop in r else r for r in world.greedy()]
    for rank in world.results(layout):
        found = rank[task]["greedy with a stop"]
        assert found["ids"] == [[ids, ids] for ids in expected]
        assert found["finished"] == [[stop in ids] * 2 for ids in expected]
    assert 0 < sum(stop in ids for ids in expected) < len(expected)


@pytest.mark.parametrize("sampling", ["sampled", "hot", "other seed", "filtered", "limits", "strings", "all at once"])
@pytest.mark.parametrize(("layout", "task"), TASKS)
def test_draws_do_not_depend_on_the_layout(layout: str, task: str, sampling: str, world: World) -> None:
    """Else a resumed run on other nodes would be another run."""
    expected = world.results("tp1")[0]["generate"][sampling]
    for rank in world.results(layout):
        found = rank[task][sampling]
        assert found["ids"] == expected["ids"]
        assert found["finished"] == expected["finished"]


@pytest.mark.parametrize("sampling", ["greedy with a stop", "sampled", "hot", "filtered", "all at once"])
@pytest.mark.parametrize(("layout", "task"), TASKS)
def test_the_samplers_logprobs_are_the_trainers(layout: str, task: str, sampling: str, world: World) -> None:
    """They are the denominators of GRPO's ratios: a difference is a silent off-policy bias."""
    for rank in world.results(layout):
        found = rank[task][sampling]
        sampled = [values for group in found["logprobs"] for values in group]
        for ours, trainers in zip(sampled, found["trainer"], strict=True):
            assert ours == pytest.approx(trainers, abs=1e-5)


@pytest.mark.parametrize("layout", ["tp2", "pp2", "tp2 pp2"])
def test_a_rank_alone_samples_what_all_together_do(layout: str, world: World) -> None:
    """Before and after updates, by weights as they are then, and to the last bit after a resume.

    The launch of four ranks divides these by TP 2 and DP 2.
    """
    for rank in world.results(layout):
        together, alone = rank["between: 0"], rank["between: 1"]
        tokens = [[[c[0::2] for group in moment for c in group] for moment in f["unbroken"]] for f in (together, alone)]
        assert tokens[0] == tokens[1]
        assert tokens[0][0] != tokens[0][1] != tokens[0][2] != tokens[0][0]
        assert alone["resumed"] == alone["unbroken"][1:]
        assert alone == world.results(layout)[0]["between: 1"]


@pytest.mark.parametrize(("layout", "task"), TASKS)
def test_rollouts_do_not_depend_on_when_ended_rows_leave(layout: str, task: str, world: World) -> None:
    """A row that has ended may stay beyond its limit, where positions end."""
    for rank in world.results(layout):
        for name in SELDOM:
            found, expected = rank[task]["seldom"][name], rank[task][name]
            assert (found["ids"], found["finished"]) == (expected["ids"], expected["finished"])


def test_in_bfloat16_only_inputs_and_outputs_are_rounded(world: World) -> None:
    """To 2^-9 each, and attention's probabilities; scores and logits are float32, while sampling and while training.

    In bfloat16 they would make an output of attention wrong by 1 % and a log-probability by several hundredths.
    """
    found = world.results("tp1")[0]["bfloat16"]
    assert found["decode"] < 0.003
    assert found["packed"] < 0.003
    assert found["sampler's logprobs"] < 1e-4
    assert found["trainer's logprobs"] < 1e-4


def test_samples_vary_by_copy_and_seed_and_end_where_they_should(world: World) -> None:
    found = world.results("tp1")[0]["generate"]
    stops = {world.stop(), 7}
    for group in found["sampled"]["ids"]:
        assert len({tuple(ids) for ids in group}) > 1
    assert found["sampled"]["ids"] != found["other seed"]["ids"]
    for name, ends, limit in (("sampled", stops, LIMIT), ("hot", {1, 2, 3, 4}, 6)):
        for group, finished in zip(found[name]["ids"], found[name]["finished"], strict=True):
            for ids, ended in zip(group, finished, strict=True):
                assert ended == (ids[-1] in ends)
                assert not ends & set(ids[:-1])
                assert len(ids) == limit or ended
                assert 1 <= len(ids) <= limit


def test_sampling_follows_the_distribution(world: World) -> None:
    """First tokens of the hot samples must be drawn at temperature 1.7: their mean log-probability is -entropy."""
    rank = world.results("tp1")[0]["generate"]
    model = reference.load_model(world.hf("qwen2-tied"))
    for prompt, group in zip(world.prompts(), rank["hot"]["logprobs"], strict=True):
        with torch.no_grad():
            logprobs = torch.log_softmax(model(torch.tensor([prompt])).logits[0, -1] / 1.7, -1).tolist()
        for values in group:
            assert min(abs(values[0] - value) for value in logprobs) < 1e-5


@pytest.mark.parametrize(("layout", "task"), TASKS)
def test_logits_are_transformers(layout: str, task: str, world: World) -> None:
    model, prompt = reference.load_model(world.hf("qwen2-tied")), world.prompts()[0]
    with torch.no_grad():
        expected = model(torch.tensor([prompt])).logits[0]
    found = torch.tensor(world.results(layout)[0][task]["logits"])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("sampling", ["likeliest of one", "tiny nucleus"])
@pytest.mark.parametrize(("layout", "task"), TASKS)
def test_a_filter_that_leaves_one_token_is_greedy(layout: str, task: str, sampling: str, world: World) -> None:
    for rank in world.results(layout):
        assert [ids for [ids] in rank[task][sampling]["ids"]] == world.greedy()


def test_every_token_lies_in_the_top_k_and_the_nucleus(world: World) -> None:
    """By transformers' own logits; the plain samples leave both sets, so that the test can fail."""
    model, found = reference.load_model(world.hf("qwen2-tied")), world.results("tp1")[0]["generate"]
    ranks: dict[str, list[int]] = {"plain": [], "filtered": []}
    before: dict[str, list[float]] = {"plain": [], "filtered": []}
    for name in ranks:
        for prompt, group in zip(world.prompts(), found[name]["ids"], strict=True):
            for ids in group:
                with torch.no_grad():
                    logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
                kept, order = (logits / FILTER["temperature"]).topk(int(FILTER["top_k"]))
                shares = torch.softmax(kept, -1)
                for step, token in enumerate(ids):
                    likelier = int((logits[step] > logits[step, token]).sum())
                    ranks[name].append(likelier)
                    before[name].append(float(shares[step, :likelier].sum()))
                    assert likelier >= len(order[step]) or int(order[step, likelier]) == token
    assert max(ranks["filtered"]) < FILTER["top_k"] <= max(ranks["plain"])
    assert max(before["filtered"]) < FILTER["top_p"] <= max(before["plain"])
    # The nucleus is not just the likeliest token.
    assert len(set(ranks["filtered"])) > 3


@pytest.mark.parametrize(("layout", "task"), TASKS)
def test_limits_cut_their_own_prompt_and_change_no_other_token(layout: str, task: str, world: World) -> None:
    plain = world.results("tp1")[0]["generate"]["plain"]["ids"]
    for rank in world.results(layout):
        found = rank[task]["limits"]
        expected = [[ids[:limit] for ids in group] for group, limit in zip(plain, LIMITS, strict=True)]
        assert found["ids"] == expected
        assert found["finished"] == [[False] * 4] * len(LIMITS)


def _cut(ids: list[int], strings: tuple[str, ...]) -> list[int]:
    """As far as the token with which the text first contains one of the strings."""
    ends = (count for count in range(1, len(ids) + 1) if any(string in text(ids[:count]) for string in strings))
    return ids[: next(ends, len(ids))]


@pytest.mark.parametrize(("layout", "task"), TASKS)
def test_stop_strings_end_where_the_text_first_contains_one(layout: str, task: str, world: World) -> None:
    """Also strings that no token holds whole; the text of the response alone counts."""
    plain = world.results("tp1")[0]["generate"]["plain"]["ids"]
    for sampling, strings, whole in (
        ("strings", STOP_STRINGS, plain),
        ("greedy with strings", GREEDY_STOP_STRINGS, [[ids] for ids in world.greedy()]),
    ):
        expected = [[_cut(ids, strings) for ids in group] for group in whole]
        contained = [[any(s in text(ids) for s in strings) for ids in group] for group in whole]
        for rank in world.results(layout):
            assert rank[task][sampling]["ids"] == expected
            assert rank[task][sampling]["finished"] == contained
        flat = [found for group in contained for found in group]
        assert 0 < sum(flat) < len(flat)


def test_the_stop_strings_are_of_every_kind(world: World) -> None:
    """Otherwise the test above would show less than it says."""
    found = world.results("tp1")[0]["generate"]["strings"]
    ends = [
        ids
        for group, done in zip(found["ids"], found["finished"], strict=True)
        for ids, d in zip(group, done, strict=True)
        if d
    ]
    inside = [any(string.encode() in PIECES[ids[-1]] for string in STOP_STRINGS) for ids in ends]
    assert 0 < sum(inside) < len(inside)
    over_three, within_one, from_prompt = GREEDY_STOP_STRINGS
    responses = [ids for [ids] in world.results("tp1")[0]["generate"]["greedy with strings"]["ids"]]
    assert over_three in text(responses[1][-3:])
    assert over_three not in text(responses[1][-2:])
    assert within_one in text(responses[3][-1:])
    assert from_prompt in text([*world.prompts()[3], responses[3][0]])
    assert from_prompt not in text(responses[3])


@pytest.mark.parametrize(("layout", "task"), TASKS)
def test_fp8_is_off_while_sampling_and_back_afterwards(layout: str, task: str, world: World) -> None:
    """The logits above were made with it set; without Transformer Engine a layer that saw it would have failed."""
    for rank in world.results(layout):
        assert rank[task]["fp8 after"] == "hybrid"


# Probabilities 0.1, 0.4, 0.2, 0.3 of tokens 0 to 3 at temperature 1.
_LOGITS = [math.log(p) for p in (0.1, 0.4, 0.2, 0.3)]


@pytest.mark.parametrize(
    ("draw", "top_k", "top_p", "expected"),
    [
        # Cumulative in the vocabulary's order: 0.1, 0.5, 0.7, 1.
        (0.0, 0, 1.0, 0),
        (0.09, 0, 1.0, 0),
        (0.11, 0, 1.0, 1),
        (0.69, 0, 1.0, 2),
        (0.71, 0, 1.0, 3),
        (1.0, 0, 1.0, 3),
        # Tokens 1 and 3, by likelihood: 0.4 / 0.7 = 0.571, 1.
        (0.56, 2, 1.0, 1),
        (0.58, 2, 1.0, 3),
        (1.0, 2, 1.0, 3),
        # 0.4 + 0.3 = 0.7 is less than 0.75, so token 2 stays: 0.4 / 0.9 = 0.444, 0.7 / 0.9 = 0.778, 1.
        (0.43, 0, 0.75, 1),
        (0.46, 0, 0.75, 3),
        (0.77, 0, 0.75, 3),
        (0.79, 0, 0.75, 2),
        (1.0, 0, 0.75, 2),
        # Of the likeliest three, 0.4 / 0.9 = 0.444 is less than 0.5 and 0.7 / 0.9 is not: tokens 1 and 3.
        (0.99, 3, 0.5, 3),
        # Of two, 0.4 / 0.7 = 0.571 holds 0.5: token 1 alone. Without top-k it would be 0.4, and token 3 would stay.
        (0.99, 2, 0.5, 1),
        (0.99, 0, 0.5, 3),
        # At least one token, and no more than there are.
        (0.99, 0, 1e-30, 1),
        (0.99, 1, 1.0, 1),
        (1.0, 100, 1.0, 0),
    ],
)
def test_choose_inverts_the_cumulative_distribution_of_what_is_kept(
    draw: float, top_k: int, top_p: float, expected: int
) -> None:
    ids, logprobs = choose(torch.tensor([_LOGITS]), 1.0, torch.tensor([draw]), top_k, top_p)
    assert ids.tolist() == [expected]
    # Of the whole distribution, whatever was filtered.
    assert logprobs.tolist() == pytest.approx([_LOGITS[expected]], abs=1e-6)


def test_choose_divides_by_the_temperature_before_it_filters() -> None:
    """At temperature 0.5 probabilities are squared: 0.16, 0.09, 0.04, 0.01 of 0.3, and 0.16 / 0.3 = 0.533 holds 0.5."""
    ids, logprobs = choose(torch.tensor([_LOGITS]), 0.5, torch.tensor([0.99]), 0, 0.5)
    assert ids.tolist() == [1]
    assert logprobs.tolist() == pytest.approx([math.log(0.16 / 0.3)], abs=1e-6)


def test_choose_keeps_one_of_tied_tokens_and_never_draws_an_impossible_one() -> None:
    draws = torch.linspace(0, 1, 101)
    tied, impossible = torch.zeros(101, 8), torch.full((101, 8), -1e4)
    impossible[:, [2, 5]] = 0.0
    for top_k, top_p, count in ((1, 1.0, 1), (0, 0.01, 1), (3, 1.0, 3), (0, 0.5, 4), (0, 1.0, 8)):
        assert len(set(choose(tied, 1.0, draws, top_k, top_p)[0].tolist())) == count
    for top_k, top_p in ((0, 1.0), (6, 1.0), (0, 0.999), (6, 0.999)):
        assert set(choose(impossible, 1.0, draws, top_k, top_p)[0].tolist()) == {2, 5}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"top_k": -1}, "top_k=-1: expected a number of tokens, or 0 for all"),
        ({"top_p": 0.0}, "top_p=0.0: expected more than 0 and at most 1"),
        ({"top_p": 1.1}, "top_p=1.1: expected more than 0"),
        ({"stop_strings": ("a", "")}, "stop_strings holds an empty string"),
        ({"limits": (3, 0)}, "limits holds 0: expected 1 to max_new_tokens=8"),
        ({"limits": (9,)}, "limits holds 9: expected 1 to max_new_tokens=8"),
    ],
)
def test_settings_out_of_range_are_refused(values: dict, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        Sampling(1, 1.0, 8, (), **values)
