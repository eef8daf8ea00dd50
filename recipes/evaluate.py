"""Accuracy on held-out questions: `python -m recipes.evaluate output=RUN name=before model.path=CKPT`.

Asks every question of `data.test`: of a Megatron checkpoint or a Hugging Face folder, by the engine itself or by
servers of vLLM (`rollout=vllm`), or of any model behind an OpenAI-compatible endpoint (`evaluation.endpoint.url` and
`.model` in place of `model.path`). Greedily or `evaluation.samples` times; where asked for, choice questions also with
their options in other orders (`evaluation.shuffles`) and without any (`evaluation.short`), and every question at
several budgets of tokens (`evaluation.budgets`). The reward server grades.

RUN/evaluation/NAME.json holds what the answers come to (`recipes.evaluation.summary`), digests of the weights, the data
and all else that defines the result (`conversion.evaluation`), and how many questions were left out. The answers are in
RUN/evaluation/NAME.jsonl, kept as they come: stopped, the same command goes on behind them, and the files are those of
one that was never stopped. NAME.html and NAME.md show them to people (`recipes.evaluation.page`).

A published benchmark's prompt is a `data.style` of its own (docs/data.md). Left out: readers of the forms of answers
that benchmarks ask for; the reward server reads what stands between the tags.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence, Set
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.data.example import Example, read_examples
from recipes.data.prompts import LengthTarget
from recipes.data.variants import PLAIN, Asked, variants
from recipes.evaluation.questions import is_scored
from recipes.evaluation.summary import described, summarize
from recipes.monitor.run_folder import evaluation_lock_path, evaluation_path, replace_file
from recipes.rollout.consistency import contradicts
from recipes.runtime.config import Config, EvaluationConfig
from recipes.runtime.launch import is_leader, run
from recipes.runtime.rules import Stage, asks_endpoint
from recipes.runtime.versions import versions

if TYPE_CHECKING:
    from recipes.evaluation.asking import Answer, Respondent
    from reward_server.client import Score


# Answers of which a share that could not be scored stops an evaluation before its end.
_MANY = 256


def evaluate(config: Config) -> None:
    """Evaluates on all ranks; rank 0 writes the result."""
    # These bring torch and transformers: --help and a mistake in a setting are answered without.
    from recipes.evaluation.answers import Answers, answers_digest
    from recipes.evaluation.measure import measured, prompt_words, seen_in_training
    from recipes.evaluation.page import write_page
    from recipes.evaluation.reading import Evaluated
    from recipes.rollout.scoring import Response, check_rows, check_unscored, reward_definition, score_responses
    from recipes.rollout.server import reward_client
    from recipes.runtime.agreement import told_by_leader

    target = evaluation_path(config.output, config.name)
    about: dict[str, Any] = {"prompt": prompt_words(config)}
    respondent = _respondent(config)
    examples = read_examples(*config.data.test)
    asked = list(_variants(examples, config.evaluation))
    if is_leader():
        # Where this cannot be, nobody wants to hear of it after an hour of answers.
        target.parent.mkdir(parents=True, exist_ok=True)
        about = {"name": config.name, "split": "test", **respondent.about(), **about}
        about |= {"seen": seen_in_training(examples, None if asks_endpoint(config) else Path(config.model.path))}
        about |= {"versions": versions()}
    respondent.prepare(asked)
    too_long = respondent.left_out
    with reward_client(config.reward, ranks_wait_s=60 * config.parallel.timeout_minutes) as client:
        reward = reward_definition(client, config.reward)
        check_rows([a.example for n, a in enumerate(asked) if n not in too_long], client, config.reward)
        answers = None
        if is_leader():
            about |= {"measured": measured(config, reward)}
            answers = Answers(target.with_suffix(".jsonl"), {key: about[key] for key in ("weights", "measured")})
        done, _ = told_by_leader(None if answers is None else lambda: _done(asked, answers.rows))
        models = {row["model"] for row in (answers.rows if answers else ()) if "model" in row}
        count = 0
        unscored: list[Score] = []
        with closing(respondent.answers(done)) as portions:
            for portion in portions:
                models |= {answer.model for answer in portion if answer.model}
                _check_one_model(models)
                put = [asked[a.question] for a in portion]
                responses = [Response(q.example, a.text, a.tokens, q.length) for q, a in zip(put, portion, strict=True)]
                scores = score_responses(responses, client, config.reward)
                count, unscored = count + len(scores), unscored + [each for each in scores if each.reward is None]
                # A share of few is none yet.
                check_unscored(unscored, max(count, _MANY), config.reward)
                if answers is not None:
                    answers.add([answer_row(asked[a.question], a, s) for a, s in zip(portion, scores, strict=True)])
        check_unscored(unscored, count, config.reward)
    if answers is not None:
        rows = list(dict(sorted(_keys(asked, answers.rows).items())).values())
        about |= {"answered_by": next(iter(models))} if models else {}
        dropped = sum(asked[n].variant == PLAIN for n in respondent.left_out)
        result = {**about, "answers_sha256": answers_digest(rows), "dropped": dropped, **summarize(rows)}
        replace_file(target, (json.dumps(result, indent=1) + "\n").encode())
        answers.publish(rows)
        if result["tasks"]:
            write_page(target, Evaluated(target, result, rows))
        print(described(result))


def answer_row(asked: Asked, answer: Answer, score: Score) -> dict[str, Any]:
    """One line of NAME.jsonl; docs/evaluation.md says what its keys are."""
    example = asked.example
    row = {
        "id": example.id,
        "group": example.group,
        "skill": example.meta.get("skill"),
        "response": answer.text,
        "answer": example.gold(),
        "status": score.status,
        "tokens": answer.tokens,
        "contradicts": contradicts(example, answer.text),
        "source": example.source,
        "subject": example.meta.get("subject"),
        "calculator": example.meta.get("calculator"),
        "sample": answer.sample,
        "variant": asked.variant,
        "extracted": score.extracted,
        "cut": answer.cut,
    }
    if asked.length is not None:
        row |= {"budget": asked.length.tokens, "budget_mode": asked.length.mode}
    if distribution := example.meta.get("distribution"):
        row |= {"distribution": distribution}
    row |= {"filtered": True} if answer.filtered else {}
    row |= {"model": answer.model} if answer.model else {}
    return row if asked.order is None else {**row, "order": asked.order}


def _check_one_model(names: Set[str]) -> None:
    """Refuses answers of several models, of which no figure would be one model's.

    Raises:
        EndpointError: the endpoint has named another model than before.
    """
    if len(names) > 1:
        from recipes.evaluation.endpoint import EndpointError

        raise EndpointError(
            f"evaluation.endpoint: the answers name different models ({', '.join(sorted(names))}), as when what stands "
            "behind it was exchanged; set evaluation.endpoint.model to one of them, or begin again under another name="
        )


def _variants(examples: Sequence[Example], config: EvaluationConfig) -> Iterator[Asked]:
    mode: Any = config.budget_mode  # one of LengthTarget's, as the configuration has checked
    budgets = [LengthTarget(mode, tokens) for tokens in config.budgets]
    return variants(examples, shuffles=config.shuffles, short=config.short, budgets=budgets)


def _keys(asked: list[Asked], rows: list[dict[str, Any]]) -> dict[tuple[int, int], dict[str, Any]]:
    """The rows under their question's place and their sample; an older release's have neither variant nor sample."""
    places = {(each.example.id, each.variant): n for n, each in enumerate(asked)}
    return {(places[row["id"], row.get("variant", PLAIN)], row.get("sample", 0)): row for row in rows}


def _done(asked: list[Asked], rows: list[dict[str, Any]]) -> set[tuple[int, int]]:
    """Those that need not be asked for again: what the server could not score, it may score after all."""
    return {key for key, row in _keys(asked, rows).items() if is_scored(row)}


def _respondent(config: Config) -> Respondent:
    if asks_endpoint(config):
        from recipes.evaluation.remote import Remote

        return Remote(config)
    from recipes.evaluation.policy import Policy

    return Policy(config)


if __name__ == "__main__":
    run(
        evaluate,
        "recipes.evaluate",
        __doc__,
        Stage.EVALUATE,
        owns=lambda config: evaluation_lock_path(config.output, config.name),
        alone=asks_endpoint,
    )
