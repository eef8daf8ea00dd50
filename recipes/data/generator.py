"""The embedded generator: unlimited questions with exact labels for choice, calculation and short open answers.

What is held out. A fact of the table is asked in five wordings; for every fact one wording is kept for the test split
and another for validation, in both the choice and the text task, so that no held-out question occurs in training.
The facts themselves do occur in training: a model cannot infer a fact that it never met. A calculation belongs to a
split by the hash of its question's words, so held-out inputs are unseen. The split `unseen` asks for every fact in a
sixth wording, which no fact has in training: questions out of the distribution that was trained on.

The teacher is imperfect on purpose: it knows a share of the facts and calculators, and for the rest it is torn between
three candidates, of which one is right. Traces for pretraining and for the SFT warm start come from the teacher; labels
never do. What GRPO can gain over the warm start is thereby bounded by how ignorant the teacher is made.
"""

from __future__ import annotations

import datetime
import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from recipes.data.calculators import CALCULATORS, Answer, Calculator
from recipes.data.example import Example
from recipes.data.facts import FACTS, VALUES, WORDINGS, Fact
from recipes.data.work import Work, format_number

Split = Literal["train", "validation", "test", "unseen"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
GROUPS: tuple[str, ...] = ("choice", "calculation", "text")
ELEMENTARY: tuple[str, ...] = tuple(name for name, c in CALCULATORS.items() if c.elementary)
LICENSE = "Apache-2.0"
SOURCE = "medatron-embedded"
UNSEEN_SOURCE = "medatron-embedded-unseen"


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def fact_split(fact: Fact, wording: int) -> Split:
    """The split to which a fact in a wording belongs, the same for the choice and the text task."""
    if wording == WORDINGS:
        return "unseen"
    position = (fact.index + wording) % WORDINGS
    return "test" if position == 0 else "validation" if position == 1 else "train"


def _question_hash(question: str) -> int:
    """A hash of the words in any order: a score with the same items listed otherwise is the same question."""
    return _hash(" ".join(sorted(question.rstrip("?").replace(",", "").split())))


def question_split(question: str) -> Split:
    """The split of a calculation: a tenth each to test and validation, by the hash of its words in any order."""
    position = _question_hash(question) % 10
    return "test" if position == 0 else "validation" if position == 1 else "train"


@dataclass(frozen=True)
class Teacher:
    """Who writes the worked traces: knows a `knows` share of facts and calculators, guesses among three on the rest.

    Attributes:
        knows: share known for certain, between 0 and 1; 1.0 writes perfect traces.
        seed: which facts and calculators those are.
        restates: how often at most it says what it came to again, at the end of its reasoning.
    """

    knows: float
    seed: int = 0
    restates: int = 0

    def _draw(self, name: str) -> random.Random:
        return random.Random(_hash(f"teacher {self.seed} {name}"))

    def candidates(self, fact: Fact) -> tuple[str, ...]:
        """The values between which the teacher is torn, the right one among them; one value if it knows."""
        draw = self._draw(f"fact {fact.column.name} {fact.key}")
        knows = draw.random() < self.knows
        others = draw.sample([v for v in VALUES[fact.column.name] if v != fact.value], 2)
        return (fact.value,) if knows else (fact.value, *others)

    def variants(self, calculator: Calculator) -> tuple[int, ...]:
        """The ways of calculating between which the teacher is torn; only 0, the right one, if it knows."""
        knows = self._draw(f"calculator {calculator.name}").random() < self.knows
        return (0,) if knows else tuple(range(calculator.variants))

    def thought(self, steps: Sequence[str], result: str, rng: random.Random) -> str:
        """The reasoning in these steps, with the result said as often again as `rng` has it.

        Each time says how many are to come, so that how long the reasoning gets is decided in one place.
        """
        again = rng.randint(0, self.restates) if self.restates else 0
        return ", ".join([*steps, *(f"{number}: {result}" for number in range(again, 0, -1))])


PERFECT = Teacher(knows=1.0)
# Who wrote what the tiny base model read and what SFT teaches it.
TEACHER = Teacher(knows=0.4)


def _written(answer: Answer) -> str:
    if isinstance(answer, datetime.date):
        return answer.strftime("%m/%d/%Y")
    if isinstance(answer, tuple):
        return f"{answer[0]} weeks, {answer[1]} days"
    return format_number(answer)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def fact_example(
    rng: random.Random, group: str, fact: Fact, wording: int, *, teacher: Teacher = PERFECT, distractors: Teacher
) -> Example:
    """One question on a fact, as a choice among 4 or 5 options or as an open question, with the teacher's trace.

    The values with which `distractors` confuses the fact are always among a choice's options, as in real examinations.

    Args:
        rng: of the options, their order and the teacher's guess.
        group: choice or text.
        fact, wording: what is asked and how; wording WORDINGS is the unseen one.
        teacher: who writes the trace.
        distractors: whose confusions are among the options.
    """
    unseen = wording == WORDINGS
    template = fact.column.unseen if unseen else fact.column.wordings[wording]
    question, source = _capital(template.format(key=fact.key)), UNSEEN_SOURCE if unseen else SOURCE
    said = rng.choice(teacher.candidates(fact))
    meta: dict[str, Any] = {"skill": f"{fact.column.name}: {fact.key}"}
    if group == "text":
        meta["trace"] = {"think": teacher.thought([f"{fact.key}: {said}"], said, rng), "answer": said}
        identity = f"text/{fact.index}/{wording}"
        return Example(identity, source, "text", question, fact.value, license=LICENSE, meta=meta)
    values = set(distractors.candidates(fact)) | {said}
    others = [v for v in VALUES[fact.column.name] if v not in values and v != fact.value]
    wanted = rng.choice((4, 5))
    texts = sorted(values) + rng.sample(others, wanted - len(values))
    rng.shuffle(texts)
    options = dict(zip("ABCDE", texts, strict=False))
    letter_of = {text: letter for letter, text in options.items()}
    result = f"{said} ({letter_of[said]})"
    thought = teacher.thought([f"{fact.key}: {result}"], result, rng)
    meta["trace"] = {"think": thought, "answer": letter_of[said]}
    identity = f"choice/{fact.index}/{wording}/{_hash(repr(options)):x}"
    return Example(
        identity, source, "choice", question, letter_of[fact.value], options=options, license=LICENSE, meta=meta
    )


def calculation_example(rng: random.Random, calculator: Calculator, *, teacher: Teacher = PERFECT) -> Example:
    """One calculation with drawn inputs, its exact answer and limits, and the teacher's worked trace."""
    problem = calculator.draw(rng)
    exact = problem.solve(Work(digits=None), 0)
    work = Work()
    said = problem.solve(work, rng.choice(teacher.variants(calculator)))
    trace = {"think": teacher.thought(work.steps, _written(said), rng), "answer": _written(said)}
    meta = {"skill": calculator.name, "calculator": calculator.number, "trace": trace}
    identity = f"calculation/{calculator.number}/{_question_hash(problem.question):x}"
    if isinstance(exact, datetime.date):
        return Example(identity, SOURCE, "date", problem.question, _written(exact), license=LICENSE, meta=meta)
    if isinstance(exact, tuple):
        answer = {"weeks": exact[0], "days": exact[1]}
        return Example(identity, SOURCE, "duration", problem.question, answer, license=LICENSE, meta=meta)
    if calculator.output == "integer":
        return Example(
            identity,
            SOURCE,
            "number",
            problem.question,
            float(exact),
            lower=float(exact),
            upper=float(exact),
            rounding="integer",
            license=LICENSE,
            meta=meta,
        )
    lower, upper = sorted((0.95 * exact, 1.05 * exact))
    return Example(
        identity, SOURCE, "number", problem.question, exact, lower=lower, upper=upper, license=LICENSE, meta=meta
    )


@dataclass(frozen=True)
class Generator:
    """Draws questions of one split.

    Attributes:
        split: which questions may be drawn.
        teacher: who writes the traces.
        distractors: whose confusions a choice's wrong options come from; the same for every split.
        calculators: names of the calculators in use.
    """

    split: Split
    teacher: Teacher
    distractors: Teacher
    calculators: Sequence[str] = ELEMENTARY

    def draw(self, rng: random.Random, group: str) -> Example:
        """One question of the group: choice, calculation or text; there is no unseen calculation."""
        if (self.split, group) == ("unseen", "calculation"):
            raise ValueError("unseen/calculation: a calculation has no unseen wording; ask for choice or text")
        while True:
            if group == "calculation":
                calculator = CALCULATORS[rng.choice(list(self.calculators))]
                example = calculation_example(rng, calculator, teacher=self.teacher)
                if question_split(example.question) == self.split:
                    return example
            else:
                fact = rng.choice(FACTS)
                wording = WORDINGS if self.split == "unseen" else rng.randrange(WORDINGS)
                if fact_split(fact, wording) == self.split:
                    return fact_example(rng, group, fact, wording, teacher=self.teacher, distractors=self.distractors)

    def unique(self, rng: random.Random, group: str, count: int) -> list[Example]:
        """`count` questions that differ from each other.

        Raises:
            ValueError: when the split does not hold so many different questions.
        """
        found: dict[str, Example] = {}
        misses = 0
        while len(found) < count:
            example = self.draw(rng, group)
            identity = example.id if group != "choice" else example.id.rsplit("/", 1)[0]
            if self.split == "train":
                identity = example.id
            misses = misses + 1 if identity in found else 0
            if misses > 5000:
                raise ValueError(
                    f"{self.split}/{group}: only {len(found)} different questions exist, {count} were asked for; "
                    "ask for fewer"
                )
            found.setdefault(identity, example)
        return list(found.values())
