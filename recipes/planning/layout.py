"""A run as the estimates see it: who holds which part of the model, and how many tokens a step has."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from recipes.runtime.config import Config


@dataclass(frozen=True)
class Layout:
    """How the model is divided.

    Attributes:
        recompute: share of a forward pass that the backward pass computes again.
        virtual: pipeline stages a rank holds; `context` ranks share a sequence. Our engine has one of each.
        bytes_per_weight: 2 in bfloat16, 4 in float32.
    """

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    sequence: bool = False
    recompute: float = 0.0
    micro_batch_tokens: int = 8192
    fp8: bool = False
    bytes_per_weight: int = 2
    context: int = 1
    virtual: int = 1

    @property
    def gpus(self) -> int:
        """GPUs in all."""
        return self.tensor * self.pipeline * self.context * self.data

    @property
    def optimizer_bytes(self) -> int:
        """Of a parameter, over all data parallel ranks: two moments and main weights, which float32 weights are."""
        return 12 if self.bytes_per_weight == 2 else 8


def layout_of(config: Config) -> Layout:
    """The layout that a configuration asks for."""
    parallel = config.parallel
    return Layout(
        tensor=parallel.tensor,
        pipeline=parallel.pipeline,
        data=parallel.processes // (parallel.tensor * parallel.pipeline),
        sequence=parallel.sequence,
        recompute=float(parallel.recompute),
        micro_batch_tokens=parallel.micro_batch_tokens,
        fp8=config.model.fp8 != "none",
        bytes_per_weight=2 if config.model.precision == "bfloat16" else 4,
    )


@dataclass(frozen=True)
class Rollout:
    """The responses of one step, whose lengths are taken as exponential, cut off at the limit.

    Attributes:
        groups: prompts a step; `copies` responses to each.
        prompt_tokens, response_tokens: means.
        limit: of a response, in tokens; above its mean.
    """

    groups: int
    copies: int
    prompt_tokens: float
    response_tokens: float
    limit: int

    @property
    def responses(self) -> int:
        """Responses a step."""
        return self.groups * self.copies

    @property
    def tokens(self) -> float:
        """Tokens of all prompts, each once a response, and responses."""
        return self.responses * (self.prompt_tokens + self.response_tokens)

    @property
    def span(self) -> float:
        """Mean number of tokens that a token attends to."""
        return (self.prompt_tokens + self.response_tokens) / 2

    def packed_tokens(self, micro_batch_tokens: int) -> float:
        """Tokens of a training pass of our engine: a prompt stands once in each micro-batch that has its responses."""
        room = max(micro_batch_tokens - self.prompt_tokens, self.response_tokens)
        shares = math.ceil(self.copies * self.response_tokens / room)
        return self.groups * (shares * self.prompt_tokens + self.copies * self.response_tokens)

    @cached_property
    def rate(self) -> float:
        """Rate r of the lengths' distribution, P(length > t) = exp(-r t) for t < limit, from their mean.

        The mean is (1 - exp(-r limit)) / r; r is found by bisection.
        """
        low, high = 1e-9, 1.0
        for _ in range(60):
            middle = math.sqrt(low * high)
            longer = -math.expm1(-middle * self.limit) / middle > self.response_tokens
            low, high = (middle, high) if longer else (low, middle)
        return low

    def longest(self, responses: float) -> float:
        """Expected length of the longest of so many responses: harmonic number / r, at most the limit."""
        return min(float(self.limit), (math.log(max(responses, 1)) + 0.577) / self.rate)

    @property
    def attended(self) -> float:
        """Cached tokens that one response reads while it is decoded: the integral of P(length > t) (prompt + t)."""
        return self.prompt_tokens * self.response_tokens + self._own_attended

    @property
    def shared_attended(self) -> float:
        """The same where one read of a prompt serves all of its responses, for as long as their longest."""
        return self.prompt_tokens * self.longest(self.copies) / self.copies + self._own_attended

    @property
    def _own_attended(self) -> float:
        """The integral of P(length > t) t."""
        x = self.rate * self.limit
        return (-math.expm1(-x) - x * math.exp(-x)) / self.rate**2
