"""A run's batches: prompts in their order with responses to them, the next of them sampled while this one trains.

With `rollout.ahead=1` step t waits for its batch, hands the policy's weights over (t - 1 steps are taken), begins the
batch of step t + 1 by these, and trains. From the second step on a batch is one step old, and none is older. Nothing is
in flight while weights go over, so a response has one version. Prompts are drawn a step earlier, so that what
`rollout.adaptive` observes counts a step later.

A save waits for what is in flight and keeps it: a run that goes on trains on these very tokens.

Left out: more than one step ahead, which is older and no faster once sampling hides behind training.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recipes.data.prompts import STOPS
from recipes.engines.base import Completion, Sampling
from recipes.rollout.lengths import Targets
from recipes.rollout.prompts import Prompt, PromptOrder
from recipes.runtime.config import Config
from recipes.runtime.phases import Phases
from recipes.sampling.base import Begun, RolloutError, Sampler

Groups = list[list[Completion]]


@dataclass
class _Batch:
    """A batch on its way.

    Attributes:
        prompts: drawn for it.
        begun: what the sampler is asked; None where it was in another process.
        completions: once they are there.
        seconds: that sampling them took.
        waited: of these, how long nothing else was done.
    """

    prompts: list[Prompt]
    begun: Begun | None
    completions: Groups | None = None
    seconds: float = 0.0
    waited: float = 0.0


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
        self._next: _Batch | None = None
        # Drawn for the next step, and not asked for.
        self._drawn: list[Prompt] = []
        self._failure: RolloutError | None = None

    def sample(self, step: int, number: int, phases: Phases) -> tuple[list[Prompt], Groups, dict[str, float]]:
        """A step's batch, its first of number 0, with the sampler's metrics; collective.

        With the first the sampler gets the policy's weights.

        Raises:
            RolloutError: see `Sampler`; or a response is by weights older than `rollout.ahead` allows.
        """
        if self._failure is not None:
            raise self._failure
        metrics: dict[str, float] = {}
        if not (early := self._next is not None):
            if number == 0:
                metrics = self._update(step, phases)
            self._begin(step, number)
        assert self._next is not None
        phases.add("generate", self._next.waited)  # at a save
        with phases("generate"):
            batch, groups = self._finished(step - 1)
        self._next = None
        metrics |= _staleness(groups, step, self._config)
        if self._config.rollout.ahead:
            phases.seconds["overlapped"] = max(0.0, batch.seconds - batch.waited)
            if step < self._config.trainer.steps:
                if early:
                    metrics |= self._update(step, phases)
                self._begin(step + 1, 0)
        return batch.prompts, groups, metrics

    def observe(self, prompts: Sequence[Prompt], informative: Sequence[bool]) -> None:
        """See `PromptOrder.observe`."""
        self._order.observe(prompts, informative)

    def state(self, step: int) -> dict[str, Any]:
        """JSON values from which `restore` goes on after a step; collective: what is in flight is waited for.

        Where it cannot be sampled, its prompts alone are kept, and the next `sample` raises.
        """
        ahead: dict[str, Any] | None = None
        if self._next is not None:
            ahead = {"step": step + 1, "prompts": [prompt.example.id for prompt in self._next.prompts]}
            try:
                batch, groups = self._finished(step)
            except RolloutError as error:
                self._failure = error
            else:
                ahead |= {"seconds": batch.seconds, "completions": pack(groups)}
        return {**self._order.state(), "ahead": ahead}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on where a run that saved `state` stopped.

        Without `rollout.ahead` the prompts that were sampled ahead are sampled again, by the policy as it is.
        """
        self._order.restore(state)
        if (ahead := state.get("ahead")) is not None:
            prompts = [self._by_id[each] for each in ahead["prompts"]]
            if self._config.rollout.ahead and "completions" in ahead:
                # Of an older release, whose prompts all share one target, no step is known.
                asked = self._targets.asked(prompts, ahead.get("step", 0), 0)
                self._next = _Batch(asked, None, unpack(ahead["completions"]), ahead["seconds"])
            else:
                self._drawn = prompts

    def _update(self, step: int, phases: Phases) -> dict[str, float]:
        with phases("update"):
            return self._sampler.update(step - 1)

    def _begin(self, step: int, number: int) -> None:
        prompts, self._drawn = self._drawn or self._order.next(self._config.rollout.prompts), []
        prompts = self._targets.asked(prompts, step, number)
        sampling = _sampling(self._config, step, number, prompts, self._stops)
        self._next = _Batch(prompts, self._sampler.begin([prompt.ids for prompt in prompts], sampling))

    def _finished(self, version: int) -> tuple[_Batch, Groups]:
        """The batch on its way, waited for; `version`: steps that the policy has taken."""
        batch = self._next
        assert batch is not None
        if batch.completions is None:
            assert batch.begun is not None
            began = time.monotonic()
            batch.completions = self._sampler.finish(batch.begun, version)
            batch.waited, batch.seconds = time.monotonic() - began, batch.begun.seconds
        return batch, batch.completions


def _staleness(completions: Groups, step: int, config: Config) -> dict[str, float]:
    """How many steps the policy has taken since the weights that wrote each response.

    Raises:
        RolloutError: more than `rollout.ahead`, or the weights are none of the policy's.
    """
    ages = [step - 1 - version for group in completions for each in group for version, _ in each.versions]
    wrong = [age for age in ages if not 0 <= age <= config.rollout.ahead]
    if wrong:
        raise RolloutError(
            f"step {step}: a response is by the weights after {step - 1 - wrong[0]} steps, and the policy has taken "
            f"{step - 1}; rollout.ahead={config.rollout.ahead} allows it to be so many steps old and no more"
        )
    return {"rollout/staleness_mean": float(np.mean(ages)), "rollout/staleness_max": float(max(ages))}


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


def pack(groups: Groups) -> dict[str, Any]:
    """Completions as JSON values, to the last bit: about 16 bytes a token, where numbers in decimals take 26."""
    flat = [completion for group in groups for completion in group]
    return {
        "copies": len(groups[0]),
        "ids": _encoded([token for each in flat for token in each.ids], "<i4"),
        "logprobs": _encoded([value for each in flat for value in each.logprobs], "<f8"),
        "finished": [int(each.finished) for each in flat],
        "versions": [each.versions for each in flat],
    }


def unpack(packed: Mapping[str, Any]) -> Groups:
    """What `pack` was given."""
    ids, logprobs = _decoded(packed["ids"], "<i4"), _decoded(packed["logprobs"], "<f8")
    flat, end = [], 0
    for finished, versions in zip(packed["finished"], packed["versions"], strict=True):
        spans = tuple((version, count) for version, count in versions)
        begin, end = end, end + sum(count for _, count in spans)
        flat.append(Completion(tuple(ids[begin:end]), tuple(logprobs[begin:end]), bool(finished), spans))
    copies = packed["copies"]
    return [flat[n : n + copies] for n in range(0, len(flat), copies)]


def _encoded(values: Sequence[float], kind: str) -> str:
    return base64.b64encode(np.array(values, dtype=kind).tobytes()).decode()


def _decoded(text: str, kind: str) -> list[Any]:
    values: list[Any] = np.frombuffer(base64.b64decode(text), dtype=kind).tolist()
    return values
