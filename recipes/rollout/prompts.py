"""Tokenised prompts, and the order in which training draws them.

The order is a function of seed and draws so far, so a resumed run goes on with the very prompts that would have come
next. Left out: packing prompts of like length together.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recipes.data.example import Example
from recipes.data.prompts import messages


class DataError(ValueError):
    """Data that cannot be trained on; the message gives counts and the setting to change."""


@dataclass(frozen=True)
class Prompt:
    """A question ready for the model: `ids` end where the assistant's turn begins."""

    example: Example
    text: str
    ids: tuple[int, ...]


def make_prompts(
    examples: Sequence[Example], tokenizer: Any, *, style: str, length_target: int | None, max_tokens: int
) -> tuple[list[Prompt], int]:
    """Applies the chat template and tokenises; nothing is ever cut.

    Args:
        examples: the questions.
        tokenizer: of the checkpoint, with a chat template.
        style: see `recipes.data.prompts`.
        length_target: told to the model where the style does.
        max_tokens: prompts longer than this are left out.

    Returns:
        the prompts that fit, in order, and how many were left out.

    Raises:
        DataError: when there is none or none fits, or the tokenizer has no chat template.
    """
    if not examples:
        raise DataError("no data files are named; give them as data.train=[FILE,...], or data.test to evaluate")
    if not tokenizer.chat_template:
        raise DataError("the checkpoint's tokenizer has no chat template; add one to its tokenizer_config.json")
    texts = [
        tokenizer.apply_chat_template(messages(e, style, length_target), tokenize=False, add_generation_prompt=True)
        for e in examples
    ]
    encoded = tokenizer(texts, add_special_tokens=False).input_ids
    prompts = [
        Prompt(example, text, tuple(ids))
        for example, text, ids in zip(examples, texts, encoded, strict=True)
        if len(ids) <= max_tokens
    ]
    if not prompts:
        shortest = min(len(ids) for ids in encoded)
        raise DataError(
            f"none of the {len(encoded)} prompts fits into {max_tokens} tokens (the shortest has {shortest}); raise "
            "model.max_length or lower rollout.max_new_tokens"
        )
    return prompts, len(encoded) - len(prompts)


_FLOOR = 0.2
_DECAY = 0.4


class PromptOrder:
    """Draws prompts for the steps of a run: each kind of task in its own shuffled order, epoch after epoch.

    With `adaptive`, a prompt whose skill lately gave groups of equal rewards is passed over more often, down to one
    chance in five: such groups teach nothing (as DAPO's dynamic sampling, but before sampling instead of after). Rows
    with the same `meta.skill` need the same knowledge, whatever kind of task asks for it, and share what is observed.

    Args:
        prompts: to draw from.
        mix: weight of each kind of task; empty draws all rows alike.
        adaptive: see above.
        seed: of all orders.
    """

    def __init__(self, prompts: Sequence[Prompt], *, mix: Mapping[str, float], adaptive: bool, seed: int) -> None:
        self._pools: dict[str, list[Prompt]] = {}
        for prompt in prompts:
            self._pools.setdefault(prompt.example.group if mix else "all", []).append(prompt)
        absent = [group for group, weight in mix.items() if weight > 0 and group not in self._pools]
        if absent:
            raise DataError(f"data.mix asks for {', '.join(absent)}, of which the training files hold no usable row")
        self._weights = {g: w for g, w in mix.items() if w > 0} or {"all": 1.0}
        self._adaptive = adaptive
        self._seed = seed
        self._cursor = dict.fromkeys(self._weights, 0)
        self._owed = dict.fromkeys(self._weights, 0.0)
        self._interest: dict[str, float] = {}
        self._orders: dict[tuple[str, int], list[int]] = {}

    def next(self, count: int) -> list[Prompt]:
        """The prompts of the next step, kinds of task in proportion to their weights."""
        total = sum(self._weights.values())
        for group, weight in self._weights.items():
            self._owed[group] += count * weight / total
        chosen: list[Prompt] = []
        for _ in range(count):
            group = max(self._owed, key=lambda g: self._owed[g])
            self._owed[group] -= 1
            chosen.append(self._draw(group))
        return chosen

    def _draw(self, group: str) -> Prompt:
        pool = self._pools[group]
        while True:
            position = self._cursor[group]
            self._cursor[group] += 1
            epoch, place = divmod(position, len(pool))
            prompt = pool[self._order(group, epoch)[place]]
            if not self._adaptive:
                return prompt
            chance = max(_FLOOR, self._interest.get(_skill(prompt), 1.0))
            if random.Random(f"{self._seed}/{group}/{position}").random() < chance:
                return prompt

    def _order(self, group: str, epoch: int) -> list[int]:
        key = (group, epoch)
        if key not in self._orders:
            order = list(range(len(self._pools[group])))
            random.Random(f"{self._seed}/{group}/epoch {epoch}").shuffle(order)
            self._orders = {k: v for k, v in self._orders.items() if k[0] != group} | {key: order}
        return self._orders[key]

    def observe(self, prompts: Sequence[Prompt], informative: Sequence[bool]) -> None:
        """Notes which prompts' groups had differing rewards."""
        for prompt, mixed in zip(prompts, informative, strict=True):
            skill = _skill(prompt)
            self._interest[skill] = _DECAY * self._interest.get(skill, 1.0) + (1 - _DECAY) * float(mixed)

    def state(self) -> dict[str, Any]:
        """JSON values from which `restore` goes on."""
        return {"cursor": dict(self._cursor), "owed": dict(self._owed), "interest": dict(self._interest)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on where a run that saved `state` stopped."""
        self._cursor, self._owed = dict(state["cursor"]), dict(state["owed"])
        self._interest = dict(state["interest"])


def _skill(prompt: Prompt) -> str:
    return str(prompt.example.meta.get("skill", prompt.example.id))
