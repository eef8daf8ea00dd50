"""Schemathesis against the service's own OpenAPI document: no answer that it does not announce, and no crash."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx

from reward_server.process import RewardServerProcess

_CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def test_answers_are_those_of_the_document(server: RewardServerProcess, tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{server.url}/openapi.json"]
    command += ["--checks", _CHECKS, "--max-examples", "40", "--seed", "1", "--no-color"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-6000:]
    assert "Selected: 7/7" in done.stdout


def test_the_document_names_every_endpoint(server: RewardServerProcess) -> None:
    document = httpx.get(f"{server.url}/openapi.json", trust_env=False).json()
    assert set(document["paths"]) == {
        *("/v1/score", "/get_reward", "/remote_rm", "/healthz", "/readyz", "/v1/verifiers", "/metrics"),
    }
    page = httpx.get(f"{server.url}/docs", trust_env=False)
    assert (page.status_code, "POST /v1/score" in page.text) == (200, True)
    assert not any(loads in page.text for loads in ("<script", "<link", "src="))
