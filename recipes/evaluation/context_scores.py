"""MedRGB's four scores (arXiv 2411.09213) of answers to questions with passages, which `recipes.data.context` makes:
`python -m recipes.evaluation.context_scores RUN/evaluation/NAME.jsonl QUESTIONS.jsonl ...`.

By the released code (ngotrnghia1811/MedRGB, medrgb/evaluate.py):

- standard: accuracy with relevant passages alone;
- sufficiency: accuracy, share of answers that the passages do not suffice (`refused`), and noise detection, the share
  of unrelated passages that responses name as irrelevant; with some unrelated and with all of them;
- integration: exact match and F1 of the words of the sub-questions' answers, after lower case, without punctuation and
  articles;
- robustness: accuracy, and error detection, the share of false passages that responses name as false.

Ours beside them: `false_alarms`, the share of other passages that are named, since who names all detects all; `told`,
the share of responses that say so much as "none"; `answered_right`, the share that knows the question's own answer
where no passage has it; `misled`, the share that gives the wrong answer which the passages were made to say. F1 counts
a repeated word as often as it stands in both texts, as SQuAD's does; the released code counts it once. The paper also
has sub-answers scored by GPT-4o, for which the released code has F1. The paper's text could not be read beyond its
abstract: these are its code's definitions.

Every share has its 95 % bootstrap interval (`intervals`): questions are drawn with all their answers and passages.
Answers that the reward server could not score count nowhere. Questions in other forms (the `short` variant) are left
out, since they have no option to say that passages do not suffice.
"""

from __future__ import annotations

import argparse
import re
import string
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from conversion import command
from conversion.evaluation import AGAIN, EvaluationError
from recipes.data.example import Example, read_examples
from recipes.evaluation import statistics
from recipes.evaluation.page import add_scores
from recipes.evaluation.reading import read_answers
from reward_server.client import SERVER_FAULTS

# The rest of the label's line; where that holds no word, the lines below with numbers alone.
_NAMED = r"{}\s+passages?[^\w\n]*:([^\w\n<]*\w[^\n<]*|[^\w\n<]*(?:\n[^a-zA-Z\n<]*\d[^a-zA-Z\n<]*(?=[\n<]|$))*)"
_RANGE = re.compile(r"\b(\d{1,3})\s*(?:[-‐-―−~]|to|through)\s*(\d{1,3})\b", re.IGNORECASE)
_SUB_ANSWER = re.compile(r"sub-?\s?answer\s+(\d+)\W*?:\s*([^\n<]*)", re.IGNORECASE)
# Of a share: the values that it is the mean of, each with its question.
_Values = Sequence[tuple[str, float]]


@dataclass(frozen=True)
class _Answer:
    """One answer beside what was shown to it.

    Attributes:
        question: the id of the question without passages.
        letter: what it chose, by the question's own letters; other tasks' answers as they were read.
        correct: whether it is right as it was asked.
        response: the whole text.
        about: the question's `meta.context`.
    """

    question: str
    letter: str | None
    correct: bool
    response: str
    about: Mapping[str, Any]

    @property
    def refused(self) -> bool:
        refusal = self.about.get("refusal")
        return refusal is not None and _words(self.letter or "") == _words(refusal)

    def named(self, what: str) -> set[int] | None:
        """Numbers of the passages that the response calls `what`; None where it says nothing of them."""
        found = re.findall(_NAMED.format(what), self.response, re.IGNORECASE)
        return _numbers(found[-1], len(self.about["passages"])) if found else None


def _numbers(text: str, passages: int) -> set[int]:
    """The numbers that a text lists, those within its ranges of so many passages ("1-3", "1 to 3") too."""
    found = {int(number) for number in re.findall(r"\d{1,4}", text)}
    ranges = [range(int(low), int(high)) for low, high in _RANGE.findall(text) if int(high) <= passages]
    return found.union(*ranges)


def context_scores(rows: Sequence[Mapping[str, Any]], examples: Sequence[Example]) -> dict[str, Any]:
    """The scores of an evaluation's answers; a score whose questions are not among them is absent.

    Args:
        rows: of NAME.jsonl, those of other questions too.
        examples: the questions.
    """
    about = {example.id: example.meta["context"] for example in examples if "context" in example.meta}
    answers: dict[str, list[_Answer]] = {}
    for row in rows:
        shown = about.get(row["id"])
        if shown is None or row["status"] in SERVER_FAULTS or row.get("variant") == "short":
            continue
        question = str(shown.get("of", row["id"]))
        answer = _Answer(question, _own_letter(row), row["status"] == "correct", row["response"], shown)
        answers.setdefault(shown["condition"], []).append(answer)
    found: dict[str, Any] = {}
    if relevant := answers.get("relevant"):
        found["standard"] = _scored("answers", len(relevant), _accuracy(relevant))
    for name in ("mixed", "insufficient"):
        if own := answers.get(name):
            shares = _accuracy(own) | _knew(own) | _detection(own, "irrelevant", "unrelated", "noise_detection")
            found.setdefault("sufficiency", {})[name] = _scored("answers", len(own), shares)
    if pairs := [(a.question, *pair) for own in answers.values() for a in own for pair in _sub_answers(a)]:
        found["integration"] = _scored("sub_questions", len(pairs), _integration(pairs))
    if false := answers.get("false"):
        shares = _accuracy(false) | _detection(false, "false", "false", "error_detection")
        if made := [answer for answer in false if "wrong" in answer.about]:
            shares["misled"] = [(a.question, a.letter == a.about["wrong"]) for a in made]
        found["robustness"] = _scored("answers", len(false), shares)
    return found


def _scored(counted: str, count: int, shares: Mapping[str, _Values]) -> dict[str, Any]:
    """What was counted, the mean of each share's values, and their intervals; null where there is no value."""
    means = {name: sum(value for _, value in own) / len(own) if own else None for name, own in shares.items()}
    intervals = {name: list(statistics.interval_of_values(own)) for name, own in shares.items() if own}
    return {counted: count, **means, "intervals": intervals}


def _own_letter(row: Mapping[str, Any]) -> str | None:
    """What was read as the answer, by the letters of the question before its options were put in another order."""
    read: str | None = row["extracted"]
    order = row.get("order")
    return order[sorted(order).index(read)] if order and read and read in order else read


def _accuracy(answers: Sequence[_Answer]) -> dict[str, _Values]:
    return {
        "accuracy": [(answer.question, answer.correct) for answer in answers],
        "refused": [(answer.question, answer.refused) for answer in answers],
    }


def _knew(answers: Sequence[_Answer]) -> dict[str, _Values]:
    """Who gives the question's right answer, where none of the passages does: the policy's own knowledge."""
    if answers[0].about["condition"] != "insufficient":
        return {}
    return {"answered_right": [(a.question, _words(a.letter or "") == _words(a.about["gold"])) for a in answers]}


def _detection(answers: Sequence[_Answer], what: str, kind: str, name: str) -> dict[str, _Values]:
    hits: list[tuple[str, bool]] = []
    alarms: list[tuple[str, bool]] = []
    told: list[tuple[str, bool]] = []
    for answer in answers:
        numbers = answer.named(what)
        told.append((answer.question, numbers is not None))
        for number, passage in enumerate(answer.about["passages"], 1):
            own = hits if passage["kind"] == kind else alarms
            own.append((answer.question, number in (numbers or ())))
    return {name: hits, "false_alarms": alarms, "told": told}


def _sub_answers(answer: _Answer) -> Iterator[tuple[str | None, str]]:
    """What the response answers to each sub-question, None for nothing, and the right answer."""
    given = {int(number): text.strip() for number, text in _SUB_ANSWER.findall(answer.response)}
    for number, asked in enumerate(answer.about.get("asked", ()), 1):
        yield given.get(number), asked["answer"]


def _integration(pairs: Sequence[tuple[str, str | None, str]]) -> dict[str, _Values]:
    return {
        "exact_match": [(q, given is not None and _words(given) == _words(right)) for q, given, right in pairs],
        "f1": [(q, _f1(given or "", right)) for q, given, right in pairs],
        "told": [(q, given is not None) for q, given, _ in pairs],
    }


def _words(text: str) -> list[str]:
    bare = text.lower().translate(str.maketrans("", "", string.punctuation))
    return re.sub(r"\b(a|an|the)\b", " ", bare).split() if len(bare) > 1 else [bare]


def _f1(given: str, right: str) -> float:
    ours, theirs = Counter(_words(given)), Counter(_words(right))
    common = sum((ours & theirs).values())
    return 2 * common / (ours.total() + theirs.total()) if common else 0.0


def described(scores: Mapping[str, Any]) -> str:
    """The scores for a terminal."""
    lines: list[str] = []
    for name, values in scores.items():
        parts = values.items() if name == "sufficiency" else [("", values)]
        for part, figures in parts:
            intervals = figures["intervals"]
            shown = "  ".join(
                f"{key} {_shown(value, intervals.get(key))}" for key, value in figures.items() if value is not intervals
            )
            lines.append(f"{name}{f' ({part})' if part else ''}: {shown}")
    return "\n".join(lines)


def _shown(value: float | int | None, interval: Sequence[float] | None) -> str:
    if value is None or interval is None:
        return "-" if value is None else str(value)
    return f"{value:.1%} ({interval[0]:.1%} to {interval[1]:.1%})"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.evaluation.context_scores",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("answers", type=command.path_argument, help="RUN/evaluation/NAME.jsonl")
    parser.add_argument("questions", nargs="+", type=command.path_argument, help="the files that were asked")
    args = parser.parse_args()
    examples = read_examples(*args.questions)
    rows = read_answers(args.answers)
    if any("extracted" not in row for row in rows):
        raise EvaluationError(
            f"{args.answers}: an older release wrote it, without what was read as the answer; {AGAIN}"
        )
    scores = context_scores(rows, examples)
    if not scores:
        raise EvaluationError(
            f"{args.answers}: answers no question with passages; name the files of `python -m recipes.prepare_data "
            "context` that were asked"
        )
    target = add_scores(args.answers, "context", args.questions, {"scores": scores})
    print(f"{described(scores)}\nwritten to {target}")


if __name__ == "__main__":
    sys.exit(command.run(main, name="context_scores", errors=(ValueError, EvaluationError)))
