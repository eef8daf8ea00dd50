"""What a run will do to its rows, done to every one of them beforehand: read, asked, tokenised and scored.

A row on which the chat template fails, whose text the tokenizer loses or whose answer the reward server refuses would
end a run at the step that draws it, hours later. Here it is named by file and row. Left out: sampling.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from recipes.data.example import iterate_examples, read_examples
from recipes.rollout.lengths import taught_prompts, training_form
from recipes.rollout.prompts import DataError, Prompt, RowError, prompt_form, render_prompts, trace_ids
from recipes.rollout.rows import check_best, chosen, contamination, held_out, prompt_order, taught
from recipes.rollout.scoring import RewardError, check_rows, reward_definition
from recipes.rollout.server import reward_client
from recipes.runtime.config import Config, RewardConfig
from reward_server.client import RewardClient, RewardServerUnavailable

# The entry points and the files that each reads, first those that must be there. What training makes is evaluated by
# the settings of its job.
STAGES = {
    "grpo": ("train", "validation", "test"),
    "sft": ("train", "validation", "test"),
    "evaluate": ("test",),
}
_REACH_S = 3.0
_NAMED_ROWS = 10


@dataclass(frozen=True)
class Row:
    """A row as it will be asked: its number in the file, from 1, and its tokens, those of a trace with it."""

    number: int
    prompt: Prompt
    tokens: int


@dataclass(frozen=True)
class File:
    """A data file as the run will read it.

    Attributes:
        key: which files of `data` it is one of.
        path: its name.
        rows: those that the run uses.
        room: tokens that a row may have.
        traces: whether traces are trained on.
    """

    key: str
    path: str
    rows: list[Row]
    room: int
    traces: bool

    @property
    def fitting(self) -> list[Row]:
        """The rows that are not too long."""
        return [row for row in self.rows if row.tokens <= self.room]

    def line(self) -> str:
        """What there is, and which rows are too long."""
        counts = [row.tokens for row in self.rows]
        found = f"data.{self.key}: {len(counts)} examples in {self.path}, of {min(counts)} to {max(counts)} tokens"
        long = [row.number for row in self.rows if row.tokens > self.room]
        if not long:
            return found
        return f"{found}; {len(long)} need more than the {self.room} there are and are left out: {_listed(long)}"


def read_rows(config: Config, stage: str, tokenizer: Any) -> list[File]:
    """Every file that the stage reads, each row rendered and tokenised.

    Args:
        config: of the run.
        stage: one of STAGES.
        tokenizer: of the checkpoint.

    Raises:
        ExampleError: a row is no Example.
        DataError: naming file and row where the template or the tokenizer fails on one, and the setting where there are
            too few rows.
    """
    keys = STAGES[stage]
    if not getattr(config.data, keys[0]):
        raise DataError(f"no data files are named; give them as data.{keys[0]}=[FILE,...]")
    for key in keys:
        # Ids are unique in all files of a key, not only in each.
        chosen(iterate_examples(*getattr(config.data, key)), config.data.only if key == "train" else ())
    files = [_read(config, stage, key, path, tokenizer) for key in keys for path in getattr(config.data, key)]
    files = [file for file in files if file.rows]
    for key in keys:
        own = [file for file in files if file.key == key]
        if own and not any(file.fitting for file in own):
            shortest = min(row.tokens for file in own for row in file.rows)
            raise DataError(
                f"data.{key}: no row fits into {own[0].room} tokens (the shortest has {shortest}); raise "
                "model.max_length or lower rollout.max_new_tokens"
            )
    if keys[0] == "train":
        usable = [row.prompt for file in files if file.key == "train" for row in file.fitting]
        prompt_order(usable, config)
        if stage == "grpo":
            check_best(usable, config)
    return files


def compare_rows(config: Config, stage: str) -> list[str]:
    """Holds the rows of `data.train` against `data.test` and `data.validation`, as training does at its start.

    Returns:
        what it finds.

    Raises:
        ExampleError: rows are questions of `data.test`, or all but, in ways that are not allowed.
    """
    data = config.data
    if stage == "evaluate" or not (files := held_out(data)):
        return []
    told = contamination(chosen(iterate_examples(*data.train), data.only), data)
    return [f"contamination: {told or 'no row of data.train is like a question of ' + ' or '.join(files)}"]


def score_rows(config: RewardConfig, files: Sequence[File]) -> list[str]:
    """Scores one made-up response to every row by the reward server's definition; returns a line for each finding.

    Raises:
        DataError: naming file and row that the server refuses.
        RewardError, RewardClientError, RewardServerStartError: there is no server to ask.
    """
    if not files:
        return []
    unpaid = []
    with _client(config) as (client, place):
        preset = reward_definition(client, config)
        for file in files:
            rows = file.fitting
            with _named(file.key, file.path, {row.prompt.example.id: row.number for row in rows}):
                wrong = check_rows([row.prompt.example for row in rows], client, config)
            if wrong:
                unpaid.append(
                    f"reward: the answers of {len(wrong)} rows of {file.path} are not graded correct themselves, so no "
                    f"response to them may ever be paid: {_listed([rows[index].number for index in wrong])}"
                )
    count = sum(len(file.fitting) for file in files)
    return [f"reward: {count} rows scored by preset {preset['name']} version {preset['version']} {place}", *unpaid]


def _read(config: Config, stage: str, key: str, path: str, tokenizer: Any) -> File:
    traces = (stage, key) == ("sft", "train")
    only = config.data.only if key == "train" else []
    own = {e.id: (n, e) for n, e in enumerate(read_examples(path), 1) if not only or e.id in only}
    used = [e for _, e in own.values()]
    numbers = {e.id: (own[e.id][0], e) for e in (taught(used, config.data.teach) if traces else used)}
    if not own:
        return File(key, path, [], _room(config, stage, key), traces)
    if not numbers:
        raise DataError(f"data.{key}: no row of {path} has a meta.trace to learn from")
    examples = [example for _, example in numbers.values()]
    trained = (stage, key) == ("grpo", "train")
    form = training_form(config, tokenizer) if trained else prompt_form(config, teaching=traces)
    with _named(key, path, {identity: number for identity, (number, _) in numbers.items()}):
        prompts = render_prompts(examples, tokenizer, form) if examples else []
        prompts = taught_prompts(prompts, config, tokenizer) if traces else prompts
        written = [len(trace_ids(prompt, tokenizer)) if traces else 0 for prompt in prompts]
    rows = [
        Row(numbers[prompt.example.id][0], prompt, len(prompt.ids) + count)
        for prompt, count in zip(prompts, written, strict=True)
    ]
    return File(key, path, rows, _room(config, stage, key), traces)


def _room(config: Config, stage: str, key: str) -> int:
    """Tokens that a row may have, as the entry points count them."""
    if (stage, key) == ("sft", "train"):
        return config.model.max_length
    least = config.rollout.min_new_tokens if (stage, key) == ("grpo", "train") else None
    return config.model.max_length - (least or config.rollout.max_new_tokens)


@contextlib.contextmanager
def _named(key: str, path: str, numbers: dict[str, int]) -> Iterator[None]:
    """Gives a row's error the row's place, by the rows' numbers under their ids."""
    try:
        yield
    except RowError as error:
        identity = error.example.id
        raise DataError(f"data.{key}: {path}, row {numbers[identity]} (id {identity!r}): {error.fault}") from error


@contextlib.contextmanager
def _client(config: RewardConfig) -> Iterator[tuple[RewardClient | None, str]]:
    """A client, and whose definition it asks: this release's where the run's server does not answer yet."""
    with contextlib.ExitStack() as stack:
        place = f"of {config.url}"
        try:
            client = stack.enter_context(reward_client(config, ready_s=_REACH_S)) if config.url else None
        except RewardServerUnavailable:
            client, place = None, f"of this release, since {config.url} does not answer yet"
        except ValueError as error:
            raise RewardError(f"reward.url={config.url}: {error}") from error
        if client is None:
            client = stack.enter_context(reward_client(dataclasses.replace(config, url=None)))
        yield client, place if config.url else "of this release"


def _listed(numbers: Sequence[int]) -> str:
    more = f" and {len(numbers) - _NAMED_ROWS} more" if len(numbers) > _NAMED_ROWS else ""
    return f"row{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers[:_NAMED_ROWS]))}{more}"
