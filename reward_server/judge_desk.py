"""One judge for all workers of a server: it sits in their parent, and they ask it over a socket of the file system.

So its budget and its memory of verdicts are the whole server's, and an answer that two workers want judged at the same
time is asked for once. A connection carries one batch: cases as JSON, an end, and their verdicts as JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reward_server.endpoint import JudgeSettings
    from reward_server.judge import Judge

logger = logging.getLogger(__name__)

# A judge keeps a deadline of its own, below this one.
_ANSWER_LIMIT_S = 120.0
_START_LIMIT_S = 30.0


@contextlib.contextmanager
def serving(settings: JudgeSettings, path: str) -> Iterator[None]:
    """A thread with a judge that is asked at `path`, as long as the context is open.

    Raises:
        OSError: there can be no socket at `path`.
    """
    started, failure = threading.Event(), []
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def main() -> None:
        from reward_server.judge import Judge

        judge = Judge(settings)
        try:
            server = await asyncio.start_unix_server(functools.partial(_answer, judge), path)
        except OSError as error:
            failure.append(error)
            return
        finally:
            started.set()
        async with server:
            await stop.wait()
        await judge.close()

    thread = threading.Thread(target=lambda: loop.run_until_complete(main()), name="judge", daemon=True)
    thread.start()
    started.wait(_START_LIMIT_S)
    if failure:
        raise failure[0]
    try:
        yield
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(_START_LIMIT_S)


async def verdicts(path: str, cases: Sequence[Sequence[Any]]) -> list[str | float]:
    """One verdict a case, as `Judge.verdicts` has both; all `timeout` without a judge."""
    try:
        async with asyncio.timeout(_ANSWER_LIMIT_S):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                writer.write(json.dumps(cases).encode())
                writer.write_eof()
                found: list[str | float] = json.loads(await reader.read())
                return found
            finally:
                writer.close()
    except (OSError, ValueError) as error:
        logger.error("the judge could not be asked: %s", type(error).__name__)
        return ["timeout"] * len(cases)


async def _answer(judge: Judge, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.closing(writer), contextlib.suppress(ConnectionError):
        found = await judge.verdicts(json.loads(await reader.read()))
        writer.write(json.dumps(found).encode())
        await writer.drain()
