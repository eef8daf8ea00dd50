"""The client for asyncio: the same, with the batches of a call asked for at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import httpx

from reward_server.client.connections import PerProcess
from reward_server.client.definition import Definitions
from reward_server.client.retry import REQUEST_ID, RETRIED, Replicas, headers
from reward_server.client.wire import PresetInfo, Score, ScoreItem, batch_body, batches, check_ids, join, read_batch

# httpcore looks at all of a pool's connections and waiting requests for each request.
_POOL_CONNECTIONS = 64


class _Connections:
    """Room for so many requests at a time, over as many pools of connections as that takes."""

    def __init__(self, concurrency: int, sent: dict[str, str]) -> None:
        ssl = httpx.create_ssl_context(trust_env=False)
        sizes = [min(_POOL_CONNECTIONS, concurrency - i) for i in range(0, concurrency, _POOL_CONNECTIONS)]
        self._pools = [
            httpx.AsyncClient(
                trust_env=False,
                verify=ssl,
                headers=sent,
                limits=httpx.Limits(max_connections=size, max_keepalive_connections=size),
            )
            for size in sizes
        ]
        # The last one to be free comes first, so that few connections are open where few are needed.
        self._free: asyncio.LifoQueue[httpx.AsyncClient] = asyncio.LifoQueue()
        for pool, size in zip(reversed(self._pools), reversed(sizes), strict=True):
            for _ in range(size):
                self._free.put_nowait(pool)

    @asynccontextmanager
    async def one(self) -> AsyncIterator[httpx.AsyncClient]:
        """A pool with a connection to spare, once there is one."""
        pool = await self._free.get()
        try:
            yield pool
        finally:
            self._free.put_nowait(pool)

    async def close(self) -> None:
        """Closes the connections."""
        for pool in self._pools:
            await pool.aclose()


class AsyncRewardClient:
    """Scores responses on a reward server, or on several alike; close it, or use it in an `async with`.

    Args:
        url, attempt_timeout_s, total_timeout_s, token, on_retry: as `RewardClient`'s.
        concurrency: requests under way at a time, over all calls.

    Raises:
        ValueError: as `RewardClient`'s, or no request could be under way.
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
        self._definitions = Definitions()
        if concurrency < 1:
            raise ValueError(f"concurrency: expected at least 1, got {concurrency}")
        sent = headers(token)
        self._connections = PerProcess(lambda: _Connections(concurrency, sent))

    async def __aenter__(self) -> AsyncRewardClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections."""
        await self._connections.get().close()

    async def score(self, preset: str, items: Sequence[ScoreItem]) -> tuple[PresetInfo, list[Score]]:
        """Scores `items` in order; arguments, result and errors are those of `RewardClient.score`."""
        check_ids(items)
        tasks = [asyncio.create_task(self._post(preset, batch)) for batch in batches(items)]
        try:
            return join(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _post(self, preset: str, batch: Sequence[ScoreItem]) -> tuple[PresetInfo, list[Score]]:
        body, patience = batch_body(preset, batch), self._replicas.patience()
        failure: httpx.Response | Exception
        while True:
            try:
                async with self._connections.get().one() as http:
                    url, timeout = patience.url, patience.timeout()
                    # httpx's own limit is that of each read.
                    async with asyncio.timeout(timeout):
                        answer = await http.post(
                            f"{url}/v1/score", content=body, headers={REQUEST_ID: patience.identity}, timeout=timeout
                        )
                if patience.accept(answer):
                    info, scores = read_batch(preset, batch, answer.content)
                    self._definitions.check(info, url)
                    return info, scores
                failure = answer
            except RETRIED as error:
                failure = error
            await asyncio.sleep(patience.wait_after(failure))
