"""Seconds of a whole GRPO step, ours against TRL 1.16, on the same model, prompts and limits, on this machine's CPU.

    python benchmarks/grpo_step.py [--rounds 3] [--steps 6] [--workloads 1 2] [--trl-python PYTHON] [--scaling]

TRL runs in an environment of its own, `.venv-trl`, made on first use from requirements/trl.txt. Ours is
`python -m recipes.grpo` as it is, two ranks of data parallelism, with its rewards asked for over HTTP. Both sides run
in turn, `--rounds` times; the first step of every run warms up and is left out. Rewards are the digits in a response
over ten on both sides; ours come from a small server in this process that speaks the reward server's protocol, since
text of random weights has no answer to verify.

Workload 1: 16 prompts of 28 tokens, 8 responses each, of at most 64 tokens. Workload 2: prompts of 256 tokens and
responses of 1 to 128 tokens, 48 on average.

The last line is one JSON object: `ratio_workload_1` and `ratio_workload_2` (TRL's median seconds a step over ours),
`workloads` (for each: `trl_s`, `ours_s`, medians; `generate_s`, `score_s`, `train_s`, our split; `trl_tokens` and
`our_tokens` sampled a step; `gflop`, the arithmetic of our step's matrix products; `limit_s`, that over the rate at
which both cores multiply matrices; `limit_share`, limit_s over ours_s), `matmul_gflops`, and with `--scaling` the rows
of a table over batch and length (`prompts`, `new_tokens`, `tokens`, `step_s`, `us_per_token`, `peak_gib`).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
DEADLINE_S = 1800
GROUP, PROMPTS = 8, 16
# Name -> options of the model, response limit.
WORKLOADS = {
    1: (["--prompt-tokens", "28"], 64),
    2: (["--prompt-tokens", "256", "--stop-mean", "48"], 128),
}
SCALES = ((16, 64), (32, 64), (64, 64), (16, 128), (16, 256))


class Digits(BaseHTTPRequestHandler):
    """Scores a response by its digits, in the reward server's protocol."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer({"status": "ready"})

    def do_POST(self) -> None:
        items = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["items"]
        results = [
            {
                "id": item["id"],
                "reward": sum(c.isdigit() for c in item["response"]) / 10,
                "status": "incorrect",
                "extracted": None,
                "components": {"answer": 0.0, "format": 0.0, "length": 0.0},
                "format_issue": None,
                "verifier": "digits",
                "version": "1",
            }
            for item in items
        ]
        self._answer({"preset": {"name": "binary", "version": "1", "hash": "digits"}, "results": results})

    def _answer(self, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Nothing: a line a request would only hide the progress."""


@contextlib.contextmanager
def reward_url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Digits)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


def finish(command: list[str], log: Path, **environment: str) -> str:
    """Runs a command to its end; its output, or an error with the end of it."""
    with log.open("w") as out:
        done = subprocess.run(
            command,
            stdout=out,
            stderr=subprocess.STDOUT,
            timeout=DEADLINE_S,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), **environment},
            cwd=log.parent,
            check=False,
        )
    text = log.read_text()
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{text[-3000:]}")
    return text


def trl_python() -> Path:
    """The interpreter of an environment with TRL, made when it is not there yet."""
    python = ROOT / ".venv-trl" / "bin" / "python"
    if not (python.parent / "trl").exists():
        subprocess.run([sys.executable, "-m", "venv", str(ROOT / ".venv-trl")], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, "torch==2.13.0"], check=True)
        subprocess.run([*pip, "--no-deps", "-r", str(ROOT / "requirements" / "trl.txt")], check=True)
    return python


def make_model(folder: Path, options: list[str]) -> None:
    """Hugging Face folder, Megatron checkpoint and questions of a workload."""
    hf = folder / "hf"
    script = str(ROOT / "benchmarks" / "grpo_step_model.py")
    finish([sys.executable, script, str(hf), *options], folder / "model.log")
    finish(
        [sys.executable, "-m", "conversion.hf_to_megatron", str(hf), str(folder / "megatron")], folder / "convert.log"
    )
    rows = [
        {"id": str(n), "source": "benchmark", "task": "text", "question": prompt, "answer": "none"}
        for n, prompt in enumerate(json.loads((hf / "prompts.json").read_text()))
    ]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def run_trl(python: Path, folder: Path, new_tokens: int, steps: int) -> dict[str, Any]:
    script = str(ROOT / "benchmarks" / "grpo_step_trl.py")
    command = [str(python), script, str(folder / "hf"), "--steps", str(steps), "--new-tokens", str(new_tokens)]
    command += ["--prompts", str(PROMPTS), "--group", str(GROUP)]
    return json.loads(finish(command, folder / "trl.log").splitlines()[-1])


def run_ours(
    folder: Path, url: str, new_tokens: int, steps: int, prompts: int = PROMPTS, *extra: str
) -> list[dict[str, float]]:
    """The metrics of each step, `step_s` among them."""
    with tempfile.TemporaryDirectory() as output:
        command = [sys.executable, "-m", "recipes.grpo", f"output={output}", f"model.path={folder / 'megatron'}"]
        command += [f"data.train=[{folder / 'questions.jsonl'}]", "data.style=plain", f"reward.url={url}"]
        command += [f"rollout.prompts={prompts}", f"rollout.group_size={GROUP}", f"rollout.max_new_tokens={new_tokens}"]
        command += ["algorithm.kl_coef=0.0", "optimizer.learning_rate=1e-6", "parallel.processes=2"]
        command += ["model.max_length=1024", "reward.preset=binary", f"trainer.steps={steps}"]
        finish([*command, *extra], folder / "ours.log", OMP_NUM_THREADS="1")
        rows = [json.loads(line) for line in (Path(output) / "metrics.jsonl").read_text().splitlines()]
    ends = [0.0, *(row["seconds"] for row in rows)]
    return [row | {"step_s": b - a} for row, a, b in zip(rows, ends[:-1], ends[1:], strict=True)]


def gigaflop(sampled: float, prompt_tokens: int, mean_context: float) -> float:
    """Of the matrix products in one of our steps: parameters and attention, 2 operations each; training three passes.

    Sampling computes a prompt once and each sampled token once; training the same tokens forward and twice as much
    backward, the output matrix at response tokens alone and once more in the backward pass.
    """
    hidden, inner, layers, vocabulary, kv = 256, 768, 4, 2048, 128
    layer = hidden * (2 * hidden + 2 * kv) + 3 * hidden * inner
    prompts = PROMPTS * prompt_tokens
    body = (
        2 * layers * (layer * (prompts + sampled) + 2 * hidden * (mean_context * sampled + prompt_tokens / 2 * prompts))
    )
    head = 2 * hidden * vocabulary * sampled
    return (body * 4 + head * 5) / 1e9


def matmul_rate() -> float:
    """GFLOP/s of float32 products of the model's sizes on all cores, one process a core, in step with each other."""
    code = (
        "import time, torch; torch.set_num_threads(1); a, b = torch.randn(2048, 256), torch.randn(256, 1536)\n"
        "def run(n):\n  t = time.perf_counter()\n  for _ in range(n): a @ b\n  return n * 2 * 2048 * 256 * 1536 / "
        "(time.perf_counter() - t) / 1e9\nrun(100); print(max(run(100) for _ in range(10)))"
    )
    children = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    return sum(float(child.communicate(timeout=DEADLINE_S)[0]) for child in children)


def medians(rows: list[dict[str, float]], name: str) -> float:
    return statistics.median(row[name] for row in rows)


def compare(number: int, root: Path, url: str, python: Path, rounds: int, steps: int, rate: float) -> dict[str, float]:
    options, new_tokens = WORKLOADS[number]
    folder = root / f"workload-{number}"
    folder.mkdir(parents=True)
    make_model(folder, options)
    theirs: list[float] = []
    ours: list[dict[str, float]] = []
    their_tokens = []
    for turn in range(rounds):
        found = run_trl(python, folder, new_tokens, steps)
        theirs += found["steps_s"][1:]
        their_tokens.append(found["sampled_tokens"])
        ours += run_ours(folder, url, new_tokens, steps)[1:]
        print(
            f"workload {number}, round {turn + 1}: TRL {statistics.median(found['steps_s'][1:]):.2f} s, ours "
            f"{medians(ours[-steps + 1 :], 'step_s'):.2f} s a step",
            flush=True,
        )
    sampled = medians(ours, "length/mean") * PROMPTS * GROUP
    prompt_tokens = int(options[1])
    work = gigaflop(sampled, prompt_tokens, prompt_tokens + medians(ours, "length/mean") / 2)
    step = medians(ours, "step_s")
    result = {
        "trl_s": statistics.median(theirs),
        "ours_s": step,
        **{name: medians(ours, f"time/{name}") for name in ("generate_s", "score_s", "train_s")},
        "trl_tokens": statistics.mean(their_tokens),
        "our_tokens": sampled,
        "gflop": work,
        "limit_s": work / rate,
        "limit_share": work / rate / step,
        "ratio": statistics.median(theirs) / step,
    }
    return {name: round(value, 4) for name, value in result.items()}


def scaling(root: Path, url: str, steps: int) -> list[dict[str, float]]:
    """Our step over 1x, 2x, 4x the batch and the length."""
    folder = root / "workload-1"
    if not folder.exists():
        folder.mkdir(parents=True)
        make_model(folder, WORKLOADS[1][0])
    rows = []
    for prompts, new_tokens in SCALES:
        memory = PeakMemory()
        memory.start()
        found = run_ours(folder, url, new_tokens, steps, prompts)[1:]
        peak = memory.stop()
        # A prompt once for sampling and once for training, like every sampled token.
        tokens = prompts * (28 + GROUP * medians(found, "length/mean"))
        step = medians(found, "step_s")
        rows.append(
            {
                "prompts": prompts,
                "new_tokens": new_tokens,
                "tokens": round(tokens),
                "step_s": round(step, 3),
                "us_per_token": round(step / tokens * 1e6, 1),
                "peak_gib": round(peak / 2**30, 2),
            }
        )
        print(rows[-1], flush=True)
    return rows


class PeakMemory(threading.Thread):
    """The largest sum of this process's descendants' proportional set sizes, seen ten times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._peak, self._over = 0, threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.1):
            total = 0
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    total += process.memory_full_info().pss
            self._peak = max(self._peak, total)

    def stop(self) -> int:
        self._over.set()
        self.join()
        return self._peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6, help="of a run, the first of which warms up")
    parser.add_argument("--workloads", type=int, nargs="*", choices=sorted(WORKLOADS), default=sorted(WORKLOADS))
    parser.add_argument("--trl-python", type=Path, help="an interpreter that has TRL; default: one is made")
    parser.add_argument("--scaling", action="store_true", help="also the table over batch and length")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "grpo_step")
    chosen = parser.parse_args()
    shutil.rmtree(chosen.output, ignore_errors=True)
    result: dict[str, Any] = {"matmul_gflops": round(matmul_rate(), 1), "workloads": {}}
    with reward_url() as url:
        for number in chosen.workloads:
            python = chosen.trl_python or trl_python()
            found = compare(number, chosen.output, url, python, chosen.rounds, chosen.steps, result["matmul_gflops"])
            result[f"ratio_workload_{number}"] = found.pop("ratio")
            result["workloads"][number] = found
        if chosen.scaling:
            result["scaling"] = scaling(chosen.output, url, chosen.steps)
    print(json.dumps(result | {"date": time.strftime("%Y-%m-%d")}))


if __name__ == "__main__":
    main()
