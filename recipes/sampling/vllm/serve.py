"""A vLLM server that a run samples with: `python -m recipes.sampling.vllm.serve MODEL_FOLDER --port 8001`.

MODEL_FOLDER is a Hugging Face folder: `hf/` of a Megatron checkpoint, or any with config.json and tokenizer. Its
weights are not read: the trainer hands its own over before it asks for anything, so until then nothing sensible comes
out. The command runs vLLM's own API server with our extension in its workers, and ends with all of its processes; run
it with the Python that has vLLM. Nothing else of this project needs to be importable there, and nothing but the
standard library is imported here.

The server takes weights and remote calls from whoever reaches it. It listens on loopback unless --host says otherwise,
and then wants a token, which it and the trainer read from MEDATRON_ROLLOUT_TOKEN.

Left out: several servers in one command; each is a process (or job step) of its own, so that each can die alone.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from recipes.sampling.vllm.api import on_cpu

_PR_SET_PDEATHSIG = 1
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
# What vLLM keeps of host memory for keys and values on a CPU, in GiB; its own default is half of the machine's.
_CPU_CACHE_GIB = "4"
# Every matrix is loaded into new memory and packed into more of it. To touch that for the first time takes several
# times as long as to fill it, unless its pages are huge, or those of the weights before.
_CPU_MALLOC = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=1099511627776"
_STOP_S = 5.0
_LOOK_S = 0.5


def command(options: argparse.Namespace, python: str) -> list[str]:
    """The command line that starts vLLM's API server."""
    arguments = {
        "--model": options.model,
        "--served-model-name": "policy",
        "--host": options.host,
        "--port": options.port,
        "--tensor-parallel-size": options.tensor,
        "--max-model-len": options.max_length,
        "--dtype": options.precision,
        "--load-format": "dummy",
        "--generation-config": "vllm",
        "--logprobs-mode": f"{options.logprobs}_logprobs",
        "--worker-extension-cls": "recipes.sampling.vllm.worker.Extension",
        "--weight-transfer-config": json.dumps({"backend": "medatron"}),
        "--middleware": "recipes.sampling.vllm.guard.Guard",
        "--seed": options.seed,
        "--uvicorn-log-level": "warning",
    }
    # Token ids in and out are a "scale-out" endpoint.
    switches = ["--enable-scale-out", "--enable-prefix-caching", "--enable-prompt-tokens-details"]
    switches.append("--disable-uvicorn-access-log")
    if on_cpu():
        # A seeded request whose prompt is computed in parts ends a server on a CPU (up to 0.32: "CPU Generator does not
        # use offset").
        switches.append("--no-enable-chunked-prefill")
    if options.memory_share:
        arguments["--gpu-memory-utilization"] = options.memory_share
    if options.sleep:
        switches.append("--enable-sleep-mode")
    if options.eager:
        switches.append("--enforce-eager")
    # `vllm serve` looks for the metadata of a package named vllm, which builds for CPUs do not have.
    line = [python, "-m", "recipes.sampling.vllm.api", *switches]
    return line + [str(part) for name, value in arguments.items() if value is not None for part in (name, value)]


def environment() -> dict[str, str]:
    """What the server finds in its environment beside this process's."""
    root = str(Path(__file__).resolve().parents[3])
    own = {"GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", _CPU_MALLOC)} if on_cpu() else {}
    return {
        **own,
        # Without it there are no endpoints for weights.
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "1"),
        # It would keep a core for the process that schedules, which mostly waits.
        "VLLM_CPU_NUM_OF_RESERVED_CPU": os.environ.get("VLLM_CPU_NUM_OF_RESERVED_CPU", "0"),
        "VLLM_CPU_KVCACHE_SPACE": os.environ.get("VLLM_CPU_KVCACHE_SPACE", _CPU_CACHE_GIB),
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "WARNING"),
        "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH")))),
    }


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m recipes.sampling.vllm.serve",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("model", metavar="MODEL_FOLDER", help="Hugging Face folder with config.json and tokenizer")
    made.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    made.add_argument("--port", type=int, default=8001, help="(default: %(default)s)")
    made.add_argument(
        "--tensor", type=int, default=1, help="GPUs over which the model is divided (default: %(default)s)"
    )
    made.add_argument("--max-length", type=int, metavar="TOKENS", help="prompt and response (default: the model's)")
    made.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16", help="(default: %(default)s)")
    made.add_argument("--memory-share", type=float, metavar="SHARE", help="of a GPU's memory (default: vLLM's)")
    made.add_argument("--sleep", action="store_true", help="can give its memory up while the trainer computes")
    made.add_argument("--eager", action="store_true", help="neither compiles nor records graphs: starts sooner")
    made.add_argument(
        "--logprobs",
        choices=("processed", "raw"),
        default="processed",
        help="log-probabilities at the sampling temperature, or at 1 and before top-k and top-p (default: %(default)s)",
    )
    made.add_argument("--seed", type=int, default=0, help="of the dummy weights (default: %(default)s)")
    made.add_argument("--parent-pid", type=int, help="end when the parent does, if this is its process id")
    return made


def main() -> None:
    """Serves until it is stopped."""
    options = parser().parse_args()
    if not (Path(options.model) / "config.json").is_file():
        raise SystemExit(
            f"{options.model}: has no config.json; give a Hugging Face folder, such as hf/ of a checkpoint"
        )
    if options.host not in _LOOPBACK and not os.environ.get("MEDATRON_ROLLOUT_TOKEN"):
        raise SystemExit(
            f"--host {options.host}: whoever reaches this server can replace its weights; set MEDATRON_ROLLOUT_TOKEN, "
            "here and for the trainer, or listen on 127.0.0.1"
        )
    sys.exit(supervise(command(options, sys.executable), environment(), options.parent_pid))


def supervise(line: list[str], added: dict[str, str], parent: int | None) -> int:
    """Runs the server until it ends, is asked to, or the parent is gone, and leaves none of its processes behind.

    vLLM's engine is a process that outlives a server that was killed, and a server one whose engine was. All are in
    one process group, which ends with this process.

    Args:
        line: of the server.
        added: to its environment.
        parent: process id, or None.

    Returns:
        the server's exit code.
    """
    with contextlib.suppress(PermissionError):  # a session's leader leads its group already
        os.setpgid(0, 0)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    if parent is not None:
        end_with_parent(signal.SIGTERM)
        if os.getppid() != parent:
            sys.exit("the process that started this server is gone")
    server = subprocess.Popen(line, env={**os.environ, **added})
    engines: set[int] = set()
    while (code := server.poll()) is None:
        running = {process for process in _others() if _is_engine(process)}
        if engines - running:
            print("vLLM's engine or a worker of it has ended; its server ends too", file=sys.stderr, flush=True)
            code = 1
            break
        engines = running
        time.sleep(_LOOK_S)
    _end_group(code)
    return code


def end_with_parent(number: signal.Signals) -> None:
    """Asks Linux to send this process a signal when its parent ends; elsewhere it does nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def _stop(number: int, _: object) -> None:
    signal.signal(number, signal.SIG_IGN)
    _end_group(128 + number)


def _end_group(code: int) -> None:
    """Asks all processes of the group to end, and then makes them, without an end of this one's by a signal."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)
    until = time.monotonic() + _STOP_S
    while _others() and time.monotonic() < until:
        time.sleep(0.05)
    for process in _others():
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    os._exit(code if code >= 0 else 128 - code)


def _is_engine(process: int) -> bool:
    """Whether it is one of the processes without which vLLM's server answers nothing, or hangs."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/comm").read_text().startswith("VLLM::")
    return False


def _others() -> list[int]:
    """Process ids of this group but this one's, without those that have ended."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, group = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(group) == os.getpgid(0) and int(folder.name) != os.getpid() and state != "Z":
                found.append(int(folder.name))
    return found


if __name__ == "__main__":
    main()
