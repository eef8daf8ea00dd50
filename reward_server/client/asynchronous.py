"""The client for asyncio: the same, with the batches of a call asked for at the same time."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence

import httpx

from reward_server.client.retry import RETRIED, Replicas, headers
from reward_server.client.wire import PresetInfo, Score, ScoreItem, batch_body, batches, check_ids, join, read_batch


class AsyncRewardClient:
    """Scores responses on a reward server, or on several alike; close it, or use it in an `async with`.

    Args:
        url, attempt_timeout_s, total_timeout_s, token, on_retry: as `RewardClient`'s.
        concurrency: requests under way at a time, over all calls.

    Raises:
        ValueError: for a URL without http(s) or a time that is not positive.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        *,
        attempt_timeout_s: float = 30.0,
        total_timeout_s: float = 300.0,
        token: str | None = None,
        on_retry: Callable[[str], None] | None = None,
        concurrency: int = 64,
    ) -> None:
        self._replicas = Replicas(url, attempt_timeout_s, total_timeout_s, on_retry)
        self._slots = asyncio.Semaphore(concurrency)
        limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
        self._http = httpx.AsyncClient(trust_env=False, headers=headers(token), limits=limits)

    async def __aenter__(self) -> AsyncRewardClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def score(self, preset: str, items: Sequence[ScoreItem]) -> tuple[PresetInfo, list[Score]]:
        """Scores `items` in order; arguments, result and errors are those of `RewardClient.score`."""
        check_ids(items)
        parts = list(batches(items))
        tasks = [asyncio.create_task(self._post(batch_body(preset, batch))) for batch in parts]
        try:
            bodies = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return join([read_batch(preset, batch, body) for batch, body in zip(parts, bodies, strict=True)])

    async def _post(self, body: bytes) -> bytes:
        patience = self._replicas.patience()
        identity = {"X-Request-Id": uuid.uuid4().hex}
        failure: httpx.Response | Exception
        while True:
            try:
                async with self._slots:
                    url, timeout = f"{patience.url}/v1/score", patience.timeout()
                    answer = await self._http.post(url, content=body, headers=identity, timeout=timeout)
                if patience.accept(answer):
                    return answer.content
                failure = answer
            except RETRIED as error:
                failure = error
            await asyncio.sleep(patience.wait_after(failure))
