"""A hub on this machine that speaks as much of the Hugging Face hub's HTTP as an upload of a model needs.

Weights go by the large file protocol (git-lfs batch), all else inside the commit. Left out: Xet storage, multipart
uploads, and everything that reads.
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
from typing import Any


class Hub(http.server.ThreadingHTTPServer):
    """Keeps what it is given.

    Attributes:
        refuses: answer 403 to everything.
        tokens: bearer tokens of the requests to the hub itself.
        created: what was asked of a new repository.
        summary: of the last commit.
        files: content of the committed files by name.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.refuses = False
        self.tokens: set[str | None] = set()
        self.created: dict[str, Any] = {}
        self.summary = ""
        self.files: dict[str, bytes] = {}
        self.objects: dict[str, bytes] = {}

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        hub = self.server
        hub.tokens.add(self.headers.get("Authorization"))
        if hub.refuses:
            self._answer(403, {"error": "you shall not pass"})
        elif self.path == "/api/repos/create":
            hub.created = json.loads(body)
            self._answer(200, {"url": f"{hub.url}/{hub.created['organization']}/{hub.created['name']}"})
        elif self.path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif self.path == "/api/models/org/model/preupload/main":
            self._answer(200, {"files": [_mode(file["path"]) for file in json.loads(body)["files"]]})
        elif self.path == "/org/model.git/info/lfs/objects/batch":
            objects = [
                {**wanted, "actions": {"upload": {"href": f"{hub.url}/storage/{wanted['oid']}"}}}
                for wanted in json.loads(body)["objects"]
            ]
            self._answer(200, {"transfer": "basic", "objects": objects})
        elif self.path == "/api/models/org/model/commit/main":
            self._commit([json.loads(line) for line in body.splitlines()])
            self._answer(200, {"commitUrl": f"{hub.url}/org/model/commit/{'a' * 40}", "commitOid": "a" * 40})
        else:
            self._answer(404, {"error": f"no {self.path} here"})

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        digest = self.path.rsplit("/", 1)[1]
        self.server.objects[digest] = body
        self._answer(200 if hashlib.sha256(body).hexdigest() == digest else 400, {})

    def _commit(self, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.server.summary = value["summary"]
            elif line["key"] == "file":
                self.server.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.server.files[value["path"]] = self.server.objects[value["oid"]]

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


def _mode(path: str) -> dict[str, Any]:
    return {"path": path, "uploadMode": "lfs" if path.endswith(".safetensors") else "regular", "shouldIgnore": False}
