"""A real OpenAI-compatible endpoint on the loopback, whose replies a test makes up."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Endpoint(ThreadingHTTPServer):
    """Answers chat completions by a function of the last message; remembers what it was asked."""

    # With five places, as it comes, a sixth client at once waits a second to be let in.
    request_queue_size = 128

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.reply: Callable[[str], tuple[int, str]] = lambda _: (200, "VERDICT: CORRECT")
        self.raw: dict[str, str] = {}
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint.asked.append(sent["messages"][-1]["content"])
                status, text = endpoint.reply(endpoint.asked[-1])
                message = {"role": "assistant", "content": text}
                body = json.dumps(
                    {
                        **{"id": "1", "object": "chat.completion", "created": 0, "model": sent["model"]},
                        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                        "usage": {"prompt_tokens": 50, "completion_tokens": 10, "total_tokens": 60},
                    }
                ).encode()
                # Whole bodies for candidates that have one.
                body = (
                    next((raw for name, raw in endpoint.raw.items() if name in endpoint.asked[-1]), "").encode() or body
                )
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                return

        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


@contextlib.contextmanager
def endpoint_running() -> Iterator[Endpoint]:
    with Endpoint() as endpoint:
        thread = threading.Thread(target=endpoint.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield endpoint
        finally:
            endpoint.shutdown()
            thread.join()
