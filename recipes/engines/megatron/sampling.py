"""The embedded sampler: the policy's own Megatron model decodes, so there is no second copy and no weight transfer.

A prompt is computed once for its whole group, finished rows leave the batch, and every response has random draws of its
own, fixed by seed, prompt number and copy, so that rollouts do not depend on the layout. Works at any tensor and
pipeline parallel size. Left out: top-k and top-p (their log-probabilities would differ from the trainer's), paged
caches and continuous batching; that is what vLLM is for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.distributed as dist
from megatron.core import parallel_state, tensor_parallel
from megatron.core.transformer.utils import set_model_to_sequence_parallel
from torch import Tensor

from recipes.engines.base import Completion, Sampling
from recipes.engines.megatron.attention import KVCache, SdpaAttention
from recipes.engines.megatron.model import Stage

# Rows are dropped from the batch once fewer than this share of it is still being written.
_COMPACT_BELOW = 0.8


def uniform_draws(seed: int, numbers: Sequence[int], copies: int, count: int) -> np.ndarray:
    """Uniform draws in [0, 1) for every copy of every prompt, [prompts * copies, count].

    Each row comes from a Philox generator keyed by (seed, prompt number, copy), whoever computes it.
    """
    rows = [
        np.random.Generator(np.random.Philox(key=[seed & (2**64 - 1), number * 2**20 + copy])).random(count)
        for number in numbers
        for copy in range(copies)
    ]
    return np.stack(rows)


def choose(logits: Tensor, temperature: float, draws: Tensor) -> tuple[Tensor, Tensor]:
    """One token a row by inverting the cumulative distribution, and its log-probability.

    Args:
        logits: [rows, vocabulary], float32.
        temperature: 0 takes the likeliest token; its log-probability is then that at temperature 1.
        draws: [rows], uniform in [0, 1).

    Returns:
        token ids [rows] and log-probabilities [rows] in nats.
    """
    logprobs = torch.log_softmax(logits / temperature if temperature else logits, -1)
    if not temperature:
        ids = logprobs.argmax(-1)
    else:
        cumulative = logprobs.exp().cumsum(-1)
        ids = torch.searchsorted(cumulative, (draws * cumulative[:, -1])[:, None]).squeeze(-1)
        ids = ids.clamp_max(logits.shape[-1] - 1)
    return ids, logprobs.gather(-1, ids[:, None])[:, 0]


class Sampler:
    """Decodes with one rank's stage and shard of a GPTModel; all model parallel ranks call it together."""

    def __init__(self, stage: Stage, vocabulary: int, where: torch.device) -> None:
        self.stage = stage
        self.model = stage.model
        self.vocabulary = vocabulary
        self.device = where
        self.attentions = [module for module in self.model.modules() if isinstance(module, SdpaAttention)]
        self.first, self.last = stage.first, stage.last

    @torch.no_grad()
    def logits(self, ids: Sequence[int]) -> Tensor | None:
        """Logits [tokens, vocabulary] in float32 of one sequence, without a cache; None on all but the last stage."""
        with self._inference():
            hidden = self._pass(torch.tensor([list(ids)], device=self.device), self._positions(len(ids)))
            return self._logits(hidden[:, 0]) if self.last else None

    @contextlib.contextmanager
    def _inference(self) -> Iterator[None]:
        """Evaluation mode, and no sequence parallelism: it wants lengths that divide, and saves nothing here."""
        sequence_parallel = self.model.config.sequence_parallel
        self.model.eval()
        if sequence_parallel:
            set_model_to_sequence_parallel(self.model, False)
        try:
            yield
        finally:
            if sequence_parallel:
                set_model_to_sequence_parallel(self.model, True)
            self.model.train()

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[Sequence[int]], numbers: Sequence[int], sampling: Sampling
    ) -> list[list[Completion]]:
        """Samples `sampling.copies` responses to each prompt.

        Args:
            prompts: token ids; none may be empty.
            numbers: what identifies each prompt's random draws.
            sampling: the settings.
        """
        cache = KVCache()
        for attention in self.attentions:
            attention.cache = cache
        try:
            with self._inference():
                return self._decode(prompts, numbers, sampling, cache)
        finally:
            for attention in self.attentions:
                attention.cache = None

    def _decode(
        self, prompts: Sequence[Sequence[int]], numbers: Sequence[int], sampling: Sampling, cache: KVCache
    ) -> list[list[Completion]]:
        copies, limit = sampling.copies, sampling.max_new_tokens
        lengths = torch.tensor([len(p) for p in prompts], device=self.device)
        width = int(lengths.max())
        ids = torch.zeros(len(prompts), width, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = torch.tensor(prompt)
        hidden = self._pass(ids.to(self.device), self._positions(width))
        logits = (
            self._logits(hidden[lengths - 1, torch.arange(len(prompts), device=self.device)]) if self.last else None
        )

        total = len(prompts) * copies
        cache.length = width
        lengths = lengths.repeat_interleave(copies)
        padding = (torch.arange(width + limit, device=self.device)[None] >= lengths[:, None]) & (
            torch.arange(width + limit, device=self.device)[None] < width
        )
        bias = torch.zeros(total, width + limit, dtype=self.model.config.params_dtype, device=self.device)
        cache.expand(copies, width + limit, bias.masked_fill_(padding, float("-inf"))[:, None, None])
        if logits is not None:
            logits = logits.repeat_interleave(copies, dim=0)
        draws = torch.from_numpy(uniform_draws(sampling.seed, numbers, copies, limit)).float().to(self.device)
        stops = torch.tensor(sampling.stop_ids, device=self.device)

        tokens = torch.zeros(total, limit, dtype=torch.long, device=self.device)
        logprobs = torch.zeros(total, limit, device=self.device)
        counts = torch.full((total,), limit, device=self.device)
        rows = torch.arange(total, device=self.device)
        for step in range(limit):
            chosen, chosen_logprobs = self._agree(logits, sampling.temperature, draws[rows, step])
            tokens[rows, step], logprobs[rows, step] = chosen, chosen_logprobs
            ended = torch.isin(chosen, stops)
            # A row that had ended earlier keeps its first count.
            counts[rows] = torch.where(ended & (counts[rows] == limit), step + 1, counts[rows])
            alive = counts[rows] == limit
            if step == limit - 1 or not bool(alive.any()):
                break
            if int(alive.sum()) < _COMPACT_BELOW * len(rows):
                keep = alive.nonzero()[:, 0]
                cache.keep(keep)
                rows, chosen = rows[keep], chosen[keep]
            hidden = self._pass(chosen[:, None], (lengths[rows] + step)[None])
            cache.length += 1
            logits = self._logits(hidden[0]) if self.last else None

        finished = torch.isin(tokens.gather(1, (counts - 1)[:, None])[:, 0], stops).tolist()
        completions = [
            Completion(tuple(ids[:count]), tuple(values[:count]), done)
            for ids, values, count, done in zip(
                tokens.tolist(), logprobs.tolist(), counts.tolist(), finished, strict=True
            )
        ]
        return [completions[i : i + copies] for i in range(0, total, copies)]

    def _positions(self, count: int) -> Tensor:
        return torch.arange(count, device=self.device)[:, None]

    def _pass(self, ids: Tensor, positions: Tensor) -> Tensor:
        """This stage's hidden states [tokens, rows, hidden size], handed on to the next stage."""
        group = parallel_state.get_pipeline_model_parallel_group()
        if not self.first:
            config = self.model.config
            taken = torch.empty(
                len(positions), len(ids), config.hidden_size, dtype=config.pipeline_dtype, device=self.device
            )
            dist.recv(taken, parallel_state.get_pipeline_model_parallel_prev_rank(), group=group)
            self.model.decoder.set_input_tensor(taken)
        hidden = self.stage.hidden(ids, positions)
        if not self.last:
            dist.send(hidden.contiguous(), parallel_state.get_pipeline_model_parallel_next_rank(), group=group)
        return hidden

    def _logits(self, hidden: Tensor) -> Tensor:
        """Logits [rows, vocabulary] in float32 from final hidden states [rows, hidden], on all tensor ranks."""
        logits, _ = self.model.output_layer(hidden[None], weight=self.stage.output_weight)
        logits = tensor_parallel.gather_from_tensor_model_parallel_region(logits)[0].float()
        return logits[:, : self.vocabulary]

    def _agree(self, logits: Tensor | None, temperature: float, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Samples on the last stage's first tensor rank and tells all model parallel ranks."""
        if logits is not None:
            ids, logprobs = choose(logits, temperature, draws)
            packed = torch.stack((ids.double(), logprobs.double()))
        else:
            packed = torch.zeros(2, len(draws), dtype=torch.double, device=self.device)
        if parallel_state.get_tensor_model_parallel_world_size() > 1 and self.last:
            source = parallel_state.get_tensor_model_parallel_src_rank()
            dist.broadcast(packed, source, group=parallel_state.get_tensor_model_parallel_group())
        if parallel_state.get_pipeline_model_parallel_world_size() > 1:
            source = parallel_state.get_pipeline_model_parallel_last_rank()
            dist.broadcast(packed, source, group=parallel_state.get_pipeline_model_parallel_group())
        return packed[0].long(), packed[1].float()
