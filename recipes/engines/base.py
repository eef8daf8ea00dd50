"""What the training loop asks of an engine, and the plain data that passes between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from recipes.rl.losses import Loss


class EngineError(RuntimeError):
    """An engine that cannot do what it was asked; the message names rank, file or value and what to do."""


class NonFiniteError(EngineError):
    """Weights or logits hold infinities or no numbers, and all that follows would be in vain; names the tensor."""


@dataclass(frozen=True)
class Sampling:
    """How responses are drawn.

    Attributes:
        copies: responses a prompt.
        temperature: logits are divided by it; 0 takes the likeliest token.
        max_new_tokens: limit of a response, its end token included.
        stop_ids: tokens that end a response and belong to it.
        seed: with the prompt's number and the copy it fixes a response's random draws, whatever the layout.
        top_k: only that many of the likeliest tokens may be drawn; 0 for all.
        top_p: of these, only the fewest likeliest that hold this share of their probability; 1 for all.
        stop_strings: a response ends with the token that completes one of them in its text.
        limits: of each prompt's responses, in tokens and at most `max_new_tokens`; empty for that limit everywhere.

    Raises:
        EngineError: a value is out of its range.
    """

    copies: int
    temperature: float
    max_new_tokens: int
    stop_ids: tuple[int, ...]
    seed: int = 0
    top_k: int = 0
    top_p: float = 1.0
    stop_strings: tuple[str, ...] = ()
    limits: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Refuses what would sample nothing or stop everywhere."""
        if self.top_k < 0:
            raise EngineError(f"top_k={self.top_k}: expected a number of tokens, or 0 for all")
        if not 0 < self.top_p <= 1:
            raise EngineError(f"top_p={self.top_p}: expected more than 0 and at most 1; 1 keeps every token")
        if "" in self.stop_strings:
            raise EngineError("stop_strings holds an empty string, which every text contains; remove it")
        wrong = [limit for limit in self.limits if not 1 <= limit <= self.max_new_tokens]
        if wrong:
            raise EngineError(f"limits holds {wrong[0]}: expected 1 to max_new_tokens={self.max_new_tokens}")


@dataclass(frozen=True)
class Completion:
    """One sampled response.

    Attributes:
        ids: its tokens, the end token included.
        logprobs: of each token in nats, at the temperature and before top-k and top-p, as the trainer computes them.
            Those of the filtered distribution would make the ratio of an unchanged policy differ from 1. The price: a
            filtered sample is slightly off-policy, since tokens left in are drawn more often than these values say.
        finished: whether a stop token or string ended it, and not the limit.
        versions: of the weights that wrote it, as (version, number of tokens) in order; a version is the number of
            steps that the policy had taken.
        partial: it was broken off before its end, and may be gone on with.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finished: bool
    versions: tuple[tuple[int, int], ...] = ()
    partial: bool = False

    def followed_by(self, rest: Completion) -> Completion:
        """Both as one response, which ends as `rest` does."""
        spans = list(self.versions)
        for version, count in rest.versions:
            if spans and spans[-1][0] == version:
                version, count = version, spans.pop()[1] + count
            spans.append((version, count))
        return Completion(self.ids + rest.ids, self.logprobs + rest.logprobs, rest.finished, tuple(spans), rest.partial)

    def until(self, end: int) -> Completion:
        """Its first tokens, as a response that is finished with the last of them."""
        spans, left = [], end
        for version, count in self.versions:
            if left > 0:
                spans.append((version, min(count, left)))
            left -= count
        return Completion(self.ids[:end], self.logprobs[:end], True, tuple(spans))


NOTHING_YET = Completion((), (), False, partial=True)


@dataclass(frozen=True)
class TokenSequence:
    """One prompt with one response, ready to train on.

    Attributes:
        ids: prompt, then response.
        prompt_length: tokens of `ids` that belong to the prompt, at least 1.
        advantages: of each response token; empty for zeros.
        old_logprobs: of each response token under the policy before the update; empty where nothing compares with it.
        weights: of each response token in the policy gradient, constants that correct for the sampler; empty for ones.
        positive: whether the response is imitated as well (`recipes.rl.losses.Objective.positive_coef`).
    """

    ids: tuple[int, ...]
    prompt_length: int
    advantages: tuple[float, ...] = ()
    old_logprobs: tuple[float, ...] = ()
    weights: tuple[float, ...] = ()
    positive: bool = False

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


@dataclass(frozen=True)
class Piece:
    """A tensor inside a bucket.

    Attributes:
        name: as Hugging Face spells it.
        shape: there; the vocabulary has no padding.
        start: of its values, row after row, in elements of the bucket.
    """

    name: str
    shape: tuple[int, ...]
    start: int


@dataclass(frozen=True)
class Bucket:
    """Some of a policy's weights.

    Attributes:
        pieces: the same on every rank.
        flat: their values behind each other without a gap, in the model's precision on the engine's device; None on a
            rank that does not hold them. Whoever keeps it keeps that memory.
    """

    pieces: tuple[Piece, ...]
    flat: Tensor | None

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every name with its tensor, a view of `flat`; none on a rank that does not hold them."""
        if self.flat is not None:
            for piece in self.pieces:
                end = piece.start + math.prod(piece.shape)
                yield piece.name, self.flat[piece.start : end].view(piece.shape)


class Room(Protocol):
    """Gives memory for so many values of a type, which may hold anything."""

    def __call__(self, elements: int, /, *, dtype: torch.dtype) -> Tensor:
        """One axis of `elements`."""
        ...


class PolicyEngine(Protocol):
    """A policy spread over ranks; all ranks call each method together and with the same arguments."""

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[list[Completion]]:
        """Samples `sampling.copies` responses to every prompt; the same result on every rank.

        Raises:
            NonFiniteError: the logits are not finite.
        """
        ...

    def logprobs(self, batch: TokenBatch, model: Literal["policy", "reference"] = "policy") -> list[list[float]]:
        """Log-probabilities in nats of every sequence's response tokens; the same result on every rank."""
        ...

    def logits(self, ids: Sequence[int]) -> Tensor:
        """Logits [tokens, vocabulary] in float32 for one sequence; on rank 0."""
        ...

    def train_step(self, batch: TokenBatch, loss: Loss, *, learning_rate: float, reference: bool) -> dict[str, float]:
        """One optimizer step; returns the loss's sums over the batch, `grad_norm`, and 1.0 or 0.0 as `stepped`.

        Where the loss or the gradient is not finite nothing changes and `stepped` is 0.

        Raises:
            NonFiniteError: a weight is not finite after the step.
        """
        ...

    def values(self, batch: TokenBatch) -> list[list[float]]:
        """The critic's values of the states before every response token; the same result on every rank.

        Raises:
            EngineError: there is no critic.
        """
        ...

    def critic_step(self, batch: TokenBatch, loss: Loss, *, learning_rate: float) -> dict[str, float]:
        """One optimizer step of the critic, as `train_step` is one of the policy.

        Args:
            batch: whose sequences hold targets as `advantages` and the values before the update as `old_logprobs`.
            loss: as `recipes.rl.losses.value_loss` gives it.
            learning_rate: of this step.

        Raises:
            EngineError: there is no critic.
            NonFiniteError: a weight is not finite after the step.
        """
        ...

    def weights(self, bucket_bytes: int, everywhere: bool, room: Room | None = None) -> Iterator[Bucket]:
        """The policy's weights as they are, in buckets of whole layers; every rank goes through all of them.

        The embedding, the layers in order, the norm after them and the output matrix, unless it is the embedding's.

        Args:
            bucket_bytes: a bucket takes further layers while it is no larger; one layer may be.
            everywhere: whether every rank gets them, or rank 0 alone.
            room: gives the memory that each bucket is filled into, on the engine's device; None makes it new.

        Raises:
            EngineError: a weight has no place in Hugging Face's names, or ranks do not hold all of one; on every rank.
        """
        ...

    def save(self, folder: Path, state: dict[str, Any]) -> None:
        """Begins to write a whole checkpoint with the loop's `state`, as both are now, and returns.

        What follows changes nothing in it. It appears as `folder` once `finish_saves` publishes it; a save still under
        way is waited for and published first.

        Raises:
            NonFiniteError: a weight or a moment of the optimizer is not finite; nothing is written.
            CheckpointError: the earlier save failed, or this one cannot begin; on every rank.
        """
        ...

    def finish_saves(self, wait: bool, before: Callable[[], None] = ...) -> Path | None:
        """Publishes a checkpoint that all ranks have written; returns its folder, or None where there was none.

        Args:
            wait: until it is published, at most `parallel.timeout_minutes`; otherwise it returns at once, and a save
                still under way goes on.
            before: called on rank 0 once all is written, right before it appears.

        Raises:
            CheckpointError: a writer failed, died or missed the deadline; on every rank, naming folder, rank and
                cause. Nothing is published.
        """
        ...

    def load(self, folder: Path) -> dict[str, Any]:
        """Restores weights and optimizer from a checkpoint of `save` and returns its `state`."""
        ...

    def close(self) -> None:
        """Gives up a save that is not published, and deletes what it wrote; each rank for itself."""
        ...
