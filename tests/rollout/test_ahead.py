"""Batches one step ahead: what they are sampled by, what a save keeps, and that a broken run draws as a whole one does.

The sampler is a stand-in whose responses are a function of what it is asked and of its weights' version; the real one
is in tests/sampling.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from recipes.engines.base import NOTHING_YET, Completion, Sampling
from recipes.rollout.ahead import Batches
from recipes.rollout.lengths import Targets
from recipes.rollout.packing import pack, unpack
from recipes.rollout.prompts import PromptOrder
from recipes.runtime.config import Config
from recipes.runtime.phases import Phases
from recipes.sampling.base import Begun, RolloutError
from tests.rollout.samples import prompt

PROMPTS = [prompt(f"{n}", skill=f"{n % 5}", ids=(n, n + 1)) for n in range(23)]
STEPS = 8


LOGPROBS = (-1 / 3, -0.0, -1e-9, -7.25)


class Sampler:
    """Says the versions of its weights, and has servers that take their time.

    A response has four tokens, which follow from what was asked. New weights find it with one of them more; of a batch
    that need not be whole, every third group has one more when the others are there.
    """

    def __init__(self) -> None:
        self.version = -1
        self.in_flight: list[Begun] = []
        self.waits: list[int] = []
        self.fault: RolloutError | None = None

    def update(self, version: int) -> dict[str, float]:
        for begun in self.in_flight:
            self._write(begun, dict.fromkeys(range(len(begun.prompts)), 1))
        self.version = version
        return {"mismatch/probe_mean": 0.0}

    def begin(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        so_far: Sequence[list[Completion]] = (),
        enough: int | None = None,
    ) -> Begun:
        empty = [[NOTHING_YET] * sampling.copies] * (len(prompts) - len(so_far))
        self.in_flight.append(Begun(prompts, sampling, work=[[*so_far, *empty], enough]))
        return self.in_flight[-1]

    def finish(self, begun: Begun, version: int) -> list[list[Completion]]:
        self.in_flight.remove(begun)
        self.waits.append(version)
        if self.fault is not None:
            raise self.fault
        places = range(len(begun.prompts))
        spared = 0 if begun.work[1] is None else len(begun.prompts) - begun.work[1]
        slow = [place for place in places if place % 3 == 1][:spared]
        self._write(begun, {place: 1 if place in slow else 4 for place in places})
        groups: list[list[Completion]] = begun.work[0]
        return groups

    def _write(self, begun: Begun, counts: Mapping[int, int]) -> None:
        begun.work[0] = [
            [self._written(begun, place, copy, so_far, counts[place]) for copy, so_far in enumerate(group)]
            for place, group in enumerate(begun.work[0])
        ]

    def _written(self, begun: Begun, place: int, copy: int, so_far: Completion, count: int) -> Completion:
        ids = begun.prompts[place]
        begin, end = len(so_far.ids), min(4, len(so_far.ids) + count)
        if begin == end:
            return so_far
        tokens = (len(ids), sum(ids), begun.sampling.seed % 97, copy)[begin:end]
        own = ((self.version, end - begin),)
        return so_far.followed_by(Completion(tokens, LOGPROBS[begin:end], copy == 0 and end == 4, own, end < 4))


class Run:
    """The loop's part: samples, observes, saves."""

    def __init__(
        self, ahead: int, state: str | None = None, tokenizer: Any = None, over_sample: float = 0, continued: int = 0
    ) -> None:
        self.config = Config()
        self.config.rollout.prompts, self.config.rollout.group_size, self.config.rollout.ahead = 4, 2, ahead
        self.config.rollout.over_sample, self.config.rollout.continued = over_sample, continued
        self.config.rollout.max_new_tokens, self.config.model.max_length = 16, 64
        self.config.trainer.steps = STEPS
        if tokenizer is not None:
            self.config.reward.length_mode, self.config.reward.length_draw = "mixed", "uniform"
            self.config.model.max_length = 512
        self.sampler = Sampler()
        order = PromptOrder(PROMPTS, mix={}, adaptive=True, seed=3)
        self.batches = Batches(PROMPTS, order, self.sampler, self.config, (0,), Targets(self.config, tokenizer))
        if state is not None:
            self.batches.restore(json.loads(state))

    def step(self, step: int) -> tuple[Any, dict[str, float]]:
        """What it trained on, and the metrics."""
        prompts, groups, metrics = self.batches.sample(step, 0, Phases())
        self.batches.observe(prompts, [int(p.example.id) % 3 == step % 3 for p in prompts])
        return ([(p.example.id, p.length) for p in prompts], groups), metrics

    def state(self, step: int) -> str:
        return json.dumps(self.batches.state(step))


def test_each_step_trains_on_the_weights_of_one_before() -> None:
    run = Run(1)
    versions, ages = [], []
    for step in range(1, STEPS + 1):
        (_, groups), metrics = run.step(step)
        versions.append(groups[0][0].versions[0][0])
        ages.append((metrics["rollout/staleness_mean"], metrics["rollout/staleness_max"]))
        assert ("mismatch/probe_mean" in metrics) == (step < STEPS)
        # Nothing is sampled for a step that does not come.
        assert len(run.sampler.in_flight) == (step < STEPS)
    assert versions == [0, *range(STEPS - 1)]
    assert ages == [(0, 0), *[(1, 1)] * (STEPS - 1)]
    assert run.sampler.waits == list(range(STEPS))


@pytest.mark.parametrize("ahead", [2, 4])
def test_several_ahead_none_is_older_and_new_weights_go_on(ahead: int) -> None:
    """Each batch has a token by the weights that it was begun with and by all since, and its log-probabilities."""
    run = Run(ahead)
    for step in range(1, STEPS + 1):
        (_, groups), metrics = run.step(step)
        oldest = max(0, step - 1 - ahead)
        # The first batches are begun together; of four tokens the last is by the weights that it is finished with.
        newest = max(oldest, min(step - 2, STEPS - ahead - 1))
        spans = groups[0][0].versions
        assert spans[0][0] == oldest
        assert [version for version, _ in spans] == list(range(oldest, newest + 1))
        assert {c.versions for group in groups for c in group} == {spans}
        assert {c.logprobs for group in groups for c in group} == {LOGPROBS}
        assert {c.partial for group in groups for c in group} == {False}
        assert metrics["rollout/staleness_max"] == metrics["rollout/staleness_mean"] == step - 1 - oldest
        assert metrics["rollout/several_versions_share"] == (len(spans) > 1)
        assert len(run.sampler.in_flight) == min(ahead, STEPS - step)


def test_more_is_asked_for_than_taken_and_the_rest_is_dropped() -> None:
    """Whole groups alone are taken, in their order, and each prompt once."""
    run, seen = Run(0, over_sample=0.5), list[str]()
    for step in range(1, 4):
        (asked, groups), metrics = run.step(step)
        assert len(asked) == len(groups) == 4
        assert all(len(c.ids) == 4 and c.versions == ((step - 1, 4),) for group in groups for c in group)
        assert metrics["rollout/dropped_groups"] == 2
        assert metrics["rollout/staleness_max"] == 0
        seen += [each for each, _ in asked]
        assert "kept" not in json.loads(run.state(step))
    assert len(set(seen)) == 12


@pytest.mark.parametrize(("continued", "dropped"), [(1, [0, 0, 1, 0]), (3, [0, 0, 0, 0])])
def test_what_was_broken_off_goes_on_and_ends_or_is_too_old(continued: int, dropped: list[int]) -> None:
    """It comes first in the next batch, keeps its tokens, log-probabilities and versions, and never has more tokens."""
    run, ages, lost = Run(0, over_sample=0.5, continued=continued), Counter[int](), list[int]()
    for step in range(1, 5):
        before = run.batches._kept
        (asked, groups), metrics = run.step(step)
        after = {each.example.id: group for each, group in zip(before.prompts, before.completions or [], strict=True)}
        for (identity, _), group in zip(asked, groups, strict=True):
            for so_far, whole in zip(after.get(identity, [NOTHING_YET] * 2), group, strict=True):
                assert whole.ids[: len(so_far.ids)] == so_far.ids
                assert whole.versions[: len(so_far.versions)] == so_far.versions
                assert (len(whole.ids), whole.logprobs, whole.partial) == (4, LOGPROBS, False)
                ages[step - 1 - whole.versions[0][0]] += 1
        assert metrics["rollout/kept_groups"] == 2
        lost.append(int(metrics["rollout/dropped_groups"]))
    assert lost == dropped
    assert 0 < max(ages) <= continued


def test_without_it_every_step_trains_on_its_own_weights() -> None:
    run = Run(0)
    for step in range(1, STEPS + 1):
        (_, groups), metrics = run.step(step)
        assert {c.versions for group in groups for c in group} == {((step - 1, 4),)}
        assert metrics["rollout/staleness_max"] == 0
        assert json.loads(run.state(step))["ahead"] == []


@pytest.mark.parametrize("drawn", [False, True])
@pytest.mark.parametrize(
    ("ahead", "over_sample", "continued"), [(0, 0, 0), (1, 0, 0), (3, 0, 0), (0, 0.5, 0), (0, 0.5, 1), (2, 0.5, 2)]
)
@pytest.mark.parametrize("broken_after", [1, 4, STEPS - 1])
def test_broken_off_and_resumed_it_trains_on_the_same(
    ahead: int, over_sample: float, continued: int, broken_after: int, drawn: bool, tokenizer: Any
) -> None:
    """Prompts, targets, tokens, log-probabilities and versions, though the order depends on what was observed."""
    own = tokenizer if drawn else None
    whole, first = (Run(ahead, None, own, over_sample, continued) for _ in range(2))
    wanted = []
    for step in range(1, STEPS + 1):
        wanted.append(whole.step(step)[0])
        # A save waits for what is in flight, of several batches for those that newer weights would go on with; else
        # it changes nothing for a run that goes on.
        if ahead > 1 and step == broken_after:
            whole.state(step)
    found = [first.step(step)[0] for step in range(1, broken_after + 1)]
    state = first.state(broken_after)
    assert first.step(broken_after + 1)[0] == wanted[broken_after]
    second = Run(ahead, state, own, over_sample, continued)
    found += [second.step(step)[0] for step in range(broken_after + 1, STEPS + 1)]
    assert found == wanted
    if drawn:
        modes = {length.mode for asked, _ in found for _, length in asked}
        assert modes == {"max", "exact"}


def test_another_ahead_goes_on_with_the_same_prompts() -> None:
    """What was sampled ahead is sampled again by newer weights, or the first step after has no age."""
    run = Run(1)
    for step in (1, 2, 3):
        run.step(step)
    kept = [(each, None) for each in json.loads(run.state(3))["ahead"][0]["prompts"]]
    without = Run(0, run.state(3))
    (ids, groups), metrics = without.step(4)
    assert ids == kept
    assert groups[0][0].versions == ((3, 4),)
    assert metrics["rollout/staleness_max"] == 0
    with_it = Run(1, without.state(4))
    assert [with_it.step(step)[1]["rollout/staleness_max"] for step in (5, 6)] == [0, 1]
    older = {key: value for key, value in json.loads(without.state(4)).items() if key != "ahead"}
    assert Run(1, json.dumps(older)).step(5)[1]["rollout/staleness_max"] == 0


def test_fewer_ahead_sample_again_what_would_be_too_old() -> None:
    """The same prompts; also when such a run is saved again before it has come to all of them."""
    run = Run(3)
    run.step(1)
    state = run.state(1)
    wanted = [each["prompts"] for each in json.loads(state)["ahead"]]
    assert len(wanted) == 3
    less, found = Run(1, state), []
    for step in (2, 3, 4):
        (ids, groups), _ = less.step(step)
        found.append([each for each, _ in ids])
        assert groups[0][0].versions == ((step - 2, 4),)
        less = Run(1, less.state(step))
    assert found == wanted
    more = Run(4, state)
    assert [more.step(step)[1]["rollout/staleness_max"] for step in (2, 3, 4, 5, 6)] == [1, 2, 3, 3, 4]


def test_a_save_does_not_fail_for_what_cannot_be_sampled() -> None:
    """Its prompts are kept, and the run ends at the next step."""
    run = Run(1)
    run.step(1)
    run.sampler.fault = RolloutError("no server is left")
    state = run.state(1)
    [kept] = json.loads(state)["ahead"]
    assert "completions" not in kept
    with pytest.raises(RolloutError, match="no server is left"):
        run.step(2)
    (ids, groups), _ = Run(1, state).step(2)
    assert [each for each, _ in ids] == kept["prompts"]
    assert groups[0][0].versions == ((1, 4),)


@pytest.mark.parametrize(("ahead", "version"), [(0, 1), (0, 3), (1, 0), (1, 3)])
def test_older_weights_than_allowed_and_none_of_the_policys_are_refused(
    ahead: int, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(ahead)
    run.step(1)
    run.step(2)
    found = [[Completion((1,), (-1.0,), True, ((version, 1),))]]
    monkeypatch.setattr(run.sampler, "finish", lambda begun, now: found)
    with pytest.raises(RolloutError, match=rf"step 3: a response is by the weights after {version} steps.*has taken 2"):
        run.step(3)


def test_what_is_packed_comes_back_to_the_last_bit() -> None:
    """Also as text; a token takes 16 bytes there."""
    groups = [
        [Completion((70_000, 2), (-0.1, -1e-300), True, ((3, 2),)), Completion((5,), (-3.0000001,), False, ((4, 1),))],
        [
            Completion((9,) * 999, (-2 / 3,) * 999, False, ((3, 400), (4, 599)), True),
            NOTHING_YET,
        ],
    ]
    text = json.dumps(pack(groups))
    assert unpack(json.loads(text)) == groups
    assert len(text) < 17 * 1003
