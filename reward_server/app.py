"""The HTTP face of the service.

POST /v1/score, GET /healthz (the process lives), GET /readyz (its golden items score right), GET /v1/verifiers.
Every error body is `{"error": message, "fields": [{"path", "message"}]}`, and neither errors nor logs repeat a text
that was sent. Left out: metrics, authentication and a bounded queue with 429; bind to an address that only the job
reaches.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from reward_server import selftest
from reward_server.presets import PRESETS
from reward_server.schema import MAX_BODY_BYTES, RequestError, ScoreResponse, parse_request
from reward_server.service import VERIFIERS, Verifier, preset_info, score, versions, where

logger = logging.getLogger(__name__)


def create_app(verifiers: Mapping[str, Verifier] = VERIFIERS) -> FastAPI:
    """Makes the application.

    Args:
        verifiers: task to verifier; a test passes its own to see a fault.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.failures = selftest.failures(verifiers)
        if app.state.failures:
            logger.error("self-test failed on: %s", ", ".join(app.state.failures))
        yield

    app = FastAPI(title="Medatron reward server", lifespan=lifespan, openapi_url=None)

    @app.post("/v1/score")
    async def score_batch(request: Request) -> Response:
        """Scores a batch. The body is read raw, so that its limits come before its parsing."""
        started = time.perf_counter()
        body = await _body(request)
        # Scoring is CPU work; in a thread, /healthz still answers meanwhile.
        answer = await run_in_threadpool(_score, body, verifiers)
        statuses = Counter(result.status for result in answer.results)
        counts = " ".join(f"{name}={count}" for name, count in sorted(statuses.items()))
        seconds = time.perf_counter() - started
        logger.info("scored %d items with %s in %.3f s %s", len(answer.results), answer.preset.name, seconds, counts)
        return Response(answer.model_dump_json(), media_type="application/json")

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process lives."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz(request: Request) -> JSONResponse:
        """200 when the golden items scored right, else 503 naming those that did not."""
        failed: list[str] = request.app.state.failures
        if failed:
            message = f"self-test failed on: {', '.join(failed)}; this build must not score a run"
            return JSONResponse({"error": message, "fields": []}, status_code=503)
        return JSONResponse({"status": "ready", "golden_items": len(selftest.GOLDEN)})

    @app.get("/v1/verifiers")
    async def list_verifiers() -> dict[str, Any]:
        """Every rule with its version, and every preset with its version and content hash."""
        return {
            "verifiers": [{"name": name, "version": version} for name, version in versions(verifiers).items()],
            "presets": [preset_info(preset, verifiers).model_dump() for preset in PRESETS.values()],
        }

    @app.exception_handler(RequestError)
    async def refuse(_: Request, error: RequestError) -> JSONResponse:
        return JSONResponse(error.body(), status_code=error.status)

    @app.exception_handler(HTTPException)
    async def no_such_route(request: Request, error: HTTPException) -> JSONResponse:
        message = f"{request.method} {request.url.path}: {error.detail}; did you mean POST /v1/score?"
        return JSONResponse({"error": message, "fields": []}, status_code=error.status_code)

    return app


def _score(body: bytes, verifiers: Mapping[str, Verifier]) -> ScoreResponse:
    try:
        request = parse_request(body)
        preset = PRESETS.get(request.preset)
        if preset is None:
            message = f"no such preset; the presets are {', '.join(PRESETS)}"
            raise RequestError(422, f"preset: {message}", [{"path": "preset", "message": message}])
        return score(request, preset, verifiers)
    except RequestError:
        raise
    except Exception as error:
        # Left to the framework, the traceback would carry the message, and with it the texts, into the log.
        logger.error("scoring a batch raised %s", where(error))
        raise RequestError(500, f"the reward server failed with {type(error).__name__}; see its log") from None


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise RequestError(413, f"a body holds at most {MAX_BODY_BYTES} bytes: send fewer items at a time")
    return bytes(body)
