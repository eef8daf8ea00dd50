"""Checkpoints of a run: megatron-core's distributed checkpoints for weights and optimizer, and the loop's own state.

A folder holds `model/`, `hf/` and `manifest.json` as a converted checkpoint does, so that it converts back with the
same command; beside them `optimizer/` and `state.json`. It is written under another name and published by one rename.
"""

from __future__ import annotations

import contextlib
import json
import queue
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.core import CheckpointingConfig, save_config
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncRequest
from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync
from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy
from torch.distributed.checkpoint.storage import WriteResult

from conversion import unpickling
from conversion.checkpoint import (
    LAYOUTS,
    Checkpoint,
    CheckpointError,
    open_checkpoint,
    write_manifest,
)
from conversion.digests import file_digest
from conversion.publishing import partial_path, publish
from recipes.engines.base import NonFiniteError
from recipes.engines.core.finite import check_weights
from recipes.engines.core.writer import WriterProcess
from recipes.runtime import platform
from recipes.runtime.agreement import any_rank

STATE_FILE = "state.json"
_OPTIMIZER = {"distrib_optim_sharding_type": "fully_reshardable"}
_FORMAT = ("torch_dist", 1)
# Whether this is megatron-core 0.16's writer, or 0.10's, which copies while it plans and hands nothing through.
_PRELOADS = hasattr(FileSystemWriterAsync, "preload_tensors")
# How often ranks that wait for their writers tell each other how they fare, in seconds.
_EXCHANGE_S = 0.2
# Our writer answers by itself. megatron-core would start a manager process for its own, which lives on when a rank is
# killed.
filesystem_async._results_queue = queue.Queue()


def load_weights(module: Any, checkpoint: Checkpoint, without: Sequence[str] = ()) -> None:
    """Fills the module from a checkpoint written at any parallel layout.

    Args:
        module: of this rank.
        checkpoint: whose weights.
        without: keys that the module has and the checkpoint has not, or holds something else under; left as they are.

    Raises:
        CheckpointError: when it does not hold this model's tensors, or holds values that are not finite.
    """
    folder, prefix = checkpoint.model_dir, LAYOUTS[checkpoint.manifest.layout].prefix
    load_model(module, folder, prefix, without)


def load_model(module: Any, folder: Path, prefix: str = "", without: Sequence[str] = ()) -> None:
    """Fills the module from a folder of weights, whose keys begin with `prefix`; see `load_weights`."""
    sharded = module.sharded_state_dict(prefix=prefix)
    for key in without:
        sharded.pop(prefix + key, None)
    try:
        loaded = unpickling.load(sharded, folder)
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"{folder}: cannot be loaded into this model ({type(error).__name__}: {error}); "
            "convert the checkpoint again with `python -m conversion.hf_to_megatron`"
        ) from error
    module.load_state_dict({key.removeprefix(prefix): value for key, value in loaded.items()}, strict=False)
    try:
        check_weights(module, "in this checkpoint")
    except NonFiniteError as error:
        raise CheckpointError(f"{folder}: {error}; take an earlier checkpoint, or convert the source again") from error


def sharded_optimizer(module: Any, optimizer: Any, *, is_loading: bool = False) -> dict[str, Any]:
    """The optimizer's state as a distributed checkpoint holds it; gathered over data parallel ranks for a save."""
    model_state = module.sharded_state_dict(prefix="")
    return {"optimizer": optimizer.sharded_state_dict(model_state, is_loading=is_loading, metadata=_OPTIMIZER)}


def load_optimizer(module: Any, optimizer: Any, folder: Path) -> None:
    """Restores the optimizer from a folder of its state.

    Raises:
        CheckpointError: it is damaged, or another optimizer's.
    """
    wanted = sharded_optimizer(module, optimizer, is_loading=True)
    optimizer.load_state_dict(unpickling.load(wanted, folder)["optimizer"])


@dataclass
class _Save:
    """A checkpoint on its way: which folder, this rank's part of what is written, and who writes it."""

    folder: Path
    partial: Path
    source: Checkpoint
    parts: dict[str, _Part]
    writer: WriterProcess


class Saves:
    """The checkpoints of a run, each written by a process of every rank while training goes on, one at a time.

    All methods but `close` are collective.

    Attributes:
        deadline_s: how long `finish` waits for the writers, in seconds.
        layout: of the checkpoint folder, a key of `conversion.checkpoint.LAYOUTS`.
    """

    layout = "megatron"

    def __init__(self, deadline_s: float) -> None:
        self.deadline_s = deadline_s
        self._save: _Save | None = None
        # The folder being filled, from before it is there.
        self._partial: Path | None = None

    def start(
        self,
        module: Any,
        optimizer: Any,
        source: Checkpoint,
        folder: Path,
        loop_state: dict[str, Any],
        beside: Mapping[str, Callable[[], dict[str, Any]]],
    ) -> None:
        """Takes a snapshot and begins to write it; see the module's docstring for its files.

        What lies on a GPU is copied to host memory here; what lies in host memory is the writer's by its fork. A save
        still under way is waited for and published first.

        Args:
            module, optimizer: of this rank.
            source: the opened checkpoint that the run began with; its Hugging Face files travel along.
            folder: where the checkpoint appears once it is whole.
            loop_state: JSON values.
            beside: what further folders hold, by their names; each is called when its turn has come.

        Raises:
            CheckpointError: the earlier save failed, or this one cannot begin; on every rank.
        """
        self.finish(wait=True)
        try:
            self._begin(module, optimizer, source, folder, json.dumps(loop_state, indent=1) + "\n", beside)
        except BaseException:
            self.close()
            raise

    def _begin(
        self,
        module: Any,
        optimizer: Any,
        source: Checkpoint,
        folder: Path,
        state: str,
        beside: Mapping[str, Callable[[], dict[str, Any]]],
    ) -> None:
        name = [str(partial_path(folder))]
        dist.broadcast_object_list(name, 0)
        self._partial = partial = Path(name[0])
        place = LAYOUTS[self.layout]
        stored: dict[str, Callable[[], dict[str, Any]]] = {
            place.weights: lambda: module.sharded_state_dict(prefix=place.prefix),
            "optimizer": lambda: sharded_optimizer(module, optimizer),
            **beside,
        }
        _together(
            folder, lambda: self._prepare(partial, folder, source, state, stored) if dist.get_rank() == 0 else None
        )
        parts = {name: _plan(make(), partial / name) for name, make in stored.items()}

        def begin() -> None:
            buckets = {name: part.to_host() for name, part in parts.items()}
            # Of the optimizer nobody will ask for digests (`conversion.digests`).
            writer = WriterProcess(
                lambda: {
                    name: _write(parts[name].writer, found, digest=name == place.weights)
                    for name, found in buckets.items()
                }
            )
            self._save = _Save(folder, partial, source, parts, writer)

        _together(folder, begin)
        for part in parts.values():
            part.forget()

    def finish(self, wait: bool, before: Callable[[], None] = lambda: None) -> Path | None:
        """Publishes the checkpoint that all ranks have written; returns its folder, or None where there was none.

        Args:
            wait: for the writers, at most `deadline_s`; otherwise a save that is still under way is left to go on.
            before: called on rank 0 right before it is published.

        Raises:
            CheckpointError: a writer failed, died or missed the deadline, or publishing failed; on every rank, with
                the folder, the rank and the cause. Nothing is published, and what was written is deleted.
        """
        if self._save is None:
            return None
        save, end = self._save, time.monotonic() + self.deadline_s
        while True:
            done = save.writer.done()
            failure = save.writer.failure() if done else None
            if wait and not done and time.monotonic() >= end:
                failure = (
                    f"its writer, process {save.writer.pid}, was not done {self.deadline_s:g} s later "
                    f"({save.writer.standing()})"
                )
            running, failed = any_rank(not done, failure is not None)
            if failed:
                self._give_up(save, failure)
            if not running:
                break
            if not wait:
                return None
            save.writer.wait(_EXCHANGE_S)
        self._publish(save, before)
        return save.folder

    def _prepare(self, partial: Path, folder: Path, source: Checkpoint, loop_state: str, parts: Iterable[str]) -> None:
        """Makes the folder that becomes `folder`, with all that is not sharded and room for the parts; on rank 0."""
        shutil.rmtree(partial, ignore_errors=True)
        for part in parts:
            (partial / part).mkdir(parents=True)
        shutil.copytree(source.hf_dir, partial / "hf")
        (partial / STATE_FILE).write_text(loop_state)

    def close(self) -> None:
        """Gives up a save that `finish` has not published; each rank for itself."""
        save, partial, self._save, self._partial = self._save, self._partial, None, None
        if save is not None:
            save.writer.stop()
        if partial is not None and dist.get_rank() == 0:
            _discard(partial)

    def _give_up(self, save: _Save, failure: str | None) -> NoReturn:
        """Stops the writers of all ranks, deletes what they wrote and raises."""
        self._save = None
        save.writer.stop()
        try:
            _raise_together(save.folder, failure)
        finally:
            if dist.get_rank() == 0:
                _discard(save.partial)

    def _publish(self, save: _Save, before: Callable[[], None]) -> None:
        written: list[Any] | None = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
        dist.gather_object(save.writer.result(), written, 0)

        def seal() -> None:
            if written is None:
                return
            try:
                digests: dict[str, str] = {}
                for name, part in save.parts.items():
                    part.writer.finish(part.metadata, [list(chain(*results[name][0])) for results in written])
                    save_config(CheckpointingConfig(*_FORMAT), str(save.partial / name))
                    digests |= {f"{name}/{file}": d for results in written for file, d in results[name][1].items()}
                write_manifest(save.partial, source=save.source.manifest.source, layout=self.layout, digests=digests)
                before()
                publish(save.partial, save.folder, force=True)
            except BaseException:
                shutil.rmtree(save.partial, ignore_errors=True)
                raise

        self._save = None
        _together(save.folder, seal)
        self._partial = None


class _Part(TorchDistSaveShardedStrategy):
    """megatron-core's plan of one distributed checkpoint, kept for a writer of ours.

    megatron-core's own writer forks twice and waits on a queue for its grandchildren: one that is killed is waited for
    for ever. Here a plan ends in what is to be written, and `Saves` does the rest.
    """

    def __init__(self) -> None:
        super().__init__(*_FORMAT)
        self.writer: Any = None
        self.metadata: Any = None

    def _get_save_and_finalize_callbacks(self, writer: Any, save_state_dict_ret: Any) -> AsyncRequest:
        self.writer, self.metadata = writer, save_state_dict_ret[1]
        return AsyncRequest(None, (), [])

    def to_host(self) -> list[Any]:
        """What this rank writes, with its tensors in host memory; those that lie there already are not copied.

        Raises:
            RuntimeError: a tensor is not there; the writer, a fork, could not read it.
        """
        if _PRELOADS:
            # Not pinned: pages that the driver holds are no part of what a fork can rely on.
            buckets = FileSystemWriterAsync.preload_tensors(self.writer.write_buckets, non_blocking=False)
        else:
            # Begun when the plan was made.
            if platform.on_gpu():
                torch.cuda.synchronize()
            buckets = self.writer.write_buckets or []
        for file, _, (_, tensors) in buckets:
            for item, tensor in tensors:
                if tensor.device.type != "cpu":
                    raise RuntimeError(
                        f"{file}: {item.index.fqn} is on {tensor.device}, and a fork reads the host's alone"
                    )
        return buckets

    def forget(self) -> None:
        """Lets go of the tensors, which are the writer's now."""
        self.writer.write_buckets = None


def _plan(sharded: dict[str, Any], folder: Path) -> _Part:
    """Agrees with the other ranks on who writes what; rank 0 writes what is not sharded."""
    part = _Part()
    dist_checkpointing.save(sharded, str(folder), sharded_strategy=part, async_sharded_save=True)
    return part


def _write(writer: Any, buckets: list[Any], *, digest: bool) -> tuple[list[list[WriteResult]], dict[str, str]]:
    """Writes each bucket to its file, down to the disk; runs in the writer process.

    Returns:
        what each bucket's items became, and with `digest` the SHA-256 of each file by its name.
    """
    transforms: tuple[Any, ...] = ([writer.transforms],) if _PRELOADS else ()
    found, digests = [], {}
    for number, bucket in enumerate(buckets):
        results: queue.Queue[Any] = queue.Queue()
        pending: queue.Queue[int] = queue.Queue()
        pending.put(number)
        FileSystemWriterAsync.write_preloaded_data(*transforms, number, bucket, results, pending, use_fsync=True)
        _, outcome = results.get_nowait()
        if isinstance(outcome, Exception):
            raise outcome
        found.append(outcome)
        if digest:
            file = Path(bucket[0])
            digests[file.name] = file_digest(file)
    return found, digests


def _discard(partial: Path) -> None:
    """Deletes what was written of a save, as far as can be, also where other ranks' writers are still at it."""
    # Under another name no writer finds it to put further files in.
    gone = partial.with_name(f"{partial.name}.gone")
    with contextlib.suppress(OSError):
        partial.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def _together(folder: Path, action: Callable[[], None]) -> None:
    """Runs `action` on every rank; where it fails on one, every rank raises CheckpointError."""
    failure, cause = None, None
    try:
        action()
    except Exception as error:
        # A copied folder's error lists every file of it; the first says what is wrong.
        said = error.args[0][0][-1] if isinstance(error, shutil.Error) else error
        failure, cause = f"{type(error).__name__}: {said}", error
    if any_rank(failure is not None)[0]:
        _raise_together(folder, failure, cause)


def _raise_together(folder: Path, failure: str | None, cause: Exception | None = None) -> NoReturn:
    """Raises on every rank what failed on any, once all ranks are here."""
    failures: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(failures, failure)
    said = "; ".join(f"rank {rank}: {text}" for rank, text in enumerate(failures) if text is not None)
    raise CheckpointError(
        f"{folder}: not saved; {said}. Look after disk and memory there; the checkpoints saved before are whole, "
        "resume from the last of them"
    ) from cause


def load_checkpoint(module: Any, optimizer: Any, folder: Path) -> dict[str, Any]:
    """Restores weights and optimizer on all ranks and returns the loop's state.

    Raises:
        CheckpointError: when the checkpoint is damaged or is a converted one without training state.
    """
    checkpoint = open_checkpoint(folder)
    if not (folder / STATE_FILE).is_file():
        raise CheckpointError(
            f"{folder / STATE_FILE}: missing; this is no training checkpoint, start a run from it instead"
        )
    load_weights(module, checkpoint)
    load_optimizer(module, optimizer, folder / "optimizer")
    return json.loads((folder / STATE_FILE).read_text())
