"""The server on a network: IPv6, proxies that are none of its business, and very many connections at once."""

from __future__ import annotations

import asyncio
import json
import resource
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest

from reward_server.client import AsyncRewardClient, RewardClient, ScoreItem
from reward_server.process import RewardServerProcess

CONNECTIONS = 2000
REFERENCE = {"answer": "C", "options": {"A": "Aspirin", "C": "Heparin"}}
ITEM = ScoreItem("0", "choice", "<think>t</think><answer>C</answer>", REFERENCE)


@contextmanager
def open_files(soft: int) -> Iterator[None]:
    """This process's soft limit, which its children inherit."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize(
    ("host", "asked"),
    [("::1", ("[::1]",)), ("[::1]", ("[::1]",)), ("::", ("[::1]", "127.0.0.1", "localhost")), ("localhost", ())],
)
def test_ipv6_and_no_proxy_between(host: str, asked: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    # Port 9 answers nobody; whoever took it for a proxy would find no server.
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)

    async def score(url: str) -> float | None:
        async with AsyncRewardClient(url, total_timeout_s=10) as client:
            return (await client.score("gated", [ITEM]))[1][0].reward

    with RewardServerProcess(host=host) as server:
        address = urlsplit(server.url)
        for url in (server.url, *(f"http://{name}:{address.port}" for name in asked)):
            with RewardClient(url, total_timeout_s=10) as client:
                client.wait_ready(10)
                assert client.score("gated", [ITEM])[1][0].reward == 1.0
            assert asyncio.run(score(url)) == 1.0


def test_a_client_for_no_request_at_a_time_is_refused() -> None:
    with pytest.raises(ValueError, match="concurrency: expected at least 1, got 0"):
        AsyncRewardClient("http://127.0.0.1:9", concurrency=0)


def test_every_one_of_2000_connections_at_once_is_answered() -> None:
    """From the 1,024 files of a usual login, by one worker, and by the smallest queue with 429s that are followed."""
    body = json.dumps({"preset": "gated", "items": [ITEM.to_wire()]}).encode()
    head = f"POST /v1/score HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode()

    async def ask(host: str, port: int, gate: asyncio.Barrier, seen: Counter[int]) -> None:
        while True:
            reader, writer = await asyncio.open_connection(host, port)
            if not seen:
                await gate.wait()
            writer.write(head + body)
            answer = await asyncio.wait_for(reader.read(), 120)
            writer.close()
            status = int(answer.split()[1])
            seen[status] += 1
            if status != 429:
                return
            after = answer.lower().partition(b"retry-after: ")[2].split()[0]
            assert 1 <= int(after) <= 30
            await asyncio.sleep(int(after))

    async def all_at_once(url: str) -> Counter[int]:
        address, seen, gate = urlsplit(url), Counter[int](), asyncio.Barrier(CONNECTIONS)
        assert address.hostname
        assert address.port
        await asyncio.gather(*(ask(address.hostname, address.port, gate, seen) for _ in range(CONNECTIONS)))
        return seen

    async def by_the_client(url: str) -> list[float | None]:
        async with AsyncRewardClient(url, total_timeout_s=60, concurrency=CONNECTIONS) as client:
            answers = await asyncio.gather(*(client.score("gated", [ITEM]) for _ in range(CONNECTIONS)))
        return [scores[0].reward for _, scores in answers]

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < CONNECTIONS + 200:
        pytest.skip(f"only {hard} files may be open here")
    with open_files(1024), RewardServerProcess() as server, open_files(CONNECTIONS + 200):
        assert asyncio.run(all_at_once(server.url)) == {200: CONNECTIONS}
    with (
        open_files(1024),
        RewardServerProcess(options=["--queue-limit", "600"]) as server,
        open_files(CONNECTIONS + 200),
    ):
        seen = asyncio.run(all_at_once(server.url))
        assert asyncio.run(by_the_client(server.url)) == [1.0] * CONNECTIONS
    assert set(seen) == {200, 429}
    assert seen[200] == CONNECTIONS
