"""Keys and values of one sampling batch: a prompt's once for all of its responses, and each response's own.

Decoding reads the whole cache for every token. What a group's responses share of it, their prompt, is held and read
once a group: one product with all of its queries, where a copy for each response would be as many small ones over as
many bytes. Imports no megatron-core. Left out: pages; a beginning that prompts share is held for each of them.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from recipes.engines.core.prompt_rows import PromptRow
from recipes.engines.core.rotary import Rotation

Store = dict[int, Tensor]


@dataclasses.dataclass(frozen=True)
class Copies:
    """Which rows of a batch respond to which prompt.

    Attributes:
        prompts: [rows], the prompt of each, ascending from 0 without a gap.
        slots: [rows], which of its prompt's rows each is, from 0.
        table: [prompts, slots], the row in each; any row where a prompt has fewer than another.
    """

    prompts: Tensor
    slots: Tensor
    table: Tensor

    @classmethod
    def of(cls, prompts: Tensor) -> Copies:
        """Of each row's prompt, in ascending order, without a gap."""
        rows, counts = torch.arange(len(prompts), device=prompts.device), torch.bincount(prompts)
        slots = rows - (counts.cumsum(0) - counts)[prompts]
        table = rows.new_zeros(len(counts), int(counts.max()))
        table[prompts, slots] = rows
        return cls(prompts, slots, table)

    @property
    def _whole(self) -> bool:
        return self.table.numel() == len(self.prompts)

    def by_prompt(self, x: Tensor) -> Tensor:
        """x [rows, groups, heads, any] as [prompts, groups, slots * heads, any]."""
        x = x.unflatten(0, self.table.shape) if self._whole else x[self.table]
        return x.transpose(1, 2).flatten(2, 3)

    def by_row(self, x: Tensor) -> Tensor:
        """The reverse: x [prompts, groups, slots * heads, any] as [rows, groups, heads, any]."""
        x = x.unflatten(2, (self.table.shape[1], -1)).transpose(1, 2)
        return x.flatten(0, 1) if self._whole else x[self.prompts, self.slots]


@dataclasses.dataclass
class KVCache:
    """The cache of a batch, by layer number.

    Attributes:
        prompt_keys: [prompts, key-value heads, head dim, tokens of the longest prompt], as products want them.
        prompt_values: [prompts, key-value heads, tokens of the longest prompt, head dim].
        keys, values: of responses, [rows, key-value heads, capacity, head dim]; none while prompts are computed.
        bias: [prompts, 1, 1, tokens of the longest prompt], 0 where rows may attend and -inf at padding.
        copies: which rows respond to which prompt.
        prompts: number of all prompts.
        row: prompts that a pass computes.
        length: positions of responses filled so far, the same for every row.
        rotation: of the positions that a pass computes.
    """

    prompt_keys: Store = dataclasses.field(default_factory=dict)
    prompt_values: Store = dataclasses.field(default_factory=dict)
    keys: Store = dataclasses.field(default_factory=dict)
    values: Store = dataclasses.field(default_factory=dict)
    prompts: int = 0
    row: PromptRow | None = None
    bias: Tensor | None = None
    copies: Copies | None = None
    length: int = 0
    rotation: Rotation = dataclasses.field(default_factory=Rotation)

    def fill(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Takes what a layer holds of the prompts in `row`, [tokens, key-value heads, head dim]."""
        assert self.row is not None
        places, (_, heads, width) = self.row.places, key.shape
        if layer not in self.prompt_keys:
            self.prompt_keys[layer] = key.new_empty(self.prompts, heads, width, places.shape[1])
            self.prompt_values[layer] = value.new_empty(self.prompts, heads, places.shape[1], width)
        self.prompt_keys[layer][self.row.numbers] = key[places].permute(0, 2, 3, 1)
        self.prompt_values[layer][self.row.numbers] = value[places].transpose(1, 2)

    def respond(self, copies: int, capacity: int, bias: Tensor) -> None:
        """Makes room for `copies` responses of `capacity` tokens to each prompt, whose keys and values are there."""
        for layer, held in self.prompt_values.items():
            shape = len(held) * copies, held.shape[1], capacity, held.shape[3]
            self.keys[layer], self.values[layer] = held.new_empty(shape), held.new_empty(shape)
        self.bias = bias
        self.copies = Copies.of(torch.arange(len(bias), device=bias.device).repeat_interleave(copies))

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Writes [rows, key-value heads, head dim] behind what a layer holds of responses; all of that, with it."""
        keys, values = self.keys[layer], self.values[layer]
        keys[:, :, self.length], values[:, :, self.length] = key, value
        return keys[:, :, : self.length + 1], values[:, :, : self.length + 1]

    def keep(self, rows: Tensor) -> None:
        """Drops all rows but the given ones, which ascend, and prompts that lose all of theirs."""
        assert self.copies is not None
        assert self.bias is not None
        left, prompts = self.copies.prompts[rows].unique_consecutive(return_inverse=True)
        self.copies = Copies.of(prompts)
        for store in (self.keys, self.values):
            for layer, old in store.items():
                new = old.new_empty(len(rows), *old.shape[1:])
                new[:, :, : self.length] = old[:, :, : self.length][rows]
                store[layer] = new
        if len(left) < len(self.bias):
            self.bias = self.bias[left]
            for store in (self.prompt_keys, self.prompt_values):
                for layer, old in store.items():
                    store[layer] = old[left]
