"""A checkpoint as the respondent: the engine's own sampler, or servers of vLLM, answer in fixed portions.

A portion is the same questions whatever was answered before, so that an evaluation that goes on draws what it would
have drawn. A think budget asks twice: for the reasoning, and, closed where it is still open, for the rest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Sequence, Set
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conversion.checkpoint import MANIFEST_FILE, open_checkpoint
from conversion.hf_to_megatron import convert
from conversion.tokenizer_check import encode
from recipes.data.prompts import STOPS
from recipes.data.variants import Asked
from recipes.engines import create_engine
from recipes.engines.base import EngineError, Sampling
from recipes.evaluation.asking import Answer, Key, opens_thinking
from recipes.monitor.run_folder import evaluation_path
from recipes.planning.architectures import cache_bytes
from recipes.rollout.prompts import Prompt, make_prompts, prompt_form
from recipes.runtime.agreement import told_by_leader
from recipes.runtime.config import Config
from recipes.runtime.launch import is_leader
from recipes.runtime.tokenizer import load_tokenizer, stop_ids
from recipes.sampling.base import Sampler, create_sampler

# Answers of a portion: as many as have room for keys and values here, between these two. It is a function of model and
# lengths alone, and so are the draws; ranks divide it. And so many questions at least, for data parallel ranks.
_CACHE_BYTES, _FEWEST, _MOST = 4 << 30, 256, 4096
_QUESTIONS_AT_ONCE = 64


@dataclass(frozen=True)
class _Written:
    """Token ids of a response, how many of them the model wrote, and whether it ran into their limit."""

    ids: tuple[int, ...]
    tokens: int
    cut: bool


class Policy:
    """See `recipes.evaluation.asking.Respondent`."""

    def __init__(self, config: Config) -> None:
        """Opens the checkpoint and its tokenizer; of a Hugging Face folder, the checkpoint that it is converted to.

        Raises:
            ConversionError: there is none, or its tokenizer cannot be used.
            EngineError: the conversion failed.
        """
        self._named = Path(config.model.path).resolve()
        # Servers of vLLM are compared with the trainer at the temperature, and before filters.
        rollout = dataclasses.replace(config.rollout, temperature=config.evaluation.temperature, top_k=0, top_p=1.0)
        self._config = _converted(dataclasses.replace(config, rollout=rollout))
        self._tokenizer = load_tokenizer(self._config.model.path)
        # By the place of their question.
        self._prompts: dict[int, Prompt] = {}
        self._count = 0

    def about(self) -> dict[str, Any]:
        """See `Respondent.about`; it reads all weights."""
        weights = open_checkpoint(self._config.model.path).digest(read=True)
        return {"checkpoint": str(self._named), "weights": weights}

    def prepare(self, asked: Sequence[Asked]) -> None:
        """See `Respondent.prepare`."""
        config = self._config
        room = config.model.max_length - config.rollout.max_new_tokens
        examples = [each.example for each in asked]
        prompts, _ = make_prompts(examples, self._tokenizer, prompt_form(config), max_tokens=room)
        places = iter(range(len(examples)))
        # Those that fit, in the order of the questions.
        self._prompts = {next(n for n in places if examples[n] is prompt.example): prompt for prompt in prompts}
        self._count = len(asked)

    @property
    def left_out(self) -> set[int]:
        """See `Respondent.left_out`."""
        return set(range(self._count)) - self._prompts.keys()

    def answers(self, done: Set[Key]) -> Generator[list[Answer]]:
        """See `Respondent.answers`; a portion at a time."""
        samples = self._config.evaluation.samples
        size = max(_QUESTIONS_AT_ONCE, self._answers_at_once() // samples)
        places, ids = list(self._prompts), [prompt.ids for prompt in self._prompts.values()]
        with (
            closing(create_engine(self._config, bare=True)) as engine,
            closing(create_sampler(self._config, engine, ids)) as sampler,
        ):
            sampler.update(0)
            for start in range(0, len(places), size):
                portion = places[start : start + size]
                wanted = [key for n in portion for s in range(samples) if (key := (n, s)) not in done]
                if wanted:
                    groups = self._responses(sampler, [self._prompts[n] for n in portion], start // size)
                    found = dict(zip(portion, groups, strict=True))
                    yield [self._answer(n, s, found[n][s]) for n, s in wanted]

    def _answers_at_once(self) -> int:
        held = cache_bytes(open_checkpoint(self._config.model.path).architecture, 4) * self._config.model.max_length
        return max(_FEWEST, min(_MOST, int(_CACHE_BYTES // held)))

    def _answer(self, place: int, sample: int, written: _Written) -> Answer:
        return Answer(place, sample, self._text(self._prompts[place], written.ids), written.tokens, written.cut)

    def _text(self, prompt: Prompt, ids: Sequence[int]) -> str:
        written: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return prompt.opened + written

    def _responses(self, sampler: Sampler, prompts: Sequence[Prompt], number: int) -> list[list[_Written]]:
        """`samples` responses to each prompt of portion `number`."""
        evaluation = self._config.evaluation
        sampling = Sampling(
            evaluation.samples,
            evaluation.temperature,
            evaluation.max_think_tokens or self._config.rollout.max_new_tokens,
            stop_ids(self._tokenizer),
            # Prompts of different portions share numbers, and so do the two parts of a response.
            seed=self._config.seed * 1_000_003 + 2 * number if evaluation.temperature else 0,
            top_k=evaluation.top_k,
            top_p=evaluation.top_p,
            stop_strings=STOPS[self._config.data.template],
        )
        groups = sampler.generate([prompt.ids for prompt in prompts], sampling)
        begun = [
            (p, _Written(c.ids, len(c.ids), not c.finished)) for p, g in zip(prompts, groups, strict=True) for c in g
        ]
        whole = [written for _, written in begun]
        if evaluation.max_think_tokens is not None:
            whole = self._ended(sampler, begun, dataclasses.replace(sampling, copies=1, seed=sampling.seed + 1))
        return [whole[i : i + evaluation.samples] for i in range(0, len(whole), evaluation.samples)]

    def _ended(self, sampler: Sampler, begun: Sequence[tuple[Prompt, _Written]], sampling: Sampling) -> list[_Written]:
        """Responses up to the limit of all, from such as their think budget ended; `</think>` closes what is open."""
        [closing_ids] = encode(self._tokenizer, ["</think>"])
        limit = self._config.rollout.max_new_tokens
        parts: dict[int, tuple[int, ...]] = {}
        for index, (prompt, written) in enumerate(begun):
            closed = closing_ids if opens_thinking(self._text(prompt, written.ids)) else ()
            if written.cut and len(written.ids) + len(closed) < limit:
                parts[index] = (*written.ids, *closed)
        whole = [written for _, written in begun]
        if not parts:
            return whole
        limits = tuple(limit - len(ids) for ids in parts.values())
        asked = [begun[index][0].ids + ids for index, ids in parts.items()]
        sampling = dataclasses.replace(sampling, max_new_tokens=max(limits), limits=limits)
        for index, [rest] in zip(parts, sampler.generate(asked, sampling), strict=True):
            tokens = whole[index].tokens + len(rest.ids)
            whole[index] = _Written(parts[index] + rest.ids, tokens, not rest.finished)
        return whole


def _converted(config: Config) -> Config:
    """The configuration with a checkpoint that the engine opens; collective.

    A Hugging Face folder is converted to NAME.megatron beside the result, each time: its files may be others by now.

    Raises:
        EngineError: the folder cannot be converted.
    """
    source = Path(config.model.path)
    if (source / MANIFEST_FILE).is_file() or not (source / "config.json").is_file():
        return config
    place = evaluation_path(config.output, config.name).with_suffix(".megatron")

    def make() -> None:
        place.parent.mkdir(parents=True, exist_ok=True)
        print(f"{source}: a Hugging Face folder; it is converted to {place}", flush=True)
        layout = "nemo" if config.engine == "nemo_aligner" else "megatron"
        convert(source, place, layout=layout, force=True)

    _, failure = told_by_leader(make if is_leader() else None)
    if failure is not None:
        raise EngineError(failure)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, path=str(place)))
