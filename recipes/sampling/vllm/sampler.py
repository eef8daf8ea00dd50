"""Sampling by servers of vLLM that hold the policy's weights: hand over, prove, ask.

Rank 0 alone talks to servers. The other ranks wait for its word, and join when weights are to be handed over, which may
be in the middle of a batch: a server that was lost and is back gets weights before it is asked again. These are the
policy's as it is. Where it has taken a step since the batch was begun, as with `rollout.ahead`, the batch's weights are
gone: the server waits for the next step while another one answers, and with none left the new weights write the rest.

What is in flight while weights go over is broken off before, and gone on with by the new ones: its tokens so far are
part of what is asked, and keep their log-probabilities and version.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from conversion.checkpoint import open_checkpoint
from recipes.engines.base import Completion, PolicyEngine, Sampling
from recipes.engines.core.sampling import decoder
from recipes.runtime import platform
from recipes.runtime.agreement import told_by_leader
from recipes.runtime.config import Config
from recipes.runtime.launch import is_leader
from recipes.runtime.rules import mismatch_limits
from recipes.sampling.base import Begun, RolloutError
from recipes.sampling.vllm.client import Batch, cut_at, requests
from recipes.sampling.vllm.gate import Compared, compare, make_probes, probe
from recipes.sampling.vllm.servers import Fleet, State
from recipes.sampling.vllm.transfer import Transfer

# How often other ranks hear that rank 0 still waits.
_WORD_S = 20.0
_LOOK_S = 0.2


class VLLMSampler:
    """See `recipes.sampling.base.Sampler`."""

    def __init__(self, config: Config, engine: PolicyEngine, examples: Sequence[Sequence[int]], output: Path) -> None:
        """Starts the servers, or finds those of `rollout.vllm.urls`; collective.

        Raises:
            RolloutError: a server does not start or answer.
        """
        self._config, self._engine = config, engine
        self._probes = make_probes(examples, config.model.max_length)
        self._version = 0
        self._temperature = config.rollout.temperature
        self._fleet: Fleet | None = None
        self._flying: list[Batch] = []
        self._ended = 0.0
        self._transfer = Transfer(config, engine)
        self._decode = decoder(config.model.path)

        def start() -> None:
            self._fleet = Fleet(config, open_checkpoint(config.model.path).hf_dir, output / "rollout")

        try:
            self._on_leader(start)
            self._wait(all_of_them=True)
        except BaseException:
            self.close()
            raise

    def update(self, version: int) -> dict[str, float]:
        """See `Sampler.update`: all servers are stale, and those that answer get the weights and are probed."""
        self._version = version
        began = time.monotonic()

        def outdate() -> None:
            assert self._fleet is not None
            for batch in self._flying:
                batch.hold()
            for batch in self._flying:
                batch.wait_held()
            for server in (*self._fleet.of(State.CURRENT), *self._fleet.of(State.UNPROVEN)):
                server.state = State.STALE

        if self._config.rollout.vllm.sleep and platform.on_gpu():
            # What torch keeps of a GPU for later is what servers on it need to wake up.
            torch.cuda.empty_cache()
        self._on_leader(outdate)
        compared: list[Compared] = []
        while not compared:  # all may be lost on the way
            self._wait(all_of_them=False)
            compared = self._hand_over()
        for batch in self._flying:
            batch.go_on()
        return {
            "mismatch/probe_mean": max(each.mean for each in compared),
            "mismatch/probe_max": max(each.largest for each in compared),
            "rollout/servers": float(len(compared)),
            "rollout/update_s": time.monotonic() - began,
        }

    def begin(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        so_far: Sequence[Sequence[Completion]] = (),
        enough: int | None = None,
    ) -> Begun:
        """See `Sampler.begin`."""
        begun = Begun(prompts, sampling)
        if self._fleet is not None and prompts:
            begun.work = Batch(
                self._fleet,
                requests(prompts, sampling),
                self._config.rollout.vllm.generate_timeout_s,
                so_far=[completion for group in so_far for completion in group],
                copies=sampling.copies,
                enough=enough,
            )
            self._flying.append(begun.work)
        return begun

    def finish(self, begun: Begun, version: int) -> list[list[Completion]]:
        """See `Sampler.finish`."""
        if not begun.prompts:
            return []
        fleet, batch, sampling = self._fleet, begun.work, begun.sampling
        try:
            while True:
                same = version == self._version
                word = self._on_leader(partial(_next_word, fleet, batch, same) if fleet and batch else str)
                if word == "done":
                    break
                if word == "weights":
                    self._version = version
                    self._hand_over()
            answers: list[Completion] = self._on_leader(lambda: self._answers(batch, sampling) if batch else [])
            if self._config.rollout.vllm.sleep:
                self._on_leader(lambda: fleet.sleep() if fleet else None)
        finally:
            if batch is not None:
                batch.close()
                self._flying.remove(batch)
                # While an earlier one was waited for, servers wrote that.
                begun.seconds = max(0.0, batch.ended - max(batch.began, self._ended))
                self._ended = max(batch.ended, self._ended)
        return [answers[i : i + sampling.copies] for i in range(0, len(answers), sampling.copies)]

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[list[Completion]]:
        """See `Sampler.generate`."""
        return self.finish(self.begin(prompts, sampling), self._version)

    def _answers(self, batch: Batch, sampling: Sampling) -> list[Completion]:
        strings = sampling.stop_strings
        return [cut_at(c, strings, self._decode) for c in batch.answers()] if strings else batch.answers()

    def close(self) -> None:
        """See `Sampler.close`."""
        for batch in self._flying:
            batch.close()
        self._transfer.close()
        if self._fleet is not None:
            self._fleet.close()

    def _wait(self, *, all_of_them: bool) -> None:
        """Until one server answers, or every one; other ranks hear now and then that rank 0 still waits."""
        fleet = self._fleet
        while not self._on_leader(lambda: fleet is not None and fleet.wait(_WORD_S, all_of_them=all_of_them)):
            pass

    def _hand_over(self) -> list[Compared]:
        """Brings stale servers up to date and compares them with the trainer; collective.

        Raises:
            RolloutError: one computes otherwise than the trainer, by more than `rollout.mismatch_stop`.
        """
        fleet, temperature = self._fleet, self._temperature
        self._transfer.hand_over(fleet, self._version)

        def ask() -> Any:
            assert fleet is not None
            unproven = fleet.of(State.UNPROVEN)
            return probe(fleet, unproven, self._probes, self._version, temperature, self._transfer)

        found = self._on_leader(ask)
        faults = [f"{each.server}: {each.fault}" for each in found if each.fault]
        compared = compare(self._engine, self._probes, found, temperature) if found and not faults else []
        self._judge(faults, compared)
        for server in fleet.of(State.UNPROVEN) if fleet is not None else []:
            server.state = State.CURRENT
        return compared

    def _judge(self, faults: Sequence[str], compared: Sequence[Compared]) -> None:
        warn, stop = mismatch_limits(self._config)
        wrong = [*faults, *(_said(each) for each in compared if not each.mean <= stop)]
        if wrong:
            raise RolloutError(
                f"weights of step {self._version}: {'; '.join(wrong)}. What it samples is not the policy's "
                f"(rollout.mismatch_stop={stop:g}); see its log, and docs/rollouts.md for what this can be"
            )
        if is_leader():
            for each in compared:
                if each.mean > warn:
                    print(
                        f"weights of step {self._version}: {_said(each)}, above rollout.mismatch_warn={warn:g}",
                        file=sys.stderr,
                        flush=True,
                    )

    def _on_leader(self, action: Callable[[], Any]) -> Any:
        """What rank 0 does or hears, on every rank, or its error."""
        value, failure = told_by_leader(action if is_leader() else None)
        if failure is not None:
            raise RolloutError(failure)
        return value


def _said(compared: Compared) -> str:
    return (
        f"{compared.server}: log-probabilities differ from the trainer's by {compared.mean:.2g} nats a token in the "
        f"mean, {compared.largest:.2g} at most"
    )


def _next_word(fleet: Fleet, batch: Batch, same: bool) -> str:
    """What all ranks do next: `done`, `weights`, or `wait`; `same`: whether the policy is what the batch began with."""
    until = time.monotonic() + _WORD_S
    while time.monotonic() < until:
        if batch.done(_LOOK_S):
            return "done"
        fleet.tend()
        if fleet.of(State.STALE) and (same or not fleet.of(State.CURRENT)):
            return "weights"
    return "wait"
