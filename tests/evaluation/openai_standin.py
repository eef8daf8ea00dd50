"""A stand-in for an OpenAI-compatible server, on a real socket: answers by rule, and fails by script."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import deque
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# What a request may meet instead of an answer: a status, or one of these.
HANG, CUT, GARBAGE, ERROR_IN_200, NO_REASON = "hang", "cut", "garbage", "error in 200", "no finish reason"
COUNTS_NONE, COUNTS_MORE = "counts no token", "counts more tokens than it may write"
KEY = "sk-very-secret"


class Standin:
    """Answers requests by `answer`; the first of them as `script` says.

    Attributes:
        asked: bodies of the requests in the order in which they came, each with its path.
        most: requests that it answers before the others wait; further ones by `release`.
    """

    def __init__(self, script: Sequence[Any] = (), most: int = 10**9, apart: bool = False) -> None:
        """`apart`: give the reasoning beside the text."""
        # Whether it goes on with an assistant's message, as its count of a prompt's tokens shows; None: it counts none.
        self.goes_on: bool | None = None
        self.script, self.asked = deque(script), list[dict[str, Any]]()
        self._left, self._ended, self._lock = threading.Semaphore(most), threading.Event(), threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with owner._lock:
                    owner.asked.append({"path": self.path, "key": self.headers.get("Authorization"), **body})
                    trouble = owner.script.popleft() if owner.script else None
                if trouble == HANG:
                    owner._ended.wait(60)
                elif trouble == CUT:
                    self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
                    self.close_connection = True
                elif trouble == GARBAGE:
                    self._send(200, "<html>bad gateway")
                elif isinstance(trouble, bytes):
                    self._send(200, trouble.decode())
                elif trouble == ERROR_IN_200:
                    self._send(200, json.dumps({"error": {"message": "provider failed"}}))
                elif isinstance(trouble, int):
                    said = {"message": f"trouble with {self.headers.get('Authorization')}"}
                    said |= {"code": "context_length_exceeded"} if trouble == 413 else {}
                    self._send(trouble, json.dumps({"error": said}))
                else:
                    self._answer(body, trouble)

            def _answer(self, body: dict[str, Any], trouble: Any) -> None:
                while not owner._ended.is_set():
                    if owner._left.acquire(timeout=0.02):
                        found = answer(body, apart)
                        found |= trouble if isinstance(trouble, dict) else {}
                        if owner.goes_on is not None:
                            going_on = owner.goes_on and body.get("continue_final_message")
                            found["usage"]["prompt_tokens"] = 20 if going_on else 25
                        if trouble == NO_REASON:
                            found["choices"][0]["finish_reason"] = None
                        if trouble in (COUNTS_NONE, COUNTS_MORE):
                            wrong = 0 if trouble == COUNTS_NONE else body["max_tokens"] + 1
                            found["usage"]["completion_tokens"] = wrong
                        self._send(200, json.dumps(found))
                        return

            def _send(self, status: int, said: str) -> None:
                text = said.encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                if status == 429:
                    self.send_header("Retry-After", "0.1")
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *arguments: Any) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            request_queue_size = 128

            def handle_error(self, *arguments: Any) -> None:
                """Whoever asked may be gone."""

        self._server = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def release(self, count: int) -> None:
        """Answers so many more."""
        self._left.release(count)

    def close(self) -> None:
        """Breaks off what is open."""
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()


def parsed(text: str) -> dict[str, str | None]:
    """As vLLM's reasoning parsers do: all is reasoning up to a closing tag, also where there is none."""
    reasoning, _, content = text.removeprefix("<think>").partition("</think>")
    return {"reasoning_content": reasoning, "content": content or None}


def answer(body: dict[str, Any], apart: bool = False) -> dict[str, Any]:
    """A function of prompt and seed: some reasoning in words that are tokens, and a letter.

    Where it may write fewer words, it is cut there; what it is to go on with, it goes on with.
    """
    chat = "messages" in body
    said = body["messages"][-1]["content"] if chat else body["prompt"]
    drawn = hashlib.sha256(f"{body.get('messages', said)}{body.get('seed')}".encode()).digest()
    words = ["<think>", *["so"] * (drawn[0] % 8), "</think>", f"<answer>{'ABCD'[drawn[1] % 4]}</answer>"]
    if said.endswith("<think>"):
        words = words[1:]
    if body.get("continue_final_message") or said.endswith(("so", "</think>")):
        words = words[-1:] if "</think>" in said else words[-2:]
    cut = len(words) > body["max_tokens"]
    text = " ".join(words[: body["max_tokens"]])
    for stop in body.get("stop", ()):
        text = text.partition(stop)[0]
    choice: dict[str, Any] = {"finish_reason": "length" if cut else "stop"}
    choice |= (
        {"message": {"role": "assistant", **(parsed(text) if apart else {"content": text})}} if chat else {"text": text}
    )
    return {"choices": [choice], "usage": {"completion_tokens": min(len(words), body["max_tokens"])}}
