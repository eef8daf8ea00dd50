"""MedR-Bench's scores of reasoning, by a judge at an OpenAI-compatible endpoint:
`python -m recipes.reasoning RUN/evaluation/NAME.jsonl QUESTIONS.jsonl ... --judge-url URL --judge-model NAME`.

It reads every answer to the questions of the files named, in about two requests a step; `recipes.evaluation.judging`
has the definitions. RUN/evaluation/reasoning/NAME.jsonl gets its verdicts as they come: stopped, the same command goes
on behind the last. NAME.json beside it, and the
evaluation's pages, get the means of efficiency, factuality and completeness, each with the number
of responses that it is over and its 95 % bootstrap interval over questions. A verdict that is missing makes no score:
the response is counted as unjudged. Where the judge cannot be reached the command ends, and goes on when it is started
again. The endpoint's key is read from $MEDATRON_JUDGE_API_KEY.

A policy's information gain needs no judge: `python -m recipes.information_gain`. Left out: answers to shuffled or
shortened questions.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from conversion import command, lock
from conversion.evaluation import EvaluationError
from recipes.data.example import REPORT_GROUPS, Example, read_examples
from recipes.evaluation import statistics
from recipes.evaluation.answers import Answers
from recipes.evaluation.judging import PROMPTS_VERSION, Failures, StepJudge
from recipes.evaluation.page import add_scores, identified
from recipes.evaluation.reading import plain_answers
from recipes.evaluation.scores import scores_path
from reward_server.endpoint import Endpoint, JudgeSettings

MEASURES = ("efficiency", "factuality", "completeness")
_AT_ONCE = 16
# Of a portion's verdicts: beyond, the judge is away, or none.
_MAX_UNREACHABLE, _MAX_NO_VERDICT = 0.05, 0.5


class JudgeError(RuntimeError):
    """The judge cannot be asked, or does not judge; the message says how and what to do."""


def judge_reasoning(answers: Path, questions: Sequence[Path], settings: JudgeSettings) -> dict[str, Any]:
    """Judges all answers to the questions and writes what comes of it; returns the result.

    Raises:
        JudgeError: the judge is away, or gives no verdicts; what was judged before is kept.
        ExampleError, FileNotFoundError: naming file and row.
    """
    examples = {example.id: example for example in read_examples(*questions)}
    rows, without = plain_answers(answers, examples)
    about = {
        "answers": identified(answers),
        "questions": [identified(path) for path in questions],
        "judge": {"model": settings.model, "prompts": PROMPTS_VERSION},
    }
    target = scores_path(answers, "reasoning")
    target.parent.mkdir(exist_ok=True)
    with lock.held(target.with_suffix(".lock")):
        judged = Answers(target.with_suffix(".jsonl"), {key: _contents(value) for key, value in about.items()})
        asyncio.run(_judge_all(rows[len(judged.rows) :], examples, settings, judged))
        result = {"judge": about["judge"], "without_question": without, **summarize(judged.rows)}
        add_scores(answers, "reasoning", questions, result)
        judged.publish(judged.rows)
    return result


def _contents(value: Any) -> Any:
    """A part of the result's definition by content: the same files elsewhere are the same."""
    parts = value if isinstance(value, list) else [value]
    return [{key: part[key] for key in part if key != "path"} for part in parts]


async def _judge_all(
    rows: Sequence[Mapping[str, Any]], examples: Mapping[str, Example], settings: JudgeSettings, judged: Answers
) -> None:
    judge = StepJudge(Endpoint(settings))
    try:
        for start in range(0, len(rows), _AT_ONCE):
            portion = rows[start : start + _AT_ONCE]
            judge.failures = Failures()
            found = await asyncio.gather(*(judge.judge(examples[row["id"]], row["response"]) for row in portion))
            _check(judge.failures, settings)
            judged.add([_judged_row(row, verdicts) for row, verdicts in zip(portion, found, strict=True)])
    finally:
        await judge.endpoint.close()


def _judged_row(row: Mapping[str, Any], verdicts: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: row.get(key) for key in ("id", "sample", "group", "status")}
    return {**kept, **verdicts}


def _check(failures: Failures, settings: JudgeSettings) -> None:
    if failures.unreachable > _MAX_UNREACHABLE * failures.asked:
        raise JudgeError(
            f"{settings.url}: {failures.unreachable} of {failures.asked} verdicts could not be asked for (the last: "
            f"{failures.last}); see that the judge runs there, that its model is called {settings.model} and what "
            "$MEDATRON_JUDGE_API_KEY is; the same command goes on behind what is judged already"
        )
    if failures.no_verdict > _MAX_NO_VERDICT * failures.asked:
        raise JudgeError(
            f"{settings.url}: {failures.no_verdict} of {failures.asked} replies of {settings.model} hold no verdict; "
            "take a model that follows instructions"
        )


def summarize(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means of all responses and by kind of task; each measure with the number of responses that it is a mean of."""
    parts = {"all": rows} | {name: [row for row in rows if row["group"] == name] for name in REPORT_GROUPS}
    return {"scores": {name: _figures(own) for name, own in parts.items() if own}}


def _figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "responses": len(rows),
        "without_reasoning": sum(not row["steps"] for row in rows),
        "unjudged": sum(map(_lacks_a_verdict, rows)),
        "mean_steps": sum(len(row["steps"]) for row in rows) / len(rows),
    }
    for measure in MEASURES:
        figures[measure] = _measure([(row["id"], row[measure]) for row in rows if row[measure] is not None])
    return figures


def _measure(values: Sequence[tuple[str, float]]) -> dict[str, Any]:
    """The mean of responses' values, each with its question, and its 95 % bootstrap interval over questions."""
    if not values:
        return {"mean": None, "responses": 0, "interval": None}
    mean = sum(value for _, value in values) / len(values)
    return {"mean": mean, "responses": len(values), "interval": list(statistics.interval_of_values(values))}


def _lacks_a_verdict(row: Mapping[str, Any]) -> bool:
    steps = any(s["kind"] is None or (s["kind"] == "reasoning" and s["correct"] is None) for s in row["steps"])
    return steps or any(step["hit"] is None for step in row["reference"] or ())


def described(result: Mapping[str, Any]) -> str:
    """The result for a terminal."""
    lines = []
    for name, own in result["scores"].items():
        shown = "  ".join(f"{measure} {_shown(own[measure])}" for measure in MEASURES)
        lines.append(f"{name}: {own['responses']} responses, {own['mean_steps']:.1f} steps  {shown}")
    whole = result["scores"]["all"]
    if whole["unjudged"]:
        lines.append(f"{whole['unjudged']} responses lack a verdict and count only where none is missing")
    if result["without_question"]:
        lines.append(f"{result['without_question']} answers are to no question of the files named, and were not judged")
    return "\n".join(lines)


def _shown(measure: Mapping[str, Any]) -> str:
    if measure["mean"] is None:
        return "-"
    low, high = measure["interval"]
    return f"{measure['mean']:.1%} of {measure['responses']} ({low:.1%} to {high:.1%})"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.reasoning", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("answers", type=command.path_argument, help="RUN/evaluation/NAME.jsonl")
    parser.add_argument("questions", nargs="+", type=command.path_argument, help="files whose answers are judged")
    parser.add_argument("--judge-url", required=True, help="base URL of an endpoint, such as http://node7:8001/v1")
    parser.add_argument("--judge-model", required=True, help="name of the model there")
    parser.add_argument("--requests-per-minute", type=command.count_argument, default=600, metavar="N")
    parser.add_argument("--tokens-per-minute", type=command.count_argument, default=10**6, metavar="N")
    parser.add_argument(
        "--deadline",
        type=command.count_argument,
        default=300,
        metavar="SECONDS",
        help="of a verdict, waiting and repeats included",
    )
    args = parser.parse_args()
    if not args.judge_url.startswith(("http://", "https://")):
        parser.error(f"--judge-url {args.judge_url}: expected http://host:port/v1")
    settings = JudgeSettings(
        url=args.judge_url,
        model=args.judge_model,
        api_key=os.environ.get("MEDATRON_JUDGE_API_KEY") or "none",
        deadline_s=args.deadline,
        requests_per_minute=args.requests_per_minute,
        tokens_per_minute=args.tokens_per_minute,
    )
    print(described(judge_reasoning(args.answers, args.questions, settings)))


if __name__ == "__main__":
    sys.exit(command.run(main, name="reasoning", errors=(ValueError, EvaluationError, JudgeError)))
