"""Scores items over HTTP while everything around them fails, and counts what was lost, wrong or late.

    python benchmarks/reward_chaos.py [--items 1000000] [--workers 2] [--tmpfs FOLDER]

Four clients send batches of mixed items whose rewards are known. Meanwhile, at random: scoring processes and workers
are killed, connections are cut, a worker may open no more files for a few seconds, and, with `--tmpfs` (a small file
system, such as `mount -t tmpfs -o size=8m tmpfs FOLDER`), the disk of the server's log and state is full for a while.

The last line is one JSON object; `lost`, `wrong` and `zeros` (all answers earn something) must be 0, `longest_call_s`
below the clients' deadline of 300 s, and `memory_growth`, the end's over that after a tenth, about 1.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import psutil

sys.path[0] = str(Path(__file__).resolve().parents[1])

from reward_server.client import RewardClient, ScoreItem  # noqa: E402
from reward_server.process import RewardServerProcess  # noqa: E402

BATCH = 256
DEADLINE_S = 300.0
OPTIONS = {"A": "Aspirin", "B": "E. coli", "C": "Heparin", "D": "Warfarin"}
KINDS = (
    ("choice", {"answer": "C", "options": OPTIONS}, "C", "B"),
    ("number", {"answer": 23.5, "lower": 22.325, "upper": 24.675}, "23.4", "31"),
    ("date", {"answer": "09/03/2014"}, "09/03/2014", "09/04/2014"),
    ("duration", {"answer": {"weeks": 17, "days": 6}}, "125 days", "16 weeks"),
    ("text", {"answer": "pulmonary embolism"}, "Pulmonary embolism.", "pneumonia"),
)


class Tally:
    def __init__(self, items: int) -> None:
        self.left, self.lock = items, threading.Lock()
        self.scored = self.lost = self.wrong = self.zeros = self.faults = self.retries = 0
        self.longest = 0.0

    def take(self) -> int:
        with self.lock:
            count = min(BATCH, self.left)
            self.left -= count
            return count


def load(url: str, tally: Tally, seed: int) -> None:
    rng = random.Random(seed)

    def retried(_: str) -> None:
        tally.retries += 1

    with RewardClient(url, attempt_timeout_s=10, total_timeout_s=DEADLINE_S, on_retry=retried) as client:
        while count := tally.take():
            items, rewards = [], []
            for number in range(count):
                task, reference, right, wrong = rng.choice(KINDS)
                good = rng.random() < 0.5
                response = f"<think>{'we consider ' * 60}</think><answer>{right if good else wrong}</answer>"
                items.append(ScoreItem(str(number), task, response, reference))  # type: ignore[arg-type]  # a task's name
                rewards.append(1.0 if good else 0.1)
            began = time.monotonic()
            try:
                found = [score.reward for score in client.score("gated", items)[1]]
            except Exception as error:
                print(f"lost {count}: {error}", flush=True)
                tally.lost += count
                continue
            with tally.lock:
                tally.longest = max(tally.longest, time.monotonic() - began)
                tally.scored += count
                tally.faults += found.count(None)
                tally.zeros += found.count(0.0)
                tally.wrong += sum(f is not None and f != r for f, r in zip(found, rewards, strict=True))


def workers(server: RewardServerProcess) -> list[psutil.Process]:
    return [process for process in psutil.Process(server.pid).children() if process.children()]


def cut_connections(port: int) -> None:
    for connection in psutil.Process().net_connections():
        if connection.raddr and connection.raddr.port == port and connection.fd >= 0:
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(connection.fd)) as own:
                own.shutdown(socket.SHUT_RDWR)
            return


def disturb(server: RewardServerProcess, tmpfs: Path | None, stop: threading.Event, seen: dict[str, int]) -> None:
    rng = random.Random(0)
    port = int(urlsplit(server.url).port or 0)
    acts = [
        "scorer",
        "scorer",
        "worker",
        "connection",
        "connection",
        "connection",
        "files",
        *(["disk"] if tmpfs else []),
    ]
    while not stop.wait(rng.uniform(0.2, 2.0)):
        act = rng.choice(acts)
        with contextlib.suppress(psutil.Error, ProcessLookupError, OSError, IndexError):
            victims = workers(server)
            if act == "connection":
                cut_connections(port)
            elif act == "disk" and tmpfs:
                with contextlib.suppress(OSError), (tmpfs / "full").open("wb") as file:
                    while True:
                        file.write(b"x" * 65536)
                        file.flush()
                stop.wait(3)
                (tmpfs / "full").unlink()
            elif len(victims) > 1 or act != "worker":
                victim = rng.choice(victims)
                if act == "worker":
                    victim.send_signal(signal.SIGKILL)
                elif act == "scorer":
                    rng.choice(victim.children()).send_signal(signal.SIGKILL)
                else:
                    before = resource.prlimit(victim.pid, resource.RLIMIT_NOFILE)
                    resource.prlimit(victim.pid, resource.RLIMIT_NOFILE, (8, before[1]))
                    for scorer in victim.children():
                        scorer.send_signal(signal.SIGKILL)
                    stop.wait(3)
                    resource.prlimit(victim.pid, resource.RLIMIT_NOFILE, before)
            seen[act] = seen.get(act, 0) + 1


def resident(pid: int) -> int:
    total = 0
    for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            total += process.memory_info().rss
    return total


def run(items: int, server_workers: int, tmpfs: Path | None) -> dict[str, float]:
    """The counts of a whole run."""
    with tempfile.TemporaryDirectory() as folder:
        if tmpfs:
            os.environ["TMPDIR"] = str(tmpfs)
            tempfile.tempdir = None
        log = (tmpfs or Path(folder)) / "log"
        with RewardServerProcess(workers=server_workers, log_path=log, options=["--log-level", "warning"]) as server:
            tally, stop, seen = Tally(items), threading.Event(), {}
            clients = [threading.Thread(target=load, args=(server.url, tally, n)) for n in range(4)]
            chaos = threading.Thread(target=disturb, args=(server, tmpfs, stop, seen))
            began = time.monotonic()
            for thread in (*clients, chaos):
                thread.start()
            early, peak = 0, 0
            while any(client.is_alive() for client in clients):
                time.sleep(1)
                early = early or (resident(server.pid) if tally.scored >= items / 10 else 0)
                peak = max(peak, resident(server.pid))
            stop.set()
            chaos.join()
            time.sleep(2)
            late = resident(server.pid)
            seconds = time.monotonic() - began
    disturbed = {f"disturbed_{name}": count for name, count in sorted(seen.items())}
    return {
        **{name: getattr(tally, name) for name in ("scored", "lost", "wrong", "zeros", "faults", "retries")},
        "longest_call_s": round(tally.longest, 1),
        "memory_growth": round(late / max(1, early), 2),
        "peak_mb": round(peak / 2**20),
        "seconds": round(seconds),
        **disturbed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--tmpfs", type=Path, help="a small file system for the server's log and state")
    args = parser.parse_args()
    if args.tmpfs and shutil.disk_usage(args.tmpfs).total > 2**30:
        sys.exit(f"--tmpfs {args.tmpfs}: expected a small file system, which is filled to its end")
    print(json.dumps(run(args.items, args.workers, args.tmpfs)))


if __name__ == "__main__":
    main()
