"""An OpenAI-compatible endpoint as the respondent: its failures, and an evaluation of it, killed and gone on with."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conversion.digests import file_digest
from recipes.data.errors import ExampleError
from recipes.data.example import Example, write_examples
from recipes.data.styles import StyleError
from recipes.evaluate import evaluate
from recipes.evaluation import endpoint
from recipes.evaluation.answers import Answers
from recipes.evaluation.endpoint import KEY as KEY_VARIABLE
from recipes.evaluation.endpoint import Endpoint, EndpointError, Reply, TooLongError
from recipes.rollout.prompts import DataError
from recipes.runtime.config import EndpointConfig
from recipes.runtime.loading import load
from recipes.runtime.rules import Stage
from reward_server.process import RewardServerProcess
from tests.conftest import finish, start
from tests.evaluation.openai_standin import (
    COUNTS_MORE,
    COUNTS_NONE,
    CUT,
    ERROR_IN_200,
    GARBAGE,
    HANG,
    KEY,
    NO_REASON,
    Standin,
)

Serve = Callable[..., Standin]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts stand-ins, and stops them."""
    running: list[Standin] = []

    def started(*arguments: Any, **named: Any) -> Standin:
        running.append(Standin(*arguments, **named))
        return running[-1]

    yield started
    for each in running:
        each.close()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "_FIRST_BACKOFF_S", 0.002)
    monkeypatch.setenv(KEY_VARIABLE, KEY)


def _ask(server: Standin, *, attempt_s: float = 5.0, total_s: float = 20.0) -> Reply:
    settings = EndpointConfig(server.url, "m", attempt_timeout_s=attempt_s, total_timeout_s=total_s)

    async def asked() -> Reply:
        one = Endpoint(settings)
        try:
            return await one.ask([{"role": "user", "content": "Which?"}], {"max_tokens": 50, "temperature": 0.0})
        finally:
            await one.close()

    return asyncio.run(asked())


def test_failures_that_pass_are_waited_out(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever comes instead of an answer, the answer is that of a server without troubles, and the key in no line."""
    troubles = [429, 500, 503, 408, GARBAGE, CUT, ERROR_IN_200, NO_REASON, HANG]
    server = serve(troubles)
    assert _ask(server, attempt_s=0.3) == _ask(serve())
    assert len(server.asked) == len(troubles) + 1
    assert {each["key"] for each in server.asked} == {f"Bearer {KEY}"}
    said = capsys.readouterr().err
    assert f"waiting for {server.url}/chat/completions: HTTP 429: trouble with Bearer ***; attempt 1 failed" in said
    assert KEY not in said


@pytest.mark.parametrize(
    ("script", "kind", "said"),
    [
        ([401], EndpointError, rf"HTTP 401: trouble with Bearer \*\*\*; set {KEY_VARIABLE} to the endpoint's key"),
        ([404], EndpointError, r"look at evaluation\.endpoint\.url, which often ends in /v1, and evaluation\.endpoint"),
        ([400], EndpointError, r"HTTP 400: trouble.*; mend what it refuses and start again"),
        ([413], TooLongError, r"HTTP 413"),
        ([503] * 99, EndpointError, r"no answer in \d+ attempts and \d s, at last: HTTP 503: .*see its log"),
        (
            [COUNTS_NONE],
            EndpointError,
            r"counts 0 tokens in an answer of \d+ characters, asked for with max_tokens=50",
        ),
        (
            [COUNTS_MORE],
            EndpointError,
            r"counts 51 tokens .* with max_tokens=50; take an endpoint that",
        ),
        ([HANG] * 9, EndpointError, r"no answer in \d attempts and \d s, at last: no answer within 0 s"),
    ],
)
def test_what_ends_it_is_said_without_the_key(
    script: list[int | str], kind: type[EndpointError], said: str, serve: Serve
) -> None:
    server = serve(script)
    with pytest.raises(kind, match=said) as ended:
        _ask(server, attempt_s=0.2, total_s=0.6)
    assert KEY not in str(ended.value)
    if script[0] in (400, 401, 404, 413):
        assert len(server.asked) == 1


def _said(message: dict[str, Any], reason: str = "stop", **more: Any) -> bytes:
    choice = {"index": 0, "message": message, "finish_reason": reason}
    return json.dumps({"choices": [choice], "usage": {"completion_tokens": 9}, **more}).encode()


@pytest.mark.parametrize(
    ("body", "response"),
    [
        (_said({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}), "ab"),
        (
            _said(
                {
                    "content": [
                        {"type": "thinking", "thinking": [{"type": "text", "text": "why"}]},
                        {"type": "text", "text": "b"},
                    ]
                }
            ),
            "<think>why</think>b",
        ),
        (
            _said({"content": "b", "reasoning": "why", "reasoning_content": None, "tool_calls": []}),
            "<think>why</think>b",
        ),
        (_said({"content": None, "reasoning_content": "why"}, "length"), "<think>why"),
        (_said({"content": "<think>why</think>b", "reasoning_content": "why"}), "<think>why</think>b"),
        (_said({"content": None}, "content_filter"), ""),
        (
            _said({"content": [{"type": "image_url", "image_url": {}}]}),
            "a part of type image_url, where text was asked",
        ),
        (
            _said({"content": None, "tool_calls": [{"id": "1"}]}, "tool_calls"),
            "start the server without its tool parser",
        ),
        (_said({"content": "b", "tool_calls": [{"id": "1"}]}), "start the server without its tool parser"),
        (
            _said({"content": "b"}, choices=[json.loads(_said({"content": "b"}))["choices"][0]] * 2),
            "gives 2 choices where",
        ),
        (b'data: {"choices": [{"delta": {"content": "b"}}]}\n\ndata: [DONE]\n\n', "streams its answer, which was not"),
    ],
)
def test_a_reply_in_another_form_is_read_right_or_refused_at_once(body: bytes, response: str, serve: Serve) -> None:
    server = serve([body])
    if " " in response:
        with pytest.raises(EndpointError, match=response):
            _ask(server)
    else:
        reply = _ask(server)
        assert (reply.response, reply.filtered) == (response, b"content_filter" in body)
    assert [each["stream"] for each in server.asked] == [False]


def test_a_key_that_no_header_holds_and_nobody_there(monkeypatch: pytest.MonkeyPatch, serve: Serve) -> None:
    gone = Standin()
    gone.close()
    with pytest.raises(EndpointError, match=r"attempts and .*ConnectError"):
        _ask(gone, total_s=0.3)
    monkeypatch.setenv(KEY_VARIABLE, "key\n")
    with pytest.raises(EndpointError, match="is a line end or a quote in it") as refused:
        _ask(serve())
    assert "key\n" not in str(refused.value)


# --- whole evaluations -----------------------------------------------------------------------------------------------

OPTIONS = {"A": "zinc", "B": "iron", "C": "copper", "D": "none of the above"}


@pytest.fixture(scope="module")
def reward_url() -> Iterator[str]:
    with RewardServerProcess() as server:
        yield server.url


@pytest.fixture
def settings(reward_url: str, tmp_path: Path) -> Callable[..., list[str]]:
    rows = [
        Example(f"q{n}", "MedQA", "choice", f"Which metal is number {n}?", "ABC"[n % 3], options=options)
        for n, options in enumerate([OPTIONS, {**OPTIONS, "D": "lead"}, {"A": "yes", "B": "no", "C": "maybe"}])
    ]
    rows.append(Example("t", "MediQ", "text", "Which vitamin?", "vitamin C", meta={"subject": "nutrition"}))
    write_examples(tmp_path / "test.jsonl", rows)

    def made(output: Path, url: str, *more: str) -> list[str]:
        return [
            *(f"output={output}", "name=a", f"reward.url={reward_url}", f"data.test=[{tmp_path / 'test.jsonl'}]"),
            *(f"evaluation.endpoint.url={url}", "evaluation.endpoint.model=m", "evaluation.endpoint.concurrency=3"),
            *("evaluation.samples=2", "evaluation.temperature=0.7", "evaluation.shuffles=2", "evaluation.short=true"),
            *more,
        ]

    return made


def _evaluated(output: Path, overrides: list[str]) -> tuple[bytes, dict[str, Any]]:
    evaluate(load(overrides, Stage.EVALUATE))
    folder = output / "evaluation"
    assert {path.suffix for path in folder.iterdir()} <= {".html", ".json", ".jsonl", ".lock", ".md"}
    return (folder / "a.jsonl").read_bytes(), json.loads((folder / "a.json").read_text())


def test_an_evaluation_that_was_killed_goes_on_to_the_same_file(
    serve: Serve, settings: Callable[..., list[str]], tmp_path: Path
) -> None:
    """Killed by SIGKILL in a process without torch's ranks, then ended by a refusal; no answer is asked for twice."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    first = serve()
    wanted, result = _evaluated(whole, settings(whole, first.url))
    rows = [json.loads(line) for line in wanted.splitlines()]
    # q0 and its text form refer to other options nowhere but in D: shuffled it is not.
    variants = {"q0": ["plain", "short"], "t": ["plain"]}
    variants |= {key: ["plain", "shuffled 1", "shuffled 2", "short"] for key in ("q1", "q2")}
    assert [(r["id"], r["variant"], r["sample"]) for r in rows] == [
        (key, variant, sample) for key in ("q0", "q1", "q2", "t") for variant in variants[key] for sample in (0, 1)
    ]
    assert len({each["seed"] for each in first.asked}) == len(rows) == len(first.asked)
    shuffled = [row for row in rows if "order" in row]
    assert {row["variant"] for row in shuffled} == {"shuffled 1", "shuffled 2"}
    assert all(row["order"][ord(row["answer"]) - 65] == {"q1": "B", "q2": "C"}[row["id"]] for row in shuffled)
    assert [(r["group"], r["answer"]) for r in rows if (r["id"], r["variant"]) == ("q1", "short")] == [
        ("text", "iron")
    ] * 2
    assert {(r["source"], r["subject"]) for r in rows if r["id"] == "t"} == {("MediQ", "nutrition")}
    assert result["weights"] == f"endpoint m at {first.url}"
    assert result["answers_sha256"] == file_digest(whole / "evaluation" / "a.jsonl")
    assert result["measured"]["decoding"] == {
        **{"temperature": 0.7, "max_new_tokens": 1024, "sampler": "endpoint", "samples": 2, "shuffles": 2},
        **{"short": True, "seed": 0},
    }

    second = serve(most=9)
    log = tmp_path / "log"
    process = start([sys.executable, "-m", "recipes.evaluate", *settings(killed, second.url)], log)
    end = time.monotonic() + 60

    def kept() -> int:
        return sum(file.read_bytes().count(b"\n") for file in (killed / "evaluation").glob(".a.*.partial"))

    while time.monotonic() < end and kept() < 9:
        assert process.poll() is None, log.read_text()
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    assert KEY not in finish(process, log, 10)
    second.release(10**6)
    second.script.extend([None, None, None, 400])
    with pytest.raises(EndpointError, match="HTTP 400"):
        evaluate(load(settings(killed, second.url), Stage.EVALUATE))
    asked, left = len(second.asked), len(rows) - kept()
    assert 0 < left < len(rows) - 9
    found, again = _evaluated(killed, settings(killed, second.url))
    assert found == wanted
    assert len(second.asked) - asked == left

    # What the reward server could not score is asked for again, and the last word on it counts.
    definition = {key: again[key] for key in ("weights", "measured")}
    Answers(killed / "evaluation/a.jsonl", definition).add([*rows[:-1], {**rows[-1], "status": "verifier_error"}])
    asked = len(second.asked)
    assert _evaluated(killed, settings(killed, second.url)) == (wanted, again)
    assert len(second.asked) - asked == 1
    del result["weights"], result["checkpoint"], again["weights"], again["checkpoint"]
    assert again == result


@pytest.mark.parametrize("template", ["chat", "base"])
def test_a_prompt_file_is_what_is_asked_and_part_of_the_result(
    template: str, serve: Serve, settings: Callable[..., list[str]], tmp_path: Path
) -> None:
    """Word by word, and word by word in the result; moved it is the same prompt, changed another evaluation."""
    words = {
        "system": "Reply as <think>...</think><answer>...</answer>.",
        "question": "Q: {question}\n{options}\nA:",
        "option": "({letter}) {text}",
        "before_answer": " ",
    }
    folder, server = tmp_path / "run", serve()
    for name, text in (
        ("own", json.dumps(words)),
        ("moved", json.dumps(words, indent=1)),
        ("b", "question: '{question}'"),
    ):
        (tmp_path / f"{name}.yaml").write_text(text)
    plain = ["evaluation.samples=1", "evaluation.temperature=0", "evaluation.short=false", "evaluation.shuffles=0"]
    plain += [f"data.template={template}"]
    found, result = _evaluated(folder, settings(folder, server.url, *plain, f"data.style={tmp_path}/own.yaml"))
    user = "Q: Which metal is number 0?\n(A) zinc\n(B) iron\n(C) copper\n(D) none of the above\nA:"
    if template == "chat":
        chats = [each["messages"] for each in server.asked]
        assert [{"role": "system", "content": words["system"]}, {"role": "user", "content": user}] in chats
    else:
        assert f"{words['system']}\n\n{user} " in [each["prompt"] for each in server.asked]
    assert result["prompt"] == {
        "style": f"{tmp_path}/own.yaml",
        "sha256": result["measured"]["prompts"]["style"],
        "words": words,
    }
    again = _evaluated(folder, settings(folder, server.url, *plain, f"data.style={tmp_path}/moved.yaml"))
    assert again == (found, {**result, "prompt": {**result["prompt"], "style": f"{tmp_path}/moved.yaml"}})
    asked = len(server.asked)
    with pytest.raises(
        StyleError, match=r"b\.yaml: question: has no \{options\}, and the row with id 'q0' has options"
    ):
        _evaluated(folder, settings(folder, server.url, *plain, f"data.style={tmp_path}/b.yaml"))
    assert len(server.asked) == asked


@pytest.mark.parametrize(("template", "apart"), [("chat", False), ("chat", True), ("base", False)])
def test_a_think_budget_closes_what_is_open_and_the_answer_follows(
    template: str, apart: bool, serve: Serve, settings: Callable[..., list[str]], tmp_path: Path
) -> None:
    """Of 2 tokens; with worked examples in front, and as text without turns that `</answer>` ends."""
    server, shots = serve(apart=apart), tmp_path / "shots.jsonl"
    trace = {"think": "metals", "answer": "A"}
    worked = [
        Example(f"s{n}", "s", "choice", f"Which is {n}?", "A", options=OPTIONS, meta={"trace": trace})
        for n in (1, 2, 3)
    ]
    write_examples(shots, [*worked, Example("s4", "s", "text", "Which vitamin cures scurvy?", "vitamin C")])
    more = [f"data.template={template}", f"data.few_shot={shots}", "data.shots=1", "evaluation.max_think_tokens=2"]
    more += ["evaluation.samples=1", "evaluation.temperature=0", "evaluation.short=false", "evaluation.shuffles=0"]
    found, result = _evaluated(tmp_path, settings(tmp_path, server.url, *more))
    rows = [json.loads(line) for line in found.splitlines()]
    for row in rows:
        assert re.fullmatch(r"<think>( so)?( </think>|</think>)? ?(</think> )?<answer>[A-D]</answer>", row["response"])
        assert not row["cut"]
        assert row["status"] in ("correct", "incorrect")
    begun = [each for each in server.asked if each["max_tokens"] == 2]
    assert len(begun) == len(rows) < len(server.asked)
    texts = [each["prompt"] if template == "base" else each["messages"][-1]["content"] for each in begun]
    # Requests come in no order.
    asked = next(text for text in texts if "Which metal is number 0?" in text)
    assert "Question: Which is 1?\n" in asked
    assert "Answer:\n<think>metals</think><answer>A</answer>\n\nQuestion: Which metal is number 0?" in asked
    assert asked.endswith("\nAnswer:\n") == (template == "base")
    assert {each["path"] for each in server.asked} == {
        "/v1/completions" if template == "base" else "/v1/chat/completions"
    }
    assert result["measured"]["prompts"].get("template") == (None if template == "chat" else "base")
    with pytest.raises(ExampleError, match=r"data\.few_shot: 1 worked examples of task text for the question 't', and"):
        _evaluated(tmp_path, settings(tmp_path, server.url, *more, "name=b", "data.shots=2"))


def test_a_reasoning_that_the_prompt_opens_is_the_responses_and_has_its_budget(
    serve: Serve, settings: Callable[..., list[str]], tmp_path: Path
) -> None:
    server, style = serve(), tmp_path / "own.yaml"
    style.write_text("question: '{question} {options}'\nbefore_answer: ' A: <think>'\n")
    plain = ["evaluation.samples=1", "evaluation.temperature=0", "evaluation.short=false", "evaluation.shuffles=0"]
    plain += ["data.template=base", f"data.style={style}", "evaluation.max_think_tokens=2"]
    found, _ = _evaluated(tmp_path, settings(tmp_path, server.url, *plain))
    rows = [json.loads(line) for line in found.splitlines()]
    assert all(row["response"].startswith("<think>") and row["response"].count("</think>") == 1 for row in rows)
    assert {row["status"] for row in rows} <= {"correct", "incorrect"}
    ended = [each["prompt"] for each in server.asked if each["max_tokens"] != 2]
    assert ended
    assert all("</think>" in prompt.partition(" A: <think>")[2] for prompt in ended)


def test_answers_of_two_models_are_no_evaluation(
    serve: Serve, settings: Callable[..., list[str]], tmp_path: Path
) -> None:
    """Also where it was stopped between them; what a filter withheld is counted."""
    plain = ["evaluation.samples=1", "evaluation.temperature=0", "evaluation.short=false", "evaluation.shuffles=0"]
    plain += ["evaluation.endpoint.concurrency=1"]
    server = serve([{"model": "m-1"}, {"model": "m-1"}, 400])
    with pytest.raises(EndpointError, match="HTTP 400"):
        _evaluated(tmp_path, settings(tmp_path, server.url, *plain))
    server.script.extend([{"model": "m-2"}])
    with pytest.raises(EndpointError, match=r"the answers name different models \(m-1, m-2\)"):
        _evaluated(tmp_path, settings(tmp_path, server.url, *plain))
    withheld = json.loads(_said({"content": None}, "content_filter"))["choices"]
    server.script.extend([{"model": "m-1"}, {"model": "m-1", "choices": withheld}])
    found, result = _evaluated(tmp_path, settings(tmp_path, server.url, *plain))
    rows = [json.loads(line) for line in found.splitlines()]
    assert [(row["model"], row.get("filtered"), row["status"]) for row in rows[-1:]] == [("m-1", True, "no_answer")]
    assert (result["answered_by"], result["filtered"], result["all"]["no_answer"]) == ("m-1", 1, 1)
    shown = (tmp_path / "evaluation" / "a.md").read_text()
    assert "- answered by: m-1\n" in shown
    assert "- 1 of 4 answers were withheld by the endpoint's filter" in shown


def test_an_endpoint_that_ignores_what_a_think_budget_needs_is_found_out(
    serve: Serve, settings: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    budget = ["evaluation.max_think_tokens=2", "evaluation.samples=1", "evaluation.short=false"]
    server = serve()
    server.goes_on = False
    with pytest.raises(EndpointError, match="takes no notice of continue_final_message"):
        _evaluated(tmp_path, settings(tmp_path, server.url, *budget))
    assert len(server.asked) == 2
    for goes_on, unknown in ((True, False), (None, True)):
        server.goes_on = goes_on
        _evaluated(tmp_path / str(goes_on), settings(tmp_path / str(goes_on), server.url, *budget))
        assert ("nothing tells whether it goes on" in capsys.readouterr().err.replace("\n", " ")) == unknown


def test_questions_that_are_too_long_for_the_endpoint_are_left_out_and_counted(
    serve: Serve, settings: Callable[..., list[str]], tmp_path: Path
) -> None:
    greedy = ["evaluation.samples=1", "evaluation.temperature=0", "evaluation.endpoint.concurrency=1"]
    # The first question, and a variant of it, which is no question.
    server = serve([413, 413])
    found, result = _evaluated(tmp_path, settings(tmp_path, server.url, *greedy))
    assert {row["id"] for row in map(json.loads, found.splitlines())} == {"q1", "q2", "t"}
    assert (result["dropped"], result["questions"]) == (1, 3)
    server = serve([413] * 99)
    with pytest.raises(DataError, match="every question is longer than the endpoint's model can read"):
        _evaluated(tmp_path, settings(tmp_path, server.url, *greedy))
