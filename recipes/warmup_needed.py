"""Which skills want SFT before reinforcement learning: `python -m recipes.warmup_needed RUN/evaluation/NAME.jsonl`.

EHRMind (Lin, Wu and Sun 2025, arXiv 2505.24105) tells two failures of a base model apart: knowledge that is missing,
which a warm-up by SFT has to bring in, and knowledge that is misapplied, which verifiable rewards alone can put right.
pass@k tells which it is: P, the share of questions that k answers of the model that training would start from have
right once. Among options it has to be more than chance. An option is right by chance as often as any other that the
model gives as often, so chance is C, the mean of pass@k over a question's options, each taken for the right one by the
model's own answers: 1 - (1 - 1/options)^k for who guesses, and 1/options for who is sure of something wrong. Then

    beyond = (P - C) / (1 - C)          P and C means over questions; C is 0 where there are no options

decides on every kind of task, skill, subject and calculator:

    missing     its whole 95 % interval lies below the threshold: SFT first
    misapplied  the whole interval lies at or above it: reinforcement learning is enough
    undecided   neither; more questions decide
    too few     less questions than `--least-questions`

Ask as training would, at its temperature, and questions of the training or a validation file: a test split is never
used to choose a setting. `data.test` takes any file, in a run's folder of its own. The files that were asked are found
by NAME.json; where they have moved, name them. RUN/evaluation/warmup/NAME.json gets the figures, and the evaluation's
pages show them.

Only the paper's abstract could be read: threshold, k, what is taken off for chance and the intervals are ours. Left
out: a correction for many skills; of twenty at the threshold one is decided by chance.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from conversion import command
from conversion.evaluation import AGAIN, EvaluationError
from conversion.evaluation_scores import VERDICTS
from recipes.data.example import Example, read_examples
from recipes.evaluation import statistics
from recipes.evaluation.page import add_scores
from recipes.evaluation.questions import Question, by_question
from recipes.evaluation.reading import asked_files, plain_answers, read_evaluated
from recipes.evaluation.summary import aligned, parts_by

# `rollout.group_size` as it is by default: a group without a right answer teaches nothing.
K = 8
# Below, most groups have none.
THRESHOLD = 0.5
# A bootstrap interval of fewer is too rough to go by; MedCalc-Bench has 20 a calculator.
LEAST_QUESTIONS = 20
_KEYS = {"group": "task", "skill": "skill", "subject": "subject", "calculator": "calculator"}


def warmup_needed(
    answers: Path, files: Sequence[Path], *, k: int = K, threshold: float = THRESHOLD, least: int = LEAST_QUESTIONS
) -> dict[str, Any]:
    """Decides by the answers, writes what comes of it, and returns it.

    Args:
        answers: NAME.jsonl.
        files: of the questions that were asked; none for those that NAME.json names.
        k: answers a question has for being right once, 2 at least.
        threshold: share of questions, beyond chance, that tells missing from misapplied knowledge.
        least: questions that a decision takes.

    Raises:
        EvaluationError: the answers cannot be read, or nothing can be decided by them.
        ExampleError, FileNotFoundError: naming file and row.
    """
    asked = list(files) or _asked_files(answers)
    examples = {example.id: example for example in read_examples(*asked)}
    rows, without = plain_answers(answers, examples)
    questions = by_question(rows)
    enough = [question for question in questions if len(question.rows) >= k]
    chances = {q.first["id"]: _chance(q, examples[q.first["id"]], k, answers) for q in enough}
    telling = [question for question in enough if chances[question.first["id"]] < 1]
    if fault := _undecidable(questions, enough, telling, k, least):
        raise EvaluationError(f"{answers}: {fault}")
    parts = {"all": {"all": telling}} | {name: dict(parts_by(telling, key)) for key, name in _KEYS.items()}
    result = {
        **{"k": k, "threshold": threshold, "least_questions": least, "without_question": without},
        **{"short_of_answers": len(questions) - len(enough), "all_options": len(enough) - len(telling)},
        "parts": {
            kind: {name: _figures(own, chances, k, threshold, least) for name, own in found.items()}
            for kind, found in parts.items()
            if found
        },
    }
    add_scores(answers, "warmup", asked, result)
    return result


def _asked_files(answers: Path) -> list[Path]:
    found = asked_files(read_evaluated(answers).result)
    if not found:
        raise EvaluationError(
            f"{answers}: the files of questions that {answers.with_suffix('.json').name} names are gone or were "
            "changed; name them behind the answers"
        )
    return found


def _chance(question: Question, example: Example, k: int, answers: Path) -> float:
    """pass@k by chance: the mean over the options, each taken for the right one; 0 where there are none."""
    if not example.options:
        return 0.0
    if any("extracted" not in row for row in question.rows):
        raise EvaluationError(f"{answers}: an older release wrote it, without what was read as the answer; {AGAIN}")
    given = Counter(row["extracted"] for row in question.rows)
    counts = [question.right if letter == example.answer else given[letter] for letter in example.options]
    return _mean([statistics.pass_at_k(len(question.rows), count, k) for count in counts])


def _undecidable(
    questions: Sequence[Question], enough: Sequence[Question], telling: Sequence[Question], k: int, least: int
) -> str | None:
    """Why nothing can be decided, and what to do."""
    again = f"evaluate again with evaluation.samples={2 * k} evaluation.temperature=1"
    if not enough:
        most = max((len(question.rows) for question in questions), default=0)
        fewer = f", or decide by --k {most}" if most > 1 else ""
        return f"no question has the {k} scored answers that pass@{k} takes, the most is {most}; {again}{fewer}"
    if all(len({row["response"] for row in question.rows}) == 1 for question in enough):
        return f"all answers to a question are the same, as greedy ones are, and pass@k says nothing; {again}"
    if len(telling) < least:
        every = f", and those to {len(enough) - len(telling)} have every option among any {k}, so lower --k"
        return (
            f"{len(telling)} questions have {k} scored answers that tell anything, and a decision takes {least}; ask "
            f"more questions{every if len(enough) > len(telling) else ''}"
        )
    return None


def _figures(
    questions: Sequence[Question], chances: Mapping[str, float], k: int, threshold: float, least: int
) -> dict[str, Any]:
    own = [chances[question.first["id"]] for question in questions]
    passes = [question.pass_at(k) for question in questions]
    # [above chance, left by chance] of each question.
    values = [(value - chance, 1 - chance) for value, chance in zip(passes, own, strict=True)]
    low, high = statistics.interval_of_ratio(values, least=min(-chance / (1 - chance) for chance in own))
    decided = "missing" if high < threshold else "misapplied" if low >= threshold else "undecided"
    return {
        "questions": len(questions),
        "pass_1": _mean([question.share for question in questions]),
        "pass_k": _mean(passes),
        "chance": _mean(own),
        "beyond": math.fsum(above for above, _ in values) / math.fsum(left for _, left in values),
        "interval": [low, high],
        "verdict": "too few" if len(questions) < least else decided,
    }


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def described(result: Mapping[str, Any]) -> str:
    """The result for a terminal."""
    k, found = result["k"], result["parts"]
    head = ["", "questions", "pass@1", f"pass@{k}", "by chance", "beyond", "95% interval", "verdict"]
    cells = [head]
    for kind, parts in found.items():
        for name, own in parts.items():
            low, high = own["interval"]
            shares = (f"{own[key]:.1%}" for key in ("pass_1", "pass_k", "chance", "beyond"))
            ends = f"{low:.1%} to {high:.1%}"
            title = name if kind == "all" else f"{kind} {name}"
            cells.append([title, f"{own['questions']:,}", *shares, ends, VERDICTS[own["verdict"]]])
    lines = aligned(cells)
    for count, why in (
        (result["short_of_answers"], f"questions have less than {k} scored answers"),
        (result["all_options"], f"questions have every option among any {k} of their answers, which tells nothing,"),
        (result["without_question"], "answers are to no question of the files"),
    ):
        if count:
            lines.append(f"{count} {why} and were left out")
    return "\n".join(lines)


def _threshold(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a share of questions between 0 and 1, such as {THRESHOLD}")
    return value


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.warmup_needed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("answers", type=command.path_argument, help="RUN/evaluation/NAME.jsonl")
    parser.add_argument(
        "questions", nargs="*", type=command.path_argument, help="the files that were asked, where they have moved"
    )
    parser.add_argument(
        "--k", type=command.count_argument, default=K, help=f"responses a prompt in training (default: {K})"
    )
    parser.add_argument(
        "--threshold",
        type=_threshold,
        default=THRESHOLD,
        metavar="SHARE",
        help=f"of questions, beyond chance (default: {THRESHOLD})",
    )
    parser.add_argument(
        "--least-questions",
        type=command.count_argument,
        default=LEAST_QUESTIONS,
        metavar="N",
        help=f"that a decision takes (default: {LEAST_QUESTIONS})",
    )
    args = parser.parse_args()
    if args.k < 2:
        parser.error("--k 1: expected 2 at least; pass@1 does not tell what is missing from what is misapplied")
    result = warmup_needed(args.answers, args.questions, k=args.k, threshold=args.threshold, least=args.least_questions)
    print(described(result))


if __name__ == "__main__":
    sys.exit(command.run(main, name="warmup_needed", errors=(ValueError, EvaluationError)))
