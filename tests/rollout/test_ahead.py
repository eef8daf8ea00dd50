"""Batches one step ahead: what they are sampled by, what a save keeps, and that a broken run draws as a whole one does.

The sampler is a stand-in whose responses are a function of what it is asked and of its weights' version; the real one
is in tests/sampling.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from recipes.engines.base import Completion, Sampling
from recipes.rollout.ahead import Batches, pack, unpack
from recipes.rollout.lengths import Targets
from recipes.rollout.prompts import PromptOrder
from recipes.runtime.config import Config
from recipes.runtime.phases import Phases
from recipes.sampling.base import Begun, RolloutError
from tests.rollout.samples import prompt

PROMPTS = [prompt(f"{n}", skill=f"{n % 5}", ids=(n, n + 1)) for n in range(23)]
STEPS = 8


class Sampler:
    """Says the version of its weights, and checks the protocol."""

    def __init__(self) -> None:
        self.version = -1
        self.in_flight: tuple[int, Sampling] | None = None
        self.waits: list[int] = []
        self.fault: RolloutError | None = None

    def update(self, version: int) -> dict[str, float]:
        assert self.in_flight is None
        self.version = version
        return {"mismatch/probe_mean": 0.0}

    def begin(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> Begun:
        assert self.in_flight is None
        self.in_flight = self.version, sampling
        return Begun(prompts, sampling)

    def finish(self, begun: Begun, version: int) -> list[list[Completion]]:
        assert self.in_flight is not None
        self.waits.append(version)
        own, sampling = self.in_flight
        self.in_flight = None
        if self.fault is not None:
            raise self.fault
        return [
            [
                Completion(
                    (len(ids), sum(ids), sampling.seed % 97, n), (-1 / 3, -0.0, -1e-9, -7.25), n == 0, ((own, 4),)
                )
                for n in range(sampling.copies)
            ]
            for ids in begun.prompts
        ]


class Run:
    """The loop's part: samples, observes, saves."""

    def __init__(self, ahead: int, state: str | None = None, tokenizer: Any = None) -> None:
        self.config = Config()
        self.config.rollout.prompts, self.config.rollout.group_size, self.config.rollout.ahead = 4, 2, ahead
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
        assert (run.sampler.in_flight is None) == (step == STEPS)
    assert versions == [0, *range(STEPS - 1)]
    assert ages == [(0, 0), *[(1, 1)] * (STEPS - 1)]
    assert run.sampler.waits == list(range(STEPS))


def test_without_it_every_step_trains_on_its_own_weights() -> None:
    run = Run(0)
    for step in range(1, STEPS + 1):
        (_, groups), metrics = run.step(step)
        assert {c.versions for group in groups for c in group} == {((step - 1, 4),)}
        assert metrics["rollout/staleness_max"] == 0
        assert json.loads(run.state(step))["ahead"] is None


@pytest.mark.parametrize("drawn", [False, True])
@pytest.mark.parametrize("ahead", [0, 1])
@pytest.mark.parametrize("broken_after", [1, 4, STEPS - 1])
def test_broken_off_and_resumed_it_trains_on_the_same(
    ahead: int, broken_after: int, drawn: bool, tokenizer: Any
) -> None:
    """Prompts, targets, tokens, log-probabilities and versions, though the order depends on what was observed."""
    own = tokenizer if drawn else None
    whole, first = Run(ahead, tokenizer=own), Run(ahead, tokenizer=own)
    wanted = [whole.step(step)[0] for step in range(1, STEPS + 1)]
    found = [first.step(step)[0] for step in range(1, broken_after + 1)]
    state = first.state(broken_after)
    # A save changes nothing for a run that goes on.
    assert first.step(broken_after + 1)[0] == wanted[broken_after]
    second = Run(ahead, state, own)
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
    kept = [(each, None) for each in json.loads(run.state(3))["ahead"]["prompts"]]
    without = Run(0, run.state(3))
    (ids, groups), metrics = without.step(4)
    assert ids == kept
    assert groups[0][0].versions == ((3, 4),)
    assert metrics["rollout/staleness_max"] == 0
    with_it = Run(1, without.state(4))
    assert [with_it.step(step)[1]["rollout/staleness_max"] for step in (5, 6)] == [0, 1]
    older = {key: value for key, value in json.loads(without.state(4)).items() if key != "ahead"}
    assert Run(1, json.dumps(older)).step(5)[1]["rollout/staleness_max"] == 0


def test_a_save_does_not_fail_for_what_cannot_be_sampled() -> None:
    """Its prompts are kept, and the run ends at the next step."""
    run = Run(1)
    run.step(1)
    run.sampler.fault = RolloutError("no server is left")
    state = run.state(1)
    assert "completions" not in json.loads(state)["ahead"]
    with pytest.raises(RolloutError, match="no server is left"):
        run.step(2)
    (ids, groups), _ = Run(1, state).step(2)
    assert [each for each, _ in ids] == json.loads(state)["ahead"]["prompts"]
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
            Completion((9,) * 999, (-2 / 3,) * 999, False, ((3, 400), (4, 599))),
            Completion((1,), (0.0,), True, ((3, 1),)),
        ],
    ]
    text = json.dumps(pack(groups))
    assert unpack(json.loads(text)) == groups
    assert len(text) < 17 * 1003
