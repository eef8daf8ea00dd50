"""Does a server compute what the trainer computes? Asked after every hand-over of weights, before any response is used.

Three questions. Do tensors that lie in the server as they were sent have the digests of what was sent? Is the prefix
cache empty, that is, does a probe that the server has seen before find nothing there? And are its log-probabilities of
what it samples, at the run's temperature, those of the trainer? The last sees whatever goes wrong: a tensor left out,
an output matrix that was not renewed, keys and values of old weights, weights of another step, another convention of
log-probabilities.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import httpx

from recipes.engines.base import Completion, PolicyEngine, Sampling, TokenBatch, TokenSequence
from recipes.sampling.vllm.client import AnswerError, Request, ask, read_answer, requests
from recipes.sampling.vllm.servers import Fleet, Server, ServerError, headers
from recipes.sampling.vllm.transfer import Transfer

# Long enough for a block of vLLM's cache (128 tokens on a CPU, 16 on a GPU) to be kept and found.
_PROBE_TOKENS = 160
_PROBES = 4
_NEW_TOKENS = 16


@dataclass(frozen=True)
class Probed:
    """What one server said.

    Attributes:
        server: its name.
        completions: of the probes.
        fault: what is wrong whatever the trainer computes; None for nothing.
    """

    server: str
    completions: list[Completion]
    fault: str | None


@dataclass(frozen=True)
class Compared:
    """Log-probabilities of a server against the trainer's: mean and largest difference, in nats, over all tokens."""

    server: str
    mean: float
    largest: float


def make_probes(examples: Sequence[Sequence[int]], max_length: int) -> list[tuple[int, ...]]:
    """Token ids to probe with: prompts of the run end to end, since log-probabilities matter where it samples."""
    length = max(1, min(_PROBE_TOKENS, max_length - _NEW_TOKENS))
    flowing = [token for example in examples[: _PROBES * length] for token in example] or [0]
    flowing *= -(-_PROBES * length // len(flowing))
    return [tuple(flowing[n * length : (n + 1) * length]) for n in range(_PROBES)]


def probe(
    fleet: Fleet,
    servers: Sequence[Server],
    probes: Sequence[tuple[int, ...]],
    version: int,
    temperature: float,
    transfer: Transfer,
) -> list[Probed]:
    """Asks each server; on rank 0. A server that does not answer is reported lost and is not among the results."""
    sampling = Sampling(1, temperature, _NEW_TOKENS, (), seed=0)
    # Each finds in the cache what it has left there itself, and nothing of the others or of the run's prompts.
    asked = [dataclasses.replace(r, salt=f"probe {n}") for n, r in enumerate(requests(probes, sampling))]
    timeout_s, sent = transfer.timeout_s, transfer.digests

    def one(server: Server) -> Probed:
        digests = server.call("/collective_rpc", timeout_s, method="medatron_digests")["results"]
        wrong = sorted({name for each in digests for name, value in each.items() if sent.get(name, value) != value})
        if wrong:
            return Probed(str(server), [], f"{wrong[0]} is not what was sent ({len(wrong)} such tensors)")
        answers = asyncio.run(_ask_all(server, asked, version, timeout_s))
        cached = max(tokens for _, tokens in answers)
        fault = f"{cached} tokens of a probe were in its prefix cache, which was emptied" if cached else None
        return Probed(str(server), [completion for completion, _ in answers], fault)

    found = []
    for server, result in zip(servers, fleet.each(servers, one), strict=True):
        if isinstance(result, ServerError):
            fleet.lost(server, f"its probe failed: {result}")
        else:
            found.append(result)
    return found


async def _ask_all(
    server: Server, asked: Sequence[Request], version: int, timeout_s: float
) -> list[tuple[Completion, int]]:
    """All at the same time, as a batch."""
    try:
        async with httpx.AsyncClient(timeout=timeout_s, headers=headers()) as client:
            bodies = await asyncio.gather(*(ask(client, server, request) for request in asked))
        return [read_answer(body, version) for body in bodies]
    except (httpx.HTTPError, AnswerError) as error:
        raise ServerError(f"{server}: {error or type(error).__name__}") from error


def compare(
    engine: PolicyEngine, probes: Sequence[tuple[int, ...]], found: Sequence[Probed], temperature: float
) -> list[Compared]:
    """The trainer's log-probabilities of what servers sampled against theirs; collective, the same on every rank."""
    sequences = tuple(
        TokenSequence(ids=prompt + completion.ids, prompt_length=len(prompt))
        for each in found
        for prompt, completion in zip(probes, each.completions, strict=True)
    )
    computed = iter(engine.logprobs(TokenBatch(sequences, temperature or 1.0)))
    results = []
    for each in found:
        apart = [
            abs(ours - theirs)
            for completion in each.completions
            for ours, theirs in zip(next(computed), completion.logprobs, strict=True)
        ]
        results.append(Compared(each.server, sum(apart) / len(apart), max(apart)))
    return results
