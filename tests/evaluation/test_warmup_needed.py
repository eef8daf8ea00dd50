"""Which skills lack knowledge and which misapply it, by pass@k beyond chance; and what cannot be decided."""

from __future__ import annotations

import json
import math
import random
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from conversion.digests import file_digest
from conversion.evaluation import EvaluationError
from recipes.data.example import Example, write_examples
from recipes.warmup_needed import main, warmup_needed
from tests.evaluation.test_compare import write_evaluation
from tests.evaluation.test_summary import row

# What is answered to the n-th question: 0 is right, of options the number of another.
Answers = Callable[[int, random.Random], list[int]]


def _evaluation(folder: Path, **skills: tuple[int, int, Answers]) -> Path:
    """NAME.jsonl of an evaluation of questions by skill: their options (0 for a calculation), number and answers."""
    draw = random.Random(1)
    examples, rows = [], []
    for skill, (options, count, answers) in skills.items():
        for n in range(count):
            identity, meta = f"{skill}/{n}", {"skill": skill}
            if options:
                texts = {"ABCDEFGH"[o]: f"option {o}" for o in range(options)}
                examples.append(Example(identity, "s", "choice", "?", "A", options=texts, meta=meta))
            else:
                examples.append(Example(identity, "s", "number", "?", 1.0, lower=1.0, upper=1.0, meta=meta))
            said = [("ABCDEFGH" if options else "12345678")[answer] for answer in answers(n, draw)]
            known = {"group": "choice", "gold": "A"} if options else {"group": "calculation", "gold": "1"}
            rows += [row(identity, each, sample=i, skill=skill, **known) for i, each in enumerate(said)]
    questions = folder / "questions.jsonl"
    write_examples(questions, examples)
    data = [{"path": str(questions), "sha256": file_digest(questions)}]
    return write_evaluation(folder, "base", rows, data=data).with_suffix(".jsonl")


def _right(count: int) -> Answers:
    return lambda *_: [0] * count + [1] * (16 - count)


def _guessed(options: int) -> Answers:
    return lambda _, draw: [draw.randrange(options) for _ in range(16)]


RENAL = (0, 40, _right(4))
SKILLS: dict[str, tuple[int, int, Answers]] = {
    "dosing": (0, 40, lambda n, _: [int(n >= 8), *[1] * 15]),
    "renal": RENAL,
    "half": (0, 40, lambda n, _: [n % 2] * 16),
    "lipids": (0, 19, _right(4)),
    "guessed": (4, 100, _guessed(4)),
    "sure": (4, 100, lambda n, _: [int(n % 4 == 0)] * 16),
    "stubborn": (4, 100, lambda n, _: [int(n % 4 > 0)] * 16),
    "shaky": (4, 100, _right(8)),
    "yes or no": (2, 40, _guessed(2)),
}


def test_skills_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """1 of 16 is right in 8 answers with a chance of 1/2, 4 of 16 with 1 - C(12, 8) / C(16, 8) = 0.9615.

    Who guesses among four has one right of 8 nine times of ten and knows nothing; who is sure of three quarters of the
    questions, and never right on the others, knows two thirds beyond chance, which is a quarter.
    """
    path = _evaluation(tmp_path, **SKILLS)
    with mock.patch.object(sys, "argv", ["warmup_needed", str(path)]):
        main()
    result = json.loads((path.parent / "warmup" / "base.json").read_text())
    skills = result["parts"]["skill"]
    assert {name: own["verdict"] for name, own in skills.items()} == {
        **{"dosing": "missing", "renal": "misapplied", "half": "undecided", "lipids": "too few"},
        **{"guessed": "missing", "sure": "misapplied", "stubborn": "missing", "shaky": "misapplied"},
        "yes or no": "undecided",
    }
    renal, dosing, guessed, sure = (skills[name] for name in ("renal", "dosing", "guessed", "sure"))
    assert (renal["pass_1"], renal["chance"]) == (0.25, 0)
    assert renal["pass_k"] == renal["beyond"] == pytest.approx(1 - math.comb(12, 8) / math.comb(16, 8))
    # All alike, their interval is the exact one: of 40 at most a share is otherwise that was missed with 2.5 %.
    assert renal["interval"][0] == pytest.approx(renal["beyond"] * 0.025 ** (1 / 40))
    assert dosing["pass_k"] == pytest.approx(0.1)
    assert (sure["chance"], sure["beyond"]) == (0.25, pytest.approx(2 / 3))
    assert guessed["chance"] == pytest.approx(1 - 0.75**8, abs=0.02)
    assert result["parts"].keys() == {"all", "task", "skill"}
    said = capsys.readouterr().out
    assert re.search(r"skill renal +40 +25.0% +96.2% +0.0% +96.2% +87.7% to 96.5% +misapplied: RL is enough\n", said)
    page, markdown = (path.with_suffix(suffix).read_text() for suffix in (".html", ".md"))
    assert "| skill dosing | missing: SFT first | 40 | 1.2% | 10.0% | 0.0% | 10.0% |" in markdown
    assert "Missing or misapplied" in page


@pytest.mark.parametrize(
    ("skill", "said"),
    [
        ((0, 30, lambda *_: [0]), "no question has the 8 scored answers that pass@8 takes, the most is 1; evaluate"),
        ((0, 30, lambda n, _: [n % 2] * 16), "all answers to a question are the same, as greedy ones are, and"),
        (
            (0, 19, _right(4)),
            "19 questions have 8 scored answers that tell anything, and a decision takes 20; ask more",
        ),
        # Of 8 wrong and 8 right any 10 have both.
        ((2, 30, _right(8)), "^.*jsonl: 0 questions .* and those to 30 have every option among any 10, so lower --k"),
    ],
)
def test_what_cannot_be_decided_is_refused(tmp_path: Path, skill: tuple[int, int, Answers], said: str) -> None:
    path = _evaluation(tmp_path, skill=skill)
    with pytest.raises(EvaluationError, match=said) as caught:
        warmup_needed(path, [], k=10 if "10" in said else 8)
    assert str(caught.value).startswith(f"{path}: ")
    assert not (path.parent / "warmup").exists()


def test_answers_to_other_files_and_without_a_verdict_are_left_out(tmp_path: Path) -> None:
    """The file of questions may have moved; half an evaluation, as while it is written, is refused."""
    path = _evaluation(tmp_path, renal=RENAL, shaky=(4, 40, _right(8)))
    moved = (tmp_path / "questions.jsonl").rename(tmp_path / "moved.jsonl")
    with pytest.raises(EvaluationError, match=r"base.json names are gone or were changed; name them behind"):
        warmup_needed(path, [])
    with pytest.raises(EvaluationError, match=r"base.json: is the result, without the answers; name .*base.jsonl$"):
        warmup_needed(path.with_suffix(".json"), [moved])
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for each in rows[:9]:
        each["status"] = "timeout"
    rows += [row("elsewhere", "A", sample=n) for n in range(3)]
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    result: dict[str, Any] = warmup_needed(path, [moved])
    assert (result["short_of_answers"], result["without_question"]) == (1, 3)
    assert result["parts"]["all"]["all"]["questions"] == 79
    older = [{key: value for key, value in each.items() if key != "extracted"} for each in rows]
    path.write_text("".join(json.dumps(each) + "\n" for each in older))
    with pytest.raises(EvaluationError, match="an older release wrote it, without what was read as the answer"):
        warmup_needed(path, [moved])
    path.write_text(path.read_text()[:-40])
    with pytest.raises(EvaluationError, match=r"base.jsonl:1283: expected a JSON object"):
        warmup_needed(path, [moved])
