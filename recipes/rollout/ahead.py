"""A run's batches: prompts in their order with responses to them, the next of them sampled while this one trains.

With `rollout.ahead=N` step t waits for its batch, hands the policy's weights over (t - 1 steps are taken), begins the
batch of step t + N by these, and trains. Of the N batches under way the older ones go on by the new weights, so that a
response may have several versions; the first of them is N steps old when it trains, from step N + 1 on, and none is
older. Prompts are drawn N steps earlier, so that what `rollout.adaptive` observes counts as many steps later.

With `rollout.over_sample` more prompts are asked for than a step takes. It takes the first whose groups are whole; the
rest is broken off, and dropped or, for `rollout.continued` steps, gone on with in the batch that is begun next.

A save waits for what is in flight and keeps it: a run that goes on trains on these very tokens.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from recipes.data.prompts import STOPS
from recipes.engines.base import Completion, Sampling
from recipes.rollout.lengths import Targets
from recipes.rollout.packing import Groups, pack, unpack
from recipes.rollout.prompts import Prompt, PromptOrder
from recipes.runtime.config import Config
from recipes.runtime.phases import Phases
from recipes.runtime.rollout_config import RolloutConfig
from recipes.sampling.base import Begun, RolloutError, Sampler

# Step and the prompt's number in it, of which a target is drawn.
Draw = tuple[int, int]


@dataclass
class _Batch:
    """A batch on its way, or part of one.

    Attributes:
        step: that it is for.
        prompts: as they are asked.
        draws: of their targets.
        begun: what the sampler is asked; None where it was in another process.
        completions: once they are there.
        seconds: that sampling them took.
        waited: of these, how long nothing else was done.
    """

    step: int
    prompts: list[Prompt] = field(default_factory=list)
    draws: list[Draw] = field(default_factory=list)
    begun: Begun | None = None
    completions: Groups | None = None
    seconds: float = 0.0
    waited: float = 0.0

    def part(self, places: Sequence[int]) -> _Batch:
        """The groups at some places."""
        assert self.completions is not None
        own = [self.completions[n] for n in places]
        return _Batch(self.step, [self.prompts[n] for n in places], [self.draws[n] for n in places], None, own)

    def state(self) -> dict[str, Any]:
        """JSON values."""
        done = {} if self.completions is None else {"seconds": self.seconds, "completions": pack(self.completions)}
        return {"step": self.step, "prompts": [p.example.id for p in self.prompts], "draws": self.draws, **done}


class Batches:
    """All batches of a run.

    Args:
        prompts: of the run.
        order: that they are drawn in.
        sampler: asked for responses.
        config: of the run.
        stops: tokens that end a response.
        targets: of the responses' lengths.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        order: PromptOrder,
        sampler: Sampler,
        config: Config,
        stops: tuple[int, ...],
        targets: Targets,
    ) -> None:
        self._by_id = {prompt.example.id: prompt for prompt in prompts}
        self._order, self._sampler, self._config, self._stops = order, sampler, config, stops
        self._targets = targets
        self._flying: deque[_Batch] = deque()
        # Drawn for the next steps, and not asked for.
        self._drawn: deque[list[Prompt]] = deque()
        # Groups that were not taken, to be gone on with.
        self._kept = _Batch(0)
        self._dropped = 0
        self._failure: RolloutError | None = None

    def sample(self, step: int, number: int, phases: Phases) -> tuple[list[Prompt], Groups, dict[str, float]]:
        """A step's batch, its first of number 0, with the sampler's metrics; collective.

        With the first the sampler gets the policy's weights.

        Raises:
            RolloutError: see `Sampler`; or a response is by weights older than is allowed.
        """
        if self._failure is not None:
            raise self._failure
        rollout, metrics = self._config.rollout, dict[str, float]()
        self._dropped = self._dropped if number else 0
        if not (early := bool(self._flying)):
            if number == 0:
                metrics = self._update(step, phases)
            self._begin(step, number)
        phases.add("generate", self._flying[0].waited)  # at a save
        with phases("generate"):
            self._finish(self._flying[0], step - 1)
        batch = self._flying.popleft()
        taken = self._take(batch)
        assert taken.completions is not None
        metrics |= _staleness(taken.completions, step, rollout)
        if rollout.continued:
            metrics["rollout/kept_groups"] = float(len(self._kept.prompts))
        if rollout.ahead:
            phases.seconds["overlapped"] = max(0.0, batch.seconds - batch.waited)
            missing = min(rollout.ahead, self._config.trainer.steps - step) - len(self._flying)
            if missing > 0 and early:
                metrics |= self._update(step, phases)
            for _ in range(missing):
                self._begin(step + len(self._flying) + 1, 0)
        if rollout.over_sample:
            metrics["rollout/dropped_groups"] = float(self._dropped)
        return taken.prompts, taken.completions, metrics

    def observe(self, prompts: Sequence[Prompt], informative: Sequence[bool]) -> None:
        """See `PromptOrder.observe`."""
        self._order.observe(prompts, informative)

    def state(self, step: int) -> dict[str, Any]:
        """JSON values from which `restore` goes on after a step; collective: what is in flight is waited for.

        Where it cannot be sampled, its prompts alone are kept, and the next `sample` raises.
        """
        for batch in self._flying:
            try:
                if self._failure is None:
                    self._finish(batch, step)
            except RolloutError as error:
                self._failure = error
        drawn = [
            {"step": step + 1 + len(self._flying) + n, "prompts": [prompt.example.id for prompt in prompts]}
            for n, prompts in enumerate(self._drawn)
        ]
        ahead = [*(batch.state() for batch in self._flying), *drawn]
        kept = {"kept": self._kept.state()} if self._kept.prompts else {}
        return {**self._order.state(), "ahead": ahead, **kept}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on where a run that saved `state` stopped.

        Where `rollout.ahead` allows less than what was sampled ahead, its prompts are sampled again by newer weights.
        """
        self._order.restore(state)
        ahead = state.get("ahead") or []
        # Releases before kept one batch, or none.
        stored = [self._restored(each) for each in ([ahead] if isinstance(ahead, dict) else ahead)]
        for batch in stored:
            if self._drawn or not self._allows(batch):
                self._drawn.append([self._by_id[prompt.example.id] for prompt in batch.prompts])
            else:
                self._flying.append(batch)
        if "kept" in state:
            self._kept = self._restored(state["kept"])

    def _restored(self, state: Mapping[str, Any]) -> _Batch:
        prompts = [self._by_id[each] for each in state["prompts"]]
        # Of an older release, whose prompts all share one target, no step is known.
        step = state.get("step", 0)
        draws = [(step, place) for step, place in state.get("draws", [(step, n) for n in range(len(prompts))])]
        done = unpack(state["completions"]) if "completions" in state else None
        return _Batch(step, self._targets.asked(prompts, draws), draws, None, done, state.get("seconds", 0.0))

    def _allows(self, batch: _Batch) -> bool:
        """Whether a batch may be trained on when its step comes."""
        rollout, groups = self._config.rollout, batch.completions
        if groups is None or batch.step == 0:
            return groups is not None and rollout.ahead > 0
        return all(_age(group, batch.step) <= _oldest_age(rollout) for group in groups)

    def _update(self, step: int, phases: Phases) -> dict[str, float]:
        with phases("update"):
            return self._sampler.update(step - 1)

    def _begin(self, step: int, number: int) -> None:
        rollout = self._config.rollout
        kept = self._young(step)
        asked = rollout.prompts + math.ceil(rollout.over_sample * rollout.prompts)
        fresh = self._drawn.popleft() if self._drawn else self._order.next(asked - len(kept.prompts))
        draws = [(step, number * asked + len(kept.prompts) + place) for place in range(len(fresh))]
        prompts = [*kept.prompts, *self._targets.asked(fresh, draws)]
        begun = self._sampler.begin(
            [prompt.ids for prompt in prompts],
            _sampling(self._config, step, number, prompts, self._stops),
            so_far=kept.completions or (),
            enough=rollout.prompts if rollout.over_sample else None,
        )
        self._flying.append(_Batch(step, prompts, [*kept.draws, *draws], begun))

    def _finish(self, batch: _Batch, version: int) -> None:
        """Waits for a batch; `version`: steps that the policy has taken."""
        if batch.completions is None:
            assert batch.begun is not None
            began = time.monotonic()
            batch.completions = self._sampler.finish(batch.begun, version)
            batch.waited, batch.seconds = time.monotonic() - began, batch.begun.seconds

    def _take(self, batch: _Batch) -> _Batch:
        """The groups that a step takes, the first that are whole; the others are kept where that is asked for."""
        assert batch.completions is not None
        rollout, places = self._config.rollout, range(len(batch.prompts))
        if not rollout.over_sample:
            return batch
        whole = [n for n in places if not any(completion.partial for completion in batch.completions[n])]
        taken = whole[: rollout.prompts]
        left = [n for n in places if n not in taken]
        if rollout.continued:
            self._kept = batch.part(left)
        else:
            self._dropped += len(left)
        return batch.part(taken)

    def _young(self, step: int) -> _Batch:
        """Of the groups that were kept those that are not too old for a step; none is kept any more."""
        kept, self._kept = self._kept, _Batch(0)
        if kept.completions is None:
            return kept
        limit = _oldest_age(self._config.rollout)
        young = [n for n, group in enumerate(kept.completions) if _age(group, step) <= limit]
        self._dropped += len(kept.prompts) - len(young)
        return kept.part(young)


def _age(group: Sequence[Completion], step: int) -> int:
    """Of a group's oldest token when it is trained on in a step: steps taken since its weights; 0 of no token."""
    return max((step - 1 - version for each in group for version, _ in each.versions), default=0)


def _oldest_age(rollout: RolloutConfig) -> int:
    """Of what may be trained on."""
    return rollout.ahead + rollout.continued


def _staleness(completions: Groups, step: int, rollout: RolloutConfig) -> dict[str, float]:
    """How many steps the policy has taken since the weights that wrote each response's oldest token.

    Raises:
        RolloutError: more than is allowed, or the weights are none of the policy's.
    """
    limit, versions = _oldest_age(rollout), [[v for v, _ in each.versions] for group in completions for each in group]
    if wrong := [each for own in versions for each in own if not 0 <= step - 1 - each <= limit]:
        allowed = f"rollout.ahead={rollout.ahead}"
        if rollout.continued:
            allowed += f" with rollout.continued={rollout.continued}"
        raise RolloutError(
            f"step {step}: a response is by the weights after {wrong[0]} steps, and the policy has taken {step - 1}; "
            f"{allowed} lets it be {limit} steps old and no more"
        )
    ages = [step - 1 - min(own) for own in versions if own]
    metrics = {"rollout/staleness_mean": float(np.mean(ages)), "rollout/staleness_max": float(max(ages))}
    if limit > 1:
        metrics["rollout/several_versions_share"] = float(np.mean([len(own) > 1 for own in versions]))
    return metrics


def _sampling(config: Config, step: int, batch: int, prompts: Sequence[Prompt], stops: tuple[int, ...]) -> Sampling:
    rollout = config.rollout
    room = [config.model.max_length - len(prompt.ids) for prompt in prompts]
    return Sampling(
        copies=rollout.group_size,
        temperature=rollout.temperature,
        max_new_tokens=rollout.max_new_tokens,
        stop_ids=stops,
        # Prompts of different steps and batches share numbers, so both are part of the seed.
        seed=config.seed * 1_000_003 + step + (batch << 40),
        top_k=rollout.top_k,
        top_p=rollout.top_p,
        stop_strings=(*rollout.stop, *STOPS[config.data.template]),
        limits=tuple(min(rollout.max_new_tokens, each) for each in room) if min(room) < rollout.max_new_tokens else (),
    )
