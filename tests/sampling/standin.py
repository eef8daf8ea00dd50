"""A stand-in for a vLLM server, on a real socket, that answers as vLLM does."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PARTIAL = 77


class Standin:
    """A server that answers `most` requests by weights of a version; the others wait until `left` is raised.

    One that is broken off has one token, `PARTIAL`.

    Attributes:
        asked: bodies of the requests for responses.
        slow: prompts, by their first token, that it does not come to.
    """

    def __init__(
        self, version: int, most: int, port: int = 0, refuses: dict[str, tuple[int, str]] | None = None
    ) -> None:
        """`refuses`: by path, the status and text that it says instead."""
        self.version, self.left, self.refuses = version, threading.Semaphore(most), refuses or {}
        self.asked: list[dict[str, Any]] = []
        self.slow: set[int] = set()
        self._broken_off: set[str] = set()
        self.ended = threading.Event()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if not self._refused():
                    self._say({"world_size": 1})

            def do_POST(self) -> None:
                if self._refused():
                    return
                body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "{}")
                if self.path != "/inference/v1/generate":
                    owner._broken_off |= set(body.get("request_ids", ()))
                    self._say({})
                    return
                owner.asked.append(body)
                version = owner.version
                while not owner.ended.is_set():
                    if f"generate-tokens-{body.get('request_id')}" in owner._broken_off:
                        self._say(owner.answer([PARTIAL], version, "abort"))
                        return
                    if body["token_ids"][0] in owner.slow:
                        time.sleep(0.02)
                    elif owner.left.acquire(timeout=0.02):
                        self._say(owner.answer(body["token_ids"], version))
                        return

            def _refused(self) -> bool:
                found = owner.refuses.get(self.path)
                if found is not None:
                    self._send(*found)
                return found is not None

            def _say(self, value: Any) -> None:
                self._send(200, json.dumps(value))

            def _send(self, status: int, said: str) -> None:
                text = said.encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, ids: list[int], version: int, reason: str = "stop") -> dict[str, Any]:
        return {
            "choices": [
                {
                    "finish_reason": reason,
                    "token_ids": ids,
                    "weight_versions": [{"version": str(version), "start": 0, "end": len(ids)}],
                    "logprobs": {"content": [{"token_id": token, "logprob": -1.0} for token in ids]},
                }
            ]
        }

    def close(self) -> None:
        """Breaks off what is open."""
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()
