"""Our reward server for NeMo-Aligner's own trainers: a client in the shape of its `RemoteGPTRMClient`.

For users who keep Aligner's `ReinforceTrainer`: pass `RemoteVerifierClient` as `rm`. Our GRPO does not use it.
Imports torch and no NeMo; needs megatron-core's model parallel groups, which Aligner has made by then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor

from recipes.data.example import Example
from reward_server.client import RewardClient, RewardClientError, ScoreItem


class VerifierFuture:
    """The rewards of one `infer_rm` call, on their way; Aligner calls `result` once, on all ranks together."""

    def __init__(self, pending: Future[list[float]] | None, count: int) -> None:
        self._pending = pending
        self._count = count

    def result(self) -> Tensor:
        """Rewards [responses, 1] in float32, on every rank of the model parallel group.

        Raises:
            RewardClientError: on all these ranks: the server stayed away, or could not score a response. Aligner has no
                place for a missing reward, and a zero in its stead would teach a lie.
        """
        told: list[Any] = [None, None]
        if self._pending is not None:
            try:
                told[0] = self._pending.result()
            except Exception as error:
                told[1] = f"scoring failed: {error}"
        group = parallel_state.get_model_parallel_group()
        if dist.get_world_size(group) > 1:
            dist.broadcast_object_list(told, _source(), group=group)
        if told[1] is not None:
            raise RewardClientError(told[1])
        device = torch.cuda.current_device() if torch.cuda.is_available() else torch.device("cpu")
        return torch.tensor(told[0], dtype=torch.float32, device=device).view(self._count, 1)


class RemoteVerifierClient:
    """Scores rollouts by verifiable rules where `RemoteGPTRMClient` asks a reward model.

    Aligner hands over tokens alone, so the client knows each question by its prompt's token ids.
    """

    def __init__(
        self,
        client: RewardClient,
        examples: Mapping[tuple[int, ...], Example],
        decode: Callable[[Sequence[int]], str],
        *,
        preset: str = "gated",
    ) -> None:
        """Takes the questions of the run.

        Args:
            client: of the reward server; used on the model parallel source ranks alone.
            examples: the question behind each prompt, by the prompt's token ids as Aligner's data set makes them.
            decode: token ids of a response to text, special tokens left out.
            preset: that the server scores with.
        """
        self._client = client
        self._examples = examples
        self._decode = decode
        self._preset = preset
        # One at a time, in order; Aligner asks again and again before it waits.
        self._pool = ThreadPoolExecutor(1)

    def infer_rm(self, rollout_batch: Mapping[str, Tensor]) -> VerifierFuture:
        """Begins to score and returns at once.

        Args:
            rollout_batch: `response_tokens` [responses, tokens], prompt and response; `prompt_lengths` and
                `response_lengths` [responses], the latter with the prompt.

        A prompt that is none of the run's questions fails `result`, on all ranks.
        """
        tokens = rollout_batch["response_tokens"].tolist()
        prompts, ends = rollout_batch["prompt_lengths"].tolist(), rollout_batch["response_lengths"].tolist()
        if dist.get_rank() != _source():
            return VerifierFuture(None, len(tokens))
        parts = [(row[:prompt], row[prompt:end]) for row, prompt, end in zip(tokens, prompts, ends, strict=True)]
        return VerifierFuture(self._pool.submit(self._score, parts), len(tokens))

    def close(self) -> None:
        """Ends the thread; the reward client stays the caller's."""
        self._pool.shutdown(cancel_futures=True)

    def _item(self, identity: str, prompt: list[int], response: list[int]) -> ScoreItem:
        example = self._examples.get(tuple(prompt))
        if example is None:
            raise RewardClientError(
                f"response {identity}: its prompt of {len(prompt)} tokens, which begins {prompt[:8]}, is none of the "
                f"{len(self._examples)} given; make `examples` from the tokenizer and prompt file of Aligner's data"
            )
        return ScoreItem(id=identity, task=example.task, response=self._decode(response), reference=example.reference())

    def _score(self, parts: list[tuple[list[int], list[int]]]) -> list[float]:
        items = [self._item(str(number), prompt, response) for number, (prompt, response) in enumerate(parts)]
        rewards = []
        for score in self._client.score(self._preset, items)[1]:
            if score.reward is None:
                raise RewardClientError(f"the reward server could not score a response: {score.status}")
            rewards.append(score.reward)
        return rewards


def _source() -> int:
    """The global rank that asks for this rank's model parallel group, as Aligner chooses it."""
    return min(dist.get_process_group_ranks(parallel_state.get_model_parallel_group()))
