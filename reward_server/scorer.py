"""The process that runs verifiers: `python -m reward_server.scorer SOCKET PROGRESS VERIFIERS`, started by `pool`.

It reads jobs from an inherited socket, scores them one after another, and notes in a shared page which item it is at,
so that the pool can kill it when an item takes too long: a regular expression that runs away holds Python's lock, and
no timer inside the process would ever fire. Python code alone; neither HTTP nor asyncio in here.

A frame is `lengths of head and body` (two unsigned 64-bit integers), a JSON head, and the body. A job's head is
{"job": number, "kind": name, "given": {item index: verdict}}, its body what the client sent; `given` are items that
must not be tried (again), by a status, or that a judge has decided, by a status or a probability. An answer's head is
{"job", "status": HTTP status, "items", "counts", "preset", "cases"}; `cases` are the items that want a judge's verdict
first, and then there is no body.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import logging
import logging.config
import mmap
import os
import resource
import signal
import socket
import struct
import sys
from collections import Counter
from collections.abc import Mapping
from typing import Any

from reward_server import adapters, logs, selftest
from reward_server.presets import PRESETS
from reward_server.schema import RequestError, Result, ScoreRequest, Status
from reward_server.service import Verifier, case_to_judge, given_result, preset_info, score_item, where

logger = logging.getLogger(__name__)

LENGTHS = struct.Struct("<QQ")
PROGRESS = struct.Struct("<QQ")
# Between jobs, and while a job's body is read.
NO_ITEM = 2**64 - 1
MEMORY_LIMIT_BYTES = 4 * 2**30
_PR_SET_PDEATHSIG = 1

Given = Mapping[str, Status | float]


def load_verifiers(name: str) -> Mapping[str, Verifier]:
    """The verifiers that `module:ATTRIBUTE` names."""
    module, _, attribute = name.partition(":")
    verifiers: Mapping[str, Verifier] = getattr(importlib.import_module(module), attribute)
    return verifiers


def serve(channel: socket.socket, progress: mmap.mmap, verifiers: Mapping[str, Verifier]) -> None:
    """Announces itself with the self-test's failures and the presets' hashes, then answers until the channel closes."""
    definitions = {name: preset_info(preset, verifiers).hash for name, preset in PRESETS.items()}
    _send(channel, {"failures": selftest.failures(verifiers), "definitions": definitions}, b"")
    with channel.makefile("rb", buffering=1 << 20) as stream:
        while lengths := stream.read(LENGTHS.size):
            head_length, body_length = LENGTHS.unpack(lengths)
            head, body = json.loads(stream.read(head_length)), stream.read(body_length)
            _send(channel, *_answer(head, body, progress, verifiers))


def _answer(
    head: dict[str, Any], body: bytes, progress: mmap.mmap, verifiers: Mapping[str, Verifier]
) -> tuple[dict[str, Any], bytes]:
    job = head["job"]
    PROGRESS.pack_into(progress, 0, job, NO_ITEM)
    answer: dict[str, Any] = {"job": job, "status": 200, "items": 0, "counts": [], "preset": "", "cases": []}
    try:
        adapter = adapters.ADAPTERS[head["kind"]]
        request = adapter.parse(body)
        if cases := _undecided(request, head["given"]):
            return answer | {"status": 202, "cases": cases}, b""
        results = _score(job, request, head["given"], progress, verifiers)
        if logs.with_texts():
            for item, result in zip(request.items, results, strict=True):
                logger.info("scored", extra={"fields": {"item": item.model_dump(), "result": result.model_dump()}})
        counts = Counter((result.verifier, result.status) for result in results)
        answer |= {"items": len(results), "preset": request.preset}
        answer["counts"] = [[verifier, status, count] for (verifier, status), count in counts.items()]
        return answer, adapter.render(preset_info(PRESETS[request.preset], verifiers), results)
    except RequestError as error:
        return answer | {"status": error.status}, json.dumps(error.body()).encode()
    except Exception as error:
        # Left to the framework, the traceback would carry the message, and with it the texts, into the log.
        logger.error("scoring a batch raised %s", where(error))
        message = f"the reward server failed with {type(error).__name__}; see its log"
        return answer | {"status": 500}, json.dumps({"error": message, "fields": []}).encode()
    finally:
        PROGRESS.pack_into(progress, 0, 0, NO_ITEM)


def _undecided(request: ScoreRequest, given: Given) -> list[tuple[int, str, list[str], str, bool]]:
    return [
        (index, *case)
        for index, item in enumerate(request.items)
        if str(index) not in given and (case := case_to_judge(item)) is not None
    ]


def _score(
    job: int, request: ScoreRequest, given: Given, progress: mmap.mmap, verifiers: Mapping[str, Verifier]
) -> list[Result]:
    preset = PRESETS[request.preset]
    results: list[Result] = []
    for index, item in enumerate(request.items):
        verifier = verifiers[item.task]
        status = given.get(str(index)) if given else None
        if status in ("correct", "incorrect") or isinstance(status, float):
            results.append(score_item(item, preset, verifier, status))
            continue
        if status is not None:
            results.append(given_result(item, verifier, status))
            continue
        PROGRESS.pack_into(progress, 0, job, index)
        results.append(score_item(item, preset, verifier))
    return results


def _send(channel: socket.socket, head: dict[str, Any], body: bytes) -> None:
    encoded = json.dumps(head).encode()
    channel.sendall(b"".join((LENGTHS.pack(len(encoded), len(body)), encoded, body)))


def main() -> None:
    """Runs until the pool closes the socket or dies."""
    descriptor, page, verifiers, log_level = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The server's drain is its own: it still has answers to collect.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logging.config.dictConfig(logs.configuration(log_level))
    with socket.socket(fileno=descriptor) as channel, mmap.mmap(page, mmap.PAGESIZE) as progress:
        os.close(page)
        # A closed socket: the server is gone, and with it whoever asked.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            serve(channel, progress, load_verifiers(verifiers))


if __name__ == "__main__":
    main()
