"""How much a policy's reasoning tells it of the answer: `python -m recipes.information_gain output=RUN name=NAME ...`.

Takes the answers that `python -m recipes.evaluate` has written with the same settings (RUN/evaluation/NAME.jsonl) and
measures, by the likelihoods of `model.path`, how much likelier each step of the reasoning makes the right answer
(`recipes.evaluation.gain` has the formula). The policy that answered is the one to ask; another checkpoint, such as the
one before training, may be asked too, and the result says which. RUN/evaluation/gain/NAME.jsonl gets the answer's
likelihood after every step as it comes: stopped, the same command goes on behind the last; NAME.json and the
evaluation's pages get the means.

Left out: endpoints, which mostly tell no likelihoods of texts that they have not written; answers to shuffled or
shortened questions.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.monitor.run_folder import evaluation_path, read_json
from recipes.runtime.config import Config, ConfigError
from recipes.runtime.launch import is_leader, run
from recipes.runtime.rules import Stage

if TYPE_CHECKING:
    from recipes.engines.base import PolicyEngine
    from recipes.rollout.prompts import Prompt

_AT_ONCE = 32


def measure(config: Config) -> None:
    """Measures on all ranks; rank 0 writes the result."""
    # These bring torch and transformers: --help and a mistake in a setting are answered without.
    from conversion.checkpoint import open_checkpoint
    from conversion.digests import file_digest
    from recipes.data.example import read_examples
    from recipes.data.styles import read_style
    from recipes.engines import create_engine
    from recipes.evaluation.answers import Answers
    from recipes.evaluation.gain import summarize
    from recipes.evaluation.measure import prompts_shown
    from recipes.evaluation.page import add_scores
    from recipes.evaluation.reading import plain_answers
    from recipes.rollout.prompts import prompt_form, render_prompts
    from recipes.runtime.agreement import from_leader
    from recipes.runtime.origin import data_files
    from recipes.runtime.tokenizer import load_tokenizer

    answered = evaluation_path(config.output, config.name)
    result = read_json(answered) if answered.is_file() else {}
    _check_style(config, result, prompts_shown(config))
    read_style(config.data.style).check_letters("likelihoods of the right answer")
    examples = {example.id: example for example in read_examples(*config.data.test)}
    rows, without = plain_answers(answered.with_suffix(".jsonl"), examples)
    tokenizer = load_tokenizer(config.model.path)
    asked = [examples[identity] for identity in dict.fromkeys(row["id"] for row in rows)]
    rendered = render_prompts(asked, tokenizer, prompt_form(config))
    prompts = {prompt.example.id: prompt for prompt in rendered}
    engine = create_engine(config, bare=True)
    found, about = None, dict[str, Any]()
    if is_leader():
        about = {
            "answers": file_digest(answered.with_suffix(".jsonl")),
            "weights": open_checkpoint(Path(config.model.path)).digest(read=True),
            "data": [file["sha256"] for file in data_files(config.data.test)],
            "prompts": prompts_shown(config),
            "max_length": config.model.max_length,
        }
        target = _target(config)
        target.parent.mkdir(exist_ok=True)
        found = Answers(target, about)
    left = rows[int(from_leader(0 if found is None else len(found.rows))) :]
    for start in range(0, len(left), _AT_ONCE):
        portion = left[start : start + _AT_ONCE]
        measured = measured_rows(portion, prompts, tokenizer, engine, config.model.max_length)
        if found is not None:
            found.add(measured)
    if found is not None:
        own = result.get("weights") == about["weights"]
        gain = {
            **{"name": config.name, "checkpoint": str(Path(config.model.path).resolve()), "own": own},
            **{key: about[key] for key in ("weights", "prompts", "max_length")},
            **{"responses": len(found.rows), "without_question": without, **_left_out(found.rows)},
            "gain": summarize(found.rows),
        }
        add_scores(answered.with_suffix(".jsonl"), "gain", [Path(file) for file in config.data.test], gain)
        found.publish(found.rows)
        print(described(gain))


def _check_style(config: Config, result: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuses to put the questions otherwise than those were put that were answered, as far as NAME.json tells."""
    asked = result.get("measured", {}).get("prompts", {}).get("style", now["style"])
    if asked != now["style"]:
        style = result.get("prompt", {}).get("style", asked)
        other = "put back the words that it had then" if style == config.data.style else f"set data.style={style}"
        raise ConfigError(f"data.style={config.data.style}: {config.name} was asked in other words ({style}); {other}")


def _target(config: Config) -> Path:
    return evaluation_path(config.output, config.name).parent / "gain" / f"{config.name}.jsonl"


def measured_rows(
    rows: list[dict[str, Any]], prompts: Mapping[str, Prompt], tokenizer: Any, engine: PolicyEngine, max_length: int
) -> list[dict[str, Any]]:
    """One line a response: `nlls` of the right answer after 0 to n steps, empty with `left_out` saying why.

    Args:
        rows: answers of NAME.jsonl.
        prompts: of their questions, by id.
        tokenizer: of the engine's checkpoint.
        engine: whose likelihoods are taken; every rank calls it.
        max_length: tokens that its model reads at most.
    """
    from recipes.engines.base import TokenBatch
    from recipes.evaluation.gain import answer_nlls, answer_sequences, info_gain

    cases = [answer_sequences(prompts[row["id"]], row["response"], tokenizer) for row in rows]
    too_long = [bool(own) and len(own[-1].ids) > max_length for own, _ in cases]
    batch = [sequence for (own, _), cut in zip(cases, too_long, strict=True) if not cut for sequence in own]
    logprobs = iter(engine.logprobs(TokenBatch(tuple(batch))) if batch else ())
    measured: list[dict[str, Any]] = []
    for row, (own, tokens), cut in zip(rows, cases, too_long, strict=True):
        line = {key: row.get(key) for key in ("id", "sample", "group", "status")}
        if cut or not own:
            measured.append({**line, "nlls": [], "left_out": "too long" if cut else "no reasoning"})
        else:
            nlls = answer_nlls([next(logprobs) for _ in own], tokens)
            measured.append({**line, "nlls": nlls, "info_gain": info_gain(nlls)})
    return measured


def _left_out(rows: list[dict[str, Any]]) -> dict[str, int]:
    reasons = [row.get("left_out") for row in rows]
    return {"too_long": reasons.count("too long"), "without_reasoning": reasons.count("no reasoning")}


def described(result: Mapping[str, Any]) -> str:
    """The result for a terminal."""
    whose = "its own likelihoods" if result["own"] else f"the likelihoods of {result['checkpoint']}"
    lines = [f"{result['name']}, by {whose}:"]
    for name, own in result["gain"].items():
        if own["responses"]:
            lines.append(
                f"{name}: {own['responses']} responses, {own['mean_steps']:.1f} steps  InfoGain {own['info_gain']:.4f}"
                f"{_between(own, 'info_gain', '.4f')}, median {own['median_info_gain']:.4f}  {own['nats']:.3f} nats"
                f"{_between(own, 'nats', '.3f')}  {own['gaining']:.1%} gain{_between(own, 'gaining', '.1%')}"
            )
    for count, why in (
        (result["too_long"], "are longer than model.max_length allows"),
        (result["without_reasoning"], "hold no reasoning"),
        (result["without_question"], "are to no question of data.test"),
    ):
        if count:
            lines.append(f"{count} answers {why} and were left out")
    return "\n".join(lines)


def _between(own: Mapping[str, Any], key: str, form: str) -> str:
    """A figure's interval, where it has one."""
    if key not in own["intervals"]:
        return ""
    low, high = own["intervals"][key]
    return f" ({low:{form}} to {high:{form}})"


if __name__ == "__main__":
    run(
        measure,
        "recipes.information_gain",
        __doc__,
        Stage.EVALUATE,
        owns=lambda config: _target(config).with_suffix(".lock"),
    )
