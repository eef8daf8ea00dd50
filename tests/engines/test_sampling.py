"""The embedded sampler: greedy decoding is transformers', and draws do not depend on the layout."""

from __future__ import annotations

import pytest
import torch

from tests.engines import reference
from tests.engines.conftest import LIMIT, PROMPT_LENGTHS, World

pytestmark = pytest.mark.multiprocess
LAYOUTS = ("tp1", "tp2", "pp2", "dp2")
TASKS = [*((layout, "generate") for layout in LAYOUTS), ("tp2", "generate sequence parallel")]


@pytest.mark.parametrize(("layout", "task"), TASKS)
def test_greedy_is_transformers_generate(layout: str, task: str, world: World) -> None:
    """Prompts of 1 to 30 tokens in one batch: padding or a wrong position would show at once."""
    for rank in world.results(layout):
        found = rank[task]["greedy"]
        assert [ids for [ids] in found["ids"]] == world.greedy()
        assert found["finished"] == [[False]] * len(PROMPT_LENGTHS)


@pytest.mark.parametrize(("layout", "task"), TASKS)
def test_a_stop_token_ends_a_response_and_belongs_to_it(layout: str, task: str, world: World) -> None:
    stop = world.stop()
    expected = [r[: r.index(stop) + 1] if stop in r else r for r in world.greedy()]
    for rank in world.results(layout):
        found = rank[task]["greedy with a stop"]
        assert found["ids"] == [[ids, ids] for ids in expected]
        assert found["finished"] == [[stop in ids] * 2 for ids in expected]
    assert 0 < sum(stop in ids for ids in expected) < len(expected)


@pytest.mark.parametrize("sampling", ["sampled", "hot", "other seed"])
@pytest.mark.parametrize(("layout", "task"), TASKS)
def test_draws_do_not_depend_on_the_layout(layout: str, task: str, sampling: str, world: World) -> None:
    """Else a resumed run on other nodes would be another run."""
    expected = world.results("tp1")[0]["generate"][sampling]
    for rank in world.results(layout):
        found = rank[task][sampling]
        assert found["ids"] == expected["ids"]
        assert found["finished"] == expected["finished"]


@pytest.mark.parametrize("sampling", ["greedy with a stop", "sampled", "hot"])
@pytest.mark.parametrize(("layout", "task"), TASKS)
def test_the_samplers_logprobs_are_the_trainers(layout: str, task: str, sampling: str, world: World) -> None:
    """They are the denominators of GRPO's ratios: a difference is a silent off-policy bias."""
    for rank in world.results(layout):
        found = rank[task][sampling]
        sampled = [values for group in found["logprobs"] for values in group]
        for ours, trainers in zip(sampled, found["trainer"], strict=True):
            assert ours == pytest.approx(trainers, abs=1e-5)


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
