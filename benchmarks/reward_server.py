"""Throughput, latency, connections and memory of the reward server on this machine, loaded by wrk (`apt install wrk`).

    python benchmarks/reward_server.py [--workers 2] [--seconds 15] [--million]

Items are mixed (choice, number, date, duration, text) with responses of about 300 tokens (1.2 kB). The load runs on the
same cores as the server. The last line is one JSON object:

`items_per_second`: batches of 256 items on 4 connections; `p99_ms`: of one-item requests on 32 connections;
`single_item_requests_per_second`: of the same; `connections_answered`: of 2,000 connections opened at the same time,
each with one item, those that got a 200; `memory_growth`: with `--million`, resident memory of all server processes
after a million items over that after the first hundred thousand (null without); `worst_verifier_ms`: the longest that
one item of up to 100,000 characters took in this process, over all tasks and texts that make careless patterns slow.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

import psutil

# This file has the name of the package that it measures, and its folder comes first.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from reward_server.presets import PRESETS  # noqa: E402
from reward_server.process import RewardServerProcess  # noqa: E402
from reward_server.schema import parse_request  # noqa: E402
from reward_server.service import score  # noqa: E402

WORDS = ("chest", "pain", "and", "a", "pressure", "of", "150", "over", "90", "suggest", "that", "we", "consider")
OPTIONS = {"A": "Aspirin", "B": "E. coli", "C": "Heparin", "D": "Warfarin"}
KINDS = (
    ("choice", {"answer": "C", "options": OPTIONS}, ("C", "(B) E. coli", "The answer is C: Heparin", "Warfarin")),
    ("number", {"answer": 23.5, "lower": 22.325, "upper": 24.675}, ("23.4 kg/m2", "1,250", "= 24.1", "3/4")),
    ("date", {"answer": "09/03/2014"}, ("09/03/2014", "2014-09-04")),
    ("duration", {"answer": {"weeks": 17, "days": 6}}, ("17 weeks, 6 days", "125 days", "16 weeks")),
    ("text", {"answer": "pulmonary embolism", "aliases": ["PE"]}, ("Pulmonary embolism.", "pneumonia", "PE")),
)
SCRIPT = """
local file = io.open("{body}", "rb"); local body = file:read("*a"); file:close()
wrk.method = "POST"; wrk.body = body; wrk.headers["Content-Type"] = "application/json"
"""


def batch(items: int, seed: int) -> bytes:
    rng = random.Random(seed)
    rows = []
    for number in range(items):
        task, reference, answers = KINDS[number % len(KINDS)]
        thinking = " ".join(rng.choice(WORDS) for _ in range(230))
        response = f"<think>{thinking}</think><answer>{rng.choice(answers)}</answer>"
        rows.append({"id": str(number), "task": task, "response": response, "reference": reference})
    return json.dumps({"preset": "gated", "items": rows}).encode()


def wrk(url: str, body: bytes, connections: int, seconds: float) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "body").write_bytes(body)
        (Path(folder) / "post.lua").write_text(SCRIPT.format(body=Path(folder) / "body"))
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "--latency"]
        command += ["-s", f"{folder}/post.lua", f"{url}/v1/score"]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in output or "Socket errors" in output:
        sys.exit(f"not every request was answered well:\n{output}")
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s)", output)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", output)
    if p99 is None or rate is None:
        sys.exit(f"wrk printed no 99th percentile or no rate of requests:\n{output}")
    return {"rate": float(rate[1]), "p99_ms": float(p99[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[p99[2]]}


async def connections_answered(url: str, count: int) -> dict[str, int]:
    """How many of `count` connections at once get a score, at once or by coming back when a 429 says so."""
    address = urlsplit(url)
    body = batch(1, 0)
    head = f"POST /v1/score HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    seen = {"answered": 0, "refused_for_a_while": 0}
    opened = await asyncio.gather(*(asyncio.open_connection(address.hostname, address.port) for _ in range(count)))

    async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(head.encode() + body)
            await writer.drain()
            answer = await asyncio.wait_for(reader.read(), 60)
            writer.close()
            seen["answered"] += b" 200 " in answer[:20]
            if b" 429 " not in answer[:20]:
                return
            seen["refused_for_a_while"] += 1
            await asyncio.sleep(int(answer.lower().partition(b"retry-after: ")[2].split()[0]))
            reader, writer = await asyncio.open_connection(address.hostname, address.port)

    await asyncio.gather(*(ask(*pair) for pair in opened))
    return seen


def resident(pid: int) -> int:
    root = psutil.Process(pid)
    return sum(process.memory_info().rss for process in (root, *root.children(recursive=True)))


def memory_growth(server: RewardServerProcess, rate: float) -> float:
    body = batch(256, 1)
    wrk(server.url, body, 4, round(100_000 / rate) + 1)
    before = resident(server.pid)
    wrk(server.url, body, 4, round(900_000 / rate) + 1)
    return resident(server.pid) / before


def worst_verifier_ms() -> float:
    units: tuple[str, ...] = (
        "a",
        "A ",
        "(",
        "A, ",
        "not ",
        "**",
        "\n",
        "1",
        "1,111",
        "1 ",
        "1/",
        "1 out of ",
        "-",
        "10^",
        "1w,",
        "1/1/",
    )
    units += (
        "1 weeks ",
        "x 10 ^ ",
        "<think>",
        "</answer>",
        "<answer>",
        "aspirin ",
        "\\boxed{",
        "\u0412 ",
        "= ",
        "is 1 ",
    )
    references: list[tuple[str, dict[str, object]]] = [(task, dict(reference)) for task, reference, _ in KINDS]
    for metric, threshold in (("f1", 0.5), ("bleu", 45), ("ems", 45), ("merge", 45), ("rouge_l", 45)):
        references.append(("text", {"answer": "the embolism " * 200, "metric": metric, "threshold": threshold}))
    worst = 0.0
    for unit in units:
        for size in (4_000, 20_000, 100_000):
            text = (unit * size)[:size]
            for task, reference in references:
                response = f"<think>t</think><answer>{text}</answer>"
                row = {"id": "0", "task": task, "response": response, "reference": reference}
                request = parse_request(json.dumps({"preset": "gated", "items": [row]}).encode())
                began = time.perf_counter()
                score(request, PRESETS["gated"])
                worst = max(worst, time.perf_counter() - began)
    return worst * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=int, default=15)
    parser.add_argument("--million", action="store_true", help="also score a million items and look at the memory")
    args = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed: apt install wrk")
    worst_verifier_ms()  # imports and caches
    worst = worst_verifier_ms()
    print(f"longest verdict on 100,000 characters: {worst:.1f} ms", flush=True)
    with RewardServerProcess(workers=args.workers) as server:
        wrk(server.url, batch(64, 2), 8, 3)
        batches = wrk(server.url, batch(256, 1), 4, args.seconds)
        items = batches["rate"] * 256
        print(f"batches of 256: {items:,.0f} items/s, p99 {batches['p99_ms']:.0f} ms on 4 connections", flush=True)
        single = wrk(server.url, batch(1, 0), 32, args.seconds)
        print(f"one item a request: {single['rate']:,.0f} requests/s, p99 {single['p99_ms']:.1f} ms", flush=True)
        runs = [asyncio.run(connections_answered(server.url, 2000)) for _ in range(10)]
        answered, refused = min(run["answered"] for run in runs), max(run["refused_for_a_while"] for run in runs)
        print(
            f"connections answered: at least {answered} of 2000 in ten runs, 429 first: at most {refused}", flush=True
        )
        growth = memory_growth(server, items) if args.million else None
    result = {
        "items_per_second": round(items),
        "p99_ms": round(single["p99_ms"], 1),
        "single_item_requests_per_second": round(single["rate"]),
        "connections_answered": answered,
        "memory_growth": None if growth is None else round(growth, 3),
        "worst_verifier_ms": round(worst, 1),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
