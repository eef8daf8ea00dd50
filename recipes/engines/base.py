"""What the training loop asks of an engine, and the plain data that passes between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import Tensor

from recipes.rl.losses import Loss


class EngineError(RuntimeError):
    """An engine that cannot do what it was asked; the message names rank, file or value and what to do."""


@dataclass(frozen=True)
class Sampling:
    """How responses are drawn.

    Attributes:
        copies: responses a prompt.
        temperature: logits are divided by it; 0 takes the likeliest token.
        max_new_tokens: limit of a response, its end token included.
        stop_ids: tokens that end a response and belong to it.
        seed: with the prompt's number and the copy it fixes a response's random draws, whatever the layout.
    """

    copies: int
    temperature: float
    max_new_tokens: int
    stop_ids: tuple[int, ...]
    seed: int = 0


@dataclass(frozen=True)
class Completion:
    """One sampled response.

    Attributes:
        ids: its tokens, the end token included.
        logprobs: of each token under the sampling distribution, in nats.
        finished: whether it ended by itself and not at the limit.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finished: bool


@dataclass(frozen=True)
class TokenSequence:
    """One prompt with one response, ready to train on.

    Attributes:
        ids: prompt, then response.
        prompt_length: tokens of `ids` that belong to the prompt, at least 1.
        advantages: of each response token; empty for zeros.
        old_logprobs: of each response token under the policy before the update; empty where nothing compares with it.
        weights: of each response token in the policy gradient, constants that correct for the sampler; empty for ones.
    """

    ids: tuple[int, ...]
    prompt_length: int
    advantages: tuple[float, ...] = ()
    old_logprobs: tuple[float, ...] = ()
    weights: tuple[float, ...] = ()

    @property
    def response_length(self) -> int:
        """Tokens of the response."""
        return len(self.ids) - self.prompt_length


@dataclass(frozen=True)
class TokenBatch:
    """The sequences of one optimizer step, the same list on every rank.

    Attributes:
        sequences: in any order.
        temperature: that log-probabilities are taken at; the one they were sampled at.
    """

    sequences: tuple[TokenSequence, ...]
    temperature: float = 1.0

    @property
    def response_tokens(self) -> int:
        """Tokens that a loss averages over."""
        return sum(sequence.response_length for sequence in self.sequences)


class PolicyEngine(Protocol):
    """A policy spread over ranks; all ranks call each method together and with the same arguments."""

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[list[Completion]]:
        """Samples `sampling.copies` responses to every prompt; the same result on every rank."""
        ...

    def logprobs(self, batch: TokenBatch, model: Literal["policy", "reference"] = "policy") -> list[list[float]]:
        """Log-probabilities in nats of every sequence's response tokens; the same result on every rank."""
        ...

    def logits(self, ids: Sequence[int]) -> Tensor:
        """Logits [tokens, vocabulary] in float32 for one sequence; on rank 0."""
        ...

    def train_step(self, batch: TokenBatch, loss: Loss, *, learning_rate: float, reference: bool) -> dict[str, float]:
        """One optimizer step; returns the loss's sums over the batch, `grad_norm`, and 1.0 or 0.0 as `stepped`."""
        ...

    def save(self, folder: Path, state: dict[str, Any]) -> None:
        """Begins to write a whole checkpoint with the loop's `state`, as both are now, and returns.

        What follows changes nothing in it. It appears as `folder` once `finish_saves` publishes it; a save still under
        way is waited for and published first.

        Raises:
            CheckpointError: the earlier save failed, or this one cannot begin; on every rank.
        """
        ...

    def finish_saves(self, wait: bool) -> Path | None:
        """Publishes a checkpoint that all ranks have written; returns its folder, or None where there was none.

        Args:
            wait: until it is published, at most `parallel.timeout_minutes`; otherwise it returns at once, and a save
                still under way goes on.

        Raises:
            CheckpointError: a writer failed, died or missed the deadline; on every rank, naming folder, rank and
                cause. Nothing is published.
        """
        ...

    def load(self, folder: Path) -> dict[str, Any]:
        """Restores weights and optimizer from a checkpoint of `save` and returns its `state`."""
        ...
