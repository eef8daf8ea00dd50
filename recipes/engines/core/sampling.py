"""The embedded sampler: the policy's own Megatron model decodes, so there is no second copy and no weight transfer.

A prompt is computed once for its whole group, and what prompts begin with alike once for all of them (`prompt_rows`);
finished rows leave the batch, and every response has random draws of its own, fixed by seed, prompt number and copy, so
that rollouts do not depend on the layout. Works at any tensor and pipeline parallel size. Left out: paged caches and
continuous batching; that is what vLLM is for. Left out too: CUDA graphs of a token's step. Every token lengthens the
keys that are read, and rows leave, so a graph would want attention over the whole capacity, or one graph for every so
many tokens and rows; and what is captured are Transformer Engine's modules, tensor parallel collectives and exchanges
between stages. That is not to be made right without a GPU to try.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state, tensor_parallel
from torch import Tensor

from conversion.checkpoint import open_checkpoint
from conversion.tokenizer_check import read_tokenizer
from recipes.engines.base import Completion, EngineError, NonFiniteError, Sampling
from recipes.engines.core.attention import SdpaAttention
from recipes.engines.core.cache import KVCache
from recipes.engines.core.drawing import choose, uniform_draws
from recipes.engines.core.finite import check_weights
from recipes.engines.core.packing import Packing
from recipes.engines.core.plain_layers import PlainLayers
from recipes.engines.core.products import float32_product
from recipes.engines.core.prompt_rows import prompt_rows
from recipes.engines.core.stage import Stage

Decode = Callable[[list[list[int]]], list[str]]
# Rows are dropped from the batch once fewer than this share of it is still being written.
_COMPACT_BELOW = 0.8
# Tokens from one look at how many that are to the next, on a GPU: a look waits until all that was asked of it is done.
_LOOK_EVERY = 8
# Of prompts in one pass: enough for a GPU, and on a CPU what a pass computes stays in its caches.
_ROW_TOKENS = 4096


def decoder(checkpoint: str) -> Decode:
    """Token ids to text by the checkpoint's tokenizer, which is read on first use.

    Special tokens are spelled out, so that every token has at least one byte.
    """
    tokenizer = functools.cache(lambda: read_tokenizer(open_checkpoint(checkpoint).hf_dir))
    return lambda rows: tokenizer().batch_decode(rows)


def generate_divided(
    sampler: Sampler, prompts: Sequence[Sequence[int]], sampling: Sampling, group: dist.ProcessGroup | None
) -> list[list[Completion]]:
    """Samples responses to all prompts, divided over a group, or all ranks; the same result on every one of them."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    own = range(rank, len(prompts), size)
    groups = sampler.generate([prompts[i] for i in own], list(own), sampling) if len(own) else []
    if size == 1:
        return groups
    gathered: list[Any] = [None] * size
    dist.all_gather_object(gathered, groups, group=group)
    return [gathered[i % size][i // size] for i in range(len(prompts))]


class Sampler:
    """Decodes with one rank's stage and shard of a GPTModel; all model parallel ranks call it together."""

    def __init__(self, stage: Stage, vocabulary: int, where: torch.device, decode: Decode) -> None:
        self.stage = stage
        self.model = stage.model
        self.vocabulary = vocabulary
        self.device = where
        self.decode = decode
        self.look_every = _LOOK_EVERY if where.type == "cuda" else 1
        self.attentions = [module for module in self.model.modules() if isinstance(module, SdpaAttention)]
        # What computes in the place of the model's own layers while a batch is sampled.
        self.layers: PlainLayers | None = None
        self.first, self.last = stage.first, stage.last

    @torch.no_grad()
    def logits(self, ids: Sequence[int]) -> Tensor | None:
        """Logits [tokens, vocabulary] in float32 of one sequence, without a cache; None on all but the last stage."""
        with self._inference():
            positions = torch.arange(len(ids), device=self.device)
            packing = Packing.of(positions, [len(ids)], [], self.device)
            hidden = self._pass(torch.tensor([list(ids)], device=self.device), positions[:, None], packing)
            return self._logits(hidden[:, 0]) if self.last else None

    @contextlib.contextmanager
    def _inference(self) -> Iterator[None]:
        """Evaluation mode without sequence parallelism and FP8, put back afterwards.

        Both want token counts that divide: by the tensor parallel size, where it saves nothing here, and by 16 for FP8
        products, which a batch of single tokens is not. An FP8 policy is thus sampled in bfloat16: the trainer's
        log-probabilities differ from the sampler's, and importance correction has to make up for it.
        """
        config = self.model.config
        sequence_parallel, fp8 = config.sequence_parallel, config.fp8
        self.model.eval()
        config.fp8 = None
        if sequence_parallel:
            # Here, since megatron-core 0.10 has no such function; the NeMo-Aligner engine refuses sequence parallelism.
            from megatron.core.transformer.utils import set_model_to_sequence_parallel

            set_model_to_sequence_parallel(self.model, False)
        try:
            yield
        finally:
            if sequence_parallel:
                set_model_to_sequence_parallel(self.model, True)
            config.fp8 = fp8
            self.model.train()

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[Sequence[int]], numbers: Sequence[int], sampling: Sampling
    ) -> list[list[Completion]]:
        """Samples `sampling.copies` responses to each prompt.

        Args:
            prompts: token ids; none may be empty.
            numbers: each prompt's place among the prompts of all ranks, which identifies its random draws and limit.
            sampling: the settings.

        Raises:
            EngineError: `sampling.limits` has none for a prompt.
            NonFiniteError: the logits were not finite.
        """
        if sampling.limits and max(numbers) >= len(sampling.limits):
            raise EngineError(
                f"limits holds {len(sampling.limits)} numbers, and there is a prompt {max(numbers)} (from 0): "
                "give one for every prompt, or none"
            )
        cache = KVCache()
        for attention in self.attentions:
            attention.cache = cache
        # In half precision the trainer's roundings count: its modules sample too.
        plain = self.device.type == "cpu" and self.model.config.params_dtype is torch.float32
        self.layers = PlainLayers(self.model.decoder) if plain else None
        try:
            with self._inference():
                return self._respond(prompts, numbers, sampling, cache)
        finally:
            self.layers = None
            for attention in self.attentions:
                attention.cache = None

    def _respond(
        self, prompts: Sequence[Sequence[int]], numbers: Sequence[int], sampling: Sampling, cache: KVCache
    ) -> list[list[Completion]]:
        copies, total = sampling.copies, len(prompts) * sampling.copies
        own = [sampling.limits[n] for n in numbers] if sampling.limits else [sampling.max_new_tokens] * len(prompts)
        limits, limit = torch.tensor(own, device=self.device).repeat_interleave(copies), max(own)
        logits, lengths = self._prefill(prompts, copies, limit, cache)
        draws = torch.from_numpy(uniform_draws(sampling.seed, numbers, copies, limit)).float().to(self.device)
        stops = torch.tensor(sampling.stop_ids, device=self.device)

        tokens = torch.zeros(total, limit, dtype=torch.long, device=self.device)
        logprobs = torch.zeros(total, limit, device=self.device)
        counts = torch.zeros(total, dtype=torch.long, device=self.device)
        finished = torch.zeros(total, dtype=torch.bool, device=self.device)
        # Rows of the batch, and which of them are still being written: a row that has ended may stay for a while.
        rows, alive = torch.arange(total, device=self.device), torch.ones_like(finished)
        for step in range(limit):
            chosen, chosen_logprobs = self._agree(logits, sampling, draws[rows, step])
            tokens[rows, step], logprobs[rows, step] = chosen, chosen_logprobs
            counts[rows] += alive
            ended = torch.isin(chosen, stops)
            if sampling.stop_strings:
                written = tokens[rows[alive], : step + 1]
                ended[alive] |= self._completes(written, sampling.stop_strings)
            finished[rows] |= ended & alive
            alive &= ~ended & (limits[rows] > step + 1)
            if step % self.look_every == 0:
                left = int(alive.sum())
                if not left:
                    break
                if left < _COMPACT_BELOW * len(rows):
                    keep = alive.nonzero()[:, 0]
                    cache.keep(keep)
                    rows, chosen, alive = rows[keep], chosen[keep], alive[keep]
            if step == limit - 1:
                break
            # A row that has ended may stay beyond its own limit, where there need not be a position.
            positions = lengths[rows] + limits[rows].clamp_max(step + 1) - 1
            hidden = self._pass(chosen[:, None], positions[None], cache)
            cache.length += 1
            logits = self._logits(hidden[0]) if self.last else None

        self._check(logprobs, numbers, copies)
        completions = [
            Completion(tuple(ids[:count]), tuple(values[:count]), done)
            for ids, values, count, done in zip(
                tokens.tolist(), logprobs.tolist(), counts.tolist(), finished.tolist(), strict=True
            )
        ]
        return [completions[i : i + copies] for i in range(0, total, copies)]

    def _check(self, logprobs: Tensor, numbers: Sequence[int], copies: int) -> None:
        """Raises NonFiniteError where a drawn token's log-probability [rows, tokens] says that the logits were not."""
        bad = (~logprobs.isfinite()).any(-1).tolist()
        if any(bad):
            check_weights(self.model, "and the model samples nothing but noise")
            prompts = sorted({numbers[row // copies] for row, each in enumerate(bad) if each})
            raise NonFiniteError(
                f"logits: not finite for {sum(bad)} of {len(bad)} responses, of prompts {prompts[:8]} of this batch, "
                f"though this rank's weights are; activations overflow {self.model.config.params_dtype}"
            )

    def _prefill(
        self, prompts: Sequence[Sequence[int]], copies: int, limit: int, cache: KVCache
    ) -> tuple[Tensor | None, Tensor]:
        """Computes each prompt once into the cache, with room for `copies` responses of `limit` tokens to it.

        Returns:
            logits [rows, vocabulary] after the prompts (None on all but the last stage), and prompt lengths [rows].
        """
        cache.prompts, ends = len(prompts), None  # hidden states of last tokens, on the last stage
        for row in prompt_rows(prompts, _ROW_TOKENS, self.device):
            cache.row = row
            packing = Packing.of(row.positions, row.roots, row.branches, self.device)
            hidden = self._pass(row.ids[None], row.positions[:, None], packing, row.ends)[:, 0]
            if self.last:
                ends = hidden.new_empty(len(prompts), hidden.shape[-1]) if ends is None else ends
                ends[row.numbers] = hidden
        logits = self._logits(ends).repeat_interleave(copies, dim=0) if ends is not None else None
        lengths = torch.tensor([len(p) for p in prompts], device=self.device)
        padding = torch.arange(int(lengths.max()), device=self.device) >= lengths[:, None]
        bias = torch.zeros(padding.shape, device=self.device).masked_fill_(padding, float("-inf"))
        cache.respond(copies, limit, bias[:, None, None])
        return logits, lengths.repeat_interleave(copies)

    def _completes(self, written: Tensor, strings: Sequence[str]) -> Tensor:
        """Whether each response [rows, tokens so far] holds one of the strings; none did a token ago.

        Every rank decodes the same ids and so finds the same.
        """
        # A token may be as short as one byte; the one before is there for tokenizers that drop a text's first space.
        tail = max(len(string.encode()) for string in strings) + 1
        texts = self.decode(written[:, -tail:].tolist())
        return torch.tensor([any(string in text for string in strings) for text in texts], device=self.device)

    def _pass(self, ids: Tensor, positions: Tensor, seen: Packing | KVCache, wanted: Tensor | None = None) -> Tensor:
        """This stage's hidden states [tokens, rows, hidden size], handed on to the next stage.

        Of the last stage only the `wanted` tokens, where it is given.
        """
        group = parallel_state.get_pipeline_model_parallel_group()
        if not self.first:
            config = self.model.config
            taken = torch.empty(
                len(positions), len(ids), config.hidden_size, dtype=config.pipeline_dtype, device=self.device
            )
            dist.recv(taken, parallel_state.get_pipeline_model_parallel_prev_rank(), group=group)
            self.model.decoder.set_input_tensor(taken)
        hidden = self.stage.hidden(ids, positions, seen, self.layers, wanted if self.last else None)
        if not self.last:
            dist.send(hidden.contiguous(), parallel_state.get_pipeline_model_parallel_next_rank(), group=group)
        return hidden

    def _logits(self, hidden: Tensor) -> Tensor:
        """Logits [rows, vocabulary] in float32 from final hidden states [rows, hidden], on all tensor ranks."""
        logits = float32_product(hidden, self.stage.output_weight.t())
        if parallel_state.get_tensor_model_parallel_world_size() > 1:
            logits = tensor_parallel.gather_from_tensor_model_parallel_region(logits)
        return logits[:, : self.vocabulary]

    def _agree(self, logits: Tensor | None, sampling: Sampling, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Samples on the last stage's first tensor rank and tells all model parallel ranks."""
        found = None
        if logits is not None:
            found = choose(logits, sampling.temperature, draws, sampling.top_k, sampling.top_p)
            if parallel_state.get_model_parallel_group().size() == 1:
                return found
        packed = torch.zeros(2, len(draws), dtype=torch.double, device=self.device)
        if found is not None:
            packed[0], packed[1] = found
        if parallel_state.get_tensor_model_parallel_world_size() > 1 and self.last:
            source = parallel_state.get_tensor_model_parallel_src_rank()
            dist.broadcast(packed, source, group=parallel_state.get_tensor_model_parallel_group())
        if parallel_state.get_pipeline_model_parallel_world_size() > 1:
            source = parallel_state.get_pipeline_model_parallel_last_rank()
            dist.broadcast(packed, source, group=parallel_state.get_pipeline_model_parallel_group())
        return packed[0].long(), packed[1].float()
