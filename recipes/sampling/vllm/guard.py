"""Lets in whoever knows the token: vLLM's own check covers neither weights nor remote calls. Runs in vLLM's server."""

from __future__ import annotations

import hmac
import os
from collections.abc import Awaitable, Callable
from typing import Any

Asgi = Callable[[dict[str, Any], Any, Any], Awaitable[None]]
_OPEN = ("/health",)


class Guard:
    """ASGI middleware: 401 without `Authorization: Bearer TOKEN`, TOKEN from MEDATRON_ROLLOUT_TOKEN; all may ask for
    health, and everything where there is no token."""

    def __init__(self, app: Asgi) -> None:
        self._app = app
        token = os.environ.get("MEDATRON_ROLLOUT_TOKEN")
        self._wanted = f"Bearer {token}".encode() if token else None

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """One request."""
        if scope["type"] != "http" or self._wanted is None or scope["path"] in _OPEN:
            return await self._app(scope, receive, send)
        given = dict(scope["headers"]).get(b"authorization", b"")
        if hmac.compare_digest(given, self._wanted):
            return await self._app(scope, receive, send)
        await send({"type": "http.response.start", "status": 401, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": b"MEDATRON_ROLLOUT_TOKEN is not the server's\n"})
        return None
