"""Handing the policy's weights to servers by vLLM's lifecycle: pause, start, update by buckets, finish, resume.

The engine gathers a bucket of weights in Hugging Face names from all ranks; here it gets to the servers in one of four
ways. `file`: written to a file that both sides see, in shared memory or on a shared file system, and read from there;
while servers read one bucket the next is gathered and written. `gloo`, `nccl`: broadcast from rank 0 in a group with
all servers' workers, of torch alone. `ipc`: opened by workers on the same GPUs. A server that fails on the way is left
out and gets no request; the others go on, and ranks stay in step whatever happens.

Left out: sending each worker its shard alone, which would save bandwidth where servers are tensor parallel.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import mmap
import os
import shutil
import socket
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from recipes.engines.base import Bucket, PolicyEngine, Room
from recipes.runtime import platform
from recipes.runtime.config import Config
from recipes.runtime.launch import SHARE_OF_WAIT
from recipes.sampling.vllm.servers import Fleet, Server, ServerError, State
from recipes.sampling.vllm.wire import broadcast, digest, group_store, process_group

_SHARED_MEMORY = Path("/dev/shm")
_SLOTS = 2


class Way(ABC):
    """How buckets get from the trainer to servers.

    Attributes:
        everywhere: every rank holds each bucket and takes part, not rank 0 alone.
        overlaps: the next bucket may be gathered while servers read this one.
        room: gives the memory of buckets; None where any will do.
    """

    everywhere = False
    overlaps = True
    room: Room | None = None

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s

    def open(self, servers: Sequence[Server], fleet: Fleet) -> dict[Server, ServerError]:
        """Meets the servers; returns those that failed."""
        return _failed(servers, fleet.each(servers, lambda server: self._initialise(server, {})))

    @property
    @abstractmethod
    def name(self) -> str:
        """Of the setting."""

    @abstractmethod
    def send(self, bucket: Bucket, post: Callable[[dict[str, Any]], None], left_s: float) -> None:
        """Gets one bucket to the servers; `post` (rank 0) begins vLLM's update with what it adds to the request.

        Raises:
            ServerError: no server got it.
        """

    def close(self) -> None:  # noqa: B027  # most hold nothing
        """Gives up what it holds."""

    def _initialise(self, server: Server, place: dict[str, Any]) -> None:
        info = {"way": self.name, "timeout_s": self.timeout_s, **place}
        server.call("/init_weight_transfer_engine", self.timeout_s, init_info=info)


@dataclass(frozen=True)
class _Mapped:
    """A file in this process's memory."""

    path: Path
    memory: mmap.mmap

    def values(self, elements: int, dtype: torch.dtype) -> Tensor:
        """Its first ones."""
        return torch.frombuffer(self.memory, dtype=dtype, count=elements)


class FileWay(Way):
    """Two files by turns, mapped into both sides' memory; on a CPU the engine gathers into them."""

    name = "file"

    def __init__(self, folder: Path, timeout_s: float) -> None:
        super().__init__(timeout_s)
        self._parent = folder
        self._folder: Path | None = None
        self._mapped: list[_Mapped | None] = [None] * _SLOTS
        self._turn = 0
        if not platform.on_gpu():
            self.room = self._room

    def open(self, servers: Sequence[Server], fleet: Fleet) -> dict[Server, ServerError]:
        """See `Way.open`; what a run left that was killed here is cleared away."""
        if self._folder is None:
            mark = f"medatron-weights-{socket.gethostname()}-"
            for left in self._parent.glob(f"{mark}*"):
                if not Path(f"/proc/{left.name.removeprefix(mark).split('-')[0]}").exists():
                    shutil.rmtree(left, ignore_errors=True)
            try:
                self._folder = Path(tempfile.mkdtemp(prefix=f"{mark}{os.getpid()}-", dir=self._parent))
            except OSError as error:
                return dict.fromkeys(servers, self._unwritten(error))
        return super().open(servers, fleet)

    def send(self, bucket: Bucket, post: Callable[[dict[str, Any]], None], left_s: float) -> None:
        """See `Way.send`."""
        if (flat := bucket.flat) is None:
            return
        try:
            file = self._file(flat.nbytes)
            values = file.values(flat.numel(), flat.dtype)
            if values.data_ptr() != flat.data_ptr():
                values.copy_(flat)
            if self._parent != _SHARED_MEMORY:
                file.memory.flush()
        except OSError as error:
            raise self._unwritten(error) from error
        self._turn = (self._turn + 1) % _SLOTS
        post({"file": str(file.path)})

    def _room(self, elements: int, /, *, dtype: torch.dtype) -> Tensor:
        """In the file whose turn it is, which no server reads any more; `send` tells why there is none."""
        try:
            return self._file(elements * dtype.itemsize).values(elements, dtype)
        except OSError:
            return torch.empty(elements, dtype=dtype)

    def _unwritten(self, error: OSError) -> ServerError:
        return ServerError(
            f"{self._parent}: weights cannot be written there ({error.strerror}); make room for two buckets of "
            "rollout.vllm.bucket_mib, or name another folder that servers see as rollout.vllm.folder"
        )

    def _file(self, size: int) -> _Mapped:
        """The one whose turn it is, with room for so many bytes."""
        held = self._mapped[self._turn]
        if held is None or len(held.memory) < size:
            if self._folder is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            self._forget(self._turn)
            path = self._folder / f"{self._turn}-{size}.bin"
            with path.open("w+b") as file:
                # Also asks for the space: a full /dev/shm would end this process by a signal at the first write.
                os.posix_fallocate(file.fileno(), 0, size)
                held = _Mapped(path, mmap.mmap(file.fileno(), size))
            self._mapped[self._turn] = held
        return held

    def _forget(self, slot: int) -> None:
        if (held := self._mapped[slot]) is not None:
            held.path.unlink(missing_ok=True)
            self._mapped[slot] = None

    def close(self) -> None:
        """See `Way.close`."""
        for slot in range(_SLOTS):
            self._forget(slot)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


class GroupWay(Way):
    """A broadcast from rank 0, by gloo or NCCL."""

    def __init__(self, name: str, timeout_s: float) -> None:
        super().__init__(timeout_s)
        self._name = name
        self._group: Any = None
        self._number = 0

    @property
    def name(self) -> str:
        """See `Way.name`."""
        return self._name

    def open(self, servers: Sequence[Server], fleet: Fleet) -> dict[Server, ServerError]:
        """See `Way.open`; a new group each time, since who failed in the old one cannot be let back in."""
        self.close()
        if not servers:
            return {}
        self._number += 1
        size = 1 + sum(server.group_size for server in servers)
        here = all("127.0.0.1" in server.url or "localhost" in server.url for server in servers)
        host = "127.0.0.1" if here else socket.gethostname()
        store, port = group_store(host, 0, size, self._number, self.timeout_s, leads=True)
        firsts = [1 + sum(s.group_size for s in servers[:n]) for n in range(len(servers))]
        place = {"host": host, "port": port, "size": size, "number": self._number}
        first = dict(zip(servers, firsts, strict=True))
        with ThreadPoolExecutor(1) as pool:
            met = pool.submit(fleet.each, servers, lambda s: self._initialise(s, {**place, "first": first[s]}))
            failure: Exception | None = None
            try:
                self._group = process_group(self._name, store, 0, size, self.timeout_s)
            except RuntimeError as error:
                failure = error
            found = _failed(servers, met.result())
        if failure is not None:
            said = ServerError(f"the trainer could not meet the servers over {self._name}: {failure}")
            return found | {server: said for server in servers if server not in found}
        return found

    def send(self, bucket: Bucket, post: Callable[[dict[str, Any]], None], left_s: float) -> None:
        """See `Way.send`."""
        if bucket.flat is None or self._group is None:
            return
        post({})
        flat = bucket.flat if self._name == "nccl" else bucket.flat.cpu()
        try:
            broadcast(self._group, flat, left_s)
        except RuntimeError as error:
            self.close()
            raise ServerError(f"the broadcast over {self._name} failed: {str(error).splitlines()[0]}") from error

    def close(self) -> None:
        """See `Way.close`."""
        group, self._group = self._group, None
        if group is not None and hasattr(group, "abort"):
            with contextlib.suppress(RuntimeError):
                group.abort()


class IpcWay(Way):
    """CUDA memory of the ranks, opened by servers on the same GPUs."""

    name = "ipc"
    everywhere = True
    overlaps = False

    def send(self, bucket: Bucket, post: Callable[[dict[str, Any]], None], left_s: float) -> None:
        """See `Way.send`."""
        assert bucket.flat is not None
        torch.cuda.synchronize()
        handle = [
            {"b64": base64.b64encode(part).decode()} if isinstance(part, bytes) else part
            for part in bucket.flat.untyped_storage()._share_cuda_()
        ]
        own = {str(torch.cuda.get_device_properties(bucket.flat.device).uuid): handle}
        gathered: list[Any] | None = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
        dist.gather_object(own, gathered, 0)
        if gathered is not None:
            post({"handles": {uuid: part for each in gathered for uuid, part in each.items()}})


class Transfer:
    """Hands weights over; the way is the configuration's, or the one that fits.

    Attributes:
        way: how.
        timeout_s: for all weights, and less than ranks wait for one another.
        digests: of tensors of the last hand-over, by Hugging Face name; on rank 0.
    """

    def __init__(self, config: Config, engine: PolicyEngine) -> None:
        self._settings = config.rollout.vllm
        self._engine = engine
        self.timeout_s = min(self._settings.transfer_timeout_s, SHARE_OF_WAIT * 60 * config.parallel.timeout_minutes)
        self.way = _chosen_way(config, self.timeout_s)
        self.digests: dict[str, str] = {}

    def hand_over(self, fleet: Fleet | None, version: int) -> None:
        """Brings all stale servers of rank 0's fleet to the policy's weights as they are; collective.

        A server that fails is reported lost; nothing is raised for it.
        """
        deadline = time.monotonic() + self.timeout_s
        sending = _Sending(fleet, self.way, deadline, self._settings.sleep) if fleet is not None else None
        if sending is not None:
            sending.begin()
        self.digests = {}
        for bucket in self._engine.weights(self._settings.bucket_mib << 20, self.way.everywhere, self.way.room):
            if sending is not None:
                self.digests |= _digests(bucket)
            if (sending is not None and sending.anybody) or self.way.everywhere:
                _send(self.way, bucket, sending, deadline)
        if sending is not None:
            sending.end(version)

    def close(self) -> None:
        """Gives up files and groups."""
        self.way.close()


def _send(way: Way, bucket: Bucket, sending: _Sending | None, deadline: float) -> None:
    if sending is None:
        way.send(bucket, lambda _: None, 0.0)
    else:
        try:
            way.send(bucket, lambda extra: sending.post(bucket, extra), max(1.0, deadline - time.monotonic()))
        except ServerError as error:
            sending.fail_all(error)
    if not way.overlaps:
        if sending is not None:
            sending.settle()
        # The bucket's memory is the engine's again on every rank.
        dist.barrier()


class _Sending:
    """One hand-over on rank 0: which servers still take part, and what they are asked at the moment."""

    def __init__(self, fleet: Fleet, way: Way, deadline: float, sleep: bool) -> None:
        self._fleet, self._way, self._deadline, self._sleep = fleet, way, deadline, sleep
        self._servers = list(fleet.of(State.STALE))
        self._pool = ThreadPoolExecutor(max(1, len(self._servers)))
        self._pending: list[tuple[Server, Future[Any]]] = []

    @property
    def anybody(self) -> bool:
        """Whether a server still takes part."""
        return bool(self._servers)

    def begin(self) -> None:
        """Nothing is computed while weights change: what servers still do is for nobody."""
        if self._sleep:
            self._all(lambda server: server.call("/wake_up?tags=weights", self._left()))
        self._all(lambda server: server.call("/pause?mode=abort", self._left()))
        for server, error in self._way.open(self._servers, self._fleet).items():
            self._fail(server, error)
        self._all(lambda server: server.call("/start_weight_update", self._left()))

    def post(self, bucket: Bucket, extra: dict[str, Any]) -> None:
        """Begins the update of all servers by one bucket, once they have the one before."""
        assert bucket.flat is not None
        self.settle()
        info = {
            "names": [piece.name for piece in bucket.pieces],
            "shapes": [list(piece.shape) for piece in bucket.pieces],
            "starts": [piece.start for piece in bucket.pieces],
            "dtype": str(bucket.flat.dtype).removeprefix("torch."),
            "elements": bucket.flat.numel(),
            **extra,
        }
        self._pending = [
            (server, self._pool.submit(server.call, "/update_weights", self._left(), update_info=info))
            for server in self._servers
        ]

    def settle(self) -> None:
        """Waits for the updates that were begun."""
        pending, self._pending = self._pending, []
        for server, future in pending:
            try:
                future.result()
            except ServerError as error:
                self._fail(server, error)

    def end(self, version: int) -> None:
        """Closes the update, empties the cache of keys and values, and lets the servers compute again."""

        def close(server: Server) -> None:
            server.call("/finish_weight_update", self._left(), weight_version=str(version))
            if self._sleep:
                server.call("/wake_up?tags=kv_cache", self._left())
            emptied = server.call("/reset_prefix_cache?reset_running_requests=true", self._left())
            if not emptied.get("success"):
                raise ServerError(f"{server}: did not empty its prefix cache, which holds the old weights' keys")
            server.call("/resume", self._left())

        self.settle()
        self._all(close)
        for server in self._servers:
            server.version, server.failures = version, 0
            server.state = State.UNPROVEN
        self._pool.shutdown(wait=False)

    def fail_all(self, error: ServerError) -> None:
        """What all share has failed."""
        self.settle()
        for server in list(self._servers):
            self._fail(server, error)

    def _all(self, action: Callable[[Server], Any]) -> None:
        for server, result in zip(list(self._servers), self._fleet.each(self._servers, action), strict=True):
            if isinstance(result, ServerError):
                self._fail(server, result)

    def _fail(self, server: Server, error: ServerError) -> None:
        if server in self._servers:
            self._servers.remove(server)
            self._fleet.behind(server, f"not brought up to date: {error}")

    def _left(self) -> float:
        return max(1.0, self._deadline - time.monotonic())


def _failed(servers: Sequence[Server], results: Sequence[Any]) -> dict[Server, ServerError]:
    return {s: r for s, r in zip(servers, results, strict=True) if isinstance(r, ServerError)}


def _digests(bucket: Bucket) -> dict[str, str]:
    """Of what servers can tell the digests of as well."""
    found = {name: digest(name, tensor) for name, tensor in bucket.tensors()}
    return {name: value for name, value in found.items() if value is not None}


def _chosen_way(config: Config, timeout_s: float) -> Way:
    settings = config.rollout.vllm
    name = settings.transfer
    if name == "auto":
        name = "file" if not platform.on_gpu() else "ipc" if settings.sleep else "nccl"
    if name == "file":
        return FileWay(Path(settings.folder) if settings.folder else _SHARED_MEMORY, timeout_s)
    return IpcWay(timeout_s) if name == "ipc" else GroupWay(name, timeout_s)
