"""Rollouts on this machine's CPU: tokens a second of three samplers, and seconds of handing weights to vLLM.

    python benchmarks/rollout.py [--rounds 3] [--sizes 0.0625 0.25 1] [--ways file gloo] [KEY=VALUE ...]

Samplers: the embedded one (two ranks of data parallelism), vLLM behind HTTP as a run asks it, and `generate` of
transformers (a process with a thread for each core). All get the same model and prompts of
benchmarks/grpo_step_model.py, 32 prompts of 28 tokens with 8 responses each, and draw exactly 128 tokens a response at
temperature 1. The embedded sampler and vLLM take turns in one run; log-probabilities are part of what both give.

Hand-overs: random Qwen2 models of few wide layers in float32, from a trainer of one rank to one server, by each way:
pause, buckets of `rollout.vllm.bucket_mib`, finish, caches emptied, resume. The copy beside them is torch's, of as many
bytes from one tensor to another, both touched before, with a thread for each core, taken in turn with the hand-overs.

The last line is one JSON object, of medians:

    tokens_per_s    of `embedded`, `vllm`, `transformers`
    transfer        a row for each size and way:
        gib             of the weights, 2**30 bytes
        way             file (in shared memory) or gloo
        seconds         of a hand-over
        ratio_to_copy   seconds over those of the copy
        copy_s          of the copy
        first_s         of the first hand-over, which also makes files or groups
        export_s        of taking the weights out of the engine alone, with nothing sent
        write_s         of writing them into the file, or of the broadcast
        update_s        of vLLM's answers to all buckets, in part while the next ones are taken and written
        finish_s        of vLLM's answer to the finish
        other_s         of pause, start, emptied caches and resume
    cores, date
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DEADLINE_S = 1200


def finish(command: list[str], log: Path, threads: int, python: str) -> str:
    """Runs a command to its end; its output, or an error with the end of it."""
    own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    own |= {"MEDATRON_VLLM_PYTHON": python, "MEDATRON_DEVICE": "cpu", "VLLM_CPU_KVCACHE_SPACE": "1"}
    with log.open("w") as out:
        done = subprocess.run(
            command, stdout=out, stderr=subprocess.STDOUT, timeout=DEADLINE_S, env={**os.environ, **own}, check=False
        )
    text = log.read_text()
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{text[-3000:]}")
    return text


def part(folder: Path, python: str, ranks: int, name: str, *arguments: str) -> Any:
    """The last line that a part of benchmarks/rollout_parts.py says."""
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    threads = max(1, (os.cpu_count() or 1) // ranks)
    command = [*line, "-m", "benchmarks.rollout_parts", name, str(folder), *arguments]
    return json.loads(finish(command, folder / f"{name}.log", threads, python).splitlines()[-1])


def convert(folder: Path, python: str) -> None:
    command = [sys.executable, "-m", "conversion.hf_to_megatron", str(folder / "hf"), str(folder / "megatron")]
    finish(command, folder / "convert.log", 1, python)


def tokens_per_s(folder: Path, python: str, rounds: int) -> dict[str, float]:
    folder.mkdir()
    script = str(ROOT / "benchmarks" / "grpo_step_model.py")
    finish([sys.executable, script, str(folder / "hf")], folder / "model.log", 1, python)
    convert(folder, python)
    found = part(folder, python, 2, "sample", str(rounds)) | part(folder, python, 1, "transformers", str(rounds))
    print(f"tokens a second: {found}", flush=True)
    return found


def transfers(
    folder: Path, python: str, rounds: int, gib: float, ways: list[str], overrides: list[str]
) -> list[dict[str, Any]]:
    folder.mkdir()
    part(folder, python, 1, "model", str(gib))
    convert(folder, python)
    rows = part(folder, python, 1, "transfer", str(rounds), ",".join(ways), *overrides)
    for row in rows:
        print(row, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", type=float, nargs="*", default=[1 / 16, 1 / 4, 1], metavar="GIB")
    parser.add_argument("--ways", nargs="+", default=["file", "gloo"], choices=("file", "gloo"))
    parser.add_argument("--no-tokens", action="store_true", help="hand-overs alone")
    parser.add_argument("--vllm-python", default=str(ROOT / ".venv-vllm/bin/python"), help="(default: %(default)s)")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings of the hand-overs' trainer")
    chosen = parser.parse_args()
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as root:
        if not chosen.no_tokens:
            result["tokens_per_s"] = tokens_per_s(Path(root) / "tokens", chosen.vllm_python, chosen.rounds)
        result["transfer"] = []
        for gib in chosen.sizes:
            with tempfile.TemporaryDirectory(dir=root) as sized:
                result["transfer"] += transfers(
                    Path(sized) / "transfer", chosen.vllm_python, chosen.rounds, gib, chosen.ways, chosen.overrides
                )
    print(json.dumps(result | {"cores": os.cpu_count(), "date": time.strftime("%Y-%m-%d")}))


if __name__ == "__main__":
    main()
