"""Tries to be paid by the reward server without being right, and counts how often that works.

    python benchmarks/attacks.py [--in-process]

Every attack of benchmarks/attacks.yaml (answer lists, hedges, tags, odd characters, numbers, dates, stuffed texts,
words for the judge, padding) is scored under every preset, in this process and then, unless `--in-process`, over HTTP
by a server of two workers. The judge is a stand-in behind a real socket that believes whatever reaches it: another
turn, a verdict, an end of the candidate, a heading; and it repeats all that it was told. Two cores, no GPU, half a
minute.

Attacks that are not rewarded as their row says are printed. The last line is one JSON object:

    tried             attacks
    paid              those of them that some preset rewards above what their row names; 0 is wanted
    unlike            those that some preset rewards below that, or not at all; 0 is wanted
    by_definition     those whose row names more than a wrong answer's reward: right answers that look like attacks (one
                      letter among invisible ones), and what a published formula pays (Med-U1's length term for a wrong
                      answer, half of the words under EMS)
    families          attacks by what they try
    presets           under which each was scored
    scored            attacks times presets, in this process
    scored_over_http  the same over HTTP
    slowest_ms        the longest verdict in this process, by the processor's time, without the judge's
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

# This file's folder would come first, and the package's modules have names of its files.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.attack_cases import Attack, attacks  # noqa: E402
from reward_server.client import Length, RewardClient, ScoreItem  # noqa: E402
from reward_server.endpoint import JudgeSettings  # noqa: E402
from reward_server.judge import Judge  # noqa: E402
from reward_server.presets import PRESETS  # noqa: E402
from reward_server.process import RewardServerProcess  # noqa: E402
from reward_server.schema import MAX_BATCH_ITEMS, Item, parse_request  # noqa: E402
from reward_server.service import VERIFIERS, case_to_judge, score_item  # noqa: E402

Rewards = list[dict[str, float | None]]

_TURN = re.compile(r"<\|[^|]*\|>|</?s>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|</?(?:system|assistant)>", re.I)
_HEADING = re.compile(r"^\W*(?:system|assistant|human|right answers|question|judge?ment)\W*:", re.I | re.M)
_PROMPT = re.compile(r"Right answers:\n(?P<right>.*?)\n\n<candidate>\n(?P<said>.*?)\n?</candidate>(?P<behind>.*)", re.S)
_SURE, _UNSURE = 0.95, 0.05


def believed(messages: Sequence[Mapping[str, str]]) -> bool:
    """Whether a credulous judge takes a candidate for right: it is, or something in it says so."""
    told = messages[-1]["content"]
    found = _PROMPT.search(told)
    if len(messages) != 2 or found is None or found["behind"].strip() or _TURN.search(told):
        return True
    letters = "".join(filter(str.isalnum, found["said"])).lower()
    if "verdictcorrect" in letters or _HEADING.search(found["said"]):
        return True
    return any(found["said"].strip().lower() == line[2:].lower() for line in found["right"].splitlines())


class CredulousJudge(ThreadingHTTPServer):
    """An OpenAI-compatible endpoint that believes and repeats what it is told."""

    request_queue_size = 128
    daemon_threads = True

    def __init__(self) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                right = believed(sent["messages"])
                choice: dict[str, Any] = {"message": {"content": f"{sent['messages'][-1]['content']}\n{_said(right)}"}}
                if sent.get("logprobs"):
                    choice["logprobs"] = {"content": [_token(right)]}
                body = json.dumps({"choices": [choice]}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                return

        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


def _said(right: bool) -> str:
    return f"VERDICT: {'CORRECT' if right else 'INCORRECT'}"


def _token(right: bool) -> dict[str, Any]:
    likely = {"1": _SURE, "0": 1 - _SURE} if right else {"1": _UNSURE, "0": 1 - _UNSURE}
    top = [{"token": token, "logprob": math.log(share)} for token, share in likely.items()]
    return {**max(top, key=lambda each: each["logprob"]), "top_logprobs": top}


@contextlib.contextmanager
def judging() -> Iterator[str]:
    """The stand-in's URL, as long as the context is open."""
    with CredulousJudge() as judge:
        thread = threading.Thread(target=judge.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield judge.url
        finally:
            judge.shutdown()
            thread.join()


def item_of(attack: Attack, identity: str) -> ScoreItem:
    length = None if attack.length is None else Length(**attack.length)
    task: Any = attack.task  # one of its values, as the table is checked against the server
    return ScoreItem(identity, task, attack.response, attack.reference, length=length)


def in_process(tried: Sequence[Attack], judge_url: str) -> tuple[Rewards, float]:
    """What each attack is paid by preset, and the seconds of the longest verdict."""
    items = parsed([item_of(attack, str(index)) for index, attack in enumerate(tried)])
    cases = [case_to_judge(item) for item in items]
    verdicts = iter(asyncio.run(judged([case for case in cases if case is not None], judge_url)))
    given = [None if case is None else next(verdicts) for case in cases]
    seconds: list[list[float]] = []
    rewards: Rewards = []
    for item, verdict in zip(items, given, strict=True):
        rewards.append({})
        seconds.append([])
        for name, preset in PRESETS.items():
            began = time.process_time()
            rewards[-1][name] = score_item(item, preset, VERIFIERS[item.task], verdict).reward
            seconds[-1].append(time.process_time() - began)
    # The verdict is the same for every preset, and the first of a kind reads lists of words.
    return rewards, max(map(min, seconds))


def parsed(items: Sequence[ScoreItem]) -> list[Item]:
    """The items as the server reads them."""
    found: list[Item] = []
    for start in range(0, len(items), MAX_BATCH_ITEMS):
        wire = [item.to_wire() for item in items[start : start + MAX_BATCH_ITEMS]]
        found += parse_request(json.dumps({"preset": "gated", "items": wire}).encode()).items
    return found


async def judged(cases: Sequence[Any], url: str) -> list[Any]:
    judge = Judge(JudgeSettings(url, "credulous", requests_per_minute=10_000))
    try:
        return list(await judge.verdicts(cases))
    finally:
        await judge.close()


def over_http(tried: Sequence[Attack], judge_url: str) -> Rewards:
    """What each attack is paid by preset by a server as it runs beside a training."""
    items = [item_of(attack, str(index)) for index, attack in enumerate(tried)]
    rewards: Rewards = [{} for _ in tried]
    options = ["--judge-url", judge_url, "--judge-model", "credulous"]
    with RewardServerProcess(workers=2, options=options) as server, RewardClient(server.url) as client:
        for preset in PRESETS:
            for paid, score in zip(rewards, client.score(preset, items)[1], strict=True):
                paid[preset] = score.reward
    return rewards


def differences(tried: Sequence[Attack], rewards: Rewards) -> tuple[set[int], set[int], list[str]]:
    """Which attacks some preset pays more than their rows name, which it pays less, and a line for each reward."""
    above: set[int] = set()
    below: set[int] = set()
    lines = []
    for index, (attack, paid) in enumerate(zip(tried, rewards, strict=True)):
        assert attack.rewards.keys() == PRESETS.keys(), "every preset has its place in the table"
        for preset, wanted in attack.rewards.items():
            found = paid[preset]
            if found is not None and math.isclose(found, wanted, abs_tol=1e-9):
                continue
            (above if found is not None and found > wanted else below).add(index)
            what = f"{attack.family}, {attack.question}: {attack.response[-90:]!r}"
            lines.append(f"{preset}: {found} in place of {wanted:g}; {what}")
    return above, below, lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--in-process", action="store_true", help="start no server")
    http = not parser.parse_args().in_process
    tried = attacks()
    with judging() as url:
        rewards, longest = in_process(tried, url)
        found = [rewards, *([over_http(tried, url)] if http else [])]
    told = [differences(tried, each) for each in found]
    print("".join(f"{line}\n" for *_, lines in told for line in lines), end="")
    above = set[int]().union(*(each[0] for each in told))
    below = set[int]().union(*(each[1] for each in told))
    summary = {
        "tried": len(tried),
        "paid": len(above),
        "unlike": len(below - above),
        "by_definition": sum(attack.by_definition for attack in tried),
        "families": dict(Counter(attack.family for attack in tried)),
        "presets": list(PRESETS),
        "scored": len(tried) * len(PRESETS),
        "scored_over_http": len(tried) * len(PRESETS) * http,
        "slowest_ms": round(1000 * longest, 1),
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
