"""The policy's weights under their Hugging Face names, streamed out of tensor, pipeline and data parallel shards.

Who holds which part of which tensor is agreed on once, from the keys and offsets that megatron-core gives a distributed
checkpoint: the same for local and Transformer Engine layers, and for both of its versions here. Values are read from
the parameters whenever they are asked for. A rank sends its parts of a bucket as one message; every data parallel
replica serves itself. Left out: mixtures of experts, which no engine trains, and weights that are stored in FP8, which
no engine makes.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor, apply_factories
from torch import Tensor

from conversion.families import Entry, Family, MegatronArchitecture, Rule
from conversion.merge import split
from recipes.engines.base import Bucket, EngineError, Piece, Room

Read = Callable[[], Tensor]


@dataclass(frozen=True, order=True)
class _Part:
    """What a rank holds of a Hugging Face tensor: its first index and its length along every axis.

    `tensor` is the tensor's number in the order of the export.
    """

    tensor: int
    start: tuple[int, ...]
    shape: tuple[int, ...]

    def of(self, whole: Tensor) -> Tensor:
        """The part as a view of its tensor."""
        for axis, (first, length) in enumerate(zip(self.start, self.shape, strict=True)):
            whole = whole.narrow(axis, first, length)
        return whole


class Export:
    """The weights of one module; all ranks of its process group make it together, and call it together.

    Attributes:
        names, shapes: of the Hugging Face tensors, in order.
    """

    def __init__(self, module: Any, family: Family, architecture: MegatronArchitecture, where: torch.device) -> None:
        """Agrees on who sends what.

        Args:
            module: this rank's stage and shard of a GPTModel, its parameters where they will stay.
            family, architecture: of the checkpoint that it was made from.
            where: the device of the buckets.

        Raises:
            EngineError: on every rank, naming parameter or tensor and the ranks.
        """
        self._device = where
        self._dtype: torch.dtype = module.config.params_dtype
        self._group = parallel_state.get_model_parallel_group()
        self._ranks: list[int] = dist.get_process_group_ranks(self._group)
        self._rank = dist.get_rank(self._group)
        entries = list(family.entries(architecture))
        self.names = [name for entry in entries for name in entry.hf_names]
        self.shapes = [shape for entry in entries for shape in entry.hf_shapes]
        numbers = {name: number for number, name in enumerate(self.names)}
        # Tensors that stay together: those of a layer.
        self._units = [
            [numbers[name] for entry in unit for name in entry.hf_names]
            for _, unit in groupby(entries, key=lambda entry: entry.index[:1] or entry.hf_names)
        ]
        self._own: dict[_Part, Read] = {}
        refusal = None
        try:
            for shard in shards(module, entries):
                for name, start, shape, read in _parts(shard, architecture):
                    self._own[_Part(numbers[name], start, shape)] = read
        except EngineError as error:
            refusal = str(error)
        gathered: list[Any] = [None] * len(self._ranks)
        dist.all_gather_object(gathered, (list(self._own), refusal), group=self._group)
        if refusals := [f"rank {r}: {said}" for r, (_, said) in zip(self._ranks, gathered, strict=True) if said]:
            raise EngineError("weights cannot be handed over: " + "; ".join(refusals))
        self._holders = self._agree([parts for parts, _ in gathered])

    def _agree(self, held: Sequence[Sequence[_Part]]) -> list[list[tuple[int, _Part]]]:
        """Of every tensor, who sends which part of it: the first that holds it, as several may."""
        senders: dict[_Part, int] = {}
        for rank, parts in enumerate(held):
            for part in parts:
                senders.setdefault(part, rank)
        holders: list[list[tuple[int, _Part]]] = [[] for _ in self.names]
        for part, rank in sorted(senders.items()):
            holders[part.tensor].append((rank, part))
        for name, shape, found in zip(self.names, self.shapes, holders, strict=True):
            count = sum(math.prod(part.shape) for _, part in found)
            if count != math.prod(shape):
                raise EngineError(
                    f"weights cannot be handed over: {name}: ranks {self._ranks} hold {count} of its "
                    f"{math.prod(shape)} values; the model is not that of its checkpoint's hf/config.json"
                )
        return holders

    def buckets(self, limit: int, *, everywhere: bool, room: Room | None = None) -> Iterator[Bucket]:
        """The weights as they are; see `PolicyEngine.weights`.

        At most two buckets are in memory, beside those that the caller keeps.
        """
        room = room or partial(torch.empty, device=self._device)
        for numbers in self._plan(limit):
            pieces, start = [], 0
            for number in numbers:
                pieces.append(Piece(self.names[number], self.shapes[number], start))
                start += math.prod(self.shapes[number])
            holds = everywhere or dist.get_rank() == 0
            bucket = Bucket(tuple(pieces), room(start, dtype=self._dtype) if holds else None)
            if everywhere or 0 in self._ranks:
                self._fill(bucket, numbers, everywhere)
            yield bucket
            # Else it would live until the next one is full.
            del bucket

    def _plan(self, limit: int) -> Iterator[list[int]]:
        """The numbers of each bucket's tensors."""
        bucket: list[int] = []
        size = 0
        for unit in self._units:
            more = sum(math.prod(self.shapes[number]) for number in unit) * self._dtype.itemsize
            if bucket and size + more > limit:
                yield bucket
                bucket, size = [], 0
            bucket, size = bucket + unit, size + more
        yield bucket

    def _fill(self, bucket: Bucket, numbers: Sequence[int], everywhere: bool) -> None:
        """Collects a bucket's parts, the message of one rank after the other's."""
        flat = bucket.flat
        wholes = dict(zip(numbers, (tensor for _, tensor in bucket.tensors()), strict=False))
        held = sorted(pair for number in numbers for pair in self._holders[number])
        for sender, pairs in groupby(held, key=lambda pair: pair[0]):
            parts, mine = [part for _, part in pairs], sender == self._rank
            if mine and flat is not None and (not everywhere or len(self._ranks) == 1):
                for part in parts:
                    part.of(wholes[part.tensor]).copy_(self._own[part]())
                continue
            if not mine and flat is None:
                continue
            # Whole tensors lie in the message as in the bucket.
            same = [(part.tensor, part.shape) for part in parts] == [(n, self.shapes[n]) for n in numbers]
            sizes = [math.prod(part.shape) for part in parts]
            if same and flat is not None:
                message = flat
            else:
                message = torch.empty(sum(sizes), dtype=self._dtype, device=self._device)
            values = [v.view(part.shape) for v, part in zip(message.split(sizes), parts, strict=True)]
            if mine:
                for value, part in zip(values, parts, strict=True):
                    value.copy_(self._own[part]())
            self._send(message, sender, everywhere)
            if flat is not None and not same:
                for value, part in zip(values, parts, strict=True):
                    part.of(wholes[part.tensor]).copy_(value)

    def _send(self, message: Tensor, sender: int, everywhere: bool) -> None:
        """From the sender, by its number in the group, to all of it or to rank 0."""
        if everywhere:
            dist.broadcast(message, self._ranks[sender], group=self._group)
            return
        act, peer = (dist.isend, 0) if sender == self._rank else (dist.irecv, self._ranks[sender])
        # As a batch: NCCL would make a communicator of its own for every pair.
        for work in dist.batch_isend_irecv([dist.P2POp(act, message, peer, self._group)]):
            work.wait()


@dataclass(frozen=True)
class Shard:
    """What a rank holds of one entry of a weight map.

    Attributes:
        entry: which.
        start, shape: first index in the entry's Megatron tensor, and lengths; the vocabulary's padding counts.
        live: gives the shard as a view of its parameter, at any later time.
    """

    entry: Entry
    start: tuple[int, ...]
    shape: tuple[int, ...]
    live: Read


def shards(module: Any, entries: Sequence[Entry]) -> list[Shard]:
    """All shards of this rank.

    Raises:
        EngineError: naming a parameter that is not of the map or of another kind than all others.
    """
    by_place = {(key, entry.index): entry for entry in entries for key in entry.row.keys}
    sharded = module.sharded_state_dict(prefix="")
    apply_factories(sharded)
    parameters = _Parameters(module)
    found = []
    for tensor in (value for value in nested_values(sharded) if isinstance(value, ShardedTensor)):
        depth = tensor.prepend_axis_num
        index, start = tuple(tensor.global_offset[:depth]), tuple(tensor.global_offset[depth:])
        entry = by_place.get((tensor.key, index))
        if entry is None:
            raise EngineError(f"{tensor.key}{list(index) or ''} has no place in the family's weight map")
        if not entry.vocabulary and tuple(tensor.global_shape) != entry.global_shape:
            raise EngineError(f"{tensor.key} has shape {tuple(tensor.global_shape)}, expected {entry.global_shape}")
        found.append(Shard(entry, start, tuple(tensor.local_shape), parameters.read(tensor)))
    return found


class _Parameters:
    """The parameters of a module, found by where their values lie."""

    def __init__(self, module: Any) -> None:
        self._sorted = sorted(module.parameters(), key=Tensor.data_ptr)
        self._starts = [parameter.data_ptr() for parameter in self._sorted]
        dtype = module.config.params_dtype
        for name, parameter in module.named_parameters():
            # Quantised ones are of a class of their own and pretend to the precision.
            if type(parameter) is not torch.nn.Parameter or parameter.dtype is not dtype:
                raise EngineError(f"{name} is {type(parameter).__name__} of {parameter.dtype}, expected {dtype}")

    def read(self, tensor: ShardedTensor) -> Read:
        """How a tensor, all of a parameter or some of its rows, is read from it at any later time."""
        number = bisect_right(self._starts, tensor.data.data_ptr()) - 1
        parameter = self._sorted[number] if number >= 0 else None
        first = (tensor.data.data_ptr() - self._starts[number]) // tensor.data.element_size()
        count = tensor.data.numel()
        if parameter is None or first + count > parameter.numel() or not tensor.data.is_contiguous():
            raise EngineError(f"{tensor.key} is not, or not in one run, among the parameters")
        shape = tuple(tensor.local_shape)
        return lambda: parameter.detach().view(-1)[first : first + count].view(shape)


def _parts(
    shard: Shard, architecture: MegatronArchitecture
) -> Iterator[tuple[str, tuple[int, ...], tuple[int, ...], Read]]:
    """The Hugging Face tensors that a shard is part of: name, first index, lengths and how it is read."""
    entry, (start, *others), (length, *widths) = shard.entry, shard.start, shard.shape
    if entry.row.rule is Rule.QKV:
        groups = architecture.num_query_groups
        rows = entry.megatron_shape[0] // groups
        if start % rows or length % rows:
            raise EngineError(f"{entry.row.megatron}: {length} rows from {start} divide a query group of {rows}")
        for number, (name, whole) in enumerate(zip(entry.hf_names, entry.hf_shapes, strict=True)):
            each = whole[0] // groups
            read = partial(_split, shard.live, number, architecture)
            yield name, (start // rows * each, *others), (length // rows * each, *widths), read
        return
    first = 0
    for name, whole in zip(entry.hf_names, entry.hf_shapes, strict=True):
        # The vocabulary's padding lies beyond.
        low, high = max(start, first), min(start + length, first + whole[0])
        if low < high:
            read = partial(_rows, shard.live, low - start, high - start)
            yield name, (low - first, *others), (high - low, *widths), read
        first += whole[0]


def _split(live: Read, number: int, architecture: MegatronArchitecture) -> Tensor:
    return split(Rule.QKV, live(), architecture)[number]


def _rows(live: Read, low: int, high: int) -> Tensor:
    return live()[low:high]
