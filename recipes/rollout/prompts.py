"""Tokenised prompts, and the order in which training draws them.

The order is a function of seed and draws so far, so a resumed run goes on with the very prompts that would have come
next. Left out: packing prompts of like length together.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from conversion.errors import TokenizerError
from conversion.tokenizer_check import decode, encode, plain, render, same_text
from recipes.data.example import Example, read_examples
from recipes.data.prompts import Form, LengthTarget, base_text, messages, opened, trace_response, without_system
from recipes.data.styles import StyleError, read_style
from recipes.runtime.config import Config


class DataError(ValueError):
    """Data that cannot be trained on; the message gives counts and the setting to change."""


class RowError(DataError):
    """A row that cannot be trained on.

    Attributes:
        example: the row.
        fault: what is wrong with it and what to do.
    """

    def __init__(self, example: Example, fault: str) -> None:
        super().__init__(f"the row with id {example.id!r}: {fault}")
        self.example = example
        self.fault = fault


@dataclass(frozen=True)
class Prompt:
    """A question ready for the model.

    Attributes:
        example: the question.
        text: what the model reads.
        ids: the same as tokens; they end where the model begins to write.
        opened: what the chat template has written of the response, from `<think>` on; mostly nothing. It is part of
            the response that is scored, and of no response that is sampled or trained on.
        length: what is asked of the response's length.
    """

    example: Example
    text: str
    ids: tuple[int, ...]
    opened: str = ""
    length: LengthTarget | None = None


def prompt_form(config: Config, *, teaching: bool = False) -> Form:
    """How a run puts its questions; of `teaching`, SFT's, no common length is asked.

    Where prompts have targets of their own (`recipes.rollout.lengths`), the form has none.

    Raises:
        ExampleError, FileNotFoundError: of the prompt's file, or that of worked examples.
    """
    data = config.data
    style, shown = read_style(data.style), read_examples(data.few_shot) if data.few_shot else ()
    if teaching or shown:
        style.check_letters("traces, labels and worked examples")
    if config.reward.match == "strict":
        style.check_letters("answers under reward.match=strict")
    return Form(style, None if teaching else common_target(config), data.template, data.shots, shown)


def common_target(config: Config) -> LengthTarget | None:
    """The target that all prompts share, which some styles do not say. None where there is none, or several.

    Raises:
        StyleError: of the prompt's file.
    """
    reward = config.reward
    if reward.length_target is None or reward.length_mode == "mixed" or reward.length_none_share > 0:
        return None
    mode: Any = reward.length_mode  # max or exact, as the configuration has checked
    return LengthTarget(mode, reward.length_target, said=read_style(config.data.style).says_target)


def render_prompts(
    examples: Sequence[Example],
    tokenizer: Any,
    form: Form,
    targets: Sequence[LengthTarget | None] | None = None,
) -> list[Prompt]:
    """Applies the chat template to every example, or makes plain text of it for a base model, and tokenises.

    Where the template has no system role, the style's system text goes in front of the user's. Plain text begins as
    the tokenizer begins every text.

    Args:
        examples: the questions.
        tokenizer: of the checkpoint, with a chat template where `form` wants one.
        form: how they are put.
        targets: what is asked of each response's length, in place of the form's.

    Raises:
        DataError: there is no example, or the tokenizer has no chat template.
        ExampleError: there are too few worked examples.
        RowError: the template fails on a row or changes its question, or the tokenizer cannot carry its text.
        StyleError: the tokenizer cannot carry the style's words.
    """
    if not examples:
        raise DataError("no data files are named; give them as data.train=[FILE,...], or data.test to evaluate")
    if form.template == "chat" and not tokenizer.chat_template:
        raise DataError(
            f"{tokenizer.name_or_path}: the tokenizer has no chat template, as base models often have not; set "
            "data.template=base for plain text, or put a chat_template.jinja, such as that of the instruct model, into "
            "the Hugging Face folder and convert it again"
        )
    wanted = [form.length] * len(examples) if targets is None else targets
    chats = [
        messages(example, dataclasses.replace(form, length=target))
        for example, target in zip(examples, wanted, strict=True)
    ]
    if form.template == "chat" and not takes_system(tokenizer):
        chats = [without_system(chat) for chat in chats]
    beginning = _beginning(tokenizer)
    texts = []
    for example, chat in zip(examples, chats, strict=True):
        try:
            text = beginning + base_text(chat, form) if form.template == "base" else render(tokenizer, chat)
        except TokenizerError as error:
            raise RowError(example, str(error)) from error
        if _asked(chat) not in text:
            raise RowError(example, "its question does not come through the chat template unchanged")
        texts.append(text)
    encoded = encode(tokenizer, texts)
    _check_words(form, tokenizer)
    _check_carried(examples, chats, encoded, tokenizer)
    return [
        Prompt(example, text, tuple(ids), _opened(text, _asked(chat)), target)
        for example, chat, text, ids, target in zip(examples, chats, texts, encoded, wanted, strict=True)
    ]


def _beginning(tokenizer: Any) -> str:
    """The token that the tokenizer puts before every text, as Llama's does and Qwen's does not; chat templates do."""
    begin = tokenizer.bos_token
    return begin if begin and tokenizer("a").input_ids[0] == tokenizer.bos_token_id else ""


def takes_system(tokenizer: Any) -> bool:
    """Whether the chat template passes on a system message before the user's; some refuse it, some leave it out."""
    chat = [{"role": "system", "content": "Answer briefly."}, {"role": "user", "content": "Which vitamin?"}]
    try:
        text = render(tokenizer, chat)
    except TokenizerError:
        return False
    return all(message["content"] in text for message in chat)


def make_prompts(
    examples: Sequence[Example],
    tokenizer: Any,
    form: Form,
    targets: Sequence[LengthTarget | None] | None = None,
    *,
    max_tokens: int,
) -> tuple[list[Prompt], int]:
    """The prompts of `render_prompts` that fit; nothing is ever cut.

    Args:
        examples, tokenizer, form, targets: see `render_prompts`.
        max_tokens: prompts longer than this are left out.

    Returns:
        the prompts that fit, in order, and how many were left out.

    Raises:
        DataError: see `render_prompts`; and when no prompt fits.
    """
    rendered = render_prompts(examples, tokenizer, form, targets)
    prompts = [prompt for prompt in rendered if len(prompt.ids) <= max_tokens]
    if not prompts:
        shortest = min(len(prompt.ids) for prompt in rendered)
        raise DataError(
            f"none of the {len(rendered)} prompts fits into {max_tokens} tokens (the shortest has {shortest}); raise "
            "model.max_length or lower rollout.max_new_tokens"
        )
    return prompts, len(rendered) - len(prompts)


def trace_ids(prompt: Prompt, tokenizer: Any) -> tuple[int, ...]:
    """The row's worked trace as the tokens that the model should write after the prompt, with an end token.

    Raises:
        RowError: the tokenizer cannot carry the trace.
    """
    # The tag alone: a trace goes on after whatever else the template opens with.
    text = trace_response(prompt.example).removeprefix("<think>" if prompt.opened else "")
    [ids] = encode(tokenizer, [text])
    written = tokenizer.decode(ids)
    if not same_text("".join(written.split()), "".join(text.split())):
        raise RowError(prompt.example, f"{_lost(text, written)} (in its trace)")
    return (*ids, tokenizer.eos_token_id)


def _asked(chat: Sequence[Mapping[str, str]]) -> str:
    """What the user says, without the spaces around it, which many templates take off."""
    return chat[-1]["content"].strip()


def _opened(text: str, asked: str) -> str:
    """What stands in the assistant's turn from a `<think>` on that the template opens and leaves open."""
    return opened(text[text.rindex(asked) + len(asked) :])


def _check_words(form: Form, tokenizer: Any) -> None:
    around = form.template == "base" or form.shots > 0
    words = {key: text for key, text in form.style.fixed().items() if around or not key.startswith("before_")}
    read = decode(tokenizer, encode(tokenizer, list(words.values())))
    for (key, text), found in zip(words.items(), read, strict=True):
        if not same_text(text, found):
            raise StyleError(f"data.style={form.style.name}: {key}: {_lost(text, found, 'the prompt')}")


def _check_carried(
    examples: Sequence[Example],
    chats: Sequence[Sequence[Mapping[str, str]]],
    encoded: Sequence[Sequence[int]],
    tokenizer: Any,
) -> None:
    """Every question must come back from its tokens, and so must the answers that are compared as text."""
    lost: dict[int, str] = {}
    for index, read in enumerate(decode(tokenizer, encoded)):
        asked = _asked(chats[index])
        if asked not in read and plain(asked) not in plain(read):
            lost[index] = _lost(asked, read)
    written = [index for index, example in enumerate(examples) if example.task == "text"]
    golds = [examples[index].gold() for index in written]
    for index, gold, read in zip(written, golds, decode(tokenizer, encode(tokenizer, golds)), strict=True):
        if not same_text(gold, read):
            lost.setdefault(index, _lost(gold, read) + " (in its answer)")
    if lost:
        first = min(lost)
        more = f"; so do {len(lost) - 1} of the other {len(examples) - 1} rows" if len(lost) > 1 else ""
        raise RowError(examples[first], lost[first] + more)


def _lost(text: str, read: str, where: str = "the row") -> str:
    characters = sorted(set(plain(text)) - set(plain(read)))
    what = f"the characters {' '.join(characters[:10])}" if characters else "parts of its text"
    return f"the checkpoint's tokenizer loses {what}; write {where} without, or train a model whose tokenizer has them"


_FLOOR = 0.2
_DECAY = 0.4


class PromptOrder:
    """Draws prompts for the steps of a run: each kind of task in its own order, epoch after epoch.

    With `adaptive`, a prompt whose skill lately gave groups of equal rewards is passed over more often, down to one
    chance in five: such groups teach nothing (as DAPO's dynamic sampling, but before sampling instead of after). Rows
    with the same `meta.skill` need the same knowledge, whatever kind of task asks for it, and share what is observed.

    Args:
        prompts: to draw from.
        mix: weight of each kind of task; empty draws all rows alike.
        adaptive: see above.
        seed: of all orders.
        shuffle: false goes through the prompts as they are given, epoch after epoch.
    """

    def __init__(
        self, prompts: Sequence[Prompt], *, mix: Mapping[str, float], adaptive: bool, seed: int, shuffle: bool = True
    ) -> None:
        self._pools: dict[str, list[Prompt]] = {}
        for prompt in prompts:
            self._pools.setdefault(prompt.example.group if mix else "all", []).append(prompt)
        absent = [group for group, weight in mix.items() if weight > 0 and group not in self._pools]
        if absent:
            raise DataError(f"data.mix asks for {', '.join(absent)}, of which the training files hold no usable row")
        self._weights = {g: w for g, w in mix.items() if w > 0} or {"all": 1.0}
        self._adaptive = adaptive
        self._seed = seed
        self._shuffle = shuffle
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
            if self._shuffle:
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
