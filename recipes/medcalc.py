"""Both verdicts on answers to MedCalc-Bench: `python -m recipes.medcalc RUN/evaluation/NAME.jsonl QUESTIONS.jsonl`.

Prints, by category, how many answers the reward server counts as right and how many the benchmark's released script
would (`recipes.evaluation.medcalc_official`), and writes both to RUN/evaluation/medcalc/NAME.json
and the evaluation's pages. With `--corrected`,
a file of the same questions with corrected labels, the same answers are judged by those as well; the reward server
that this needs is started for it. Questions without a corrected label are left out of those columns alone.

Left out: answers that the reward server could not score, which count neither way, and variants of a question.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from conversion import command
from conversion.evaluation import EvaluationError
from recipes.data.example import Example, ExampleError, read_examples
from recipes.evaluation import statistics
from recipes.evaluation.medcalc_official import is_correct
from recipes.evaluation.page import add_scores, identified
from recipes.evaluation.reading import plain_answers
from reward_server.client import SERVER_FAULTS, ScoreItem
from reward_server.client.wire import RewardClientError

Answer = Mapping[str, Any]  # a row of NAME.jsonl
Verdicts = dict[str, list[tuple[str, bool]]]  # by column, with the question's id


def medcalc_answers(path: Path, questions: Mapping[str, Example]) -> list[Answer]:
    """The scored answers to questions of MedCalc-Bench as they stand in it.

    Raises:
        EvaluationError: a row is no answer, or its question is not among `questions`; or there are no such answers.
    """
    found, without = plain_answers(path, questions)
    if without:
        raise EvaluationError(f"{path}: the questions of {without} answers are in no file of questions; name them all")
    own = [row for row in found if questions[row["id"]].source.startswith("MedCalc-Bench")]
    answers: list[Answer] = [row for row in own if row["status"] not in SERVER_FAULTS]
    if not answers:
        raise EvaluationError(f"{path}: holds no scored answers to questions of MedCalc-Bench")
    return answers


def compared(
    answers: Sequence[Answer], questions: Mapping[str, Example], corrected: Mapping[str, Example]
) -> dict[str, dict[str, Any]]:
    """Right answers by category and verdict, all categories together last.

    Args:
        answers: scored ones.
        questions: by id, with the category in `meta.subject`.
        corrected: the questions that have another label, with that label; may be empty.

    Returns:
        by category and "all", by column (`server`, `script`, `corrected_server`, `corrected_script`): `answers` and
        the share of them that is `right`, with its 95 % bootstrap `interval` over questions.
    """
    again = [row for row in answers if row["id"] in corrected]
    judged = iter(_by_server([(corrected[row["id"]], row["response"]) for row in again]) if again else ())
    parts: dict[str, Verdicts] = {}
    for row in answers:
        question = questions[row["id"]]
        found = {"server": row["status"] == "correct", "script": is_correct(row["response"], question)}
        if row["id"] in corrected:
            found["corrected_server"] = next(judged)
            found["corrected_script"] = is_correct(row["response"], corrected[row["id"]])
        for part in (str(question.meta.get("subject") or "no category"), "all"):
            for column, verdict in found.items():
                parts.setdefault(part, {}).setdefault(column, []).append((row["id"], verdict))
    return {
        part: {column: _figures(own) for column, own in parts[part].items()}
        for part in sorted(parts, key=lambda part: (part == "all", part))
    }


def _figures(verdicts: Sequence[tuple[str, bool]]) -> dict[str, Any]:
    right = sum(verdict for _, verdict in verdicts) / len(verdicts)
    return {"answers": len(verdicts), "right": right, "interval": list(statistics.interval_of_values(verdicts))}


def _by_server(asked: Sequence[tuple[Example, str]]) -> list[bool]:
    # Brings an HTTP client: --help and a mistake are answered without.
    from reward_server.client import RewardClient
    from reward_server.process import RewardServerProcess

    items = [
        ScoreItem(id=str(number), task=example.task, response=response, reference=example.reference())
        for number, (example, response) in enumerate(asked)
    ]
    with RewardServerProcess() as server, RewardClient(server.url) as client:
        scores = client.score("binary", items)[1]
    if faults := [score.status for score in scores if score.status in SERVER_FAULTS]:
        raise RewardClientError(
            f"the reward server could not score {len(faults)} of {len(scores)} answers ({faults[0]})"
        )
    return [score.status == "correct" for score in scores]


def table(parts: Mapping[str, Mapping[str, Any]]) -> str:
    """The result for a terminal; a column that a category does not have is a dash."""
    columns = list(parts["all"])
    lines = [["", *(column.replace("_", " ") for column in columns)]]
    for part, own in parts.items():
        cells = [own.get(column) for column in columns]
        lines.append([part, *(f"{c['right']:.1%} of {c['answers']}" if c else "-" for c in cells)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.medcalc", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("answers", type=command.path_argument, help="NAME.jsonl of an evaluation")
    parser.add_argument("questions", type=command.path_argument, nargs="+", help="its files of questions")
    parser.add_argument("--corrected", type=command.path_argument, help="the same questions with corrected labels")
    args = parser.parse_args()
    questions = {example.id: example for example in read_examples(*args.questions)}
    corrected = {example.id: example for example in read_examples(args.corrected)} if args.corrected else {}
    answers = medcalc_answers(args.answers, questions)
    if args.corrected and not any(row["id"] in corrected for row in answers):
        raise ExampleError(
            f"{args.corrected}: has none of the questions of {args.answers}; prepare it with the same --ids"
        )
    result = compared(answers, questions, corrected)
    labels = {"corrected": identified(args.corrected)} if args.corrected else {}
    add_scores(args.answers, "medcalc", args.questions, {**labels, "categories": result})
    print(table(result))


if __name__ == "__main__":
    sys.exit(command.run(main, name="medcalc", errors=(ValueError, EvaluationError, RewardClientError)))
