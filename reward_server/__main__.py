"""`python -m reward_server`: binds, says where, serves until SIGTERM or SIGINT, drains, and exits 0.

Each of `--workers` HTTP processes has a scoring process of its own (`pool`). The token is read from `--token-file` or
the variable MEDATRON_REWARD_TOKEN, never from the command line, which every user of the machine can read.

Exit codes: 0 stopped by a signal; 2 wrong arguments, or the address cannot be bound; 3 the service failed to start.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import math
import os
import resource
import signal
import socket
import sys
import tempfile
from contextlib import AbstractContextManager
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from reward_server import lifetime, logs
from reward_server.load import Load
from reward_server.token import TokenError, read_token

if TYPE_CHECKING:
    from fastapi import FastAPI

DRAIN_S = 10
TOKEN_VARIABLE = "MEDATRON_REWARD_TOKEN"
JUDGE_KEY_VARIABLE = "MEDATRON_JUDGE_API_KEY"
JUDGE_MODEL_VARIABLE = "MEDATRON_JUDGE_MODEL"
_SETTINGS_VARIABLE = "MEDATRON_REWARD_SETTINGS"
# The kernel cuts it to net.core.somaxconn.
_BACKLOG = 65535
_MAX_FILES = 65536
_FEW_FILES = 4096
_MAX_ITEM_LIMIT_S = 100


def main(argv: list[str] | None = None) -> int:
    """Runs the server; returns the exit code."""
    args = _parser().parse_args(argv)
    if bool(args.judge_url) != bool(args.judge_model):
        print("reward_server: --judge-url and --judge-model go together", file=sys.stderr)
        return 2
    try:
        token = _token(args.token_file)
    except OSError as error:
        print(f"reward_server: cannot read --token-file {args.token_file}: {error.strerror}", file=sys.stderr)
        return 2
    except TokenError as error:
        print(f"reward_server: {args.token_file or TOKEN_VARIABLE}: {error}", file=sys.stderr)
        return 2
    # Covers the time before uvicorn takes the signals over, and the moment after it hands them back.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    # A terminal that closes, and Ctrl-\\, end it like any other; under nohup it stays.
    for number in (signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _end)
    # Slurm sends it to all processes of a job ahead of the time limit; it is meant for the trainer.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if args.parent_pid is not None:
        lifetime.stop_with_parent(args.parent_pid)
    args.host = args.host.strip("[]")
    files = _raise_file_limit()
    if files < _FEW_FILES:
        print(
            f"reward_server: each worker may have {files} files open (ulimit -Hn), and so fewer connections at a time; "
            "one too many is closed without an answer, and its client must try again",
            file=sys.stderr,
        )
    try:
        listener = _listen(args.host, args.port)
    except OSError as error:
        print(f"reward_server: {_explain(args.host, args.port, error)}", file=sys.stderr)
        return 2
    port_file: Path | None = args.port_file
    try:
        if port_file is not None:
            host = f"[{args.host}]" if ":" in args.host else args.host
            _publish(port_file, f"{host}:{listener.getsockname()[1]}\n")
    except OSError as error:
        print(f"reward_server: cannot write --port-file {port_file}: {error.strerror}", file=sys.stderr)
        return 2
    try:
        with tempfile.TemporaryDirectory(prefix="medatron-server-") as folder, contextlib.ExitStack() as stack:
            # Workers are started by name, so that what they need to know travels in the environment.
            os.environ[TOKEN_VARIABLE] = token or ""
            os.environ[logs.TEXTS_VARIABLE] = "1" if args.log_texts else "0"
            settings = {"item_limit_s": args.item_limit, "queue_limit": args.queue_limit, "log_level": args.log_level}
            if args.workers > 1:
                settings["queue_limit"] *= args.workers
                settings["load_file"] = f"{folder}/load"
                Load.make(Path(folder) / "load", args.workers)
                os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
            if args.judge_url:
                settings["judge_socket"] = f"{folder}/judge"
                stack.enter_context(_judge(args, settings["judge_socket"]))
            # The model is part of what defines a reward: presets hash it.
            os.environ[JUDGE_MODEL_VARIABLE] = args.judge_model or ""
            os.environ[_SETTINGS_VARIABLE] = json.dumps(settings)
            return _serve(listener, args.workers, args.log_level)
    finally:
        if port_file is not None:
            port_file.unlink(missing_ok=True)


def _token(file: Path | None) -> str | None:
    """The token to ask for, None for none; raises OSError and TokenError."""
    if file is not None:
        return read_token(file.read_bytes())
    return read_token(os.environ[TOKEN_VARIABLE]) if TOKEN_VARIABLE in os.environ else None


def _end(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def _judge(args: argparse.Namespace, socket_path: str) -> AbstractContextManager[None]:
    """The judge of all workers; they ask it at `socket_path`."""
    # Imported late: servers without a judge do without.
    from reward_server.endpoint import JudgeSettings
    from reward_server.judge_desk import serving

    settings = JudgeSettings(
        url=args.judge_url,
        model=args.judge_model,
        api_key=os.environ.get(JUDGE_KEY_VARIABLE) or "none",
        requests_per_minute=args.judge_requests_per_minute,
        tokens_per_minute=args.judge_tokens_per_minute,
    )
    return serving(settings, socket_path)


def worker_app() -> FastAPI:
    """The application of one worker process."""
    from reward_server.app import Settings, create_app

    lifetime.stop_with_supervisor()
    settings = json.loads(os.environ[_SETTINGS_VARIABLE])
    return create_app(Settings(**settings, token=os.environ[TOKEN_VARIABLE] or None))


def _serve(listener: socket.socket, workers: int, log_level: str) -> int:
    # Imported this late so that a port in use is reported at once.
    import uvicorn
    from uvicorn.supervisors import Multiprocess

    from reward_server.connection import LimitedProtocol

    config = uvicorn.Config(
        "reward_server.__main__:worker_app",
        factory=True,
        http=LimitedProtocol,
        ws="none",
        workers=workers,
        log_config=logs.configuration(log_level),
        access_log=False,
        lifespan="on",
        timeout_graceful_shutdown=DRAIN_S,
    )
    if workers == 1:
        server = uvicorn.Server(config)
        server.run(sockets=[listener])
        return 0 if server.started else 3

    class Supervisor(Multiprocess):
        def init_processes(self) -> None:
            # Started inside, multiprocessing's helper would let Ctrl-C through to what follows.
            resource_tracker.ensure_running()
            with lifetime.interrupts_kept_from_children():
                super().init_processes()

        def keep_subprocess_alive(self) -> None:
            with lifetime.interrupts_kept_from_children():
                super().keep_subprocess_alive()

    ending = [number for number in (signal.SIGHUP, signal.SIGQUIT) if signal.getsignal(number) == _end]
    supervisor = Supervisor(config, sockets=[listener])
    # It means to restart its workers at the one, and to ignore the other.
    for number in ending:
        signal.signal(number, _end)
    supervisor.run()
    return 3 if any(process.exitcode == 3 for process in supervisor.processes) else 0


def _raise_file_limit() -> int:
    """Lets this process and its workers have as many files open, and so connections, as it may; returns how many.

    A login's usual soft limit is 1,024.
    """
    soft, hard = (_MAX_FILES if n == resource.RLIM_INFINITY else n for n in resource.getrlimit(resource.RLIMIT_NOFILE))
    if soft < min(hard, _MAX_FILES):
        soft = min(hard, _MAX_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    return soft


def _listen(host: str, port: int) -> socket.socket:
    if host == "::" and not socket.has_dualstack_ipv6():
        host = "0.0.0.0"  # a machine without IPv6, all of whose addresses these are
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        if family == socket.AF_INET6:
            # `::` takes IPv4 too, whatever net.ipv6.bindv6only says.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, host != "::")
        # Lets a restarted server have its port back while old connections are in TIME_WAIT.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # Connections queue from here on, so that whoever reads the port file cannot come too early.
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _explain(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use: stop what listens there, or choose another --port (0: a free one)"
    if error.errno == errno.EACCES:
        return f"port {port} needs privileges: choose a --port from 1024 up (0 picks a free one)"
    return f"cannot listen on {host}:{port}: {error.strerror}; give --host an address of this machine"


def _publish(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m reward_server", description="Scores medical answers over HTTP.")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; :: is every one (default: %(default)s)"
    )
    parser.add_argument(
        "--port", type=_within(0, 65535), default=8000, help="0 picks a free one (default: %(default)s)"
    )
    parser.add_argument("--workers", type=_within(1, 256), default=1, help="processes (default: %(default)s)")
    parser.add_argument(
        "--item-limit",
        type=_seconds,
        default=2.0,
        metavar="S",
        help="seconds that one item may take (default: %(default)s)",
    )
    parser.add_argument(
        "--queue-limit",
        type=_within(1, 100_000),
        default=8192,
        metavar="N",
        help="requests that may wait, times the workers; more get 429 (default: %(default)s)",
    )
    parser.add_argument(
        "--token-file", type=Path, help=f"file with a bearer token (default: ${TOKEN_VARIABLE}, if set)"
    )
    judge = parser.add_argument_group("judge of open answers (optional; its key is read from $MEDATRON_JUDGE_API_KEY)")
    judge.add_argument(
        "--judge-url", type=_url, help="base URL of an OpenAI-compatible endpoint, such as http://node7:8001/v1"
    )
    judge.add_argument("--judge-model", help="name of the model there")
    judge.add_argument("--judge-requests-per-minute", type=_within(1, 10**6), default=600, metavar="N")
    judge.add_argument("--judge-tokens-per-minute", type=_within(1, 10**9), default=10**6, metavar="N")
    parser.add_argument(
        "--log-texts", action="store_true", help="log every item and result, texts included; not for patients' data"
    )
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    parser.add_argument(
        "--port-file", type=Path, help="write host:port here, atomically, once listening; removed at the end"
    )
    parser.add_argument("--parent-pid", type=int, help="stop when this process, the parent of the server, is gone")
    return parser


def _within(low: int, high: int) -> Any:
    def parse(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"expected a whole number from {low} to {high}, got {text!r}")
        return int(text)

    return parse


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= _MAX_ITEM_LIMIT_S:
        raise argparse.ArgumentTypeError(f"expected seconds above 0 and at most {_MAX_ITEM_LIMIT_S}, got {text!r}")
    return value


def _url(text: str) -> str:
    try:
        parts = urlsplit(text)
        # `port` raises for what is none.
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    # urlsplit drops line ends without a word.
    if not sound or not all("!" <= character <= "~" for character in text):
        raise argparse.ArgumentTypeError(f"expected a URL such as http://node7:8001/v1, got {text!r}")
    return text


if __name__ == "__main__":
    sys.exit(main())
