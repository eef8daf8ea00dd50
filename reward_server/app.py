"""The HTTP face of the service.

POST /v1/score and the bodies of other frameworks (`adapters`), GET /healthz (the process lives), GET /readyz (its
golden items score right, and it has a process to score with), GET /metrics (Prometheus), GET /v1/verifiers, /docs, and
a page at / to try answers by hand. A server that is not ready scores nothing: 503 with the reason.

Every error body is `{"error": message, "fields": [{"path", "message"}]}`, and neither errors nor logs repeat a text
that was sent. Left out: TLS and rate limits by client; a proxy does those.
"""

from __future__ import annotations

import hmac
import json
import logging
import re
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from reward_server import judge_desk, selftest
from reward_server.load import Load
from reward_server.metrics import Metrics
from reward_server.openapi import document, document_page
from reward_server.pool import ITEM_LIMIT_S, QUEUE_LIMIT, Answer, ScorerPool
from reward_server.presets import PRESETS
from reward_server.schema import MAX_BODY_BYTES, RequestError
from reward_server.scorer import load_verifiers
from reward_server.service import preset_info, versions

logger = logging.getLogger(__name__)

PATHS = {"/v1/score": "score", "/get_reward": "openrlhf", "/remote_rm": "slime"}
# A client that lost an answer asks again with the same id, and gets the answer that was there already.
_KEPT_ANSWERS = 256
_KEPT_BYTES = 64 * 2**20
_REQUEST_ID = re.compile(rb"[\w.:-]{1,128}")


@dataclass(frozen=True)
class Settings:
    """What a server is started with.

    Attributes:
        scorers: scoring processes behind this HTTP process.
        verifiers: `module:ATTRIBUTE` of the verifiers by task.
        item_limit_s: seconds that one item may take.
        queue_limit: requests that may wait or run at a time, in all workers that share `load_file`.
        load_file: as `Load.make` makes it; None for a worker that is alone.
        max_body_bytes: larger bodies get 413.
        token: when set, scoring, /v1/verifiers and /metrics need `Authorization: Bearer <token>`.
        log_level: of the scoring processes.
        judge_socket: where the judge is asked (`judge_desk`), for a server with one.
    """

    scorers: int = 1
    verifiers: str = "reward_server.service:VERIFIERS"
    item_limit_s: float = ITEM_LIMIT_S
    queue_limit: int = QUEUE_LIMIT
    load_file: str | None = None
    max_body_bytes: int = MAX_BODY_BYTES
    token: str | None = None
    log_level: str = "info"
    judge_socket: str | None = None


class _Application(FastAPI):
    """Tells of itself by the wire's own models (`openapi.document`)."""

    def openapi(self) -> dict[str, Any]:
        return document(self.title, PATHS)


def create_app(settings: Settings | None = None) -> FastAPI:
    """Makes the application; its pool of scoring processes lives as long as the application does."""
    settings = settings or Settings()
    verifiers = load_verifiers(settings.verifiers)
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        pool = ScorerPool(
            settings.scorers,
            verifiers=settings.verifiers,
            item_limit_s=settings.item_limit_s,
            queue_limit=settings.queue_limit,
            log_level=settings.log_level,
            load=Load(Path(settings.load_file) if settings.load_file else None),
        )
        await pool.start()
        if pool.failures:
            logger.error("self-test failed on: %s", ", ".join(pool.failures))
        app.state.pool = pool
        metrics.watch(pool)
        yield
        await pool.close()

    # FastAPI's own pages of the API load scripts from elsewhere, which a closed network has not.
    app = _Application(title="Medatron reward server", lifespan=lifespan, docs_url=None, redoc_url=None)
    for path, kind in PATHS.items():
        # Beside FastAPI's own routing, which costs a one-item request as much time again as its scoring.
        app.router.routes.append(Route(path, _ScoreEndpoint(app, kind, settings, metrics), methods=["POST"]))

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process lives."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz(request: Request) -> JSONResponse:
        """200 when the golden items scored right and a scoring process runs, else 503 with the reason."""
        if fault := request.app.state.pool.fault:
            return JSONResponse({"error": fault, "fields": []}, status_code=503)
        return JSONResponse({"status": "ready", "golden_items": len(selftest.GOLDEN)})

    @app.get("/v1/verifiers")
    async def list_verifiers(request: Request) -> dict[str, Any]:
        """Every rule with its version, and every preset with its version and content hash."""
        _authorize(request.headers.get("authorization"), settings.token)
        return {
            "verifiers": [{"name": name, "version": version} for name, version in versions(verifiers).items()],
            "presets": [preset_info(preset, verifiers).model_dump() for preset in PRESETS.values()],
        }

    @app.get("/metrics")
    async def show_metrics(request: Request) -> Response:
        """Counters and histograms of all workers, in Prometheus' text format."""
        _authorize(request.headers.get("authorization"), settings.token)
        return Response(metrics.render(), media_type=Metrics.CONTENT_TYPE)

    @app.get("/")
    async def page() -> HTMLResponse:
        """The page to try an answer by hand."""
        return HTMLResponse(resources.files("reward_server").joinpath("page.html").read_text(encoding="utf-8"))

    @app.get("/docs")
    async def docs() -> HTMLResponse:
        """The API document for people."""
        return HTMLResponse(document_page(app.openapi()))

    @app.exception_handler(RequestError)
    async def refuse(_: Request, error: RequestError) -> Response:
        return _error(error)

    @app.exception_handler(HTTPException)
    async def no_such_route(_: Request, error: HTTPException) -> JSONResponse:
        message = f"{error.detail}; did you mean POST /v1/score?"
        return JSONResponse({"error": message, "fields": []}, status_code=error.status_code)

    return app


class _ScoreEndpoint:
    """Takes a body, has it scored, and answers; the body is read raw, so that its limits come before its parsing."""

    def __init__(self, app: FastAPI, kind: str, settings: Settings, metrics: Metrics) -> None:
        self._app, self._kind, self._settings, self._metrics = app, kind, settings, metrics
        self._kept: OrderedDict[tuple[bytes, int], Answer] = OrderedDict()
        self._kept_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        headers = dict(scope["headers"])
        try:
            answer = await self._answer(headers, receive, scope.get("state", {}).get("when_gone", lambda _: None))
            response = Response(answer.body, answer.status, media_type="application/json")
        except RequestError as error:
            answer = Answer(error.status, b"", 0, [], "")
            response = _error(error)
        # Ties the answer to its request, where a client's connection is used by somebody else as well.
        if _REQUEST_ID.fullmatch(identity := headers.get(b"x-request-id", b"")):
            response.headers["X-Request-Id"] = identity.decode()
        seconds = time.perf_counter() - started
        self._metrics.observe(self._kind, answer, seconds)
        if logger.isEnabledFor(logging.INFO) and answer.items != 1:
            counts = {f"{verifier}/{status}": count for verifier, status, count in answer.counts}
            fields = {"items": answer.items, "preset": answer.preset, "seconds": round(seconds, 4), "counts": counts}
            logger.info("answered %s with %d", self._kind, answer.status, extra={"fields": fields})
        await response(scope, receive, send)

    async def _answer(
        self, headers: dict[bytes, bytes], receive: Receive, when_gone: Callable[[Callable[[], None]], None]
    ) -> Answer:
        _authorize(headers.get(b"authorization", b"").decode("latin-1"), self._settings.token)
        pool: ScorerPool = self._app.state.pool
        body = await self._body(headers, receive, pool)
        identity = (headers[b"x-request-id"], hash(body)) if b"x-request-id" in headers else None
        if identity is not None and (kept := self._kept.get(identity)) is not None:
            return kept
        answer = await pool.score(self._kind, body, when_gone=when_gone)
        if answer.status == 202:
            answer = await pool.score(self._kind, body, await self._judge(answer), when_gone)
        if identity is not None and answer.status == 200:
            self._keep(identity, answer)
        return answer

    async def _judge(self, answer: Answer) -> dict[int, str | float]:
        socket = self._settings.judge_socket
        if socket is None:
            raise RequestError(422, 'metric "judge": this server has no judge; start it with --judge-url')
        verdicts = await judge_desk.verdicts(socket, [case[1:] for case in answer.cases])
        return {index: status for (index, *_), status in zip(answer.cases, verdicts, strict=True)}

    async def _body(self, headers: dict[bytes, bytes], receive: Receive, pool: ScorerPool) -> bytes:
        limit = self._settings.max_body_bytes
        too_long = RequestError(413, f"a body holds at most {limit} bytes: send fewer items at a time")
        declared = headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared[:20]) > limit:
            raise too_long
        body = bytearray()
        with pool.reading() as read:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise RequestError(400, "the client went away before its body was complete")
                part, more = message.get("body", b""), message.get("more_body", False)
                if not body and not more:
                    return part
                body += part
                if len(body) > limit:
                    raise too_long
                read(len(body))
                if not more:
                    return bytes(body)

    def _keep(self, identity: tuple[bytes, int], answer: Answer) -> None:
        # The same request may have run twice at the same time.
        if (before := self._kept.pop(identity, None)) is not None:
            self._kept_bytes -= len(before.body)
        self._kept[identity] = answer
        self._kept_bytes += len(answer.body)
        while len(self._kept) > _KEPT_ANSWERS or self._kept_bytes > _KEPT_BYTES:
            self._kept_bytes -= len(self._kept.popitem(last=False)[1].body)


def _authorize(header: str | None, token: str | None) -> None:
    if token is None:
        return
    scheme, _, given = (header or "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), token.encode()):
        raise RequestError(401, "this server wants its token: send `Authorization: Bearer <token>`")


def _error(error: RequestError) -> Response:
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(json.dumps(error.body()), error.status, headers=headers, media_type="application/json")
